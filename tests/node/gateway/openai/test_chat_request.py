"""The decoder: what it accepts, what it refuses and by which name, and that it never breaks."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.metagraph.preferences import ANY, Preferences
from aigrid.node.gateway.openai.chat_request import _DECODER, decode_chat
from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.inference import ChatMessage
from aigrid.protocol.more import RESERVED, needed

USER = {"role": "user", "content": "hi"}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [USER], **fields}).encode()


def refusal(data: bytes) -> tuple[Code, str | None]:
    with pytest.raises(InvalidRequestError) as caught:
        decode_chat(data)
    return caught.value.code, caught.value.param


def test_a_plain_request_takes_the_defaults() -> None:
    chat = decode_chat(body())
    call = chat.call
    assert (call.models, call.stream, chat.include_usage) == (("m",), False, False)
    assert (call.choices, call.preferences, call.request.more) == (1, ANY, b"")
    assert call.request.messages == (ChatMessage("user", "hi"),)
    assert (call.request.temperature, call.request.top_p, call.request.stop) == (1.0, 1.0, ())
    assert call.request.max_tokens is call.request.seed is call.request.top_logprobs is None


def test_every_supported_field_arrives() -> None:
    chat = decode_chat(
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
            n=3,
        )
    )
    call = chat.call
    assert call.stream
    assert chat.include_usage
    assert (call.choices, call.request.more) == (3, b"")
    request = call.request
    assert (request.max_tokens, request.temperature, request.top_p) == (6, 0.0, 0.5)
    assert (request.stop, request.seed, request.top_logprobs) == (("END",), -3, 2)


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    call = decode_chat(body(messages=[{"role": "system", "content": parts}])).call
    assert call.request.messages == (ChatMessage("system", "ab"),)


def test_fields_that_change_nothing_are_needed_of_nobody() -> None:
    call = decode_chat(
        body(
            metadata={"a": 1},
            parallel_tool_calls=True,
            tools=[],
            tool_choice="auto",
            response_format={"type": "text"},
            presence_penalty=0.0,
            logit_bias=None,
            stop=None,
            functions=None,
            function_call="auto",
            best_of=1,
            max_tokens=None,
            stream_options={"include_obfuscation": False},
            whatever=[1, {"x": None}],
        )
    ).call
    assert needed(call.request) == frozenset()


def test_what_we_have_no_field_for_travels_as_it_was_sent() -> None:
    tools = b'[{"type": "function",  "function":{"name":"f","parameters":{"x":1.0e3}}}]'
    call = decode_chat(
        body(n=1, provider={}, keep_alive=1)[:-1] + b',"user":"u","tools":' + tools + b"}"
    ).call
    assert call.request.more == b'{"user":"u","tools":' + tools + b"}"
    assert needed(call.request) == {"tools"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": {"x": "y" * 99}}}),
        ("audio", {"voice": "x"}),
        ("modalities", ["text", "audio"]),
        ("logit_bias", {"1": 5}),
        ("frequency_penalty", 0.1),
        ("top_k", 5),
    ],
)
def test_what_would_change_the_answer_is_needed_by_name(name: str, value: Any) -> None:
    assert needed(decode_chat(body(**{name: value})).call.request) == {name}


@pytest.mark.parametrize(
    ("name", "value"), [("functions", [{"name": "f"}]), ("best_of", 2), ("function_call", "f")]
)
def test_what_there_is_something_newer_for_is_refused_by_name(name: str, value: Any) -> None:
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
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"n": True}, "n"),
        ({"models": [""]}, "models"),
        ({"models": [f"m{number}" for number in range(17)]}, "models"),
        ({"provider": 5}, "provider"),
        ({"provider": {"order": "me"}}, "provider.order"),
        ({"provider": {"sort": "beauty"}}, "provider.sort"),
    ],
)
def test_wrong_values_name_their_field(fields: dict[str, Any], param: str) -> None:
    assert refusal(body(**fields)) == (Code.INVALID_REQUEST, param)


def test_what_is_more_than_text_travels_with_its_message() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    said = [{"type": "text", "text": "what is it?"}, image]
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    told = {"role": "tool", "content": "sunny", "tool_call_id": "1"}
    call = decode_chat(body(messages=[{"role": "user", "content": said}, called, told])).call
    user, assistant, tool = call.request.messages
    assert (user.content, json.loads(user.more)) == ("what is it?", {"content": said})
    assert assistant.content == ""
    assert json.loads(assistant.more) == {"tool_calls": [{"id": "1"}], "content": None}
    assert (tool.content, json.loads(tool.more)) == ("sunny", {"tool_call_id": "1"})
    assert needed(call.request) == {"messages.content", "messages.tool_calls"}


def test_preferences_are_openrouters() -> None:
    call = decode_chat(
        body(
            models=["m", "other"],
            provider={
                "order": ["a"],
                "only": ["a", "b"],
                "ignore": ["c"],
                "sort": "throughput",
                "allow_fallbacks": False,
                "require_parameters": True,
                "quantizations": ["fp16"],
                "data_collection": "allow",
                "zdr": None,
            },
        )
    ).call
    assert call.models == ("m", "other")
    assert call.preferences == Preferences(
        ("a",),
        ("a", "b"),
        ("c",),
        "throughput",
        allow_fallbacks=False,
        require_parameters=True,
        precisions=("fp16",),
    )
    by = decode_chat(body(provider={"sort": {"by": "latency", "partition": "model"}})).call
    assert by.preferences == Preferences(sort="latency")
    alone = json.dumps({"models": ["x"], "messages": [USER]}).encode()
    assert decode_chat(alone).call.models == ("x",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("data_collection", "deny"), ("zdr", True), ("max_price", {}), ("sort", "price")),
        *(("sort", {"by": "price"}), ("x", 1), ("preferred_max_latency", 2)),
    ],
)
def test_a_preference_that_is_not_kept_is_refused_by_name(name: str, value: Any) -> None:
    found = refusal(body(provider={name: value}))
    assert found == (Code.UNSUPPORTED_PARAMETER, f"provider.{name}")


def test_models_stand_in_for_one_another_in_their_order_alone() -> None:
    found = refusal(body(provider={"sort": {"by": "latency", "partition": "none"}}))
    assert found == (Code.UNSUPPORTED_PARAMETER, "provider.sort.partition")


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
FIELDS = st.sampled_from(sorted({*_DECODER.type.__struct_fields__, *RESERVED, "tools"}))


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


def test_what_a_provider_is_not_is_said_briefly() -> None:
    said = {"messages": [{"role": "user", "content": "x"}], "provider": {"a" * 9000: 1}}
    with pytest.raises(InvalidRequestError) as caught:
        decode_chat(json.dumps(said).encode())
    assert len(caught.value.message) < 500
