"""Capabilities over HTTP: listed, shown, asked for, streamed, and refused."""

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
from tests.node.gateway.double import HELLO, MODEL, NODE, RECEIPT, Batch, ScriptedMesh, gateway

from aigrid.metagraph.selection import Explained
from aigrid.node.mesh.routing.answer import Answer
from aigrid.node.mesh.routing.candidates import Sought
from aigrid.protocol.errors import Code, InvalidRequestError, RemoteError
from aigrid.protocol.inference import Finish, TaskChunk, TaskRequest, TextRequest
from aigrid.protocol.limits import LIMITS

pytestmark = pytest.mark.trio
PIPELINE_OF_A_GROUP = {"name": "pipeline", "steps": [{"name": "b", "capability": "text"}]}
WIDE = {"parameters": {"max_tokens": 2**64}}
SEED = {"parameters": {"seed": -(2**63) - 1}}
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


PIPED = {"name": "pipeline", "steps": [THEN]}
GENERATED = {**THEN, "capability": "text-generation"}


@pytest.mark.parametrize(
    ("step", "status", "param"),
    [
        ({**THEN, "mode": "choir"}, 400, "mode"),
        ({**THEN, "mode": {"name": "vote", "of": 2, "agree": 3}}, 400, "mode"),
        ({**THEN, "mode": PIPED}, 400, "mode"),
        ({**THEN, "strategy": "best"}, 400, "strategy"),
        ({**THEN, "strategy": {"quality": -1}}, 400, "strategy"),
        ({**THEN, "constraints": {"colour": "red"}}, 400, "constraints"),
        ({**THEN, "constraints": {"deadline_ms": "soon"}}, 400, "constraints"),
        ({**THEN, "parameters": {"colour": "red"}}, 400, "parameters"),
        ({**THEN, "parameters": {"top_k": "three"}}, 400, "parameters"),
        ({**THEN, "parameters": {"top_k": 10**21}}, 400, "parameters.top_k"),
        ({**GENERATED, "parameters": {"max_tokens": 2**40}}, 400, "parameters"),
        ({**THEN, "capability": "text-clasification"}, 404, "capability"),
        ({**THEN, "capability": "text"}, 400, "capability"),
        ({**THEN, "input": 5}, 400, "input"),
        ({**THEN, "input": ["a", {"$from": "input"}]}, 400, "input"),
        ({**THEN, "input": [{"$from": "first"}, {"$from": "input", "path": "/no"}]}, 400, "mode"),
    ],
)
async def test_a_later_step_that_cannot_work_is_refused_before_the_first_is_asked(
    step: dict[str, Any], status: int, param: str
) -> None:
    body = {"input": "hi", "mode": {"name": "pipeline", "steps": [step]}}
    async with served(*said(b'"salut"')) as (mesh, client):
        refused = await client.post("/v1/capabilities/translation", json=body)
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (status, param), error
    assert error["message"].count("Step 'then'") == 1
    assert not mesh.asked
    assert "aigrid" not in refused.json()


class Three(ScriptedMesh):
    """There are three candidates."""

    async def explain(self, sought: Sought) -> tuple[Explained, ...]:
        (one,) = await super().explain(sought)
        return tuple(
            msgspec.structs.replace(one, node=f"node{place}", place=place) for place in (1, 2, 3)
        )


@pytest.mark.parametrize(
    ("mode", "code", "answered"),
    [("vote", "no_agreement", 1), ("race", "connection_lost", 0), ("cascade", "busy", 0)],
)
async def test_who_gave_no_answer_is_told_where_there_is_no_outcome(
    mode: str, code: str, answered: int
) -> None:
    lost = RemoteError("it is gone", Code.CONNECTION_LOST)
    busy = RemoteError("it is busy", Code.BUSY, retry_after_seconds=1)
    mesh = Three((busy if mode == "cascade" else lost,))
    mesh.firsts = [said(b'"salut"')] * answered
    async with gateway(mesh) as (_, address), httpx.AsyncClient() as client:
        refused = await client.post(
            f"http://{address}/v1/capabilities/translation", json={"input": "hi", "mode": mode}
        )
    error, told = refused.json()["error"], refused.json()["aigrid"]
    assert error["code"] == code
    assert len(told["segments"]) == answered
    assert len(told["failures"]) == 3 - answered
    for one in told["failures"]:
        assert one["code"] in {"connection_lost", "busy"}
        assert f"{one['node']} ({one['code']})" in error["message"]


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
        ("translation", {"input": "hi", **WIDE}, 400, "parameters.max_tokens"),
        ("text-generation", {"input": MESSAGES, **SEED}, 400, "parameters.seed"),
        ("translation", {"input": "hi", "constraints": {"x": 1}}, 400, "constraints"),
        ("translation", {"input": "hi", "strategy": "x"}, 400, "strategy"),
        ("translation", {"input": "hi", "mode": "x"}, 400, "mode"),
        ("translation", {"input": "hi", "stream": True}, 400, "stream"),
        ("translation", {}, 400, None),
        ("nonsense", {"input": "hi"}, 404, "capability"),
        ("text", {"input": "hi"}, 400, "capability"),
        ("translation", {"input": "hi", "mode": PIPELINE_OF_A_GROUP}, 400, "capability"),
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


