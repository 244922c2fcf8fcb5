"""Hints over the real Kad-DHT, in virtual time: what a node tells arrives."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
from scripts.simulation.network.libp2p_net import transport, virtual_ms
from scripts.simulation.network.spread import spread
from scripts.simulation.network.wires import Wires
from trio.testing import MockClock

from aigrid.node.network.libp2p_transport import Libp2pTransport
from aigrid.node.network.transport import PeerAddress
from aigrid.protocol.identity import Identity
from aigrid.protocol.limits import LIMITS

Clock = Callable[[], int]


@asynccontextmanager
async def linked(count: int, now_ms: Clock = virtual_ms) -> AsyncIterator[list[Libp2pTransport]]:
    """Transports of one grid, each connected to the first, whose clock may be another."""
    wires = Wires(random.Random(1), spread("10"), spread("0"))
    identities = [Identity(bytes([n + 1]) * 32) for n in range(count)]
    places = [
        PeerAddress(one.peer_id, (f"/ip4/10.0.0.{n + 1}/tcp/4001",))
        for n, one in enumerate(identities)
    ]
    made = [
        transport(wires, one, at.addresses[0], virtual_ms if n else now_ms)
        for n, (one, at) in enumerate(zip(identities, places, strict=True))
    ]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wires.run)
        for one in made:
            await nursery.start(_run, one)
            one.admit(at.peer_id for at in places)
        for one in made[1:]:
            await one.connect(places[0])
        await trio.sleep(2)
        yield made
        nursery.cancel_scope.cancel()


async def _run(one: Libp2pTransport, *, task_status: "trio.TaskStatus[None]") -> None:
    async with one.running():
        task_status.started()
        await trio.sleep_forever()


async def test_all_that_a_node_may_tell_is_held_by_the_only_other(
    autojump_clock: MockClock,
) -> None:
    """At the pace at which questions are taken: nobody answers to a hint, so none may be lost."""
    async with linked(2) as (holder, teller):
        began = trio.current_time()
        for number in range(LIMITS.provide_keys_max):
            await teller.provide(f"key {number}")
        took_seconds = trio.current_time() - began
        await trio.sleep(LIMITS.dht_stream_seconds)
        assert len(holder._library.dht.provider_store.providers) == LIMITS.provide_keys_max
        assert holder.counters()["streams_refused"] == holder.counters()["dht_evicted"] == 0
    assert took_seconds < 60
