"""Where all who hold a model break the protocol, that is said at once: nobody is on the way."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from tests.simulation.harness import Simulation
from tests.simulation.test_wrong_tasks import Translator, ask, grid
from trio.testing import MockClock

from aigrid.node.app import Node
from aigrid.node.gateway.capabilities.grid import Known
from aigrid.node.gateway.capabilities.outcomes import Outcomes
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.outcome.request import decode
from aigrid.node.outcome_setup import contracts_of
from aigrid.node.policy.caller import OPERATOR
from aigrid.node.policy.metering import Visit
from aigrid.protocol.errors import AigridError, Code, RemoteError
from aigrid.protocol.inference import Finish, InferChunk, TaskChunk, TextChunk

pytestmark = pytest.mark.trio
Batch = tuple[InferChunk, ...]
Change = Callable[[InferChunk], Batch]


def of_another_kind(chunk: InferChunk) -> Batch:
    return (TextChunk("hello", (1, 2)),) if isinstance(chunk, TaskChunk) else (chunk,)


def twice(chunk: InferChunk) -> Batch:
    return (chunk, chunk) if isinstance(chunk, TaskChunk) else (chunk,)


def odd_end(chunk: InferChunk) -> Batch:
    return (chunk, Finish("tool_calls", 2)) if isinstance(chunk, TaskChunk) else (chunk,)


def answering(node: Node, change: Change) -> None:
    """What a node answers from now on."""
    infer = node.serving.infer

    @asynccontextmanager
    async def changed(*args: Any, **more: Any) -> AsyncIterator[Any]:
        async with infer(*args, **more) as answer:
            batches = answer._batches

            async def read() -> AsyncIterator[Batch]:
                async for batch in batches:
                    yield tuple(one for chunk in batch for one in change(chunk))

            answer._batches = read()
            yield answer

    node.serving.infer = changed  # type: ignore[method-assign]


async def outcome(sim: Simulation, core: GatewayCore, mode: Any) -> Any:
    node = sim.nodes["asker"].node
    outcomes = Outcomes(core, contracts_of(node), Known(node.router))
    body = decode(msgspec.json.encode({"input": "good morning", "mode": mode}))
    with core.request(None) as request_id:
        core.course(request_id).begin()
        return await outcomes.ask("translation", body, request_id=request_id, visit=Visit(OPERATOR))


MODES: tuple[Any, ...] = ("fallback", {"name": "race", "after_ms": 0}, "vote", "cascade", "chat")


@pytest.mark.parametrize("change", [of_another_kind, twice, odd_end])
@pytest.mark.parametrize("mode", MODES)
async def test_where_all_break_the_protocol_that_is_said_at_once(
    tmp_path: Path, autojump_clock: MockClock, mode: Any, change: Change
) -> None:
    async with grid(tmp_path, one=Translator, other=Translator, third=Translator) as (sim, core):
        for name in ("one", "other", "third"):
            answering(sim.nodes[name].node, change)
        codes = []
        for _ in range(4):  # until they are left alone for a while
            start = trio.current_time()
            with pytest.raises(AigridError) as refused:
                await (ask(core) if mode == "chat" else outcome(sim, core, mode))
            assert trio.current_time() - start < 1
            codes.append(refused.value.code)
        assert refused.value.retry_after_seconds or mode == "vote"
    assert codes[0] is Code.PROTOCOL_VIOLATION
    assert codes[-1] is Code.NO_CANDIDATE
    assert "breaking the protocol" in refused.value.message or mode == "vote"


async def test_a_node_that_keeps_to_it_answers_in_place_of_those_that_do_not(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with grid(tmp_path, one=Translator, other=Translator, third=Translator) as (sim, core):
        for name in ("one", "other"):
            answering(sim.nodes[name].node, of_another_kind)
        third = sim.nodes["third"].node.identity.peer_id
        for _ in range(4):
            assert await ask(core) == ("GOOD MORNING", third)


async def test_a_lost_node_is_waited_for_though_the_other_breaks_the_protocol(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with grid(tmp_path, one=Translator, other=Translator) as (sim, core):
        answering(sim.nodes["one"].node, of_another_kind)
        lost = sim.nodes["other"].node
        infer, calls = lost.serving.infer, list[float]()

        @asynccontextmanager
        async def breaking_off(*args: Any, **more: Any) -> AsyncIterator[Any]:
            calls.append(trio.current_time())
            if len(calls) == 1:
                raise RemoteError("gone", Code.CONNECTION_LOST)
            async with infer(*args, **more) as answer:
                yield answer

        lost.serving.infer = breaking_off  # type: ignore[method-assign]
        one, other = (sim.nodes[name].node.identity.peer_id for name in ("one", "other"))
        assert await ask(core, other, one) == ("GOOD MORNING", other)
        assert len(calls) == 2
