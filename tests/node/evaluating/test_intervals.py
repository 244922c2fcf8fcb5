"""Intervals: Wilson's known values, a bootstrap that is repeatable, and both cover what they should."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.evaluating.intervals import bootstrap, interval, wilson
from aigrid.node.evaluating.metrics import LABELS, TEXTS

ACCURACY, CHRF = LABELS["accuracy"], TEXTS["chrf"]


def test_wilson_is_that_of_the_literature() -> None:
    # Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=1e-4)


@given(st.integers(1, 400), st.data())
def test_wilson_holds_its_share(items: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, items))
    low, high = wilson(right, items)
    assert 0 <= low <= right / items + 1e-12
    assert right / items - 1e-12 <= high <= 1


def test_right_and_wrong_gets_wilsons_and_rows_do_not() -> None:
    tallies = [(1, 1)] * 15 + [(0, 1)] * 5
    assert interval(ACCURACY, tallies, 1)[1:] == pytest.approx(wilson(15, 20))
    in_tables = [(3, 4)] * 15 + [(0, 4)] * 5
    assert interval(ACCURACY, in_tables, 1)[1:] == bootstrap(ACCURACY, in_tables, 1)


@given(st.lists(st.tuples(st.text("ab", max_size=4), st.text("ab", min_size=1)), min_size=1))
def test_a_value_lies_in_its_interval(pairs: list[tuple[str, str]]) -> None:
    tallies = [CHRF.tally(answer, [expected]) for answer, expected in pairs]
    value, low, high = interval(CHRF, tallies, 7)
    assert 0 <= low <= value <= high <= 1


def test_the_seed_alone_decides_what_is_drawn() -> None:
    rng = random.Random(5)
    tallies = [(rng.random(), 1) for _ in range(50)]
    measure = TEXTS["token_f1"]
    assert bootstrap(measure, tallies, 3) == bootstrap(measure, tallies, 3)
    assert bootstrap(measure, tallies, 3) != bootstrap(measure, tallies, 4)


def test_about_95_of_100_intervals_hold_the_truth() -> None:
    """Shares drawn evenly from [0, 1], whose mean is a half."""
    rng, measure, held = random.Random(11), TEXTS["rouge_l"], 0
    for seed in range(100):
        tallies = [(rng.random(), 1) for _ in range(40)]
        low, high = bootstrap(measure, tallies, seed)
        held += low <= 0.5 <= high
    assert 88 <= held <= 99
