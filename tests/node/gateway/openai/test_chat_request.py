"""The decoder: what it accepts, what it refuses and by which name, and that it never breaks."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.gateway.openai.chat_request import _DECODER, decode_chat
from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.inference import ChatMessage

USER = {"role": "user", "content": "hi"}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [USER], **fields}).encode()


def refusal(data: bytes) -> tuple[Code, str | None]:
    with pytest.raises(InvalidRequestError) as caught:
        decode_chat(data)
    return caught.value.code, caught.value.param


def test_a_plain_request_takes_the_defaults() -> None:
    call = decode_chat(body())
    assert (call.model, call.stream, call.include_usage) == ("m", False, False)
    assert call.request.messages == (ChatMessage("user", "hi"),)
    assert (call.request.temperature, call.request.top_p, call.request.stop) == (1.0, 1.0, ())
    assert call.request.max_tokens is call.request.seed is call.request.top_logprobs is None


def test_every_supported_field_arrives() -> None:
    call = decode_chat(
        body(
            stream=True,
            stream_options={"include_usage": True},
            max_tokens=5,
            max_completion_tokens=6,
            temperature=0,
            top_p=0.5,
            stop="END",
            seed=-3,
            logprobs=True,
            top_logprobs=2,
            user="u",
            n=1,
        )
    )
    assert call.stream
    assert call.include_usage
    request = call.request
    assert (request.max_tokens, request.temperature, request.top_p) == (6, 0.0, 0.5)
    assert (request.stop, request.seed, request.top_logprobs) == (("END",), -3, 2)


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    call = decode_chat(body(messages=[{"role": "system", "content": parts}]))
    assert call.request.messages == (ChatMessage("system", "ab"),)


def test_fields_that_change_nothing_are_ignored() -> None:
    decode_chat(
        body(
            metadata={"a": 1},
            parallel_tool_calls=True,
            tools=[],
            tool_choice="auto",
            response_format={"type": "text"},
            presence_penalty=0.0,
            logit_bias=None,
            stop=None,
            whatever=[1, {"x": None}],
        )
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("functions", [{"name": "f"}]),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": {"x": "y" * 99}}}),
        ("n", 2),
        ("n", True),
        ("audio", {"voice": "x"}),
        ("modalities", ["text", "audio"]),
        ("logit_bias", {"1": 5}),
        ("frequency_penalty", 0.1),
        ("top_k", 5),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(name: str, value: Any) -> None:
    assert refusal(body(**{name: value})) == (Code.UNSUPPORTED_PARAMETER, name)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [USER] * 2049}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [USER, {"role": "pope", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": "x" * 257}, "stop"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_wrong_values_name_their_field(fields: dict[str, Any], param: str) -> None:
    assert refusal(body(**fields)) == (Code.INVALID_REQUEST, param)


def test_images_and_tool_calls_are_refused_where_they_stand() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    found = refusal(body(messages=[USER, {"role": "user", "content": [image]}]))
    assert found == (Code.UNSUPPORTED_PARAMETER, "messages[1].content[0]")
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    found = refusal(body(messages=[called]))
    assert found == (Code.UNSUPPORTED_PARAMETER, "messages[0].tool_calls")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"model":"a"}',
        b'{"model":"\xff","messages":[]}',
        body()[:-1] + b',"unknown":"\xff"}',
        body()[:-1] + b',"unknown":"\xff","long":"' + b"x" * 300_000 + b'"}',
        body()[:-1] + b',"seed":NaN}',
        body()[:-1] + b',"seed":' + b"9" * 5000 + b"}",
        body()[:-1] + b',"unknown":' + b"[" * 100_000,
        body()[:-1] + b',"tools":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model":"\\ud800","messages":[{"role":"user","content":"x"}]}',
    ],
)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    assert refusal(data)[0] is Code.INVALID_REQUEST


@pytest.mark.parametrize(
    "data",
    [
        b'{"model":"a","model":"b","messages":[{"role":"user","content":"x"}]}',
        b'{"model":"a","messages":[{"role":"user","content":"x","content":"y"}]}',
    ],
)
def test_a_repeated_member_is_refused(data: bytes) -> None:
    assert refusal(data)[0] is Code.DUPLICATE_KEY


def test_a_refusal_does_not_repeat_what_the_client_wrote() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode_chat(body(messages=[{"role": "my secret prompt", "content": "x"}]))
    assert "secret" not in caught.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(sorted(_DECODER.type.__struct_fields__))


def decodes_or_refuses(data: bytes) -> None:
    try:
        decode_chat(data)
    except InvalidRequestError:
        pass


@given(st.dictionaries(FIELDS, JSON))
def test_random_fields_are_accepted_or_refused(fields: dict[str, Any]) -> None:
    decodes_or_refuses(body(**fields))


@given(JSON)
def test_random_json_is_accepted_or_refused(value: Any) -> None:
    decodes_or_refuses(json.dumps(value).encode())
    decodes_or_refuses(body(messages=value))


@given(st.binary())
def test_random_bytes_are_refused(data: bytes) -> None:
    decodes_or_refuses(data)
    decodes_or_refuses(body()[:-1] + b',"x":' + data + b"}")
