"""Many clients on few slots: who came first is served first, here and at other nodes."""

from pathlib import Path
from statistics import median

import pytest
import trio
from tests.simulation.harness import Simulation, eventually
from trio.testing import MockClock

from aigrid.node.settings.placement import PlacementConfig

CLIENTS, SECONDS = 32, 15.0
NOTHING = PlacementConfig("nothing")


@pytest.fixture
async def sim(tmp_path: Path):
    async with trio.open_nursery() as nursery:
        yield Simulation(5, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def waits(sim: Simulation, name: str) -> list[float]:
    """How long each answer took; every client asks again as soon as it was answered."""
    took: list[float] = []
    until = trio.current_time() + SECONDS

    async def client() -> None:
        while trio.current_time() < until:
            began = trio.current_time()
            await sim.ask(name, "parrot", "hello")
            took.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        for _ in range(CLIENTS):
            nursery.start_soon(client)
    return took


async def test_nobody_waits_much_longer_than_the_others(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await sim.start("one", placement=NOTHING)
    await sim.publish_echo("one", "parrot", slots=2, delay_ms=50)
    await eventually(sim.nodes["one"].node.router.models, seconds=30)
    took = await waits(sim, "one")
    assert max(took) < 2 * median(took)


async def test_nobody_waits_much_longer_than_the_others_for_another_node(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    for name in ("holder", "asker"):
        await sim.start(name, placement=NOTHING)
    await sim.join("asker", "holder")
    await sim.publish_echo("holder", "parrot", slots=2, delay_ms=50)
    await eventually(sim.nodes["asker"].node.router.models, seconds=30)
    took = await waits(sim, "asker")
    assert max(took) < 2 * median(took)
