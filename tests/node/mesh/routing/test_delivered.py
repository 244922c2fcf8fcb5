"""Wherever an answer is cut, and however often: together the segments are the uncut answer."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engines.speller import spell

from aigrid.node.mesh.routing.delivered import Delivered
from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.inference import (
    Finish,
    InferChunk,
    TaskChunk,
    TaskRequest,
    TextChunk,
    TextRequest,
)
from aigrid.protocol.limits import LIMITS

SAID = TextRequest(prompt="x")


def uncut(request: TextRequest, script: bytes) -> list[InferChunk]:
    return list(spell(request, script))


def cut(request: TextRequest, script: bytes, cuts: Iterable[int]) -> list[InferChunk]:
    """What the client gets when segment after segment ends after so many chunks."""
    delivered = Delivered(request)
    got: list[InferChunk] = []
    for after in cuts:
        rest = delivered.rest()
        assert rest is not None
        for chunk in list(spell(rest, script))[:after]:
            got += delivered.add((chunk,))
            if isinstance(chunk, Finish):
                return got
        delivered.resume()
    rest = delivered.rest()
    assert rest is not None
    for chunk in spell(rest, script):
        got += delivered.add((chunk,))
    return got


def joined(chunks: list[InferChunk]) -> tuple[str, list[int], list[object], InferChunk]:
    texts = [chunk for chunk in chunks[:-1] if isinstance(chunk, TextChunk)]
    assert len(texts) == len(chunks) - 1
    return (
        "".join(chunk.text for chunk in texts),
        [token for chunk in texts for token in chunk.token_ids],
        [entry for chunk in texts for entry in chunk.logprobs],
        chunks[-1],
    )


requests = st.builds(
    TextRequest,
    prompt=st.just("a prompt"),
    max_tokens=st.none() | st.integers(1, 40),
    temperature=st.sampled_from([0.0, 1.0]),
    top_p=st.sampled_from([1.0, 0.9]),
    seed=st.integers(0, 2**63 - 1),
    stop=st.lists(st.text("ab€", min_size=1, max_size=4), max_size=2).map(tuple),
    top_logprobs=st.sampled_from([None, 2]),
)
scripts = st.text("ab€😀", max_size=12).map(str.encode) | st.binary(max_size=20)


@given(requests, scripts, st.lists(st.integers(0, 50), max_size=6))
def test_the_segments_of_a_cut_answer_are_the_uncut_answer(
    request: TextRequest, script: bytes, cuts: list[int]
) -> None:
    assert joined(cut(request, script, cuts)) == joined(uncut(request, script))


@pytest.mark.parametrize("most", [None, 4, 7, 11])
@pytest.mark.parametrize("stop", [(), ("€b",), ("€b€", "zz"), ("bab",)])
def test_every_single_cut(most: int | None, stop: tuple[str, ...]) -> None:
    """Within a character of several bytes, in what may become a stop string, and before the end."""
    script = "ba€ba€b".encode()
    request = TextRequest(prompt="x", max_tokens=most, stop=stop, temperature=0.0, top_logprobs=1)
    whole = uncut(request, script)
    for after in range(len(whole)):
        assert joined(cut(request, script, [after])) == joined(whole), after
        assert joined(cut(request, script, [after, 0, 1])) == joined(whole), after


def test_an_answer_that_fills_the_context_is_only_ended() -> None:
    request = TextRequest(prompt="four", temperature=0.0)
    whole = list(spell(request, b"and more than fits", context=12))
    delivered = Delivered(request)
    for chunk in whole[:-1]:
        delivered.add((chunk,))
    delivered.resume()
    rest = delivered.rest()
    assert rest is not None
    (finish,) = list(spell(rest, b"and more than fits", context=12))
    assert delivered.add((finish,)) == (whole[-1],)


@pytest.mark.parametrize(
    "chunks",
    [
        [TextChunk("no ids")],
        [TextChunk("a", (1,)), TextChunk("b"), TextChunk("c", (2,))],
        [TextChunk("a"), TextChunk("b", (1,))],
    ],
)
def test_text_that_no_token_stands_for_cannot_be_continued(chunks: list[InferChunk]) -> None:
    delivered = Delivered(SAID)
    assert [delivered.add((chunk,)) for chunk in chunks] == [(chunk,) for chunk in chunks]
    assert delivered.rest() is None


def test_only_text_can_be_continued() -> None:
    assert Delivered(TaskRequest("feature-extraction", b"[]")).rest() is None
    delivered = Delivered(SAID)
    delivered.add((TaskChunk(b"1"),))
    assert delivered.rest() is None


def test_more_tokens_than_a_request_may_name_cannot_be_continued() -> None:
    delivered = Delivered(SAID)
    delivered.add((TextChunk("", (1,) * LIMITS.max_tokens_max),))
    assert delivered.rest() is not None
    delivered.add((TextChunk("", (1,)),))
    assert delivered.rest() is None


@pytest.mark.parametrize(
    "chunk", [TextChunk("other", (2,)), TextChunk("other"), Finish("stop", 1, 0)]
)
def test_whoever_ends_it_otherwise_than_was_told_is_not_believed(chunk: InferChunk) -> None:
    delivered = Delivered(SAID)
    delivered.add((TextChunk("a", (1,)), TextChunk("held back")))
    delivered.resume()
    with pytest.raises(RemoteError) as caught:
        delivered.add((chunk,))
    assert caught.value.code is Code.CONNECTION_LOST


@given(
    st.lists(
        st.builds(
            TextChunk, st.text("ab", max_size=3), st.lists(st.integers(0, 9), max_size=2).map(tuple)
        )
        | st.just("resume"),
        max_size=12,
    )
)
def test_whatever_comes_nothing_is_invented_and_no_other_error_is_raised(
    steps: list[object],
) -> None:
    delivered, said = Delivered(SAID), ""
    ids: list[int] = []
    for step in steps:
        if not isinstance(step, TextChunk):
            delivered.resume()
            continue
        try:
            for fresh in delivered.add((step,)):
                assert isinstance(fresh, TextChunk)
                assert step.text.endswith(fresh.text)
                said += fresh.text
        except RemoteError:
            return
        ids += step.token_ids
    rest = delivered.rest()
    assert rest is None or list(rest.continued_ids) == ids


def test_nobody_goes_on_after_what_no_token_stands_for() -> None:
    delivered = Delivered(SAID)
    delivered.add((TextChunk("a", (1,)),))
    assert delivered.rest() is not None
    said = TextChunk("", more=b'{"tool_calls":[]}')
    assert delivered.add((said,)) == (said,)
    assert delivered.rest() is None
