"""What is listed is what a request would be routed to: nodes that are known, connected or not."""

from pathlib import Path

import trio
from scripts.simulation.deterministic import limits
from tests.simulation.harness import Simulation, eventually
from trio.testing import MockClock


async def test_what_a_node_offers_is_listed_where_it_is_known_and_not_connected(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        with limits(connections_wanted=1):
            await listed(Simulation(5, tmp_path, nursery))
        nursery.cancel_scope.cancel()


async def listed(sim: Simulation) -> None:
    for name in ("a", "b", "c", "d"):
        await sim.start(name)
        if name != "a":
            await sim.join(name, "a")
    await trio.sleep(10)
    one, other = next(
        (one, other)
        for one in sim.nodes.values()
        for other in sim.nodes.values()
        if not one.node.peers.alive(other.node.identity.peer_id)
    )
    model = await sim.publish_echo(other.name, "far")
    await eventually(lambda: one.node.router.models() != (), seconds=30)
    assert not one.node.peers.alive(other.node.identity.peer_id)
    assert [view.model for view in one.node.router.models()] == [model]
    assert [offer.model for offer in one.node.router.offers()] == [model]
    _, served_by = await sim.ask(one.name, "far", "hello")
    assert served_by == other.node.identity.peer_id
    # One that was dialled in vain is not asked, and not listed either.
    sim.kill(other.name)
    await eventually(lambda: one.node.router.models() == (), seconds=60)
