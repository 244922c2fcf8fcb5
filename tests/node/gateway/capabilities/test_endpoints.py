"""Capabilities over HTTP: listed, shown, asked for, streamed, and refused."""

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
from tests.node.gateway.double import HELLO, MODEL, NODE, RECEIPT, Batch, ScriptedMesh, gateway

from aigrid.node.mesh.routing.answer import Answer
from aigrid.protocol.errors import Code, InvalidRequestError, RemoteError
from aigrid.protocol.inference import Finish, TaskChunk, TaskRequest, TextRequest

pytestmark = pytest.mark.trio
MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}


def said(output: bytes) -> tuple[Batch, ...]:
    return ((TaskChunk(output), Finish("stop", 3, 0)),)


@asynccontextmanager
async def served(*script: Batch) -> AsyncIterator[tuple[ScriptedMesh, httpx.AsyncClient]]:
    mesh = ScriptedMesh(script or HELLO)
    async with gateway(mesh) as (_, address):
        async with httpx.AsyncClient(base_url=f"http://{address}") as client:
            yield mesh, client


async def test_what_there_is_can_be_listed_and_shown() -> None:
    async with served() as (_, client):
        listed = (await client.get("/v1/capabilities")).json()
        one = (await client.get("/v1/capabilities/translation")).json()
        unknown = await client.get("/v1/capabilities/tranlsation")
    by_name = {entry["name"]: entry for entry in listed["data"]}
    assert by_name["text-generation"]["models"] == by_name["text"]["models"] == 1
    assert by_name["translation"]["models"] == 0
    assert one["input"] == one["output"] == {"type": "string"}
    assert {"source", "target"} < one["parameters"]["properties"].keys()
    assert unknown.status_code == 404
    assert "translation" in unknown.json()["error"]["message"]


async def test_an_outcome_is_asked_for_by_its_name() -> None:
    async with served(*said(b'"salut"')) as (mesh, client):
        answer = await client.post(
            "/v1/capabilities/translation",
            json={"input": "hi", "parameters": {"source": "en"}, "explain": True},
        )
    body = answer.json()
    assert (answer.status_code, body["output"]) == (200, "salut")
    told = body["aigrid"]
    assert (told["node"], told["model"], told["mode"]) == (NODE, MODEL, "fallback")
    assert told["receipts"] == [RECEIPT]
    assert isinstance(told["explain"], list)
    ((model, request, _),) = mesh.asked
    assert model == ""
    assert request == TaskRequest("translation", b'"hi"', {})
    assert {name: answer.headers[f"x-aigrid-{name}"] for name in ("node", "model", "attempts")} == {
        "node": NODE,
        "model": MODEL,
        "attempts": "1",
    }
    assert told["attempts"] == 1
    assert answer.headers["x-aigrid-overhead-ms"] == str(told["overhead_ms"])
    assert 0 <= told["overhead_ms"] < 60_000


async def test_all_who_were_asked_count_as_attempts() -> None:
    steps = [{"name": "again", "capability": "translation"}]
    async with served(*said(b'"salut"')) as (mesh, client):
        mesh.firsts = [said(b"5")]
        wrong_first = await client.post("/v1/capabilities/translation", json={"input": "hi"})
        pipeline = await client.post(
            "/v1/capabilities/translation",
            json={"input": "hi", "mode": {"name": "pipeline", "steps": steps}},
        )
        refused = await client.post("/v1/capabilities/translation", json={"input": 5})
    for answer in (wrong_first, pipeline):
        assert answer.json()["aigrid"]["attempts"] == 2
        assert answer.headers["x-aigrid-attempts"] == "2"
        assert answer.headers["x-aigrid-node"] == answer.json()["aigrid"]["node"] == NODE
    assert "x-aigrid-attempts" not in refused.headers


async def test_a_candidate_may_be_asked_by_itself() -> None:
    async with served(*said(b'"salut"')) as (mesh, client):
        answer = await client.post(
            "/v1/capabilities/translation", json={"input": "hi", "mode": "race"}
        )
    assert answer.json()["aigrid"]["asked"] == 1
    ((model, _, _),) = mesh.asked
    assert model == MODEL
    ((_, preferences),) = mesh.preferred
    assert (preferences.only, preferences.pinned) == ((), NODE)


