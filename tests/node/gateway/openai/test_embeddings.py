"""OpenAI's embeddings: what the decoder makes of a body, and vectors as the SDK reads them."""

import json
from typing import Any

import openai
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from tests.node.gateway.double import NAME, NODE, ScriptedMesh, gateway
from tests.patience import PATIENCE_SECONDS

from aigrid.metagraph.preferences import Preferences
from aigrid.node.gateway.openai.embeddings import EmbeddingsCall, decode_embeddings
from aigrid.protocol.errors import InvalidRequestError
from aigrid.protocol.inference import Finish, TaskChunk, TaskRequest


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


def sent_by(asked: EmbeddingsCall) -> TaskRequest:
    assert isinstance(asked.call.request, TaskRequest)
    return asked.call.request


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_texts_and_token_ids_go_on_as_they_are(given: Any, sent: Any) -> None:
    call = decode_embeddings(body(input=given, user="u"))
    assert (json.loads(sent_by(call).input), call.count) == (sent, len(sent))
    assert sent_by(call).parameters == {}


def test_a_size_is_for_those_who_can_shorten_vectors() -> None:
    call = decode_embeddings(body(input="a", dimensions=3))
    assert sent_by(call).parameters == {"dimensions": 3}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": "a", "model": ""}, "model"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [""]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": ["a", [1]]}, "input"),
        ({"input": [1.5]}, "input"),
        ({"input": [True]}, "input"),
        ({"input": [[1, "a"]]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": [[2**31]]}, "input"),
        ({"input": ["a"] * 1025}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
    ],
)
def test_wrong_values_name_their_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode_embeddings(body(**fields))
    assert caught.value.param == param


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_random_input_is_accepted_or_refused(value: Any) -> None:
    try:
        call = decode_embeddings(body(input=value))
    except InvalidRequestError:
        return
    assert call.count == len(json.loads(sent_by(call).input))


@pytest.mark.trio
async def test_the_sdk_reads_vectors_in_either_encoding() -> None:
    mesh = ScriptedMesh(((TaskChunk(b"[[1.0,0.5]]"),), (Finish("stop", 2, 0),)))
    async with gateway(mesh) as (_, address):
        async with openai.AsyncOpenAI(
            base_url=f"http://{address}/v1", api_key="unused", max_retries=0
        ) as client:
            with trio.fail_after(PATIENCE_SECONDS):
                packed = await client.embeddings.create(model=NAME, input=[1, 2])
                plain = await client.embeddings.create(
                    model=NAME, input=[[1, 2]], encoding_format="float", dimensions=2
                )
    assert packed.data[0].embedding == plain.data[0].embedding == [1.0, 0.5]
    sent = [request for _, request, _ in mesh.asked if isinstance(request, TaskRequest)]
    assert [request.input for request in sent] == [b"[[1,2]]"] * 2
    assert [request.parameters for request in sent] == [{}, {"dimensions": 2}]


@pytest.mark.trio
async def test_whom_to_ask_is_heard_and_numbers_that_do_not_fit_are_the_engines_fault() -> None:
    mesh = ScriptedMesh(((TaskChunk(b"[[1e39]]"),), (Finish("stop", 1, 0),)))
    async with gateway(mesh) as (_, address):
        async with openai.AsyncOpenAI(
            base_url=f"http://{address}/v1", api_key="unused", max_retries=0
        ) as client:
            with trio.fail_after(10), pytest.raises(openai.InternalServerError) as caught:
                await client.embeddings.create(
                    model=NAME,
                    input="a",
                    extra_body={"models": ["other"], "provider": {"only": [NODE]}},
                )
    assert caught.value.code == "engine_failed"
    assert mesh.preferred == [(("other",), Preferences(only=(NODE,)))]
    with pytest.raises(InvalidRequestError) as refused:
        decode_embeddings(body(input="a", provider={"zdr": True}))
    assert refused.value.param == "provider.zdr"
