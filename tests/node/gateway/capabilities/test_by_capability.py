"""`model: "capability:..."` in calls of OpenAI's dialect, through its own client."""

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
import trio
from tests.node.gateway.double import CONTRACTS, HELLO, NODE, Batch, ScriptedMesh, gateway
from tests.patience import PATIENCE_SECONDS

from aigrid.node.gateway.by_capability import check_taken, decoded, spoken
from aigrid.node.gateway.call import TextCall
from aigrid.node.mesh.routing.answer import Answer
from aigrid.node.outcome.contract import unsaid
from aigrid.protocol.errors import EngineError, InvalidRequestError
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


TRANSLATION = "capability:translation?source=en&target=fr"
PICTURE: Any = [
    {"type": "text", "text": "hi"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
]
TOOL: Any = {"type": "function", "function": {"name": "look_up"}}


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("chat/completions", {"tools": [TOOL]}, "tools"),
        ("chat/completions", {"tool_choice": "required"}, "tool_choice"),
        ("chat/completions", {"logprobs": True}, "logprobs"),
        ("chat/completions", {"logprobs": True, "top_logprobs": 2}, "logprobs"),
        ("chat/completions", {"response_format": {"type": "json_object"}}, "response_format"),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": PICTURE}]},
            "messages.content",
        ),
        ("chat/completions", {"n": 2}, "n"),
        ("chat/completions", {"stop": ["."]}, "stop"),
        ("chat/completions", {"frequency_penalty": 1}, "frequency_penalty"),
        ("chat/completions", {"logit_bias": {"5": 100}}, "logit_bias"),
        ("chat/completions", {"top_k": 5}, "top_k"),
        ("chat/completions", {"source": "de"}, "source"),
        ("chat/completions", {"user": "u", "provider": {"require_parameters": True}}, "user"),
        ("chat/completions", {"stream": True, "tools": [TOOL]}, "tools"),
        ("completions", {"logprobs": 0}, "logprobs"),
        ("completions", {"echo": True}, "echo"),
        ("completions", {"suffix": "!"}, "suffix"),
        ("completions", {"n": 2}, "n"),
        ("completions", {"prompt": ["hi", "ho"], "stop": "."}, "stop"),
        ("responses", {"text": {"format": {"type": "json_object"}}}, "text.format"),
        ("responses", {"include": ["message.output_text.logprobs"]}, "include"),
    ],
)
async def test_what_would_make_it_another_answer_is_refused_by_name(
    path: str, fields: dict[str, Any], param: str
) -> None:
    inputs = {
        "chat/completions": {"messages": HI},
        "completions": {"prompt": "hi"},
        "responses": {"input": "hi"},
    }
    async with client(*said(b'"salut"')) as (mesh, sdk):
        with pytest.raises(openai.BadRequestError) as refused:
            await sdk.post(
                f"/{path}", cast_to=object, body={"model": TRANSLATION, **inputs[path], **fields}
            )
    assert refused.value.code == "unsupported_parameter"
    assert "translation" in refused.value.message
    assert refused.value.param == param
    assert f"`{param}`" in refused.value.message
    assert not mesh.asked


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"format": "json"}, "format"),
        ({"options": {"stop": ["."]}}, "options.stop"),
        ({"tools": [TOOL]}, "tools"),
    ],
)
async def test_it_is_refused_in_the_words_of_ollama(fields: dict[str, Any], name: str) -> None:
    mesh = ScriptedMesh(said(b'"salut"'))
    async with gateway(mesh) as (_, address), httpx.AsyncClient() as http:
        refused = await http.post(
            f"http://{address}/api/chat", json={"model": TRANSLATION, "messages": HI, **fields}
        )
    assert refused.status_code == 400
    assert f"`{name}`" in refused.json()["error"]
    assert not mesh.asked


async def test_what_changes_nothing_is_ignored() -> None:
    neutral: dict[str, Any] = {
        "n": 1, "tools": [], "tool_choice": "auto", "logprobs": False, "user": "u", "stop": None,
        "response_format": {"type": "text"}, "metadata": {"a": "b"}, "temperature": 0.2,
        "top_p": 0.5, "seed": 7, "frequency_penalty": 0, "logit_bias": {}, "source": None,
    }  # fmt: skip
    async with client(*said(b'"salut"')) as (mesh, sdk):
        answer = await sdk.chat.completions.create(
            model=TRANSLATION, messages=HI, max_completion_tokens=9, extra_body=neutral
        )
    assert answer.choices[0].message.content == "salut"
    assert mesh.asked[0][1] == TaskRequest("translation", b'"hi"', {"max_tokens": 9})


async def test_text_that_is_generated_takes_what_its_models_take() -> None:
    """Of these the node that answers says what it takes."""
    async with client() as (mesh, sdk):
        await sdk.chat.completions.create(
            model="capability:text-generation", messages=HI, stop=["."], tools=[TOOL]
        )
    request = mesh.asked[0][1]
    assert isinstance(request, TextRequest)
    assert request.stop == (".",)


async def test_a_parameter_of_the_capability_goes_to_it() -> None:
    labels = b'[{"label": "cat", "score": 0.9}]'
    model = "capability:text-classification"
    async with client(*said(labels)) as (mesh, sdk):
        for fields in ({"top_k": 3}, {"top_k": None, "max_tokens": 5}):
            await sdk.chat.completions.create(model=model, messages=HI, extra_body=fields)
        for wrong in ("three", [3], {"a": 1}, 10**21):
            with pytest.raises(openai.BadRequestError) as refused:
                await sdk.chat.completions.create(
                    model=model, messages=HI, extra_body={"top_k": wrong}
                )
            assert refused.value.param == "top_k"
    first, second = (request for _, request, _ in mesh.asked)
    assert first == TaskRequest("text-classification", b'"hi"', {"top_k": 3})
    assert second == TaskRequest("text-classification", b'"hi"', {})


