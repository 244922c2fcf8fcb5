"""Further members of pieces: what another node sends is checked, and put together."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.gateway.deltas import checked, joined
from aigrid.node.gateway.step import Step, merged
from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.inference import Finish, TextChunk
from aigrid.protocol.limits import LIMITS

NAMES = st.sampled_from(["tool_calls", "index", "id", "function", "arguments", "name", "refusal"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


def call(index: int, **said: Any) -> bytes:
    return json.dumps({"tool_calls": [{"index": index, **said}]}).encode()


def test_calls_of_tools_are_put_together_by_their_number() -> None:
    pieces = [
        call(1, id="b", type="function", function={"name": "g", "arguments": ""}),
        call(0, id="a", type="function", function={"name": "f", "arguments": '{"x'}),
        call(1, function={"arguments": "{}"}),
        call(0, function={"arguments": '":1}'}, id=None),
        b'{"reasoning_content":"I th"}',
        b'{"reasoning_content":"ink"}',
    ]
    assert joined(pieces) == {
        "reasoning_content": "I think",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }


@pytest.mark.parametrize("more", [b"[]", b"{", b'{"a":"\xff"}', b'{"a":' + b"[" * 100_000, b"1"])
def test_what_is_no_object_is_the_other_nodes_fault(more: bytes) -> None:
    with pytest.raises(RemoteError) as caught:
        merged((TextChunk("", more=more),))
    assert caught.value.code is Code.PROTOCOL_VIOLATION


def test_what_is_taken_can_be_put_together_however_deep_that_is_done() -> None:
    """A piece that a decoder could just take was too deep for the next one, further down."""

    def joined_below(calls: int, piece: bytes) -> dict[str, Any]:
        return joined([piece]) if calls == 0 else joined_below(calls - 1, piece)

    most = LIMITS.answer_depth_max
    for depth in range(most - 2, most + 3):
        piece = b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
        if depth <= most:
            assert joined_below(200, checked(piece))
        else:
            with pytest.raises(RemoteError) as caught:
                checked(piece)
            assert caught.value.code is Code.PROTOCOL_VIOLATION
    with pytest.raises(RemoteError):  # nested as deep as a decoder takes from here
        checked(b'{"a":' + b"[" * 900 + b"]" * 900 + b"}")


def test_text_is_said_as_text_alone() -> None:
    assert checked(b'{"role":"system","content":"me"}') == b""
    assert checked(b'{"content":"me", "refusal":\n"no"}') == b'{"refusal":"no"}'


def test_pieces_that_are_ready_together_are_one_step() -> None:
    chunks = (TextChunk("a", more=b'{"b":1}'), TextChunk("c"), TextChunk("", more=b'{"d":2}'))
    ready = merged((*chunks, Finish("tool_calls")))
    assert ready == Step("ac", (), Finish("tool_calls"), more=(b'{"b":1}', b'{"d":2}'))


@given(st.lists(st.dictionaries(NAMES, VALUES, max_size=4), max_size=4))
def test_anything_can_be_put_together(pieces: list[dict[str, Any]]) -> None:
    whole = joined(checked(json.dumps(piece).encode()) or b"{}" for piece in pieces)
    assert whole.keys() <= {name for piece in pieces for name in piece}


def test_a_function_that_is_none_gives_way_to_one_that_is() -> None:
    pieces = [call(0, function=5), call(0, function={"name": "f", "arguments": "{}"})]
    assert joined(pieces)["tool_calls"] == [{"function": {"name": "f", "arguments": "{}"}}]


def test_any_number_of_pieces_is_put_together_once() -> None:
    """Each added to those before, these would be copied for hours."""
    bit, count = "x" * 1024, 32_768
    thought = json.dumps({"reasoning_content": bit, "notes": [bit]}).encode()
    pieces = [thought, call(0, function={"arguments": bit})] * count
    whole = joined(pieces)
    assert len(whole["reasoning_content"]) == 1024 * count
    assert len(whole["notes"]) == count
    assert len(whole["tool_calls"][0]["function"]["arguments"]) == 1024 * count
