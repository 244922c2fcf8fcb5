"""Memory for keys and values."""

import mmap

import numpy as np
import pytest

from aigrid.engines.keys_and_values import Past

SHAPE = (3, 2, 64, 16)  # a page is a head's 64 positions


def filled() -> Past:
    past = Past(["a", "b"], SHAPE)
    for number, values in enumerate(past.named.values()):
        values[...] = np.arange(values.size).reshape(SHAPE) + number
    return past


def test_it_is_zero_at_first() -> None:
    assert not any(values.any() for values in Past(["a", "b"], SHAPE).named.values())


def test_rows_are_exchanged_as_far_as_asked() -> None:
    past, before = filled(), filled()
    past.swap(0, 2, 40)
    for name, values in past.named.items():
        old = before.named[name]
        np.testing.assert_array_equal(values[0, :, :40], old[2, :, :40])
        np.testing.assert_array_equal(values[2, :, :40], old[0, :, :40])
        np.testing.assert_array_equal(values[1], old[1])


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="the system keeps its pages")
@pytest.mark.parametrize("start", [0, 1, 63, 64])
def test_what_is_dropped_is_of_one_row_and_behind_the_start(start: int) -> None:
    past, before = filled(), filled()
    past.drop(1, start)
    for name, values in past.named.items():
        old = before.named[name]
        np.testing.assert_array_equal(values[[0, 2]], old[[0, 2]])
        np.testing.assert_array_equal(values[1, :, :start], old[1, :, :start])
        if start == 0 and mmap.PAGESIZE == 4096:
            assert not values[1].any()