@pytest.mark.parametrize("output", [b"\xff\x00{{", b"1e999", b"[" * 40_000, b"5"])
async def test_what_is_no_answer_is_an_error_of_whoever_gave_it(output: bytes) -> None:
    async with served(*said(output)) as (_, client):
        answer = await client.post("/v1/capabilities/translation", json={"input": "hi"})
        chat = await client.post(
            "/v1/chat/completions",
            json={
                "model": "capability:translation",
                "messages": [{"role": "user", "content": "hi"}],
            },
        )
    for refused in (answer, chat):
        assert refused.json()["error"]["code"] == "engine_failed", refused.text


async def test_text_is_text_whole_or_streamed() -> None:
    async with served() as (mesh, client):
        whole = await client.post("/v1/capabilities/text-generation", json={"input": MESSAGES})
        streamed = await client.post(
            "/v1/capabilities/text-generation", json={"input": MESSAGES, "stream": True}
        )
    assert whole.json()["output"] == {"text": "Hello wörld"}
    assert isinstance(mesh.asked[0][1], TextRequest)
    *events, done = [line[6:] for line in streamed.text.splitlines() if line.startswith("data: ")]
    assert done == "[DONE]"
    *pieces, last = map(json.loads, events)
    assert "".join(piece["text"] for piece in pieces) == last["output"]["text"] == "Hello wörld"
    assert last["finish_reason"] == "stop"
    assert last["aigrid"]["node"] == NODE


async def test_a_stream_that_breaks_off_ends_in_an_error() -> None:
    broken = RemoteError("the node is gone", Code.CONNECTION_LOST, peer=NODE)
    async with served(HELLO[0], broken) as (_, client):
        streamed = await client.post(
            "/v1/capabilities/text-generation", json={"input": MESSAGES, "stream": True}
        )
    last = [line for line in streamed.text.splitlines() if line.startswith("data: ")][-1]
    assert json.loads(last[6:])["error"]["code"] == "connection_lost"


async def test_an_answer_that_is_none_of_the_capability_is_not_passed_on() -> None:
    async with served(*said(b'{"text": "salut"}')) as (mesh, client):
        answer = await client.post("/v1/capabilities/translation", json={"input": "hi"})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "engine_failed"
    assert mesh.preferred[1][1].ignore == (NODE,)  # another one was asked for


class Alone(ScriptedMesh):
    """There is one node, so without it nobody is left."""

    def infer(self, *args: Any, **options: Any) -> AbstractAsyncContextManager[Answer]:
        answer = super().infer(*args, **options)
        if self.preferred[-1][1].ignore:
            raise InvalidRequestError("Nobody is left.", param="provider")
        return answer


async def test_where_nobody_else_is_left_the_wrong_answer_is_what_is_told() -> None:
    misfits: list[tuple[str, str, str]] = []
    mesh = Alone(said(b"5"))
    async with gateway(mesh, misfit=lambda *who: misfits.append(who)) as (_, address):
        async with httpx.AsyncClient(base_url=f"http://{address}") as client:
            answers = [
                await client.post("/v1/capabilities/translation", json={"input": "hi"}),
                await client.post(
                    "/v1/chat/completions", json={"model": "capability:translation", **MESSAGES}
                ),
            ]
    for answer in answers:
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "engine_failed"
        assert "not one of translation" in answer.json()["error"]["message"]
    assert [segment["node"] for segment in answers[1].json()["aigrid"]["segments"]] == [NODE]
    assert misfits == [(NODE, MODEL, "translation")] * 2


@pytest.mark.parametrize(
    ("name", "body", "status", "param"),
    [
        ("translation", {"input": 5}, 400, "input"),
        ("translation", {"input": "hi", "parameters": {"x": 1}}, 400, "parameters"),
        ("translation", {"input": "hi", "constraints": {"x": 1}}, 400, "constraints"),
        ("translation", {"input": "hi", "strategy": "x"}, 400, "strategy"),
        ("translation", {"input": "hi", "mode": "x"}, 400, "mode"),
        ("translation", {"input": "hi", "stream": True}, 400, "stream"),
        ("translation", {}, 400, None),
        ("nonsense", {"input": "hi"}, 404, "capability"),
    ],
)
async def test_what_is_wrong_is_named(
    name: str, body: dict[str, Any], status: int, param: str | None
) -> None:
    async with served() as (mesh, client):
        answer = await client.post(f"/v1/capabilities/{name}", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param
    assert not mesh.asked
