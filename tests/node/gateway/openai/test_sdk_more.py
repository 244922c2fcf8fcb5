"""Tools, several choices, fallbacks and preferences with the unmodified `openai` SDK."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
import trio
from tests.node.gateway.double import HELLO, NAME, Batch, ScriptedMesh, gateway, text
from tests.patience import PATIENCE_SECONDS

from aigrid.metagraph.preferences import Preferences
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import Finish, TextChunk, TextRequest

pytestmark = pytest.mark.trio
HI: Any = [{"role": "user", "content": "hi"}]
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]


def more(**said: Any) -> TextChunk:
    return TextChunk("", more=json.dumps(said).encode())


def call(**said: Any) -> TextChunk:
    return more(tool_calls=[{"index": 0, **said}])


CALLED: tuple[Batch, ...] = (
    (more(reasoning_content="hm, "), more(reasoning_content="where?")),
    (call(id="call_1", type="function", function={"name": "weather", "arguments": ""}),),
    (call(function={"arguments": '{"city":'}), call(function={"arguments": '"Rome"}'})),
    (Finish("tool_calls", 9, 4),),
)


@asynccontextmanager
async def sdk(mesh: ScriptedMesh) -> AsyncIterator[openai.AsyncOpenAI]:
    async with gateway(mesh) as (_, address):
        base_url = f"http://{address}/v1"
        async with openai.AsyncOpenAI(base_url=base_url, api_key="x", max_retries=0) as client:
            with trio.fail_after(PATIENCE_SECONDS):
                yield client


async def test_a_tool_is_called_in_a_plain_answer() -> None:
    mesh = ScriptedMesh(CALLED)
    async with sdk(mesh) as client:
        answer = await client.chat.completions.create(
            model=NAME, messages=HI, tools=TOOLS, tool_choice="required", parallel_tool_calls=False
        )
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.model_extra == {"reasoning_content": "hm, where?"}
    (called,) = choice.message.tool_calls or []
    assert called.type == "function"
    assert (called.id, called.function.name) == ("call_1", "weather")
    assert json.loads(called.function.arguments) == {"city": "Rome"}
    ((_, request, _),) = mesh.asked
    assert isinstance(request, TextRequest)
    assert json.loads(request.more) == {
        "tools": TOOLS,
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }


async def test_a_tool_is_called_in_a_stream() -> None:
    async with sdk(ScriptedMesh(CALLED)) as client:
        said: Any = ""
        async with client.chat.completions.stream(model=NAME, messages=HI, tools=TOOLS) as stream:
            async for event in stream:
                if event.type == "tool_calls.function.arguments.delta":
                    said += event.arguments_delta
            whole = await stream.get_final_completion()
    assert said == '{"city":"Rome"}'
    (choice,) = whole.choices
    assert choice.finish_reason == "tool_calls"
    (called,) = choice.message.tool_calls or []
    assert (called.function.name, called.function.arguments) == ("weather", said)


async def test_what_a_tool_said_goes_back_with_its_call() -> None:
    mesh = ScriptedMesh()
    called: Any = {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1"}]}
    told: Any = {"role": "tool", "content": "sunny", "tool_call_id": "call_1"}
    async with sdk(mesh) as client:
        await client.chat.completions.create(model=NAME, messages=[*HI, called, told])
    ((_, request, _),) = mesh.asked
    assert isinstance(request, TextRequest)
    assert [json.loads(one.more or b"{}").keys() for one in request.messages] == [
        set(),
        {"content", "tool_calls"},
        {"tool_call_id"},
    ]


async def test_each_choice_has_its_own_end() -> None:
    async with sdk(ScriptedMesh(CALLED)) as client:
        answer = await client.chat.completions.create(model=NAME, messages=HI, tools=TOOLS, n=2)
    assert [choice.finish_reason for choice in answer.choices] == ["tool_calls"] * 2


async def test_several_choices_in_a_plain_answer() -> None:
    async with sdk(ScriptedMesh(HELLO)) as client:
        answer = await client.chat.completions.create(model=NAME, messages=HI, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {"Hello wörld"}
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 9)
    extra: Any = answer.model_extra
    assert len(extra["aigrid"]["segments"]) == 3


@pytest.mark.parametrize("usage", [False, True])
async def test_several_choices_in_a_stream(usage: bool) -> None:
    async with sdk(ScriptedMesh(HELLO)) as client:
        stream = await client.chat.completions.create(
            model=NAME, messages=HI, n=2, stream=True, stream_options={"include_usage": usage}
        )
        chunks = [chunk async for chunk in stream]
    said = {0: "", 1: ""}
    ends = {}
    for chunk in chunks:
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
            if choice.finish_reason is not None:
                ends[choice.index] = choice.finish_reason
    assert said == {0: "Hello wörld", 1: "Hello wörld"}
    assert ends == {0: "stop", 1: "stop"}
    # Without choices is only the chunk that was asked for: clients look at the first of them.
    assert [number for number, chunk in enumerate(chunks) if not chunk.choices] == (
        [len(chunks) - 1] if usage else []
    )
    assert (chunks[-1].usage is not None) is usage
    last: Any = chunks[-1].model_extra
    assert len(last["aigrid"]["segments"]) == 2


async def test_a_choice_that_fails_ends_the_stream_in_an_error() -> None:
    script: tuple[Batch, ...] = (text("a"), EngineError("broken", Code.ENGINE_FAILED))
    async with sdk(ScriptedMesh(script)) as client:
        stream = await client.chat.completions.create(model=NAME, messages=HI, n=2, stream=True)
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
    assert caught.value.code == "engine_failed"


async def test_fallbacks_and_preferences_reach_the_mesh() -> None:
    mesh = ScriptedMesh()
    async with sdk(mesh) as client:
        await client.chat.completions.create(
            model="first",
            messages=HI,
            extra_body={"models": ["first", "second"], "provider": {"order": ["a"]}},
        )
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(
                model=NAME, messages=HI, extra_body={"provider": {"zdr": True}}
            )
    assert caught.value.param == "provider.zdr"
    assert mesh.preferred == [(("second",), Preferences(order=("a",)))]
