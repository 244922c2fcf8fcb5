"""Further members of a request: what is meaningful, what is needed, and what is refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.inference import ChatMessage, TextRequest
from aigrid.protocol.more import (
    EVERYTHING,
    IN_MESSAGES,
    MEANINGFUL,
    RESERVED,
    check_more,
    is_neutral,
    needed,
    not_taken,
    untaken,
)

TOOLS = [{"type": "function", "function": {"name": "weather"}}]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=5,
)


def asked(message: Any = None, **more: Any) -> TextRequest:
    said = b"" if message is None else json.dumps(message).encode()
    return TextRequest(
        messages=(ChatMessage("user", "hi", said),), more=json.dumps(more).encode() if more else b""
    )


def test_what_changes_the_meaning_is_needed_by_name() -> None:
    message = {"tool_calls": [{"id": "1"}], "tool_call_id": "1", "name": "x"}
    request = asked(message, tools=TOOLS, top_k=40, user="me", metadata={"a": "b"})
    assert needed(request) == {"tools", "top_k", "messages.tool_calls"}


def test_log_probabilities_are_needed_by_name() -> None:
    assert needed(TextRequest(prompt="x", top_logprobs=0)) == {"logprobs"}


def test_everything_is_needed_where_the_client_says_so() -> None:
    request = asked({"name": "x"}, user="me", top_k=0, store=None)
    assert needed(request) == frozenset()
    assert needed(request, strict=True) == {"user", "messages.name"}


@pytest.mark.parametrize("name", MEANINGFUL)
def test_a_value_that_changes_nothing_is_not_needed(name: str) -> None:
    for value in (None, *MEANINGFUL[name]):
        assert not needed(asked(**{name: value}))


@pytest.mark.parametrize("value", [b'"\\q"', b'"\\ud800"', b"1e999", b"-", b"[" * 40])
def test_a_value_that_breaks_when_it_is_looked_at_changes_something(value: bytes) -> None:
    assert not is_neutral(value, (1,))


def test_true_is_no_one() -> None:
    assert needed(asked(repetition_penalty=True)) == {"repetition_penalty"}
    assert needed(asked(parallel_tool_calls=1)) == {"parallel_tool_calls"}


@given(st.dictionaries(st.sampled_from(sorted(MEANINGFUL)) | st.text(max_size=8), VALUES))
def test_needs_are_known_names_that_were_said(more: dict[str, Any]) -> None:
    names = needed(asked() if not more else TextRequest(prompt="x", more=_json(more)))
    assert names <= more.keys() & MEANINGFUL.keys()
    assert untaken(names, (EVERYTHING,)) == ()
    assert untaken(names, names) == ()
    assert untaken(names, ()) == tuple(sorted(names))


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_what_a_request_has_fields_for_is_said_there_alone(name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_more(asked(**{name: 1}))
    assert caught.value.param == name


def test_names_are_cut_before_they_are_shown() -> None:
    names = needed(asked(**{f"{number}{'x' * 1000}": 1 for number in range(99)}), strict=True)
    assert len(names) == 99
    assert len(not_taken(names, "anybody").message) < 700


def test_a_message_has_one_role() -> None:
    with pytest.raises(InvalidRequestError):
        check_more(asked({"role": "system"}))
    assert not IN_MESSAGES.keys() & {"role"}


@pytest.mark.parametrize(
    "text", [b"[]", b"1", b"{", b'{"a":1}x', b'{"a":"\xff"}', b'{"a":' + b"[" * 100_000]
)
def test_what_is_no_object_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        check_more(TextRequest(prompt="x", more=text))
    with pytest.raises(InvalidRequestError):
        needed(TextRequest(messages=(ChatMessage("user", "x", text),)))


def test_the_error_names_what_is_not_taken() -> None:
    error = not_taken(("tools", "logit_bias"), "any node that offers it")
    assert error.code is Code.UNSUPPORTED_PARAMETER
    assert error.param == "logit_bias"
    assert error.message == "Not taken by any node that offers it: `logit_bias`, `tools`."


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
