"""Decoding: whatever is sent becomes a call within bounds, or one typed error."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.gateway.call import TextCall
from aigrid.node.gateway.ollama.requests import (
    ChatBody,
    EmbedBody,
    EmbedCall,
    GenerateBody,
    TouchCall,
    decode_chat,
    decode_embed,
    decode_generate,
    decode_show,
)
from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.more import check_more

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        *("model", "messages", "prompt", "options", "tools", "format", "think", "images"),
        *("stream", "keep_alive", "raw", "suffix", "system", "input", "logprobs", "top_logprobs"),
    ]
)
OPTIONS = st.dictionaries(
    st.sampled_from(["num_predict", "temperature", "top_p", "seed", "stop", "num_ctx", "top_k"]),
    JSON,
)


@given(st.dictionaries(NAMES, JSON, max_size=8), OPTIONS)
def test_whatever_is_sent_is_a_call_within_bounds_or_a_typed_error(said: Any, options: Any) -> None:
    body = msgspec.json.encode({"model": "m", **said, "options": options})
    for decode in (decode_chat, decode_generate):
        try:
            call = decode(body)
        except InvalidRequestError:
            continue
        if isinstance(call, TextCall):
            # As the wire has it: every bound holds, and nothing is said twice.
            wire = msgspec.msgpack.decode(msgspec.msgpack.encode(call.request), type=TextRequest)
            assert wire == call.request
            check_more(call.request)
        else:
            assert isinstance(call, TouchCall)


@given(st.binary(max_size=64))
def test_what_is_no_json_is_one_error(body: bytes) -> None:
    for decode in (decode_chat, decode_generate, decode_show):
        try:
            decode(body)
        except InvalidRequestError:
            continue
        raise AssertionError(f"{decode} took {body!r}")


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=5))
def test_texts_to_embed_arrive_as_they_are(texts: list[str]) -> None:
    call = decode_embed(msgspec.json.encode({"model": "m", "input": texts}), single=False)
    assert isinstance(call, EmbedCall)
    assert msgspec.json.decode(call.request.input) == texts
    assert call.count == len(texts)


def test_a_size_is_for_those_who_can_shorten_vectors() -> None:
    body = msgspec.json.encode({"model": "m", "input": "x", "dimensions": 3})
    assert decode_embed(body, single=False).request.parameters == {"dimensions": 3}
    wide = msgspec.json.encode({"model": "m", "input": "x", "dimensions": 2**70})
    with pytest.raises(InvalidRequestError) as refused:
        decode_embed(wide, single=False)
    assert refused.value.param == "dimensions"


@pytest.mark.parametrize("size", [-1, 0, 2**31, 10**30])
def test_a_size_that_no_vector_has_is_refused(size: int) -> None:
    with pytest.raises(InvalidRequestError, match="dimensions"):
        embed(json.dumps({"model": "m", "input": "x", "dimensions": size}).encode())


def test_an_option_by_the_name_of_a_field_is_none_as_with_ollama() -> None:
    options = {"max_tokens": 3, "n": 2, "top_k": 5}
    call = decode_generate(msgspec.json.encode({"model": "m", "prompt": "x", "options": options}))
    assert isinstance(call, TextCall)
    assert call.request.more == b'{"top_k":5}'


@pytest.mark.parametrize("kind", [ChatBody, GenerateBody, EmbedBody])
def test_null_says_nothing(kind: type[msgspec.Struct]) -> None:
    decode = {ChatBody: decode_chat, GenerateBody: decode_generate}.get(kind, embed)
    said = {"model": "m", "prompt": "x", "input": "x", "messages": [{"role": "user"}]}
    names = kind.__struct_fields__
    with_null = {**dict.fromkeys(names), **{n: said[n] for n in names if n in said}}
    without = {name: value for name, value in with_null.items() if value is not None}
    assert decode(msgspec.json.encode(with_null)) == decode(msgspec.json.encode(without))


def embed(body: bytes) -> EmbedCall:
    return decode_embed(body, single=False)


def test_further_members_have_a_size() -> None:
    image = "/9j/" + "x" * LIMITS.more_max_bytes
    message = {"role": "user", "content": "", "images": [image]}
    with pytest.raises(InvalidRequestError) as caught:
        decode_chat(msgspec.json.encode({"model": "m", "messages": [message]}))
    assert caught.value.code is Code.BODY_TOO_LARGE


@pytest.mark.parametrize("kept", [0, "0", "0s", "0m0s"])
def test_nothing_to_say_and_nothing_to_keep_unloads(kept: Any) -> None:
    body = msgspec.json.encode({"model": "m", "keep_alive": kept})
    for decode in (decode_chat, decode_generate):
        assert decode(body) == TouchCall("m", kept, unload=True)


@pytest.mark.parametrize("kept", [None, "5m", 10, -1, "10m"])
def test_nothing_to_say_loads(kept: Any) -> None:
    body = msgspec.json.encode({"model": "m", "keep_alive": kept})
    assert decode_generate(body) == TouchCall("m", kept, unload=False)


def test_calls_are_answered_in_order_even_where_neither_has_an_id() -> None:
    call = {"function": {"name": "f", "arguments": {}}}
    other = {"function": {"name": "g", "arguments": {}}}
    answers = [{"role": "tool", "content": "", "tool_name": name} for name in ("g", "f", "f", "x")]
    asks = {"role": "assistant", "tool_calls": [call, other, call]}
    body = {"model": "m", "messages": [asks, *answers]}
    found = decode_chat(msgspec.json.encode(body))
    assert isinstance(found, TextCall)
    ids = [msgspec.json.decode(m.more)["tool_call_id"] for m in found.request.messages[1:]]
    assert ids == ["call_2", "call_1", "call_3", "call_3"]