async def test_a_text_that_was_cut_says_so() -> None:
    cut: Batch = (TaskChunk(b'"sal"'), Finish("length", 3))
    async with client(cut) as (_, sdk):
        plain = await sdk.chat.completions.create(model=TRANSLATION, messages=HI, max_tokens=1)
        stream = await sdk.chat.completions.create(
            model=TRANSLATION, messages=HI, max_tokens=1, stream=True
        )
        reasons = [one.choices[0].finish_reason async for one in stream if one.choices]
        completion = await sdk.completions.create(model=TRANSLATION, prompt=["hi", "ho"])
        response = await sdk.responses.create(model=TRANSLATION, input="hi")
    assert plain.choices[0].finish_reason == "length"
    assert reasons[-1] == "length"
    assert [one.finish_reason for one in completion.choices] == ["length", "length"]
    assert response.status == "incomplete"


WRONG = (said(b"5"), ((Finish("stop", 3, 0),),), said(b"\xff"))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wrong", WRONG)
async def test_where_the_first_answer_does_not_fit_the_next_candidate_is_asked(
    wrong: tuple[Batch, ...],
    stream: bool,
) -> None:
    async with client(*said(b'"salut"')) as (mesh, sdk):
        mesh.firsts = [wrong]
        raw = await sdk.chat.completions.with_raw_response.create(
            model=TRANSLATION, messages=HI, stream=stream
        )
        text = raw.http_response.read().decode() if not stream else await raw.http_response.aread()
    assert "salut" in (text if isinstance(text, str) else text.decode())
    assert [preferences.ignore for _, preferences in mesh.preferred] == [(), (NODE,)]
    assert len({request_id for _, _, request_id in mesh.asked}) == 2
    if not stream:
        assert raw.headers["x-aigrid-attempts"] == "2"


class Telling(ScriptedMesh):
    """Whoever is asked second says how far its model is, and answers once that was heard."""

    def infer(self, *args: Any, **options: Any) -> AbstractAsyncContextManager[Answer]:
        answer = super().infer(*args, **options)
        if self.preferred[-1][1].ignore:
            options["waiting"].tell(NODE, "loading: 45 %")
        return answer


async def test_a_stream_tells_of_the_load_at_the_next_candidate() -> None:
    silent, heard = trio.Event(), trio.Event()
    mesh = Telling((heard, *said(b'"salut"')), firsts=[(silent, *said(b"5"))])
    body = {"model": TRANSLATION, "messages": HI, "stream": True}
    limits: dict[str, Any] = {"first_chunk_seconds": 0.01, "keepalive_seconds": 0.05}
    lines = []
    async with gateway(mesh, **limits) as (_, address), httpx.AsyncClient() as http:
        url = f"http://{address}/v1/chat/completions"
        with trio.fail_after(PATIENCE_SECONDS):
            async with http.stream("POST", url, json=body) as response:
                async for line in response.aiter_lines():
                    lines.append(line)
                    if line == ": keepalive":
                        silent.set()
                    elif "45 %" in line:
                        heard.set()
    assert any("salut" in line for line in lines)


async def test_each_prompt_has_a_next_candidate_of_its_own() -> None:
    async with client(*said(b'"salut"')) as (mesh, sdk):
        mesh.firsts = [said(b"5"), said(b"6")]
        answer = await sdk.completions.create(model=TRANSLATION, prompt=["hi", "ho"])
    assert [one.text for one in answer.choices] == ["salut", "salut"]
    assert len({request_id for _, _, request_id in mesh.asked}) == 4


async def test_it_is_not_asked_for_ever_nor_against_the_clients_wish() -> None:
    async with client(*said(b"5")) as (mesh, sdk):
        with pytest.raises(openai.InternalServerError):
            await sdk.chat.completions.create(model=TRANSLATION, messages=HI)
        assert len(mesh.asked) == LIMITS.mode_candidates_max
        mesh.asked.clear()
        with pytest.raises(openai.InternalServerError):
            await sdk.chat.completions.create(
                model=TRANSLATION,
                messages=HI,
                extra_body={"provider": {"allow_fallbacks": False}},
            )
        assert len(mesh.asked) == 1


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


async def test_an_answer_that_is_nested_deeper_than_anybody_reads_is_refused() -> None:
    contract, most = unsaid("feature-extraction"), LIMITS.answer_depth_max
    assert decoded(contract, b"[" * most + b"]" * most)
    with pytest.raises(EngineError, match="nested"):
        decoded(contract, b"[" * (most + 1) + b"]" * (most + 1))


async def test_what_manifests_state_values_of_is_said_in_the_name_and_not_in_the_body() -> None:
    contract = replace(
        unsaid("translation"), parameters=b'{"properties":{"domain":{"type":"string"}}}'
    )
    call = TextCall((), TextRequest(prompt="hi", more=b'{"domain":"law"}'))
    check_taken(call, contract)  # it is a setting
    chosen = replace(contract, stated=lambda: frozenset({"domain"}))
    with pytest.raises(InvalidRequestError, match="domain"):
        check_taken(call, chosen)
