"""The unmodified `ollama` client against the real server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import msgspec
import ollama
import pytest
import trio
from tests.node.gateway.double import MODEL, NAME, NODE, Batch, ScriptedMesh, gateway, text, view
from tests.patience import PATIENCE_SECONDS

from aigrid.node.gateway.ollama.endpoints import FOLLOWED
from aigrid.protocol.errors import Code, InvalidRequestError, NoCandidateError, RemoteError
from aigrid.protocol.inference import Finish, TaskChunk, TaskRequest, TextChunk, TextRequest

pytestmark = pytest.mark.trio
HI: Any = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def client(mesh: ScriptedMesh, **limits: Any) -> AsyncIterator[ollama.AsyncClient]:
    async with gateway(mesh, **limits) as (_, address):
        found = ollama.AsyncClient(host=f"http://{address}")
        async with found._client:
            with trio.fail_after(PATIENCE_SECONDS):
                yield found


def asked(mesh: ScriptedMesh) -> TextRequest:
    request = mesh.asked[-1][1]
    assert isinstance(request, TextRequest)
    return request


def further(request: TextRequest) -> Any:
    return msgspec.json.decode(request.more or b"{}")


async def test_models_are_listed_shown_and_known_to_be_loaded() -> None:
    mesh = ScriptedMesh(views=(view(), view("bafyother", "plain")))
    async with client(mesh) as api:
        listed = await api.list()
        assert [model.model for model in listed.models] == [NAME, "plain:latest"]
        shown = await api.show("plain")
        assert shown.modelinfo
        assert shown.modelinfo["aigrid.model"] == "bafyother"
        assert shown.capabilities == ["completion"]
        assert (await api.show("plain:latest")).modelinfo == shown.modelinfo
        assert (await api.ps()).models == []
    able = replace(view(), takes=("*",))
    async with client(ScriptedMesh(views=(able,))) as api:
        shown = await api.show(NAME)
        assert shown.capabilities == ["completion", "thinking", "tools", "vision"]


@pytest.mark.parametrize("keep_alive", [None, "5m", 300, -1])
async def test_a_plain_chat(keep_alive: Any) -> None:
    mesh = ScriptedMesh()
    async with client(mesh) as api:
        answer = await api.chat(NAME, HI, keep_alive=keep_alive)
    assert answer.message.content == "Hello wörld"
    assert answer.message.role == "assistant"
    assert (answer.done, answer.done_reason, answer.model) == (True, "stop", NAME)
    assert (answer.prompt_eval_count, answer.eval_count) == (7, 3)
    assert answer.eval_duration
    assert answer.total_duration
    kept = mesh.waiting[-1].keep_alive_seconds
    assert kept == {None: None, -1: float("inf")}.get(keep_alive, 300)


async def test_a_streamed_chat_ends_with_counts_and_who_answered() -> None:
    async with gateway(ScriptedMesh()) as (_, address), httpx.AsyncClient() as http:
        body = {"model": NAME, "messages": HI}
        answer = await http.post(f"http://{address}/api/chat", json=body)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["x-aigrid-node"] == NODE
    *pieces, last = [msgspec.json.decode(line) for line in answer.text.splitlines()]
    assert "".join(piece["message"]["content"] for piece in pieces) == "Hello wörld"
    assert not any(piece["done"] for piece in pieces)
    assert last["done"] is True
    assert last["message"]["content"] == ""
    assert last["aigrid"]["segments"][0]["node"] == NODE


async def test_generate_streams_and_takes_system_and_raw_prompts() -> None:
    mesh = ScriptedMesh()
    async with client(mesh) as api:
        stream = await api.generate(NAME, "Why?", system="Be brief", stream=True)
        parts = [part async for part in stream]
        assert "".join(part.response or "" for part in parts) == "Hello wörld"
        assert parts[-1].done_reason == "stop"
        assert [m.role for m in asked(mesh).messages] == ["system", "user"]
        await api.generate(NAME, "1, 2,", raw=True)
        assert asked(mesh).prompt == "1, 2,"


async def test_options_become_fields_and_further_members() -> None:
    mesh = ScriptedMesh()
    options = {
        "num_predict": 5,
        "temperature": 0,
        "top_p": 0.5,
        "seed": 7,
        "stop": ["x"],
        "num_ctx": 4096,
        "num_gpu": 1,
        "repeat_penalty": 1.1,
        "top_k": 20,
    }
    async with client(mesh) as api:
        await api.chat(NAME, HI, options=options, format="json")
        request = asked(mesh)
        assert (request.max_tokens, request.temperature, request.top_p) == (5, 0.0, 0.5)
        assert (request.seed, request.stop) == (7, ("x",))
        assert further(request) == {
            "repetition_penalty": 1.1,
            "top_k": 20,
            "response_format": {"type": "json_object"},
        }
        await api.chat(NAME, HI, options={"num_predict": -1, "temperature": None})
        assert asked(mesh).max_tokens is None
        assert asked(mesh).temperature == 0.8
        assert asked(mesh).more == b""


async def test_calls_of_tools_go_both_ways() -> None:
    pieces = (
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "add", "arguments": '{"x"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
        {"reasoning_content": "hm"},
    )
    script: tuple[Batch, ...] = (
        *((TextChunk("", more=msgspec.json.encode(piece)),) for piece in pieces),
        (Finish("tool_calls", 3, 4),),
    )
    mesh = ScriptedMesh(script)
    tool: Any = {"type": "function", "function": {"name": "add", "parameters": {}}}
    call = {"function": {"name": "add", "arguments": {"x": 2}}}
    said: Any = [
        *HI,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_name": "add"},
    ]
    async with client(mesh) as api:
        plain = await api.chat(NAME, said, tools=[tool])
        stream = [part async for part in await api.chat(NAME, said, tools=[tool], stream=True)]
    called = [part for part in stream if part.message.tool_calls]
    for answer in (plain, called[-1]):
        assert answer.message.tool_calls
        assert answer.message.tool_calls[0].function.name == "add"
        assert answer.message.tool_calls[0].function.arguments == {"x": 1}
    assert plain.message.thinking == "hm"
    assert [part.message.thinking for part in stream if part.message.thinking] == ["hm"]
    request = asked(mesh)
    assert further(request)["tools"][0]["function"]["name"] == "add"
    asks, answers = (msgspec.json.decode(message.more) for message in request.messages[1:])
    assert asks["tool_calls"][0]["function"]["arguments"] == '{"x":2}'
    assert answers["tool_call_id"] == asks["tool_calls"][0]["id"]


async def test_pictures_become_parts_of_the_content() -> None:
    mesh = ScriptedMesh()
    async with client(mesh) as api:
        await api.generate(NAME, "what?", images=["iVBORw0KGgo="])
    parts = msgspec.json.decode(asked(mesh).messages[0].more)["content"]
    assert parts[0] == {"type": "text", "text": "what?"}
    assert parts[1]["image_url"]["url"] == "data:image/png;base64,iVBORw0KGgo="


async def test_embeddings_of_several_texts_and_of_one() -> None:
    script: tuple[Batch, ...] = ((TaskChunk(b"[[0.5,1.0],[2.0,3.0]]"), Finish("stop", 4)),)
    mesh = ScriptedMesh(script)
    async with client(mesh) as api:
        found = await api.embed(NAME, ["a", "b"])
        assert found.embeddings == [[0.5, 1.0], [2.0, 3.0]]
        assert found.prompt_eval_count == 4
        request = mesh.asked[-1][1]
        assert isinstance(request, TaskRequest)
        assert msgspec.json.decode(request.input) == ["a", "b"]
        mesh.script = ((TaskChunk(b"[[0.5]]"), Finish("stop", 4)),)
        assert (await api.embeddings(NAME, "a")).embedding == [0.5]


async def test_without_a_prompt_a_model_is_loaded_or_let_go() -> None:
    mesh = ScriptedMesh()
    async with client(mesh) as api:
        assert (await api.generate(NAME)).done_reason == "load"
        assert asked(mesh).max_tokens == 1
        count = len(mesh.asked)
        # The scripted mesh has it nowhere: there is nothing to unload.
        assert (await api.generate(NAME, keep_alive=0)).done_reason == "unload"
        assert len(mesh.asked) == count


async def test_no_prompt_at_all_is_none() -> None:
    async with gateway(ScriptedMesh()) as (_, address), httpx.AsyncClient() as http:
        body = {"model": NAME, "prompt": None, "stream": False}
        answer = await http.post(f"http://{address}/api/generate", json=body)
    assert answer.json()["done_reason"] == "load"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequestError("No.", Code.MODEL_NOT_FOUND, param="model"), 404),
        (NoCandidateError("Nobody."), 503),
    ],
)
async def test_errors_are_text_with_a_status(error: Exception, status: int) -> None:
    mesh = ScriptedMesh(before_first=error)
    async with client(mesh) as api:
        with pytest.raises(ollama.ResponseError) as plain:
            await api.chat(NAME, HI)
        with pytest.raises(ollama.ResponseError) as streamed:
            [part async for part in await api.chat(NAME, HI, stream=True)]
    assert plain.value.status_code == streamed.value.status_code == status
    assert plain.value.error.startswith("No")


async def test_a_stream_that_breaks_off_is_an_error() -> None:
    mesh = ScriptedMesh((text("Hel"), RemoteError("Gone.", Code.CONNECTION_LOST)))
    async with client(mesh) as api:
        stream = await api.chat(NAME, HI, stream=True)
        assert (await anext(stream)).message.content == "Hel"
        with pytest.raises(ollama.ResponseError, match="Gone"):
            await anext(stream)


async def test_signs_of_life_are_lines_that_the_client_reads() -> None:
    mesh = ScriptedMesh((text("Hel"), 0.3, text("lo"), (Finish("stop", 1, 2),)))
    limits = {"first_chunk_seconds": 0.01, "keepalive_seconds": 0.05}
    async with client(mesh, **limits) as api:
        parts = [part async for part in await api.chat(NAME, HI, stream=True)]
    contents = [part.message.content for part in parts]
    assert "".join(str(content) for content in contents) == "Hello"
    assert len(parts) > 3


async def test_leaving_a_stream_cancels_it() -> None:
    mesh = ScriptedMesh((text("Hel"), float("inf")))
    async with client(mesh) as api:
        async for _ in await api.chat(NAME, HI, stream=True):
            break
        await mesh.left.wait()
    assert mesh.ended == ["cancelled"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("chat", {}, "model"),
        ("chat", {"model": NAME, "messages": HI, "options": {"seed": "x"}}, "options"),
        ("chat", {"model": NAME, "messages": HI, "options": {"top_p": 2}}, "options.top_p"),
        ("chat", {"model": NAME, "messages": HI, "format": 3}, "format"),
        ("generate", {"model": NAME, "prompt": "x", "template": "y"}, "template"),
        ("generate", {"model": NAME, "prompt": "x", "context": [1]}, "context"),
        ("generate", {"model": NAME, "prompt": "x", "raw": True, "system": "s"}, "raw"),
        ("embed", {"model": NAME, "input": []}, "input"),
        ("embeddings", {"model": NAME}, "prompt"),
        ("chat", [], ""),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(path: str, body: Any, param: str) -> None:
    async with gateway(ScriptedMesh()) as (_, address), httpx.AsyncClient() as http:
        answer = await http.post(f"http://{address}/api/{path}", json=body)
    assert answer.status_code == 400
    assert param in answer.json()["error"]


async def test_what_the_operator_does_says_with_which_command() -> None:
    async with client(ScriptedMesh()) as api:
        with pytest.raises(ollama.ResponseError, match="aigrid models fetch") as pulled:
            await api.pull("x")
        with pytest.raises(ollama.ResponseError, match="aigrid models drop"):
            await api.delete("x")
    assert pulled.value.status_code == 403


async def test_greeting_and_version() -> None:
    async with gateway(ScriptedMesh()) as (_, address), httpx.AsyncClient() as http:
        assert (await http.get(f"http://{address}/")).text.startswith("AIGrid is running")
        assert (await http.head(f"http://{address}/")).status_code == 200
        version = await http.get(f"http://{address}/api/version")
        assert version.json() == {"version": FOLLOWED}
        nothing = await http.get(f"http://{address}/api/nothing")
    assert nothing.status_code == 404
    assert isinstance(nothing.json()["error"], str)


async def test_models_that_are_loaded_say_where_and_until_when() -> None:
    here = {"workers": 1, "memory": {"cpu": 100, "cuda:0": 50}, "expires_in_seconds": 60.0}
    where = {MODEL: {"warm": [NODE], "here": here}}
    async with gateway(ScriptedMesh()) as (served, address):
        served._core.whereabouts = lambda: where
        api = ollama.AsyncClient(host=f"http://{address}")
        async with api._client:
            (model,) = (await api.ps()).models
    assert (model.model, model.size, model.size_vram) == (NAME, 150, 50)
    assert model.expires_at
    assert model.expires_at.timestamp() == pytest.approx(1_700_000_060, abs=1)
