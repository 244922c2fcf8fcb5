"""Placement among whole nodes in virtual time: few act, replicas come and go, nobody is lied to.

The models have no files, so that bringing one costs nothing but its load.
"""

from collections import Counter
from pathlib import Path

import pytest
import trio
from tests.simulation.harness import Simulation, eventually
from tests.simulation.test_grid import everybody_knows_everybody
from trio.testing import MockClock

from aigrid.node.placement_settings import PlacementConfig
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.limits import LIMITS

PUBLISHER = "n01"
WORDS = "one two three four five six seven eight nine ten"


@pytest.fixture
async def sim(tmp_path: Path):
    async with trio.open_nursery() as nursery:
        yield Simulation(5, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def grid(sim: Simulation, count: int, *, host: str = "trusted", loads: int = 500) -> list[str]:
    """Nodes that trust the publisher; all know each other."""
    names = [f"n{i:02d}" for i in range(count)]
    for name in names:
        await sim.start(
            name,
            trusted_publishers=[sim.identity_of(PUBLISHER).did],
            placement=PlacementConfig(host=host, loads_per_day=loads),
        )
    for name in names[1:]:
        await sim.join(name, names[0])
    await eventually(lambda: everybody_knows_everybody(sim), seconds=60)
    return names


def warm(sim: Simulation, model: str) -> list[str]:
    return [n for n, s in sim.nodes.items() if s.node.pool.states().get(model) == "warm"]


def loads(sim: Simulation) -> Counter[str]:
    """How many workers each node has ever started."""
    return Counter(
        {name: len(s.node._world.spawner.spawned) for name, s in sim.nodes.items()}
    )


def name_of(sim: Simulation, peer_id: str) -> str:
    return next(n for n, s in sim.nodes.items() if s.node.identity.peer_id == peer_id)


async def test_a_model_that_nobody_offers_comes_to_one_node_and_only_one(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await grid(sim, 12)
    model = await sim.publish_echo(PUBLISHER, "parrot")
    await trio.sleep(5)
    sim.kill(PUBLISHER)
    await trio.sleep(1)
    answer, served_by = await sim.ask("n05", "parrot", WORDS)
    assert answer.strip() == WORDS
    assert name_of(sim, served_by) not in {PUBLISHER}
    await trio.sleep(60)
    assert loads(sim).total() == 1
    assert warm(sim, model) == [name_of(sim, served_by)]


async def test_requests_that_wait_bring_more_replicas_which_retire_in_order(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await grid(sim, 12)
    model = await sim.publish_echo(PUBLISHER, "parrot", delay_ms=200, slots=2)
    await trio.sleep(5)
    most, answers = 0, []

    async def client() -> None:
        for _ in range(6):
            answers.append(await sim.ask("n05", "parrot", WORDS))

    async with trio.open_nursery() as nursery:
        for _ in range(24):
            nursery.start_soon(client)
        while len(answers) < 24 * 6:
            await trio.sleep(0.5)
            most = max(most, len(warm(sim, model)))
    assert all(text.strip() == WORDS for text, _ in answers)
    assert 3 <= most <= 12  # 24 clients, of whom two fit at each
    assert loads(sim).total() <= most + 1
    await eventually(lambda: len(warm(sim, model)) == 1, seconds=180)
    await trio.sleep(30)
    assert len(warm(sim, model)) == 1
