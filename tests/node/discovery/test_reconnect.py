"""A loss that is heard of late, when the peer is back already."""

from pathlib import Path

import trio
from tests.simulation.harness import Simulation, eventually
from trio.testing import MockClock

from aigrid.node.network.transport import PeerChange, PeerEvent


async def test_a_late_loss_leaves_the_peer_alive_and_tells_that_it_is_back(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        sim = Simulation(5, tmp_path, nursery)
        one, two = (await sim.start("one")).node, (await sim.start("two")).node
        await sim.join("two", "one")
        other = two.identity.peer_id
        await eventually(lambda: one.peers.alive(other), seconds=10)
        await trio.sleep(5)
        told: list[str] = []

        async def tell(peer_id: str) -> None:
            told.append(peer_id)

        one.peers.on_alive = tell
        one.transport._events.emit(PeerEvent(PeerChange.DISCONNECTED, other))  # type: ignore[attr-defined]
        for _ in range(100):
            await trio.sleep(0.05)
            assert one.peers.alive(other)
        assert told == [other]
        nursery.cancel_scope.cancel()


async def test_a_loss_is_noticed_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        sim = Simulation(5, tmp_path, nursery)
        one, two = (await sim.start("one")).node, (await sim.start("two")).node
        await sim.join("two", "one")
        other = two.identity.peer_id
        await eventually(lambda: one.peers.alive(other), seconds=10)
        sim.kill("two")
        assert await eventually(lambda: not one.peers.alive(other), seconds=1) < 0.5
        nursery.cancel_scope.cancel()
