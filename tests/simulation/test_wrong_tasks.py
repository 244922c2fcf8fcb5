"""Nodes whose translations are none: whoever asks in a chat goes on to the next, or hears of it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.simulation.harness import Simulation, eventually
from trio.testing import MockClock

from aigrid.engines.base import CancelToken
from aigrid.engines.echo import EchoEngine
from aigrid.metagraph.preferences import Preferences
from aigrid.node.gateway.call import TextCall
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.outcome_setup import contracts_of, misfit_of
from aigrid.node.policy.caller import OPERATOR
from aigrid.node.policy.metering import Visit
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import (
    ChatMessage,
    Finish,
    InferChunk,
    InferRequest,
    TaskChunk,
    TaskRequest,
    TextRequest,
)

pytestmark = pytest.mark.trio
CALL = TextCall(
    ("capability:translation",), TextRequest(messages=(ChatMessage("user", "good morning"),))
)


class Translator(EchoEngine):
    """Says the same in capitals."""

    def answer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        if not isinstance(request, TaskRequest):
            yield from super().answer(request, cancel)
            return
        yield TaskChunk(request.input.upper())
        yield Finish("stop", 2)


class Babbler(Translator):
    """Says what is no text."""

    def answer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        for chunk in super().answer(request, cancel):
            yield TaskChunk(b"[5]") if isinstance(chunk, TaskChunk) else chunk


@asynccontextmanager
async def grid(directory: Path, **engines: Any) -> AsyncIterator[tuple[Simulation, GatewayCore]]:
    """`asker` holds nothing; each of the others a model of its own, on the engine that is said."""
    async with trio.open_nursery() as nursery:
        sim = Simulation(8, directory, nursery)
        await sim.start("asker")
        for name, engine in engines.items():
            await sim.start(name, engines={"echo": engine})
            await sim.join(name, "asker")
            await sim.publish_echo(name, f"of-{name}", capability="translation")
        node = sim.nodes["asker"].node
        await eventually(lambda: len(node.router.models()) == len(engines), seconds=60)
        core = GatewayCore(
            node.router,
            status=dict,
            now_ms=node.now_ms,
            token=node.new_request_id,
            contract=contracts_of(node).of,
            misfit=misfit_of(node),
        )
        yield sim, core
        nursery.cancel_scope.cancel()


async def ask(core: GatewayCore, *order: str) -> tuple[str, str]:
    """What is said, and by which node; those of `order` are asked first."""
    call = replace(CALL, preferences=Preferences(order=order))
    with core.request(None) as request_id:
        asked = core.generate(call, request_id=request_id, visit=Visit(OPERATOR))
        async with asked as generation:
            steps = [step async for step in generation]
            assert steps[-1].finish is not None
            return "".join(step.text for step in steps), generation.answer.node


async def test_the_next_candidate_answers_and_the_wrong_one_is_remembered(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with grid(tmp_path, right=Translator, wrong=Babbler) as (sim, core):
        right, wrong = (sim.nodes[name].node.identity.peer_id for name in ("right", "wrong"))
        answer = await ask(core, wrong)
        node = sim.nodes["asker"].node
        noted = {
            peer_id: [
                (round(one.served, 3), round(one.failed, 3))
                for one in node.learning.outcomes(peer_id, "translation").values()
            ]
            for peer_id in (right, wrong)
        }
        in_row = node.peers.observation(wrong).failures_in_row
    assert answer == ("GOOD MORNING", right)
    assert noted == {right: [(1.0, 0.0)], wrong: [(0.0, 1.0)]}
    assert in_row == 1


async def test_where_all_are_wrong_that_is_said_at_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with grid(tmp_path, one=Babbler, other=Babbler) as (_, core):
        start = trio.current_time()
        with pytest.raises(EngineError, match="not one of translation") as refused:
            await ask(core)
        assert trio.current_time() - start < 5
    assert refused.value.code is Code.ENGINE_FAILED
