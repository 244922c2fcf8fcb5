"""Workers that die with many requests at once: one event, which costs nobody an answer."""

from pathlib import Path
from typing import Any

import pytest
import trio
from tests.simulation.harness import Simulation
from tests.simulation.test_liars import grid, spawner_of
from trio.testing import MockClock

from aigrid.node.workers.inline import InlineWorker
from aigrid.protocol.errors import Code, EngineError

CLIENTS, EACH = 16, 3
WORDS = " ".join(["word"] * 12)


async def test_requests_that_die_with_one_worker_are_answered_by_the_next(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        sim = Simulation(17, tmp_path, nursery)
        asker, _ = await grid(sim, "holder", delay_ms=100, slots=8)
        holder = sim.nodes["holder"].node
        spawner, rows = spawner_of(holder), []

        async def kill() -> None:
            for _ in range(2):
                await trio.sleep(3)
                spawner.spawned[-1].crash()
                await trio.sleep(0.5)  # until the asker has heard
                rows.append(asker.peers.observation(holder.identity.peer_id).failures_in_row)

        async def ask() -> None:
            for _ in range(EACH):
                text, _ = await sim.ask("asker", "parrot", WORDS)
                assert text.strip() == WORDS

        with trio.fail_after(60):  # the patience of a request: nobody waits for it in vain
            async with trio.open_nursery() as clients:
                clients.start_soon(kill)
                for _ in range(CLIENTS):
                    clients.start_soon(ask)
        assert len(spawner.spawned) == 3
        assert rows[0] == 1  # not one for each request that was under way
        assert rows[1] <= 2
        nursery.cancel_scope.cancel()


async def test_a_worker_that_dies_while_it_loads_did_not_die_of_the_request(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trio.open_nursery() as nursery:
        sim = Simulation(17, tmp_path, nursery)
        await grid(sim, "holder", delay_ms=1000)
        spawner = spawner_of(sim.nodes["holder"].node)
        ran, spawn, loads = spawner.spawned[-1], spawner.spawn, []

        async def spawned(*args: Any, **more: Any) -> InlineWorker:
            loads.append(trio.current_time())
            if len(loads) == 1:
                await trio.sleep(0.1)
                raise EngineError("engine echo died with SIGKILL", Code.ENGINE_CRASHED)
            return await spawn(*args, **more)

        async def kill() -> None:
            while not ran._running:  # noqa: ASYNC110 - virtual time costs nothing
                await trio.sleep(0.05)
            await trio.sleep(0.5)
            ran.crash()

        monkeypatch.setattr(spawner, "spawn", spawned)
        nursery.start_soon(kill)
        text, _ = await sim.ask("asker", "parrot", "one two")
        assert text.strip() == "one two"
        assert len(loads) == 2
        nursery.cancel_scope.cancel()
