"""The decoder of responses: what it accepts, in which words it goes on, what it refuses."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.gateway.openai.response_request import _DECODER, _KNOWN, decode_response
from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.inference import ChatMessage, check_text
from aigrid.protocol.more import check_more, needed

IMAGE = "data:image/png;base64,"


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "input": "hi", **fields}).encode()


def more(**fields: Any) -> Any:
    return json.loads(decode_response(body(**fields)).call.request.more)


def refusal(data: bytes) -> tuple[Code, str | None]:
    with pytest.raises(InvalidRequestError) as caught:
        decode_response(data)
    return caught.value.code, caught.value.param


def test_a_plain_request_takes_the_defaults() -> None:
    asked = decode_response(body())
    request = asked.call.request
    assert request.messages == (ChatMessage("user", "hi"),)
    assert (request.max_tokens, request.top_logprobs, request.more) == (None, None, b"")
    assert asked.echoed["store"] is False
    assert asked.echoed["text"] == {"format": {"type": "text"}}
    assert (asked.echoed["tools"], asked.echoed["tool_choice"]) == ([], "auto")


def test_items_become_messages() -> None:
    items = [
        {"role": "developer", "content": "rules"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "b", "annotations": []},
                {"type": "refusal", "refusal": "c"},
            ],
        },
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "x"},
        {"type": "function_call", "call_id": "3", "name": "f", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "3",
            "output": [{"type": "input_text", "text": "y"}],
        },
    ]
    request = decode_response(body(input=items, instructions="first")).call.request
    said = [(m.role, m.content) for m in request.messages]
    assert said == [
        ("system", "first"),
        ("developer", "rules"),
        ("user", "a"),
        ("assistant", "bc"),
        ("tool", "x"),
        ("assistant", ""),
        ("tool", "y"),
    ]
    both = json.loads(request.messages[3].more)
    assert [call["function"]["name"] for call in both["tool_calls"]] == ["f", "g"]
    assert "content" not in both
    alone = json.loads(request.messages[5].more)
    assert (alone["content"], alone["tool_calls"][0]["id"]) == (None, "3")
    assert needed(request) == {"messages.tool_calls"}


def test_what_is_more_than_text_is_said_as_in_chat() -> None:
    parts = [
        {"type": "input_text", "text": "what?"},
        {"type": "input_image", "image_url": IMAGE, "detail": "low"},
        {"type": "input_file", "file_data": "data:", "filename": "a.pdf"},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
    ]
    request = decode_response(body(input=[{"role": "user", "content": parts}])).call.request
    (message,) = request.messages
    assert message.content == "what?"
    assert json.loads(message.more)["content"] == [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}},
        {"type": "file", "file": {"file_data": "data:", "filename": "a.pdf"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
    ]
    assert needed(request) == {"messages.content"}


def test_tools_formats_and_efforts_go_on_in_chats_words() -> None:
    schema = {"type": "object"}
    said = more(
        tools=[{"type": "function", "name": "f", "parameters": schema, "strict": None}],
        tool_choice="required",
        text={
            "format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True},
            "verbosity": "low",
        },
        reasoning={"effort": "high", "summary": "auto"},
        parallel_tool_calls=False,
        top_k=4,
        user="u",
        metadata={"a": "b"},
        store=True,
        truncation="auto",
    )
    assert said == {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}],
        "tool_choice": "required",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": schema, "strict": True},
        },
        "verbosity": "low",
        "reasoning_effort": "high",
        "parallel_tool_calls": False,
        "top_k": 4,
        "user": "u",
    }
    assert more(tools=[{"type": "function", "name": "f", "parameters": None}])["tools"] == [
        {"type": "function", "function": {"name": "f"}}
    ]
    assert more(text={"format": {"type": "json_object"}}) == {
        "response_format": {"type": "json_object"}
    }
    assert more(tool_choice={"type": "function", "name": "f"})["tool_choice"] == {
        "type": "function",
        "function": {"name": "f"},
    }
    allowed = {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "function", "name": "f"}],
    }
    assert more(tool_choice=allowed)["tool_choice"]["allowed_tools"] == {
        "mode": "auto",
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }


def test_what_changes_nothing_is_needed_of_nobody() -> None:
    call = decode_response(
        body(
            tools=[],
            tool_choice="auto",
            text={"format": {"type": "text"}},
            reasoning={"summary": "auto"},
            previous_response_id=None,
            conversation=None,
            background=False,
            max_tool_calls=3,
            include=["reasoning.encrypted_content"],
            stream_options={"include_obfuscation": False},
            service_tier="auto",
            prompt_cache_key="k",
        )
    ).call
    assert needed(call.request) == frozenset()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True}, "background"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"type": "computer_call", "output": {}}]}, "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_video"}]}]},
            "input[0].content[0].type",
        ),
    ],
)
def test_what_there_is_none_of_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refusal(body(**fields)) == (Code.UNSUPPORTED_PARAMETER, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"type": "reasoning"}]}, "input"),
        ({"input": [5]}, "input[0]"),
        ({"input": [{}]}, "input[0].role"),
        ({"input": [{"role": "pope", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "input[0].content[0].text",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].image_url",
        ),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "1"}]}, "input[0].output"),
        ({"input": [{"role": "user", "content": "x"}] * 2049}, "input"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [5]}, "tools[0]"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": 5}, "tool_choice"),
        ({"text": {"format": 5}}, "text.format"),
        ({"text": {"format": {}}}, "text.format.type"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
        ({"temperature": 3}, "temperature"),
    ],
)
def test_wrong_values_name_their_field(fields: dict[str, Any], param: str) -> None:
    assert refusal(body(**fields)) == (Code.INVALID_REQUEST, param)


def test_a_refusal_says_what_to_do_and_not_what_the_client_wrote() -> None:
    with pytest.raises(InvalidRequestError, match="send the whole input") as caught:
        decode_response(body(previous_response_id="my secret"))
    assert "secret" not in caught.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(sorted({*_DECODER.type.__struct_fields__, *_KNOWN}))
KINDS = st.sampled_from(
    [
        *("message", "function_call", "function_call_output", "reasoning"),
        *("function", "allowed_tools", "json_schema", "input_text", "input_image"),
    ]
)
ITEM = st.dictionaries(
    st.sampled_from(["role", "content", "call_id", "name", "arguments", "output", "text"]),
    JSON
    | st.sampled_from(["user", "assistant"])
    | st.lists(st.fixed_dictionaries({"type": KINDS})),
)


def decodes_or_refuses(data: bytes) -> None:
    try:
        request = decode_response(data).call.request
    except InvalidRequestError:
        return
    check_text(request)
    check_more(request)


@given(st.dictionaries(FIELDS, JSON))
def test_random_fields_are_accepted_or_refused(fields: dict[str, Any]) -> None:
    decodes_or_refuses(body(**fields))


@given(st.lists(st.tuples(KINDS, ITEM), max_size=3))
def test_random_items_and_tools_are_accepted_or_refused(items: Any) -> None:
    typed = [{"type": kind, **item} for kind, item in items]
    decodes_or_refuses(body(input=typed))
    decodes_or_refuses(body(tools=typed, tool_choice=typed[0] if typed else None))


@given(st.binary())
def test_random_bytes_are_refused(data: bytes) -> None:
    decodes_or_refuses(data)
    decodes_or_refuses(body()[:-1] + b',"x":' + data + b"}")
    decodes_or_refuses(body()[:-1] + b',"input":[' + data + b"]}")
