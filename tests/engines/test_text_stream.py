"""However an answer is cut into tokens, the same text comes out, and never half a character."""

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from aigrid.engines.text_stream import TextStream


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(marks)]


def say(pieces: Sequence[bytes], stops: Sequence[str] = ()) -> tuple[list[str], str, bool]:
    """What was said piece by piece, then at the end, and whether a stop string ended it."""
    stream, said = TextStream(stops), []
    for piece in pieces:
        fed = stream.feed(piece)
        said.append(fed.text)
        if fed.stopped:
            return said, "", True
    last = stream.end()
    return said, last.text, last.stopped


def text_before_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The plain way: look at every beginning of the text, shortest first."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


places = st.lists(st.integers(0, 60), max_size=20)
alphabet = st.text("abé€😀", max_size=30)


@given(st.binary(max_size=40), places)
def test_any_bytes_in_any_pieces_give_the_same_text(data: bytes, marks: list[int]) -> None:
    said, rest, stopped = say(cut(data, marks))
    assert "".join(said) + rest == data.decode(errors="replace")
    assert not stopped


@given(alphabet, places)
def test_what_was_said_is_whole_characters(text: str, marks: list[int]) -> None:
    pieces = cut(text.encode(), marks)
    said, rest, _ = say(pieces)
    assert rest == ""
    assert "\ufffd" not in "".join(said)
    # Nothing is held back longer than needed either.
    for count in range(len(pieces) + 1):
        begun = b"".join(pieces[:count]).decode(errors="ignore")
        assert "".join(said[:count]) == begun


@given(alphabet, st.lists(st.text("abé😀", min_size=1, max_size=4), min_size=1, max_size=4), places)
@example("abcd", ["abcd", "bc"], [3])
@example("aab", ["ab"], [1, 2])
def test_stop_strings_end_the_text_wherever_it_is_cut(
    text: str, stops: Sequence[str], marks: list[int]
) -> None:
    said, rest, stopped = say(cut(text.encode(), marks), stops)
    assert ("".join(said) + rest, stopped) == text_before_stop(text, stops)


@given(alphabet, st.text("abé😀", min_size=1, max_size=4), places)
def test_no_part_of_a_stop_string_is_said(text: str, stop: str, marks: list[int]) -> None:
    stream, said = TextStream([stop]), ""
    for piece in cut((text + stop).encode(), marks):
        said += stream.feed(piece).text
        before = (text + stop).index(stop)
        assert len(said) <= before


def test_what_is_held_back_is_said_at_the_end() -> None:
    stream = TextStream(["<stop>"])
    assert stream.feed(b"one <st").text == "one "
    assert stream.feed(b"ep").text == "<step"
    assert stream.feed(b"<sto").text == ""
    assert stream.end().text == "<sto"


def test_a_cut_off_character_ends_as_a_replacement() -> None:
    stream = TextStream()
    assert stream.feed("é".encode()[:1]).text == ""
    assert stream.end().text == "\ufffd"


def test_nothing_is_said_after_a_stop() -> None:
    stream = TextStream(["."])
    assert stream.feed(b"a.b").text == "a"
    assert stream.feed(b"c").text == ""
    assert stream.end().text == ""
