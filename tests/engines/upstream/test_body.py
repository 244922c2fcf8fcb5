"""Bodies as they are framed, however they arrive."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.engines.upstream.body import Body

chunks = st.lists(st.binary(min_size=1, max_size=40), max_size=8)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """In pieces that end at some of these places."""
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[a:b] for a, b in pairwise(places)]


@given(chunks, st.lists(st.integers(0, 1000), max_size=12), st.booleans())
def test_chunks_are_joined_wherever_they_are_cut(
    parts: list[bytes], at: list[int], trailer: bool
) -> None:
    framed = b"".join(b"%x;a=b\r\n%s\r\n" % (len(part), part) for part in parts)
    framed += b"0\r\nX-Sum: 1\r\n\r\n" if trailer else b"0\r\n\r\n"
    body = Body(None, chunked=True)
    pieces = []
    for piece in cut(framed, at):
        assert not body.over
        pieces.append(body.feed(piece))
    assert b"".join(pieces) == b"".join(parts)
    assert body.is_clean


@given(st.binary(max_size=50), st.lists(st.integers(0, 100), max_size=5))
def test_a_length_is_kept_to(data: bytes, at: list[int]) -> None:
    body = Body(len(data), chunked=False)
    assert b"".join(map(body.feed, cut(data, at))) == data
    assert body.is_clean
    body.feed(b"more")
    assert not body.is_clean


def test_what_comes_behind_the_end_is_no_clean_end() -> None:
    body = Body(None, chunked=True)
    assert body.feed(b"1\r\na\r\n0\r\n\r\nHTTP/1.1 200 OK") == b"a"
    assert body.over
    assert not body.is_clean


@pytest.mark.parametrize(
    "framed",
    [
        b"zz\r\n",
        b"+1\r\na\r\n",
        b"-1\r\n",
        b"1_0\r\n",
        b"\r\n1\r\na",
        b"1\r\nab\r\n",
        b"123456789\r\n",
        b"f" * 5000,
    ],
)
def test_what_is_no_chunk_is_refused(framed: bytes) -> None:
    with pytest.raises(ValueError, match=r"chunk|line"):
        Body(None, chunked=True).feed(framed)


@pytest.mark.parametrize("length", [4096, 4097])
def test_a_line_is_as_long_as_it_may_be_however_it_comes(length: int) -> None:
    framed = b"0\r\n" + b"x" * length + b"\n\n"
    for pieces in ([framed], [framed[:9], framed[9:]], [framed[:-2], framed[-2:]]):
        body = Body(None, chunked=True)
        if length > 4096:
            with pytest.raises(ValueError, match="line"):
                [body.feed(piece) for piece in pieces]
        else:
            assert b"".join(map(body.feed, pieces)) == b""
            assert body.is_clean


def test_without_a_length_all_is_body() -> None:
    body = Body(None, chunked=False)
    assert body.feed(b"abc") == b"abc"
    assert body.ends_with_connection
    assert not body.over