async def test_a_group_says_that_it_cannot_be_asked_and_what_can_be() -> None:
    async with served() as (mesh, client):
        listed = (await client.get("/v1/capabilities")).json()["data"]
        shown = (await client.get("/v1/capabilities/text")).json()
        asked = await client.post("/v1/capabilities/text", json={"input": "hi"})
        chat = await client.post(
            "/v1/chat/completions", json={"model": "capability:text", **MESSAGES}
        )
    groups = {one["name"]: one for one in listed if not one["askable"]}
    assert groups.keys() == {"text", "vision", "audio", "tabular", "multimodal", "utility"}
    assert (shown["models"], shown["askable"]) == (1, False)
    assert {"text-generation", "translation"} <= set(shown["narrower"])
    assert "is a group" in shown["reason"]
    for refused in (asked, chat):
        assert refused.status_code == 400
        error = refused.json()["error"]
        assert "translation" in error["message"]
        assert "GET /v1/capabilities" in error["message"]
    assert not mesh.asked


DEEP = b"[" * 300 + b"1" + b"]" * 300


HALF = "is half of a surrogate pair, and no character"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (rb'"\ud800"}', rf"\ud800 at byte 11 {HALF}"),
        (rb'"\\ud800\ud83d\ude00\udc00"}', rf"\udc00 at byte 30 {HALF}"),
        (b'"\xff"}', "byte 11 is not UTF-8"),
        (b'"', "it ends too early, after 11 bytes"),
        (b'"",}', "trailing comma in object (byte 13)"),
        (b"[" * 9000 + b"]" * 9000 + b"}", "nested more than 255 deep at byte 264"),
    ],
)
async def test_what_is_no_json_says_what_is_wrong_and_where(value: bytes, said: str) -> None:
    kind = {"content-type": "application/json"}
    paths = {"/v1/capabilities/translation": "input", "/v1/chat/completions": "model"}
    if value.startswith(b"["):
        del paths["/v1/chat/completions"]  # which says that a model is no array
    async with served() as (mesh, client):
        for path, member in paths.items():
            body = f'{{"{member}": '.encode() + value
            answer = await client.post(path, content=body, headers=kind)
            assert answer.status_code == 400
            assert said in answer.json()["error"]["message"]
    assert not mesh.asked


async def test_what_is_nested_too_deeply_is_no_failure_of_this_node() -> None:
    kind = {"content-type": "application/json"}
    async with served(*said(DEEP)) as (mesh, client):
        asked = await client.post(
            "/v1/capabilities/translation", content=b'{"input":' + DEEP + b"}", headers=kind
        )
        assert not mesh.asked
        answered = await client.post("/v1/capabilities/translation", json={"input": "hi"})
    assert (asked.status_code, asked.json()["error"]["param"]) == (400, "input")
    assert "nested more than 255 deep" in asked.json()["error"]["message"]
    assert answered.json()["error"]["code"] == "engine_failed"


async def test_a_pipeline_without_steps_is_told_what_it_lacks() -> None:
    async with served() as (_, client):
        refused = [
            (
                await client.post(
                    "/v1/capabilities/translation", json={"input": "hi", "mode": mode}
                )
            ).json()["error"]["message"]
            for mode in ("pipeline", "choir")
        ]
    assert refused[0].startswith("A pipeline needs its steps")
    assert "no mode" not in refused[0]
    assert "'choir' is no mode: there are `fallback`" in refused[1]


async def test_an_unknown_capability_is_told_what_is_near_and_where_all_are() -> None:
    async with served() as (_, client):
        answer = await client.post("/v1/capabilities/sumarization", json={"input": "hi"})
    message = answer.json()["error"]["message"]
    assert "Did you mean `summarization`?" in message
    assert "GET /v1/capabilities lists all" in message
    assert "README" not in message


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("max_latency_ms=abc", "`max_latency_ms` is a whole number, and 'abc' is not"),
        ("warm=maybe", "`warm` is true or false, and 'maybe' is not"),
        ("region=", "'region' has no value"),
        ("source=en&source=fr", "'source' is given twice"),
        ("source&target=fr", "'source&target=fr' is no NAME=VALUE"),
    ],
)
async def test_a_query_that_cannot_be_meant_is_refused_by_name(query: str, said: str) -> None:
    async with served() as (mesh, client):
        answer = await client.post(
            "/v1/chat/completions", json={"model": f"capability:translation?{query}", **MESSAGES}
        )
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert not mesh.asked
