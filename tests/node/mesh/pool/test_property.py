"""Whatever happens to the pool, its promises hold: random use, in virtual time."""

import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.node.mesh.pool.world import Spawner, World, running
from trio.testing import MockClock

from aigrid.engines.base import Estimate
from aigrid.node.workers.inline import InlineWorker
from aigrid.node.workers.spawning import Worker
from aigrid.protocol.errors import AigridError, Code

BUDGET = 100
SIZES = (20, 30, 50, 60, 101)  # the last one can never fit
PATIENCE_SECONDS = 600.0
EXPECTED = {Code.BUSY, Code.OUT_OF_MEMORY, Code.QUARANTINED, Code.ENGINE_CRASHED}


@dataclass
class Watched(Spawner):
    """Knows what all workers take, those that are loading included."""

    loading: int = 0
    most: int = 0

    async def spawn(self, *args: Any, admit: Any = None, **more: Any) -> InlineWorker:
        taken = 0

        async def admitted(estimate: Estimate) -> int:
            nonlocal taken
            room: int = await admit(estimate)
            taken = estimate.memory_bytes
            self.loading += taken
            self.look()
            return room

        try:
            return await super().spawn(*args, admit=admitted, **more)
        finally:
            self.loading -= taken

    def look(self) -> None:
        alive = [one for one in self.spawned if not one.died.is_set()]
        total = self.loading + sum(one.estimate.memory_bytes for one in alive)
        self.most = max(self.most, total)


@dataclass
class Run:
    """One run: what was crashed on purpose, and how every request ended."""

    world: World
    models: list[str]
    crashed: set[Worker] = field(default_factory=set)
    outcomes: list[str | Code] = field(default_factory=list)
    killed_in_use: int = 0

    async def use(self, model: int, length: float, patience: float, asker: str) -> None:
        outcome: str | Code = "left"
        with trio.move_on_after(patience):
            try:
                async with self.world.pool.lease(
                    self.models[model], length if length < 1 else None, asker=asker
                ) as worker:
                    await trio.sleep(length)
                    if worker.died.is_set() and worker not in self.crashed:
                        self.killed_in_use += 1
                    outcome = "served"
            except AigridError as error:
                outcome = error.code
        self.outcomes.append(outcome)

    async def crash(self, model: int, _: float, __: float, ___: str) -> None:
        alive = [one for one in self.world.spawner.spawned if not one.died.is_set()]
        if alive:
            victim = alive[model % len(alive)]
            self.crashed.add(victim)
            victim.crash()

    async def unload(self, model: int, _: float, __: float, ___: str) -> None:
        await self.world.pool.unload(self.models[model])

    async def fail(self, model: int, _: float, __: float, ___: str) -> None:
        self.world.spawner.failures += 1

    async def pin(self, model: int, length: float, _: float, __: str) -> None:
        with trio.move_on_after(length * 10):
            try:
                await self.world.pool.hold(self.models[model])
                await trio.sleep_forever()
            except AigridError:
                pass
        self.world.pool.let_go(self.models[model])


Step = Callable[[Run, int, float, float, str], Awaitable[None]]
STEPS: dict[str, Step] = {
    "use": Run.use,
    "crash": Run.crash,
    "unload": Run.unload,
    "fail": Run.fail,
    "pin": Run.pin,
}
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["use"] * 12 + ["crash", "unload", "fail", "pin"]),
        st.integers(0, len(SIZES) - 1),
        st.sampled_from([0.0, 0.1, 0.5, 2.0]),  # since the one before
        st.sampled_from([0.0, 0.3, 1.0, 4.0, 20.0]),
        st.sampled_from([0.4, 3.0, PATIENCE_SECONDS]),
        st.sampled_from(["", "a", "b", "c"]),
    ),
    max_size=60,
)


async def carried_out(actions: list[tuple[str, int, float, float, float, str]]) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        spawner = Watched(start_seconds=1.0)
        async with running(
            Path(folder), spawner=spawner, memory_bytes=BUDGET, workers_per_model=2, queue_max=6
        ) as world:
            models = [
                await world.add(memory_bytes=size, slots=1 + number % 3)
                for number, size in enumerate(SIZES)
            ]
            run = Run(world, models)
            # Two waits of all leases for a load, and then some: whoever waits longer is stuck.
            with trio.fail_after(PATIENCE_SECONDS + 300):
                async with trio.open_nursery() as nursery:
                    for what, model, pause, length, patience, asker in actions:
                        await trio.sleep(pause)
                        step = partial(STEPS[what], run, model, length, patience, asker)
                        nursery.start_soon(step)
            spawner.failures = 0
            await trio.sleep(1000)
            spawner.look()
            assert world.pool.reserved() == {}
            assert set(world.pool.states().values()) == {"on_disk"}
            assert not any(use.waiting or use.leases for use in world.pool.view().values())
            return run


@settings(max_examples=60, deadline=None)
@given(ACTIONS)
def test_no_budget_is_exceeded_no_lease_broken_and_nobody_waits_for_ever(
    actions: list[tuple[str, int, float, float, float, str]],
) -> None:
    run = trio.run(carried_out, actions, clock=MockClock(autojump_threshold=0))
    assert isinstance(run.world.spawner, Watched)
    assert run.world.spawner.most <= BUDGET
    assert run.killed_in_use == 0
    assert len(run.outcomes) == sum(what == "use" for what, *_ in actions)
    assert {one for one in run.outcomes if isinstance(one, Code)} <= EXPECTED
