"""The decoder of completions: what it accepts, what it refuses and by which name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.gateway.openai.completion_request import _DECODER, decode_completion
from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.more import RESERVED, needed


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": "x", **fields}).encode()


def refusal(data: bytes) -> tuple[Code, str | None]:
    with pytest.raises(InvalidRequestError) as caught:
        decode_completion(data)
    return caught.value.code, caught.value.param


def test_a_plain_request_takes_the_defaults_of_the_interface() -> None:
    asked = decode_completion(body())
    request = asked.call.request
    assert (request.prompt, request.token_ids, request.messages) == ("x", None, ())
    assert (request.max_tokens, request.top_logprobs, request.more) == (16, None, b"")
    assert (asked.call.count, asked.call.stream, asked.include_usage) == (1, False, False)


@pytest.mark.parametrize(
    ("prompt", "texts", "ids"),
    [
        ("", [""], [None]),
        (["a", "b"], ["a", "b"], [None, None]),
        ([1, 2], [None], [(1, 2)]),
        ([[1], "b"], [None, "b"], [(1,), None]),
    ],
)
def test_a_prompt_is_text_or_token_ids_or_several(prompt: Any, texts: Any, ids: Any) -> None:
    call = decode_completion(body(prompt=prompt, max_tokens=3, temperature=0, n=2)).call
    requests = [call.request, *call.others]
    assert [request.prompt for request in requests] == texts
    assert [request.token_ids for request in requests] == ids
    assert {(request.max_tokens, request.temperature) for request in requests} == {(3, 0.0)}
    assert call.count == 2 * len(texts)


def test_what_only_some_engines_take_is_needed_by_name() -> None:
    neutral = decode_completion(body(suffix="", echo=False, best_of=1, user="u", top_k=-1)).call
    assert needed(neutral.request) == frozenset()
    assert decode_completion(body(n=3, best_of=3)).call.count == 3
    meant = decode_completion(body(suffix="!", echo=True, logit_bias={"1": 2})).call
    assert needed(meant.request) == {"suffix", "echo", "logit_bias"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("messages", []), ("best_of", 2), ("top_logprobs", 3), ("max_completion_tokens", 5)],
)
def test_what_is_of_another_endpoint_is_refused_by_name(name: str, value: Any) -> None:
    assert refusal(body(**{name: value})) == (Code.UNSUPPORTED_PARAMETER, name)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1.5]}, "prompt[0]"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["a", [2**31]]}, "prompt[1]"),
        ({"prompt": ["a"] * 33}, "prompt"),
        ({"prompt": ["a"] * 11, "n": 3}, "n"),
        ({"n": 17}, "n"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_wrong_values_name_their_field(fields: dict[str, Any], param: str) -> None:
    assert refusal(body(**fields)) == (Code.INVALID_REQUEST, param)


def test_a_prompt_is_missing() -> None:
    assert refusal(b'{"model":"m"}') == (Code.INVALID_REQUEST, "prompt")


def test_the_default_is_what_the_specification_says() -> None:
    assert LIMITS.completion_default_tokens == 16


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(sorted({*_DECODER.type.__struct_fields__, *RESERVED, "suffix"}))


@given(st.dictionaries(FIELDS, JSON))
def test_random_fields_are_accepted_or_refused(fields: dict[str, Any]) -> None:
    try:
        decode_completion(body(**fields))
    except InvalidRequestError:
        pass


@given(st.binary())
def test_random_bytes_are_refused(data: bytes) -> None:
    for given_ in (data, body()[:-1] + b',"x":' + data + b"}"):
        try:
            decode_completion(given_)
        except InvalidRequestError:
            pass


def test_a_field_however_deep_is_named_shortly() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode_completion(b'{"model": "m", "prompt": ' + b"[" * 400 + b"1e999" + b"]" * 400 + b"}")
    assert len(caught.value.message) < 600
    assert str(caught.value.param).startswith("prompt")
