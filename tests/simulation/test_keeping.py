"""Files that too few have are fetched to be kept, and come from there to where they are wanted."""

from pathlib import Path

import pytest
import trio
from tests.node.mesh.routing.test_attempts import refusing
from tests.simulation.harness import Simulation, eventually
from tests.simulation.heavy import content, heavy_grid, publish_heavy
from trio.testing import MockClock

from aigrid.node.settings.placement import PlacementConfig
from aigrid.node.settings.weights import WeightsConfig
from aigrid.protocol.errors import Code, LocalError
from aigrid.protocol.limits import LIMITS, MIB

DATA = {"weights.bin": content(3 * MIB)}
LIKELY_SECONDS = LIMITS.seeds_patience_seconds + 3 * LIMITS.seeds_check_seconds


@pytest.fixture
async def sim(tmp_path: Path):
    async with trio.open_nursery() as nursery:
        yield Simulation(11, tmp_path, nursery)
        nursery.cancel_scope.cancel()


def having(sim: Simulation, model: str) -> set[str]:
    return {name for name, s in sim.nodes.items() if model in s.node.models.list()}


def loaded(sim: Simulation, model: str) -> set[str]:
    return {n for n, s in sim.nodes.items() if s.node.pool.states().get(model) == "warm"}


async def test_one_more_node_keeps_the_files_and_loads_nothing(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await heavy_grid(sim, *"abcdef", placement=PlacementConfig("members"))
    model = await publish_heavy(sim, "b", DATA)
    await trio.sleep(LIMITS.seeds_patience_seconds / 2)
    assert having(sim, model) == {"b"}
    await eventually(lambda: len(having(sim, model)) == 2, seconds=LIKELY_SECONDS)
    await trio.sleep(600)
    assert len(having(sim, model)) == LIMITS.placement_seeds_min
    assert loaded(sim, model) == set()


async def test_when_the_publisher_has_gone_another_copy_is_made_and_served(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await heavy_grid(sim, *"abcdef", placement=PlacementConfig("members"))
    model = await publish_heavy(sim, "b", DATA)
    await eventually(lambda: len(having(sim, model)) == 2, seconds=LIKELY_SECONDS)
    sim.kill("b")
    await eventually(lambda: len(having(sim, model)) == 2, seconds=LIKELY_SECONDS)
    asker = min(set("acdef") - having(sim, model))
    answer, _ = await sim.ask(asker, "parrot", "hello there")
    assert answer.strip() == "hello there"


async def test_nothing_is_kept_where_that_is_off_or_nobody_named_the_publisher(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await heavy_grid(sim, *"abc", placement=PlacementConfig("members", replicas_min=0))
    off = await publish_heavy(sim, "a", DATA)
    await trio.sleep(600)
    assert having(sim, off) == {"a"}


async def test_by_default_the_authoritys_models_are_kept_and_a_members_are_not(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await heavy_grid(sim, *"abc")
    authoritys = await publish_heavy(sim, "a", DATA)
    members = await publish_heavy(sim, "b", DATA, called="cuckoo")
    await trio.sleep(600)
    assert len(having(sim, authoritys)) == 2
    assert having(sim, members) == {"b"}


async def test_a_daily_budget_bounds_what_is_kept(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    placement = PlacementConfig("members", fetch_bytes_per_day=7 * MIB)
    await heavy_grid(sim, *"ab", placement=placement)
    models = [await publish_heavy(sim, "a", DATA, called=f"m{n}") for n in range(5)]
    await trio.sleep(1200)
    kept = [model for model in models if "b" in having(sim, model)]
    assert len(kept) == 2


async def test_a_wanted_model_is_fetched_from_who_keeps_it_and_served_by_a_third(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    """The keeper has no room to run it, and the asker hosts nothing."""
    nothing, everything = PlacementConfig("nothing"), PlacementConfig("members", replicas_min=0)
    (asker,) = await heavy_grid(sim, "asker", placement=nothing)
    for name, placement in {"laptop": nothing, "keeper": nothing, "host": everything}.items():
        await heavy_grid(sim, name, placement=placement)
        await sim.join(name, "asker")
    await trio.sleep(5)
    model = await publish_heavy(sim, "laptop", DATA)
    keeper = sim.nodes["keeper"].node
    await eventually(lambda: keeper.weights.holders(model), seconds=30)
    (manifest,) = keeper.graph.manifests_of(model, sim.now_ms())
    await keeper.weights.fetch(model, manifest)
    full = LocalError("full", Code.BUSY, retry_after_seconds=3600)
    keeper.serving.infer = refusing(full, [])  # type: ignore[method-assign]
    await trio.sleep(5)
    sim.kill("laptop")
    answer, served_by = await sim.ask("asker", "parrot", "hello there")
    assert answer.strip() == "hello there"
    assert served_by == sim.nodes["host"].node.identity.peer_id
    assert having(sim, model) == {"keeper", "host"}
    assert asker.placement.summon.waiting == 0


async def test_nothing_that_is_here_makes_room_for_what_is_only_kept(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    weights = WeightsConfig(cache_bytes=7 * MIB, replicas_min=0)
    await heavy_grid(sim, *"ab", placement=PlacementConfig("members"), weights=weights)
    models = [await publish_heavy(sim, "a", DATA, called=f"m{n}") for n in range(5)]
    await trio.sleep(1200)
    kept = [model for model in models if "b" in having(sim, model)]
    assert len(kept) == 2
    await trio.sleep(1200)
    assert kept == [model for model in models if "b" in having(sim, model)]
