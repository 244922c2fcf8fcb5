"""Received pieces come out as they went in, and small ones take no more than they should."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.network.receive_buffer import ReceiveBuffer


@given(
    st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=20).map(lambda piece: piece * 500),
            st.binary(min_size=1, max_size=40),
            st.integers(0, 6000),
        )
    )
)
def test_bytes_come_out_in_order_whatever_is_asked_for(steps: list[bytes | int]) -> None:
    buffer, expected = ReceiveBuffer(), b""
    for step in steps:
        if isinstance(step, bytes):
            buffer.append(step)
            expected += step
        else:
            assert buffer.take(step) == expected[:step]
            expected = expected[step:]
        assert len(buffer) == len(expected)
    assert buffer.take(1 << 30) == expected
    assert buffer.take(1) == b""


def test_many_small_pieces_take_little_more_than_their_bytes() -> None:
    buffer = ReceiveBuffer()
    for number in range(100_000):
        buffer.append(bytes([number % 256, 1]))
    held = sum(sys.getsizeof(piece) for piece in buffer._pieces)
    assert held < 1.5 * len(buffer)


def test_what_was_cleared_is_gone() -> None:
    buffer = ReceiveBuffer()
    buffer.append(b"abc")
    buffer.take(1)
    buffer.clear()
    buffer.append(b"xyz")
    assert buffer.take(9) == b"xyz"
