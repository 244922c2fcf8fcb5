"""`model: "capability:..."` in calls of OpenAI's dialect, through its own client."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from tests.node.gateway.double import CONTRACTS, HELLO, Batch, ScriptedMesh, gateway

from aigrid.node.gateway.by_capability import decoded, spoken
from aigrid.node.outcome.contract import unsaid
from aigrid.protocol.errors import EngineError
from aigrid.protocol.inference import Finish, TaskChunk, TaskRequest, TextRequest
from aigrid.protocol.limits import LIMITS

pytestmark = pytest.mark.trio
HI: Any = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def client(*script: Batch) -> AsyncIterator[tuple[ScriptedMesh, openai.AsyncOpenAI]]:
    mesh = ScriptedMesh(script or HELLO)
    async with gateway(mesh) as (_, address):
        async with openai.AsyncOpenAI(
            base_url=f"http://{address}/v1", api_key="none", max_retries=0
        ) as made:
            yield mesh, made


def said(output: bytes) -> tuple[Batch, ...]:
    return ((TaskChunk(output), Finish("stop", 3, 4)),)


async def test_text_is_generated_by_whatever_model_there_is() -> None:
    async with client() as (mesh, sdk):
        answer = await sdk.chat.completions.create(
            model="capability:text-generation?max_latency_ms=500&strategy=fastest", messages=HI
        )
    assert answer.choices[0].message.content == "Hello wörld"
    ((model, request, _),) = mesh.asked
    assert (model, type(request)) == ("", TextRequest)
    ((capability, criteria),) = mesh.sought
    assert capability == "text-generation"
    assert criteria.strategy.name == "fastest"
    assert criteria.constraints is not None
    assert criteria.constraints.latency_ms_max == 500


async def test_a_translation_is_spoken_plain_and_streamed() -> None:
    model = "capability:translation?source=en&target=fr"
    async with client(*said(b'"salut"')) as (mesh, sdk):
        plain = await sdk.chat.completions.create(model=model, messages=HI, max_tokens=9)
        stream = await sdk.chat.completions.create(model=model, messages=HI, stream=True)
        pieces = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
        completion = await sdk.completions.create(model=model, prompt="hi")
        response = await sdk.responses.create(model=model, input="hi")
    assert plain.choices[0].message.content == "salut"
    assert plain.usage is not None
    assert plain.usage.prompt_tokens == 3
    assert "".join(piece or "" for piece in pieces) == "salut"
    assert completion.choices[0].text == response.output_text == "salut"
    assert mesh.asked[0][1] == TaskRequest("translation", b'"hi"', {"max_tokens": 9})
    assert all(capability == "translation" for capability, _ in mesh.sought)


async def test_vectors_come_from_whatever_model_makes_them() -> None:
    async with client(*said(b"[[0.5]]")) as (mesh, sdk):
        found = await sdk.embeddings.create(model="capability:feature-extraction", input="hi")
        with pytest.raises(openai.BadRequestError):
            await sdk.embeddings.create(model="capability:translation", input="hi")
    assert found.data[0].embedding == [0.5]
    assert mesh.asked[0][0] == ""


async def test_an_input_that_is_no_text_is_said_as_json() -> None:
    labels = b'[{"label": "cat", "score": 0.9}]'
    json_said: Any = [{"role": "user", "content": '{"text": "hi", "labels": ["cat"]}'}]
    async with client(*said(labels)) as (_, sdk):
        answer = await sdk.chat.completions.create(
            model="capability:zero-shot-classification", messages=json_said
        )
        with pytest.raises(openai.BadRequestError, match="as JSON"):
            await sdk.chat.completions.create(
                model="capability:zero-shot-classification", messages=HI
            )
    assert answer.choices[0].message.content == labels.decode()


@pytest.mark.parametrize(
    ("model", "status"),
    [
        ("capability:translation?colour=red", 400),
        ("capability:translation?strategy=best", 400),
        ("capability:translation?max_latency_ms=x", 400),
        ("capability:nonsense", 404),
    ],
)
async def test_what_is_not_understood_is_refused(model: str, status: int) -> None:
    async with client() as (mesh, sdk):
        with pytest.raises(openai.APIStatusError) as refused:
            await sdk.chat.completions.create(model=model, messages=HI)
        with pytest.raises(openai.BadRequestError):
            await sdk.chat.completions.create(
                model="capability:translation", messages=HI, extra_body={"models": ["other"]}
            )
    assert refused.value.status_code == status
    assert not mesh.asked


async def test_what_is_spoken() -> None:
    translation = CONTRACTS.of("translation")
    assert spoken(translation, b'"a"') == "a"
    assert json.loads(spoken(CONTRACTS.of("feature-extraction"), b"[[1.0, 2.0]]")) == [[1.0, 2.0]]
    for wrong in (b"\xff", b"[1, 2]", b"1e999", b"[" * 40_000):
        with pytest.raises(EngineError):
            spoken(translation, wrong)


async def test_an_answer_is_refused_for_its_size_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contract = unsaid("feature-extraction")
    rows = b"[" + b"[0.25,0.5]," * 80_000 + b"[]]"
    assert len(decoded(contract, rows)) == 80_001

    def never(_: bytes) -> Any:
        raise AssertionError("decoded")

    monkeypatch.setattr("aigrid.node.gateway.by_capability.msgspec.json.decode", never)
    many = b"[" + b"[]," * LIMITS.capability_answer_values_max + b"[]]"
    long = b'"' + b"a" * LIMITS.capability_answer_max_bytes + b'"'
    for answer in (many, long):
        with pytest.raises(EngineError, match="too"):
            decoded(contract, answer)
