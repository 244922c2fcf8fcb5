"""What goes from the disk to make room, and what does not, whatever others say of themselves."""

import pytest
import trio
from tests.node.mesh.weights.test_weights import refusal
from tests.simulation.harness import Simulation, eventually
from tests.simulation.heavy import (
    content,
    heavy_grid,
    knows,
    manifest_of,
    publish_heavy,
    start_heavy,
)

from aigrid.node.mesh.weights.plan import keepers
from aigrid.node.settings.placement import PlacementConfig
from aigrid.node.settings.weights import WeightsConfig
from aigrid.protocol.errors import Code, LocalError
from aigrid.protocol.kinds import Seed
from aigrid.protocol.limits import LIMITS, MIB

SMALL = WeightsConfig(cache_bytes=8 * MIB, replicas_min=2)
NOTHING = PlacementConfig("nothing")


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(24, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def one_model_here(sim, *others, replicas_min=2):
    """`keeper` has fetched a model and has no room for the other two that `a` gives."""
    nodes = await heavy_grid(sim, "a", *others, placement=NOTHING)
    small = WeightsConfig(cache_bytes=8 * MIB, replicas_min=replicas_min)
    keeper = await start_heavy(sim, "keeper", weights=small, placement=NOTHING)
    await sim.join("keeper", "a")
    first, second = [
        await publish_heavy(sim, "a", {"w": content(5 * MIB, seed)}, called=f"m{seed}")
        for seed in range(2)
    ]
    await keeper.weights.fetch(first, await knows(keeper, first))
    return nodes, keeper, first, second


def last_in_rank(sim, model, names):
    """`names` with the keeper: those who would keep a model before it."""
    dids = {name: sim.identity_of(name).did for name in (*names, "keeper")}
    kept = keepers(model, dids.values(), issuer="", replicas_min=2)
    return dids["keeper"] not in kept


async def test_two_liars_do_not_make_a_keeper_let_go_of_a_last_copy(sim, autojump_clock):
    names = [f"liar{n}" for n in range(6)]
    nodes, keeper, first, second = await one_model_here(sim, *names)
    pairs = [(a, b) for a in names for b in names if a < b and last_in_rank(sim, first, (a, b))]
    liars = [sim.nodes[name].node for name in pairs[0]]
    manifest = manifest_of(keeper, first)
    await nodes[1].weights.fetch(second, await knows(nodes[1], second))
    for liar in liars:
        liar.announcer._seeds = lambda: (Seed(first, manifest.content_id),)
        liar.announcer.announce()
    await eventually(lambda: len(keeper.weights.holders(first)) == 3, seconds=30)
    await eventually(lambda: len(keeper.weights.holders(second)) == 2, seconds=30)
    sim.kill("a")
    await eventually(lambda: len(keeper.weights.holders(first)) == 2, seconds=60)
    error = await refusal(keeper.weights.fetch(second, manifest_of(keeper, second)))
    assert error.code is Code.OVER_QUOTA
    assert set(keeper.models.list()) == {first}


async def test_who_has_seen_enough_others_hold_it_lets_go(sim, autojump_clock):
    names = [f"holder{n}" for n in range(6)]
    nodes, keeper, first, second = await one_model_here(sim, *names)
    pairs = [(a, b) for a in names for b in names if a < b and last_in_rank(sim, first, (a, b))]
    for name in pairs[0]:
        node = sim.nodes[name].node
        await node.weights.fetch(first, await knows(node, first))
    await eventually(lambda: len(keeper.weights.holders(first)) == 3, seconds=30)
    await eventually(lambda: len(keeper.weights._connected(first)) == 3, seconds=30)  # are asked
    before = sum(node.weights.giving.given_bytes for node in nodes)
    with trio.move_on_after(1e-3):  # whoever asks may leave: that says nothing of the others
        await keeper.weights.cache._proven(first)
    await keeper.weights.fetch(second, manifest_of(keeper, second))
    assert set(keeper.models.list()) == {second}
    spent = sum(node.weights.giving.given_bytes for node in nodes) - before
    assert spent <= 6 * MIB + LIMITS.proofs_max * MIB, "one chunk of each who was asked"


async def test_nothing_goes_for_a_fetch_of_which_nothing_comes(sim, autojump_clock):
    nodes, keeper, first, second = await one_model_here(sim, replicas_min=1)

    async def refuse(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise LocalError("not now", Code.SHUTTING_DOWN)

    honest = nodes[0].weights.giving.serve
    vars(nodes[0].weights.giving)["serve"] = refuse
    manifest = await knows(keeper, second)
    assert (await refusal(keeper.weights.fetch(second, manifest))).code is Code.NO_CANDIDATE
    assert set(keeper.models.list()) == {first}
    vars(nodes[0].weights.giving)["serve"] = honest
    await keeper.weights.fetch(second, await knows(keeper, second))
    assert set(keeper.models.list()) == {second}
