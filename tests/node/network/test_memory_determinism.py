"""The same seed gives the same run of the memory transport."""

import random

import trio
from tests.node.network.pairs import address, network, node, run_until_cancelled, shout, upper
from trio.testing import MockClock

from aigrid.node.network.memory_transport import MemoryTransport
from aigrid.node.network.transport import (
    RPC_PROTOCOL,
)
from aigrid.protocol.errors import RemoteError


async def trace(seed: int) -> list[tuple[float, str, str]]:
    """What ten nodes that dial, gossip and talk at random see, with the time."""
    net, rng = network(seed), random.Random(seed)
    names = [f"n{number}" for number in range(10)]
    nodes = [node(net, name, *names) for name in names]
    seen: list[tuple[float, str, str]] = []

    async def listen(transport: MemoryTransport) -> None:
        async with transport.subscribe("t") as messages:
            async for publisher, data in messages:
                seen.append((trio.current_time(), transport.peer_id, f"{publisher} {data!r}"))

    async def act(transport: MemoryTransport) -> None:
        for _ in range(10):
            peer_id = rng.choice(names)
            try:
                await transport.connect(address(peer_id))
                answer = await shout(transport, peer_id)
                seen.append((trio.current_time(), transport.peer_id, f"{peer_id} {answer!r}"))
            except RemoteError as error:
                seen.append((trio.current_time(), transport.peer_id, error.code))
            await transport.publish("t", peer_id.encode())

    async with trio.open_nursery() as nursery:
        for transport in nodes:
            transport.handle_stream(RPC_PROTOCOL, upper)
            await nursery.start(run_until_cancelled, transport)
            nursery.start_soon(listen, transport)
        for transport in nodes:
            nursery.start_soon(act, transport)
        await trio.sleep(1)
        net.kill("n3")
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    return seen


def test_the_same_seed_gives_the_same_trace() -> None:
    def run(seed: int) -> list[tuple[float, str, str]]:
        trio._core._run._r.seed(seed)
        clock = MockClock(autojump_threshold=0)
        return trio.run(trace, seed, clock=clock)

    first, again, other = run(1), run(1), run(2)
    assert len(first) > 300
    assert first == again
    assert first != other
