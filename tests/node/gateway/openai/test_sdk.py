"""The unmodified `openai` SDK against the real server."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import openai
import pytest
import structlog.testing
import trio
from tests.node.gateway.double import (
    MODEL,
    NAME,
    NODE,
    RECEIPT,
    Batch,
    ScriptedMesh,
    gateway,
    text,
    view,
)
from tests.patience import PATIENCE_SECONDS

from aigrid.protocol.errors import (
    AigridError,
    Code,
    EngineError,
    InvalidRequestError,
    NoCandidateError,
    RemoteError,
)
from aigrid.protocol.inference import Finish, TaskChunk, TextChunk, TokenLogprob
from aigrid.protocol.limits import LIMITS

pytestmark = pytest.mark.trio
SEGMENT = {"node": NODE, "model": MODEL, "tokens": 3, "receipt": RECEIPT, "receipted": True}
SEGMENTS = {"segments": [SEGMENT]}


def aigrid_of(said: Any) -> dict[str, Any]:
    """The `aigrid` object of an answer that has ended; what it cost is not the same every time."""
    assert said.keys() == {"aigrid"}
    told = dict(said["aigrid"])
    assert 0 <= told.pop("overhead_ms") < 10_000
    assert {k: told.pop(k) for k in ("node", "model", "attempts")} == {
        "node": NODE,
        "model": MODEL,
        "attempts": 1,
    }
    return told


HI: Any = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def sdk(mesh: ScriptedMesh, **limits: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with gateway(mesh, **limits) as (_, address):
        async with openai.AsyncOpenAI(
            base_url=f"http://{address}/v1", api_key="unused", max_retries=0
        ) as client:
            with trio.fail_after(PATIENCE_SECONDS):
                yield client


async def test_models_are_listed_and_retrieved_by_name_and_by_id() -> None:
    async with sdk(ScriptedMesh()) as client:
        listed = [entry async for entry in client.models.list()]
        assert [entry.id for entry in listed] == [NAME]
        assert listed[0].created == 1_700_000_000
        extra: Any = listed[0].model_extra
        assert extra["aigrid"]["model"] == MODEL
        assert extra["aigrid"]["nodes"] == [NODE]
        assert extra["aigrid"]["state"] == "warm"
        assert (await client.models.retrieve(NAME)).id == NAME
        assert (await client.models.retrieve(MODEL)).id == MODEL


async def test_models_that_share_a_name_are_listed_by_id() -> None:
    mesh = ScriptedMesh(views=(view("bafya", "twin"), view("bafyb", "twin"), view("bafyb", "twin")))
    async with sdk(mesh) as client:
        assert [entry.id async for entry in client.models.list()] == ["bafya", "bafyb"]
        with pytest.raises(openai.ConflictError, match="bafya, bafyb") as caught:
            await client.models.retrieve("twin")
        assert caught.value.code == "ambiguous_model"


async def test_a_plain_answer_carries_usage_segments_and_headers() -> None:
    mesh = ScriptedMesh()
    async with sdk(mesh) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model=NAME,
            messages=HI,
            extra_headers={"x-request-id": "client-chosen_1"},
        )
        answer = raw.parse()
        assert answer.choices[0].message.content == "Hello wörld"
        assert answer.choices[0].message.role == "assistant"
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage
        assert answer.usage.total_tokens == 10
        assert answer.model == NAME
        assert aigrid_of(answer.model_extra) == SEGMENTS
        assert raw.headers["x-request-id"] == "client-chosen_1"
        assert raw.headers["x-aigrid-node"] == NODE
        assert raw.headers["x-aigrid-model"] == MODEL
        assert raw.headers["x-aigrid-attempts"] == "1"
        assert float(raw.headers["x-aigrid-overhead-ms"]) >= 0
        assert mesh.asked[0][0] == NAME
        assert mesh.asked[0][2] == "client-chosen_1"


async def test_a_malformed_request_id_is_replaced() -> None:
    async with sdk(ScriptedMesh()) as client:
        raw = await client.models.with_raw_response.list(extra_headers={"x-request-id": "a b"})
        assert raw.headers["x-request-id"].startswith("req_")


async def test_a_stream_says_who_speaks_then_the_text_then_how_it_ended() -> None:
    async with sdk(ScriptedMesh()) as client:
        stream = await client.chat.completions.create(model=NAME, messages=HI, stream=True)
        chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "Hel", "lo wörld", None]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert aigrid_of(chunks[-1].model_extra) == SEGMENTS


async def test_usage_comes_last_when_asked_for() -> None:
    async with sdk(ScriptedMesh()) as client:
        stream = await client.chat.completions.create(
            model=NAME, messages=HI, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 3
    assert aigrid_of(chunks[-1].model_extra) == SEGMENTS
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_logprobs_are_reported_per_token() -> None:
    entry = TokenLogprob(5, "é", -0.5, ((5, "é", -0.5), (6, "\ufffd", float("-inf"))))
    script = ((TextChunk("é", (5,), (entry,)), Finish("length", 1, 1)),)
    async with sdk(ScriptedMesh(script)) as client:
        plain = await client.chat.completions.create(
            model=NAME, messages=HI, logprobs=True, top_logprobs=2
        )
        stream = await client.chat.completions.create(
            model=NAME, messages=HI, logprobs=True, top_logprobs=2, stream=True
        )
        chunks = [chunk async for chunk in stream]
    for choice in (plain.choices[0], chunks[1].choices[0]):
        assert choice.logprobs
        assert choice.logprobs.content
        token = choice.logprobs.content[0]
        assert (token.token, token.logprob, token.bytes) == ("é", -0.5, [0xC3, 0xA9])
        assert [(top.logprob, top.bytes) for top in token.top_logprobs] == [
            (-0.5, [0xC3, 0xA9]),
            (-9999.0, None),
        ]


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (
            InvalidRequestError("Too long.", Code.CONTEXT_LENGTH_EXCEEDED, param="messages"),
            openai.BadRequestError,
            "context_length_exceeded",
        ),
        (
            InvalidRequestError("No such model.", Code.MODEL_NOT_FOUND, param="model"),
            openai.NotFoundError,
            "model_not_found",
        ),
        (NoCandidateError("Nobody."), openai.InternalServerError, "no_candidate"),
        (RemoteError("Slow down.", Code.RATE_LIMITED), openai.RateLimitError, "rate_limited"),
        (RemoteError("No.", Code.DENIED), openai.PermissionDeniedError, "denied"),
        (EngineError("It broke."), openai.InternalServerError, "engine_failed"),
    ],
)
async def test_errors_reach_the_sdk_as_its_own(
    error: AigridError, kind: type[openai.APIStatusError], code: Any
) -> None:
    async with sdk(ScriptedMesh(before_first=error)) as client:
        for stream in (False, True):
            with pytest.raises(kind) as caught:
                await client.chat.completions.create(model=NAME, messages=HI, stream=stream)
            assert caught.value.code == code
            assert caught.value.status_code == error.info.http
            assert error.info.next_step in caught.value.message
            assert caught.value.request_id


async def test_no_candidate_says_when_to_try_again() -> None:
    error = NoCandidateError("Nobody.", retry_after_seconds=0.2)
    async with sdk(ScriptedMesh(before_first=error)) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model=NAME, messages=HI)
    assert caught.value.response.headers["retry-after"] == "1"
    assert caught.value.response.headers["retry-after-ms"] == "200"
    assert "x-should-retry" not in caught.value.response.headers


async def test_the_sdk_does_not_repeat_what_cannot_succeed() -> None:
    mesh = ScriptedMesh(before_first=EngineError("It broke."))
    async with sdk(mesh) as client:
        with pytest.raises(openai.InternalServerError):
            await client.with_options(max_retries=2).chat.completions.create(
                model=NAME, messages=HI
            )
    assert len(mesh.asked) == 1


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ((text("a"), RemoteError("Gone.", Code.CONNECTION_LOST)), "connection_lost"),
        ((text("a"),), "connection_lost"),
        ((text("a"), (Finish("cancelled"),)), "cancelled"),
        ((text("a"), (Finish("stop"),), text("b")), "protocol_violation"),
        ((text("a"), ZeroDivisionError("my secret prompt")), "internal"),
    ],
)
async def test_a_stream_that_fails_ends_in_an_error(script: tuple[Batch, ...], code: Any) -> None:
    async with sdk(ScriptedMesh(script)) as client:
        stream = await client.chat.completions.create(model=NAME, messages=HI, stream=True)
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
    assert caught.value.code == code
    assert "secret" not in str(caught.value)


async def test_an_unexpected_failure_is_500_with_the_request_id() -> None:
    mesh = ScriptedMesh(before_first=ZeroDivisionError("my secret prompt"))
    with structlog.testing.capture_logs() as logs:
        async with sdk(mesh) as client:
            with pytest.raises(openai.InternalServerError) as caught:
                await client.chat.completions.create(model=NAME, messages=HI)
    assert caught.value.code == "internal"
    assert caught.value.request_id
    assert caught.value.request_id in caught.value.message
    logged = str(logs)
    assert "ZeroDivisionError" in logged
    assert caught.value.request_id in logged
    assert "secret" not in caught.value.message + logged


async def test_headers_and_comments_go_out_while_the_first_chunk_is_awaited() -> None:
    mesh = ScriptedMesh(before_first=0.3)
    async with sdk(mesh, first_chunk_seconds=0.02, keepalive_seconds=0.05) as client:
        request = client.chat.completions.with_streaming_response.create(
            model=NAME, messages=HI, stream=True
        )
        async with request as response:
            assert not mesh.left.is_set()
            assert "x-aigrid-node" not in response.headers
            lines = [line async for line in response.iter_lines() if line]
    assert lines.count(": keepalive") >= 2
    assert lines[-1] == "data: [DONE]"
    assert lines[-2].startswith("data: {")
    assert '"segments"' in lines[-2]


async def test_an_error_after_the_headers_is_an_event() -> None:
    mesh = ScriptedMesh((0.1, NoCandidateError("Nobody.")))
    async with sdk(mesh, first_chunk_seconds=0.01) as client:
        stream = await client.chat.completions.create(model=NAME, messages=HI, stream=True)
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
    assert caught.value.code == "no_candidate"


async def test_a_stream_tells_of_a_load_in_comments_that_the_sdk_skips() -> None:
    mesh = ScriptedMesh(before_first=0.2, loading=("loading: 45 %",))
    async with sdk(mesh, first_chunk_seconds=0.01) as client:
        request = client.chat.completions.with_streaming_response.create(
            model=NAME, messages=HI, stream=True
        )
        async with request as response:
            lines = [line async for line in response.iter_lines() if line]
        assert ": loading: loading: 45 %" in lines
        stream = await client.chat.completions.create(model=NAME, messages=HI, stream=True)
        parts = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
    assert "".join(part or "" for part in parts) == "Hello wörld"


async def test_patience_that_ends_is_503_with_progress_and_a_time_to_come_back() -> None:
    mesh = ScriptedMesh(before_first=9.0, loading=("loading: 45 %",))
    async with sdk(mesh, patience_seconds=0.05) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model=NAME, messages=HI)
        error, response = caught.value, caught.value.response
        body = response.json()["error"]
        assert (error.status_code, error.code) == (503, "loading")
        assert float(response.headers["retry-after"]) == LIMITS.retry_after_seconds
        assert body["progress"] == {"node": NODE, "text": "loading: 45 %", "percent": 45}
        assert f"the model is not ready on {NODE} yet: loading: 45 %" in error.message
        mesh.loading = ()  # what is no load is waited for, however long it takes
        mesh.before_first = 0.2
        assert (await client.chat.completions.create(model=NAME, messages=HI)).choices


async def test_patience_of_a_stream_that_has_begun_ends_in_an_error_event() -> None:
    mesh = ScriptedMesh(before_first=9.0, loading=("loading: 45 %",))
    async with sdk(mesh, first_chunk_seconds=0.01) as client:
        stream = await client.chat.completions.create(
            model=NAME, messages=HI, stream=True, extra_headers={"x-aigrid-patience": "0.1"}
        )
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
    assert caught.value.code == "loading"
    assert mesh.patience == [0.1]


async def test_patience_and_keep_alive_come_from_headers_and_the_body() -> None:
    mesh = ScriptedMesh()
    async with sdk(mesh) as client:
        ask = partial(client.chat.completions.create, model=NAME, messages=HI)
        await ask()
        await ask(stream=True)
        await ask(extra_headers={"x-aigrid-patience": "7", "x-aigrid-keep-alive": "1h30m"})
        await ask(extra_headers={"x-aigrid-keep-alive": "5m"}, extra_body={"keep_alive": -1})
        await ask(extra_body={"keep_alive": "0"})
        for wrong in ("-1", "1e9", "601", "soon", "", "nan"):
            with pytest.raises(openai.BadRequestError, match="patience"):
                await ask(extra_headers={"x-aigrid-patience": wrong})
        for wrong in ("", "5x", "m5", "1" * 40):
            with pytest.raises(openai.BadRequestError) as caught:
                await ask(extra_body={"keep_alive": wrong})
            assert caught.value.param == "keep_alive"
    assert mesh.patience == [
        *(LIMITS.patience_seconds, LIMITS.stream_patience_seconds, 7),
        *(LIMITS.patience_seconds, LIMITS.patience_seconds),
    ]
    kept = [waiting.keep_alive_seconds for waiting in mesh.waiting]
    assert kept == [None, None, 5400.0, math.inf, 0.0]


async def test_embeddings_and_tasks_wait_and_wish_as_well() -> None:
    mesh = ScriptedMesh(((TaskChunk(b"[[1.0]]"),), (Finish("stop", 1, 0),)))
    headers = {"x-aigrid-patience": "9"}
    async with sdk(mesh) as client:
        await client.embeddings.create(
            model=NAME, input="hi", extra_headers=headers, extra_body={"keep_alive": "1m"}
        )
        task = {"input": ["hi"], "keep_alive": 5}
        await client.post(
            "../aigrid/v1/tasks/feature-extraction",
            cast_to=object,
            body=task,
            options={"headers": headers},
        )
        mesh.script, mesh.before_first, mesh.loading = (), 9.0, ("loading: 45 %",)
        with pytest.raises(openai.InternalServerError) as caught:
            await client.embeddings.create(
                model=NAME, input="hi", extra_headers={"x-aigrid-patience": "0"}
            )
    assert caught.value.code == "loading"
    assert mesh.patience == [9, 9, 0]
    assert [waiting.keep_alive_seconds for waiting in mesh.waiting] == [60.0, 5.0, None]
