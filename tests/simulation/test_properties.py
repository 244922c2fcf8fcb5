"""What a simulated run looks at: it sees each breach of a property that a node could commit."""

import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from scripts.simulation.attacks.poisoning import Poisoned
from scripts.simulation.checks.judging import ALWAYS_CHECKED, judge
from scripts.simulation.checks.linked import GONE_SECONDS
from scripts.simulation.checks.properties import REMOVED_SECONDS, Watch
from scripts.simulation.faults import Faults
from scripts.simulation.network.conditions import Conditions
from scripts.simulation.network.spread import spread
from scripts.simulation.options import Options
from scripts.simulation.world import SimNode
from tests.simulation.harness import Simulation
from trio.testing import MockClock

from aigrid.protocol.kinds import Kind, MembershipBody
from aigrid.protocol.record import Record, sign

OPTIONS = Options()


def still(rng: random.Random) -> Conditions:
    return Conditions(rng, spread("10"), spread("0"))


@pytest.fixture
async def sim(tmp_path: Path) -> AsyncIterator[Simulation]:
    async with trio.open_nursery() as nursery:
        simulation = Simulation(1, tmp_path, nursery, still(random.Random(1)))
        await simulation.start("a", with_authority=True)
        for name in ("b", "c"):
            await simulation.start(name)
            await simulation.join(name, "a")
        await trio.sleep(5.0)  # all have heard of it
        yield simulation
        nursery.cancel_scope.cancel()


@pytest.fixture
async def watch(sim: Simulation) -> Watch:
    network = sim.network
    assert isinstance(network, Conditions)
    made = Watch(sim, network, patience_seconds=10.0, spread_seconds=2.0)
    made.admitted = {one.node.identity.did for one in sim.nodes.values()}
    return made


def membership(sim: Simulation, of: str, *, ahead_ms: int = 0) -> Record:
    """Of the grid, which every member is in and one alone has the key of."""
    grid = sim.nodes["a"].node.grid
    assert grid.authority is not None
    from_ms = sim.now_ms() + ahead_ms
    body = MembershipBody(id=sim.nodes[of].node.identity.did, grid=grid.did, role="member")
    return sign(
        Kind.MEMBERSHIP, body, grid.authority, valid_from_ms=from_ms, valid_until_ms=from_ms + 10**6
    )


def broken(watch: Watch) -> set[str]:
    return {one.name for one in watch.violations}


async def test_what_the_grid_signed_for_later_is_early_everywhere_but_at_its_key(
    sim: Simulation, watch: Watch, autojump_clock: MockClock
) -> None:
    early = membership(sim, "c", ahead_ms=600_000)
    watch.learned("a", early)
    assert not watch.violations
    watch.learned("b", early)
    assert broken(watch) == {"in_time"}


async def test_who_takes_one_in_again_that_was_removed_is_seen_at_once(
    sim: Simulation, watch: Watch, autojump_clock: MockClock
) -> None:
    did = sim.nodes["c"].node.identity.did
    watch.removed[did] = trio.current_time()
    again = membership(sim, "c")
    watch.learned("b", again)
    assert not watch.violations  # it may not have heard yet
    await trio.sleep(REMOVED_SECONDS + 1)
    watch.learned("b", again)
    assert broken(watch) == {"members_only"}, watch.violations


async def test_who_has_just_gone_says_nothing_of_those_that_believe_in_it(
    sim: Simulation, watch: Watch, autojump_clock: MockClock
) -> None:
    watch.killed("c")
    sim.kill("c")
    await watch.look_on(GONE_SECONDS)
    assert not watch.checks["gone"]
    await watch.look_on(5.0)
    assert watch.checks["gone"]
    assert not watch.violations


async def test_a_run_that_did_not_look_at_what_it_asks_for_is_not_well(
    watch: Watch, autojump_clock: MockClock
) -> None:
    watch.checks.update(ALWAYS_CHECKED)
    judge(
        replace(OPTIONS, publish=0.0, skewed=1, skew_seconds=60.0), watch, [], cut_off=0, killed=1
    )
    said = " ".join(one.what for one in watch.violations if one.name == "checked")
    assert "`clock`" in said
    assert "`kept`" in said


async def test_only_who_fetches_again_shows_that_poisoners_are_avoided(
    watch: Watch, autojump_clock: MockClock
) -> None:
    poisoned = Poisoned(watch)
    poisoned.fetches["x"] += 1
    poisoned.asked("x", "bad")
    poisoned.caught("x", "bad")
    poisoned.fetched("x")
    assert watch.checks["weights"] == 1
    assert "avoided" not in +watch.checks
    poisoned.fetches["x"] += 1
    poisoned.fetched("x")
    assert watch.checks["avoided"] == 1
    poisoned.asked("x", "bad")
    assert broken(watch) == {"avoided"}


async def test_a_slow_holder_that_starts_again_is_slow_until_faults_end(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    options = replace(OPTIONS, slow=1, slow_factor=4.0, churn=60.0, down_seconds="1")
    paces: list[SimNode] = []

    async def restart(name: str) -> None:
        started = await sim.start(name, incarnation=1 + len(paces))
        started.spawner.chunk_seconds = 1.0
        paces.append(started)

    network = sim.network
    assert isinstance(network, Conditions)
    faults = Faults(
        options, sim, network, random.Random(1), restart=restart, killed=lambda _name: None
    )
    with trio.move_on_after(8.0):
        await faults.run(["b", "c"], ["b"])
    slow = [one for one in paces if one.name == "b"]
    assert slow
    assert all(one.spawner.chunk_seconds == 4.0 for one in slow if one.name not in faults.down)
    await faults.stop()
    assert sim.nodes["b"].spawner.chunk_seconds == 1.0
