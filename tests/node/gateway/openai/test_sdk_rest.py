"""Completions and responses through the unmodified `openai` SDK, against the real server."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
import trio
from pydantic import BaseModel
from tests.node.gateway.double import HELLO, MODEL, NAME, NODE, Batch, ScriptedMesh, gateway, text
from tests.patience import PATIENCE_SECONDS

from aigrid.protocol.errors import Code, EngineError, NoCandidateError, RemoteError
from aigrid.protocol.inference import Finish, TextChunk, TextRequest, TokenLogprob

pytestmark = pytest.mark.trio


@asynccontextmanager
async def sdk(mesh: ScriptedMesh, **limits: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with gateway(mesh, **limits) as (_, address):
        async with openai.AsyncOpenAI(
            base_url=f"http://{address}/v1", api_key="unused", max_retries=0
        ) as client:
            with trio.fail_after(PATIENCE_SECONDS):
                yield client


def asked(mesh: ScriptedMesh) -> list[TextRequest]:
    return [request for _, request, _ in mesh.asked if isinstance(request, TextRequest)]


def more(**members: Any) -> tuple[TextChunk, ...]:
    return (TextChunk("", more=json.dumps(members).encode()),)


LOGPROBS = (
    TokenLogprob(5, "a", -0.5, ((5, "a", -0.5), (6, "b", -1.5))),
    TokenLogprob(7, "é", -0.25, ((7, "é", -0.25),)),
)
SCORED: tuple[Batch, ...] = (
    (TextChunk("a", (5,), LOGPROBS[:1]),),
    (TextChunk("é", (7,), LOGPROBS[1:]),),
    (Finish("length", 1, 2),),
)


async def test_a_completion_whole_and_streamed() -> None:
    mesh = ScriptedMesh()
    async with sdk(mesh) as client:
        raw = await client.completions.with_raw_response.create(model=NAME, prompt="Say")
        whole = raw.parse()
        stream = await client.completions.create(
            model=NAME, prompt="Say", stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert (raw.headers["x-aigrid-node"], raw.headers["x-aigrid-model"]) == (NODE, MODEL)
    assert (whole.object, whole.model, whole.choices[0].text) == (
        "text_completion",
        NAME,
        "Hello wörld",
    )
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage
    assert whole.usage.total_tokens == 10
    assert [choice.text for chunk in chunks for choice in chunk.choices] == ["Hel", "lo wörld", ""]
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "stop"
    assert chunks[-1].usage
    assert chunks[-1].usage.prompt_tokens == 7
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert all(request.prompt == "Say" and request.max_tokens == 16 for request in asked(mesh))


async def test_several_prompts_are_choices_in_their_order() -> None:
    mesh = ScriptedMesh()
    async with sdk(mesh) as client:
        whole = await client.completions.create(model=NAME, prompt=["a", "b"], n=2, seed=5)
        stream = await client.completions.create(model=NAME, prompt=[[1, 2], [3]], stream=True)
        texts = ["", ""]
        reasons = [""] * 2
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.text
                reasons[choice.index] = choice.finish_reason
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert mesh.ended == ["clean"] * 6
    assert {choice.text for choice in whole.choices} == set(texts) == {"Hello wörld"}
    assert reasons == ["stop", "stop"]
    assert whole.usage
    # Each prompt counts once, however many answers it gets.
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (14, 12)
    requests = asked(mesh)
    assert sorted((str(one.prompt), one.seed) for one in requests[:4]) == [
        *(("a", 5), ("a", 6)),
        *(("b", 5), ("b", 6)),
    ]
    assert sorted(one.token_ids or () for one in requests[4:]) == [(1, 2), (3,)]


async def test_logprobs_of_a_completion_are_parallel_arrays() -> None:
    async with sdk(ScriptedMesh(SCORED)) as client:
        whole = await client.completions.create(model=NAME, prompt="x", logprobs=2)
        stream = await client.completions.create(model=NAME, prompt="x", logprobs=2, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
    said = whole.choices[0].logprobs
    assert said
    assert (said.tokens, said.token_logprobs, said.text_offset) == (
        ["a", "é"],
        [-0.5, -0.25],
        [0, 1],
    )
    assert said.top_logprobs == [{"a": -0.5, "b": -1.5}, {"é": -0.25}]
    offsets = [chunk.logprobs.text_offset for chunk in chunks if chunk.logprobs]
    assert offsets == [[0], [1]]
    assert chunks[-1].finish_reason == whole.choices[0].finish_reason == "length"


async def test_a_stream_of_completions_that_fails_ends_in_an_error() -> None:
    script = (text("a"), RemoteError("Gone.", Code.CONNECTION_LOST))
    async with sdk(ScriptedMesh(script)) as client:
        stream = await client.completions.create(model=NAME, prompt="x", stream=True)
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
    assert caught.value.code == "connection_lost"


async def test_a_response_whole() -> None:
    mesh = ScriptedMesh()
    async with sdk(mesh) as client:
        answer = await client.responses.create(
            model=NAME,
            input="hi",
            instructions="be brief",
            metadata={"k": "v"},
            store=True,
            max_output_tokens=7,
            temperature=0.5,
        )
    assert answer.output_text == "Hello wörld"
    assert (answer.status, answer.model, answer.metadata) == ("completed", NAME, {"k": "v"})
    assert answer.usage
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (7, 3)
    assert answer.model_extra
    assert answer.model_extra["store"] is False
    assert answer.model_extra["aigrid"]["segments"][0]["node"] == NODE
    assert (answer.instructions, answer.max_output_tokens, answer.temperature) == (
        *("be brief", 7),
        0.5,
    )
    (request,) = asked(mesh)
    assert [(m.role, m.content) for m in request.messages] == [
        ("system", "be brief"),
        ("user", "hi"),
    ]
    assert (request.max_tokens, request.temperature, request.more) == (7, 0.5, b"")


async def test_a_response_streamed_comes_in_order() -> None:
    async with sdk(ScriptedMesh()) as client:
        async with client.responses.stream(model=NAME, input="hi") as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(10))
    assert final.output_text == "Hello wörld"
    assert final.status == "completed"
    assert final.usage
    assert final.usage.total_tokens == 10


def called(index: int, call_id: str, name: str, *arguments: str) -> list[tuple[TextChunk, ...]]:
    first = {"index": index, "id": call_id, "type": "function", "function": {"name": name}}
    rest = [{"index": index, "function": {"arguments": piece}} for piece in arguments]
    return [more(tool_calls=[one]) for one in (first, *rest)]


TOOL: Any = {
    "type": "function",
    "name": "add",
    "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}},
    "strict": True,
}


async def test_calls_of_tools_come_as_items_and_go_back_as_input() -> None:
    mesh = ScriptedMesh(
        (
            more(reasoning_content="hm"),
            text("Wait."),
            *called(0, "call_a", "add", '{"x"', ": 1}"),
            *called(1, "call_b", "add", '{"x": 2}'),
            (Finish("tool_calls", 5, 6),),
        )
    )
    async with sdk(mesh) as client:
        async with client.responses.stream(
            model=NAME,
            input="hi",
            tools=[TOOL],
            tool_choice={"type": "function", "name": "add"},
            parallel_tool_calls=True,
        ) as stream:
            types = [event.type async for event in stream]
            final = await stream.get_final_response()
        whole = await client.responses.create(model=NAME, input="hi", tools=[TOOL])
        assert [item.type for item in whole.output] == [item.type for item in final.output]
        history: Any = [
            {"role": "user", "content": "hi"},
            *(item.model_dump(exclude_none=True) for item in whole.output),
            {"type": "function_call_output", "call_id": "call_a", "output": "1"},
            {"type": "function_call_output", "call_id": "call_b", "output": "2"},
        ]
        await client.responses.create(model=NAME, input=history, tools=[TOOL])
    assert types.count("response.function_call_arguments.delta") == 3
    assert types.count("response.function_call_arguments.done") == 2
    assert (
        types.count("response.output_item.added") == 4 == types.count("response.output_item.done")
    )
    assert types[-1] == "response.completed"
    calls = [
        (item.call_id, item.name, item.arguments)
        for item in final.output
        if item.type == "function_call"
    ]
    assert calls == [("call_a", "add", '{"x": 1}'), ("call_b", "add", '{"x": 2}')]
    first, _, last = asked(mesh)
    said = json.loads(first.more)
    assert said["tools"] == [
        {
            "type": "function",
            "function": {name: TOOL[name] for name in ("name", "parameters", "strict")},
        }
    ]
    assert said["tool_choice"] == {"type": "function", "function": {"name": "add"}}
    assert [message.role for message in last.messages] == ["user", "assistant", "tool", "tool"]
    assert last.messages[1].content == "Wait."
    sent = json.loads(last.messages[1].more)["tool_calls"]
    assert [call["id"] for call in sent] == ["call_a", "call_b"]
    assert json.loads(last.messages[3].more) == {"tool_call_id": "call_b"}


async def test_a_response_that_is_cut_short_is_incomplete() -> None:
    async with sdk(ScriptedMesh(SCORED)) as client:
        whole = await client.responses.create(
            model=NAME, input="hi", include=["message.output_text.logprobs"], top_logprobs=2
        )
        events = [
            event
            async for event in await client.responses.create(
                model=NAME,
                input="hi",
                include=["message.output_text.logprobs"],
                top_logprobs=2,
                stream=True,
            )
        ]
    assert whole.status == "incomplete"
    assert whole.incomplete_details
    assert whole.incomplete_details.reason == "max_output_tokens"
    item = whole.output[0]
    assert item.type == "message"
    assert item.status == "incomplete"
    part = item.content[0]
    assert part.type == "output_text"
    assert part.logprobs
    assert [entry.token for entry in part.logprobs] == ["a", "é"]
    assert part.logprobs[0].top_logprobs[1].token == "b"
    assert events[-1].type == "response.incomplete"
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert [delta.logprobs[0].logprob for delta in deltas] == [-0.5, -0.25]


async def test_a_format_is_passed_on_and_parsed() -> None:
    class Answer(BaseModel):
        x: int

    mesh = ScriptedMesh((text('{"x"', ":3}"), (Finish("stop", 1, 2),)))
    async with sdk(mesh) as client:
        parsed = await client.responses.parse(
            model=NAME, input="hi", text_format=Answer, reasoning={"effort": "low"}
        )
    assert parsed.output_parsed == Answer(x=3)
    said = json.loads(asked(mesh)[0].more)
    assert said["response_format"]["type"] == "json_schema"
    assert said["response_format"]["json_schema"]["name"] == "Answer"
    assert said["reasoning_effort"] == "low"


async def test_a_streamed_response_that_fails_says_so_and_raises() -> None:
    script = (text("a"), RemoteError("Gone.", Code.CONNECTION_LOST))
    async with sdk(ScriptedMesh(script)) as client:
        answering = await client.responses.create(model=NAME, input="x", stream=True)
        failed = next(
            event
            for event in [await anext(answering) for _ in range(6)]
            if event.type == "response.failed"
        )
        with pytest.raises(openai.APIError) as caught:
            await anext(answering)
        assert caught.value.code == "connection_lost"
        assert failed.response.error
        assert failed.response.output_text == "a"
        with pytest.raises(openai.APIError, match="Gone"):
            async with client.responses.stream(model=NAME, input="x") as stream:
                await stream.until_done()


async def test_a_response_that_fails_before_it_began_is_an_error() -> None:
    mesh = ScriptedMesh((0.1, NoCandidateError("Nobody.")))
    async with sdk(mesh, first_chunk_seconds=0.01) as client:
        with pytest.raises(openai.APIError) as caught:
            async with client.responses.stream(model=NAME, input="x") as stream:
                await stream.until_done()
        assert caught.value.code == "no_candidate"
        mesh.before_first = EngineError("It broke.")
        with pytest.raises(openai.InternalServerError):
            await client.responses.create(model=NAME, input="x")
        with pytest.raises(openai.InternalServerError):
            await client.responses.create(model=NAME, input="x", stream=True)


async def test_nothing_is_kept() -> None:
    mesh = ScriptedMesh(HELLO)
    async with sdk(mesh) as client:
        with pytest.raises(openai.BadRequestError, match="whole input") as caught:
            await client.responses.create(model=NAME, input="x", previous_response_id="resp_1")
        assert (caught.value.code, caught.value.param) == (
            "unsupported_parameter",
            "previous_response_id",
        )
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve("resp_1")
    assert not mesh.asked


async def test_calls_of_tools_of_no_known_form_are_an_error() -> None:
    mesh = ScriptedMesh((text("a"), more(tool_calls=[{"index": "x"}]), (Finish("stop", 1, 1),)))
    async with sdk(mesh) as client:
        with pytest.raises(openai.APIError) as caught:
            await client.responses.create(model=NAME, input="x")
        assert caught.value.code == "protocol_violation"
        with pytest.raises(openai.APIError) as caught:
            async for _ in await client.responses.create(model=NAME, input="x", stream=True):
                pass
        assert caught.value.code == "protocol_violation"
