"""Who takes what, whom a client would rather be served by, and models that stand in: whole nodes."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from tests.simulation.harness import Simulation, eventually
from trio.testing import MockClock

from aigrid.engines.base import CancelToken, Probe
from aigrid.engines.echo import EchoEngine
from aigrid.metagraph.preferences import ANY, Preferences
from aigrid.node.app import Node
from aigrid.node.mesh.routing.answer import Answer
from aigrid.node.policy.receipt_proof import kept_hashes
from aigrid.node.policy.receipt_queries import Filters, newest
from aigrid.node.workers.inline import InlineSpawner
from aigrid.protocol.errors import AigridError, Code, EngineError, InvalidRequestError
from aigrid.protocol.inference import (
    ChatMessage,
    Finish,
    InferChunk,
    InferRequest,
    TextChunk,
    TextRequest,
)
from aigrid.protocol.receipt import request_hash, seeded

pytestmark = pytest.mark.trio
PLAIN = TextRequest(messages=(ChatMessage("user", "one two three"),))
TOOLS = b'[{"type":"function","function":{"name":"weather"}}]'
CALLING = msgspec.structs.replace(PLAIN, more=b'{"user":"me","tools":' + TOOLS + b"}")


class ToolEngine(EchoEngine):
    """Calls the first tool with the last message; else it is the echo engine, and may fail."""

    broken = False
    asked = 0

    def probe(self) -> Probe:
        return replace(super().probe(), takes=("tools",))

    def answer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        ToolEngine.asked += 1
        if not isinstance(request, TextRequest) or not request.more:
            yield from super().answer(request, cancel)
            return
        name = json.loads(request.more)["tools"][0]["function"]["name"]
        called = {"name": name, "arguments": request.messages[-1].content}
        said = {"tool_calls": [{"index": 0, "id": "1", "function": called}]}
        yield TextChunk("", more=json.dumps(said).encode())
        if ToolEngine.broken:
            raise EngineError("broken in the middle", Code.ENGINE_CRASHED)
        yield Finish("tool_calls", 3, 1)


@pytest.fixture(autouse=True)
def _sound() -> None:
    ToolEngine.broken, ToolEngine.asked = False, 0


@dataclass
class World:
    """Node "asker", and two that offer "parrot", of which "able" takes tools."""

    sim: Simulation

    def node(self, name: str) -> Node:
        return self.sim.nodes[name].node

    def peer(self, name: str) -> str:
        return self.node(name).identity.peer_id

    async def ask(
        self, request: TextRequest = PLAIN, *models: str, preferences: Preferences = ANY
    ) -> tuple[Answer, list[InferChunk]]:
        asker = self.node("asker")
        model, *others = models or ("parrot",)
        async with asker.router.infer(
            model,
            request,
            request_id=asker.new_request_id(),
            fallbacks=tuple(others),
            preferences=preferences,
            patience_seconds=5.0,
        ) as answer:
            chunks = [chunk async for batch in answer.chunks for chunk in batch]
        return answer, chunks

    async def refused(self, request: TextRequest = PLAIN, **more: Any) -> AigridError:
        with pytest.raises(AigridError) as caught:
            await self.ask(request, **more)
        return caught.value


@asynccontextmanager
async def world(directory: Path, *holders: str) -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        made = World(Simulation(5, directory, nursery))
        await made.sim.start("asker")
        for name in holders:
            node = (await made.sim.start(name)).node
            if name == "able":
                spawner = node._world.spawner
                assert isinstance(spawner, InlineSpawner)
                spawner.engines = {"echo": ToolEngine}
                node._engines._learn(ToolEngine().probe())
            await made.sim.join(name, "asker")
            await made.sim.publish_echo(name, "parrot")
        seen = made.node("asker").router.models
        await eventually(lambda: [len(v.nodes) for v in seen()] == [len(holders)], seconds=30)
        await trio.sleep(2)
        yield made
        nursery.cancel_scope.cancel()


async def test_a_request_with_tools_goes_to_who_takes_them(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path, "plain", "able") as made:
        for _ in range(4):
            answer, chunks = await made.ask(CALLING)
            assert (answer.node, answer.attempts) == (made.peer("able"), 1)
            (said, finish) = chunks
            assert isinstance(said, TextChunk)
            assert json.loads(said.more)["tool_calls"][0]["function"] == {
                "name": "weather",
                "arguments": "one two three",
            }
            assert finish == Finish("tool_calls", 3, 1)
            (segment,) = answer.segments
            assert segment.receipted  # so both ends have hashed what was said alike
        database = made.node("asker").policy.receipts.database
        (row,) = (await newest(database, Filters(), limit=1))[0]
        salt = row.salt
        assert request_hash(salt, seeded(CALLING, salt)) == kept_hashes(row)[0]
        assert request_hash(salt, seeded(PLAIN, salt)) != kept_hashes(row)[0]


async def test_what_nobody_takes_is_refused_by_name(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path, "plain") as made:
        began = trio.current_time()
        error = await made.refused(CALLING)
        assert error.code is Code.UNSUPPORTED_PARAMETER
        assert getattr(error, "param", None) == "tools"
        assert trio.current_time() - began < 1  # nobody is waited for
        harmless = msgspec.structs.replace(PLAIN, more=b'{"user":"me"}')
        assert (await made.ask(harmless))[0].node == made.peer("plain")
        strict = Preferences(require_parameters=True)
        error = await made.refused(harmless, preferences=strict)
        assert getattr(error, "param", None) == "user"


async def test_a_node_that_takes_less_than_it_says_refuses_for_itself(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path, "able") as made:
        made.node("able").serving._takes = lambda _: ()
        error = await made.refused(CALLING)
        assert error.code is Code.UNSUPPORTED_PARAMETER
        assert ToolEngine.asked == 0


async def test_nobody_goes_on_after_a_call_of_a_tool(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path, "able") as made:
        ToolEngine.broken = True
        error = await made.refused(CALLING)
        assert error.code is Code.ENGINE_CRASHED
        assert ToolEngine.asked == 1


async def test_preferred_nodes_are_asked_first_and_others_never(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path, "plain", "able") as made:
        plain, able = made.peer("plain"), made.peer("able")
        did = made.node("able").identity.did
        for preferences, node in (
            (Preferences(order=(able,)), able),
            (Preferences(order=(plain, able)), plain),
            (Preferences(only=(did,)), able),
            (Preferences(ignore=(did,)), plain),
        ):
            assert (await made.ask(preferences=preferences))[0].node == node
        error = await made.refused(preferences=Preferences(only=(able,), ignore=(able,)))
        assert isinstance(error, InvalidRequestError)
        assert (error.code, error.param) == (Code.INVALID_REQUEST, "provider")
        assert f"{able} is to be ignored" in error.message
        assert f"{plain} is none of those to be asked" in error.message


async def test_without_fallbacks_there_is_one_attempt(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path, "plain", "able") as made:
        able = made.peer("able")
        made.node("able").serving.refusing = True
        first = Preferences(order=(able,))
        answer, _ = await made.ask(preferences=first)
        assert (answer.node, answer.attempts) == (made.peer("plain"), 2)
        before = made.node("plain").serving.served
        error = await made.refused(preferences=replace(first, allow_fallbacks=False))
        assert error.code is Code.SHUTTING_DOWN
        assert made.node("plain").serving.served == before


async def test_another_model_stands_in_and_the_answer_says_so(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path, "plain") as made:
        answer, _ = await made.ask(PLAIN, "nothing", "parrot")
        assert answer.name == "parrot"
        await made.sim.publish_echo("plain", "canary")
        await eventually(lambda: len(made.node("asker").router.models()) == 2, seconds=30)
        assert (await made.ask(PLAIN, "canary", "parrot"))[0].name == "canary"
        assert (await made.ask(PLAIN, "parrot", "canary"))[0].name == "parrot"
        with pytest.raises(AigridError) as caught:
            await made.ask(PLAIN, "nothing", "neither")
        assert caught.value.code is Code.MODEL_NOT_FOUND
