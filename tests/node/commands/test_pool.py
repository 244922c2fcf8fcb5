"""Pinning and trying again by command, and what offers say of it: whole nodes in virtual time."""

from pathlib import Path

import pytest
import trio
from tests.node.commands.test_commands import Console
from tests.simulation.harness import Simulation, eventually
from trio.testing import MockClock

from aigrid.node.workers.inline import InlineSpawner
from aigrid.protocol.errors import AigridError, Code, EngineError
from aigrid.protocol.limits import LIMITS


@pytest.fixture
async def sim(tmp_path: Path):
    async with trio.open_nursery() as nursery:
        yield Simulation(11, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def test_a_model_is_pinned_by_name_over_a_restart_until_it_is_unpinned(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    a = Console((await sim.start("a")).node)
    model = await sim.publish_echo("a", "parrot")
    assert await a("models_pin", model="parrot") == {"model": model, "pinned": True}
    await eventually(lambda: a.node.pool.view()[model].state == "warm", seconds=5)
    await trio.sleep(2 * LIMITS.model_idle_seconds)
    assert a.node.pool.view()[model].pinned
    sim.kill("a")
    a = Console((await sim.start("a", incarnation=1)).node)
    await eventually(lambda: a.node.pool.view()[model].state == "warm", seconds=5)
    assert (await a("models_unpin", model=model))["pinned"] is False
    await trio.sleep(2 * LIMITS.model_idle_seconds)
    assert a.node.pool.view()[model].state == "on_disk"
    assert await a.refused("models_pin", model="cockatoo") is Code.MODEL_NOT_FOUND


async def test_a_withdrawn_model_is_pinned_no_more(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    a = Console((await sim.start("a")).node)
    model = await sim.publish_echo("a", "parrot")
    await a("models_pin", model="parrot")
    await eventually(lambda: a.node.pool.view()[model].state == "warm", seconds=5)
    await a("withdraw", model="parrot")
    await trio.sleep(5)
    assert a.node.pool.reserved() == {}
    assert a.node.pins._scopes == {}


async def test_a_model_that_keeps_crashing_is_not_offered_until_somebody_says_it_is_mended(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    a, b = (await sim.start("a")).node, (await sim.start("b")).node
    await sim.join("b", "a")
    model = await sim.publish_echo("a", "parrot")
    await eventually(lambda: [o for o in b.router.offers() if o.model == model], seconds=30)
    await sim.ask("b", "parrot", "hello")
    spawner = a._world.spawner
    assert isinstance(spawner, InlineSpawner)
    while not a.pool.problem(model):
        try:
            await a.pool.resident(model)
        except AigridError as error:
            await trio.sleep(error.retry_after_seconds or 0.0)
            continue
        for worker in spawner.spawned:
            worker.crash(EngineError("it died", Code.ENGINE_CRASHED))
        await trio.testing.wait_all_tasks_blocked()
    assert "it died" in a.hosting.withheld()[0]["problem"]
    await eventually(lambda: not [o for o in b.router.offers() if o.model == model], seconds=30)
    said = await Console(a)("models_retry", model="parrot")
    assert said == {"model": model, "problem": ""}
    await eventually(lambda: [o for o in b.router.offers() if o.model == model], seconds=30)
    await sim.ask("b", "parrot", "hello")


async def test_crashes_are_put_down_to_the_node_that_asked(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    a, b = (await sim.start("a")).node, (await sim.start("b")).node
    await sim.join("b", "a")
    model = await sim.publish_echo("a", "parrot", delay_ms=1000)
    await eventually(lambda: [o for o in b.router.offers() if o.model == model], seconds=30)
    for asker, node in (("b", b), ("a", a)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sim.ask, asker, "parrot", "one two three four five six seven")
            await trio.sleep(3)
            (replica,) = a.pool._entries[model].replicas
            assert set(replica.askers) == {b.identity.did if node is b else ""}
