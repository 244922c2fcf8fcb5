"""Nodes over the memory transport, for the tests of this folder."""

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import trio

from aigrid.node.network.memory_transport import MemoryNetwork, MemoryTransport
from aigrid.node.network.streams import RpcClient, RpcHandler, RpcServer, Send
from aigrid.node.network.transport import RPC_PROTOCOL, PeerAddress, Stream
from aigrid.protocol.limits import LIMITS, Limits

SMALL = replace(
    LIMITS,
    stream_credit_bytes=4096,
    frame_max_bytes=1024,
    request_part_least_bytes=1,
    request_max_bytes=20000,
)


def network(
    seed: int = 1,
    latency_seconds: tuple[float, float] = (0.01, 0.05),
    tick_seconds: float = 0.0,
) -> MemoryNetwork:
    rng = random.Random(seed)
    return MemoryNetwork(rng=rng, latency_seconds=latency_seconds, tick_seconds=tick_seconds)


def address(peer_id: str) -> PeerAddress:
    return PeerAddress(peer_id, (f"/memory/{peer_id}",))


def node(
    net: MemoryNetwork, peer_id: str, *members: str, strangers_welcome: bool = False
) -> MemoryTransport:
    """A transport that is not running yet and knows these members."""
    (where,) = address(peer_id).addresses
    transport = MemoryTransport(net, peer_id, address=where, open_to_strangers=strangers_welcome)
    transport.admit(members)
    return transport


async def echo(_peer_id: str, request: bytes, send: Send) -> None:
    await send(request)


async def read_all(stream: Stream) -> bytes:
    got = b""
    while data := await stream.receive_some(1000):
        got += data
    return got


class Stuck:
    """A handler that sends one body and then works until it is cancelled."""

    def __init__(self) -> None:
        self.cancelled_at: list[float] = []

    async def __call__(self, _peer_id: str, _request: bytes, send: Send) -> None:
        await send(b"first")
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled_at.append(trio.current_time())
            raise


async def upper(stream: Stream) -> None:
    while data := await stream.receive_some(1000):
        await stream.send_all(data.upper())


async def shout(transport: MemoryTransport, peer_id: str, protocol: str = RPC_PROTOCOL) -> bytes:
    stream = await transport.open_stream(peer_id, protocol)
    await stream.send_all(b"hello")
    answer = await stream.receive_some(100)
    await stream.close()
    return answer


async def run_until_cancelled(
    transport: MemoryTransport,
    *,
    task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED,
) -> None:
    async with transport.running():
        task_status.started()
        await trio.sleep_forever()


class Pair:
    """A client "a" and a server "b", admitted and connected."""

    def __init__(self, net: MemoryNetwork, a: MemoryTransport, b: MemoryTransport) -> None:
        self.net, self.a, self.b = net, a, b
        self.client = RpcClient(a)

    @property
    def pooled(self) -> int:
        return len(self.client._peers["b"].streams) if "b" in self.client._peers else 0


@asynccontextmanager
async def pair(handler: RpcHandler = echo, *, limits: Limits = LIMITS) -> AsyncIterator[Pair]:
    net = network()
    a, b = node(net, "a", "b"), node(net, "b", "a")
    b.handle_stream(RPC_PROTOCOL, RpcServer(handler, limits=limits).serve)
    two = Pair(net, a, b)
    two.client = RpcClient(a, limits=limits)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(a.running())
        await stack.enter_async_context(b.running())
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(two.client.run)
        await a.connect(address("b"))
        with trio.fail_after(3600):  # virtual seconds: a test fails rather than hangs
            yield two
        nursery.cancel_scope.cancel()
