"""Capabilities over HTTP: listed, shown, asked for, streamed, and refused."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from tests.node.gateway.double import HELLO, MODEL, NODE, RECEIPT, Batch, ScriptedMesh, gateway

from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.inference import Finish, TaskChunk, TaskRequest, TextRequest
from aigrid.protocol.limits import LIMITS

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


THEN = {"name": "then", "capability": "text-classification"}


@pytest.mark.parametrize(
    ("mode", "status", "code", "answers"),
    [
        ("cascade", 400, "unsupported_parameter", 1),
        (
            {"name": "pipeline", "steps": [THEN]},
            500,
            "engine_failed",
            1 + LIMITS.mode_candidates_max,
        ),
        (
            {"name": "pipeline", "steps": [{**THEN, "input": {"$from": "first", "path": "/no"}}]},
            400,
            "invalid_request",
            1,
        ),
    ],
)
async def test_what_was_answered_is_told_where_there_is_no_outcome(
    mode: Any, status: int, code: str, answers: int
) -> None:
    async with served(*said(b'"salut"')) as (_, client):
        refused = await client.post(
            "/v1/capabilities/translation", json={"input": "hi", "mode": mode}
        )
    body = refused.json()
    assert (refused.status_code, body["error"]["code"]) == (status, code)
    assert [one["receipt"] for one in body["aigrid"]["segments"]] == [RECEIPT] * answers
    if mode != "cascade":
        assert body["error"]["message"].count("Step 'then'") == 1


async def test_the_error_of_a_node_is_named_after_its_step_and_stays_what_it_was() -> None:
    gone = RemoteError("the node is gone", Code.CONNECTION_LOST, peer=NODE)
    async with served(gone) as (_, client):
        pipeline = {"name": "pipeline", "steps": [THEN]}
        for _ in range(2):
            refused = await client.post(
                "/v1/capabilities/translation", json={"input": "hi", "mode": pipeline}
            )
    assert refused.json()["error"]["message"].startswith("Step 'first': the node is gone")
    assert "aigrid" not in refused.json()  # nobody has answered
    assert gone.message == "the node is gone"


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
