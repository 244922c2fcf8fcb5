"""Our node with js-libp2p and with stock py-libp2p, each in a process of its own, both ways."""

import hashlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio
from tests.node.network import nodes
from tests.node.network.interop import peers
from tests.node.network.interop.peers import PATTERN, PIECE_BYTES, Peer
from tests.patience import PATIENCE_SECONDS

from aigrid.node.network.libp2p_transport import Libp2pTransport
from aigrid.node.network.streams import RpcClient, RpcServer, Send
from aigrid.node.network.transport import RPC_PROTOCOL, Stream
from aigrid.protocol.errors import RemoteError
from aigrid.protocol.limits import LIMITS

pytestmark = pytest.mark.process
MIB = 1 << 20
BULK_BYTES = 16 * MIB
ENDLESS_BYTES = 1 << 40
STREAMS = 300
DIALS = ("ours", "theirs")


class Ours:
    """Our node with the same handlers as the peer; `ended` says how its sources ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.node: Libp2pTransport

    async def sink(self, stream: Stream) -> None:
        left = int.from_bytes(await exactly(stream, 8), "big")
        digest = hashlib.sha256()
        while left:
            part = await stream.receive_some(PIECE_BYTES)
            assert part
            digest.update(part)
            left -= len(part)
        await stream.send_all(digest.digest())
        await stream.close()

    async def source(self, stream: Stream) -> None:
        try:
            count = int.from_bytes(await exactly(stream, 8), "big")
            for start in range(0, count, PIECE_BYTES):
                await stream.send_all(PATTERN[: min(PIECE_BYTES, count - start)])
            await stream.close()
        except RemoteError:
            self.ended.append("broken")
            raise
        self.ended.append("end")


async def exactly(stream: Stream, count: int) -> bytes:
    got = b""
    while len(got) < count:
        part = await stream.receive_some(count - len(got))
        assert part
        got += part
    return got


async def echo_rpc(_peer_id: str, request: bytes, send: Send) -> None:
    await send(request)


@pytest.fixture(scope="module", params=["js", "stock"])
def process(request: pytest.FixtureRequest) -> Iterator[Peer]:
    with peers.running(request.param) as peer:
        yield peer


@pytest.fixture(params=DIALS)
async def met(process: Peer, start: nodes.Start, request: pytest.FixtureRequest) -> Ours:
    """Our node, connected to the peer, whichever of the two dialed."""
    ours = Ours()
    ours.node = await start(
        handlers={
            peers.SINK: ours.sink,
            peers.SOURCE: ours.source,
            RPC_PROTOCOL: RpcServer(echo_rpc).serve,
        }
    )
    ours.node.admit([process.where.peer_id])
    address = f"{ours.node.listen_addresses[0]}/p2p/{ours.node.peer_id}"
    if request.param == "ours":
        await ours.node.connect(process.where)
        await process.ask("use", address=address)
    else:
        await process.ask("dial", address=address)
        await nodes.eventually(lambda: process.where.peer_id in ours.node.connected())
    await process.ask("served")
    return ours


async def test_requests_are_answered_both_ways(
    process: Peer, met: Ours, nursery: trio.Nursery
) -> None:
    client = RpcClient(met.node)
    await nursery.start(client.run)
    with trio.fail_after(PATIENCE_SECONDS):
        for i in range(50):
            answer = await client.ask(process.where.peer_id, b"%d" % i, silence_seconds=60)
            assert answer == b"%d" % i
    assert await process.ask("rpc", count=50) == 50
    nursery.cancel_scope.cancel()


async def test_many_streams_one_after_the_other(process: Peer, met: Ours) -> None:
    for _ in range(STREAMS):
        assert await nodes.ask(met.node, process.where.peer_id, PATTERN[:1024]) == PATTERN[:1024]
    assert await process.ask("echo", count=STREAMS) == STREAMS


async def test_many_streams_at_once_to_them(process: Peer, met: Ours) -> None:
    """Each is open before the first is read from."""
    streams: list[Stream] = []

    async def begin() -> None:
        stream = await met.node.open_stream(process.where.peer_id, peers.ECHO)
        await stream.send_all(PATTERN[:1024])
        streams.append(stream)

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            for _ in range(STREAMS):
                nursery.start_soon(begin)
        assert len(streams) == STREAMS
        for stream in streams:
            assert await exactly(stream, 1024) == PATTERN[:1024]
        for stream in streams:
            await stream.close()
    assert await process.ask("echo", count=1) == 1


async def test_many_streams_at_once_from_them(process: Peer, met: Ours) -> None:
    """More than one peer may have: the rest is refused, and served when it asks again."""
    may_have = LIMITS.streams_per_peer_max + LIMITS.library_streams_max
    opened = met.node.counters()["connections_opened"]
    left, rounds = STREAMS, 0
    while left and rounds < STREAMS:
        refused = await process.ask("together", count=left)
        assert left - refused <= may_have
        assert rounds or left - refused >= LIMITS.streams_per_peer_max, "those it may have"
        left, rounds = refused, rounds + 1
    assert not left
    assert rounds >= STREAMS // may_have
    counters = met.node.counters()
    assert counters["streams_refused"] > 0
    assert (counters["protocol_broken"], counters["connections_opened"]) == (0, opened)
    assert await nodes.ask(met.node, process.where.peer_id, b"alive") == b"alive"


async def test_bulk_arrives_whole_both_ways(process: Peer, met: Ours) -> None:
    expected = peers.digest_of_pattern(BULK_BYTES)
    with trio.fail_after(PATIENCE_SECONDS):
        up = await met.node.open_stream(process.where.peer_id, peers.SINK)
        await up.send_all(BULK_BYTES.to_bytes(8, "big"))
        for _ in range(BULK_BYTES // PIECE_BYTES):
            await up.send_all(PATTERN)
        assert (await exactly(up, 32)).hex() == expected
        await up.close()
        down = await met.node.open_stream(process.where.peer_id, peers.SOURCE)
        await down.send_all(BULK_BYTES.to_bytes(8, "big"))
        digest = hashlib.sha256()
        while part := await down.receive_some(PIECE_BYTES):
            digest.update(part)
        assert digest.hexdigest() == expected
        await down.close()
    assert await process.ask("push", bytes=BULK_BYTES) == expected
    assert await process.ask("pull", bytes=BULK_BYTES) == expected


async def test_stream_given_up_in_the_middle_ends_for_the_other_and_harms_none(
    process: Peer, met: Ours
) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        stream = await met.node.open_stream(process.where.peer_id, peers.SOURCE)
        await stream.send_all(ENDLESS_BYTES.to_bytes(8, "big"))
        await exactly(stream, 1024)
        await stream.reset()
    assert await told(lambda: process.ask("served")) == [f"{peers.SOURCE} broken"]
    await process.ask("abort", bytes=ENDLESS_BYTES)
    await nodes.eventually(lambda: met.ended == ["broken"])
    assert await nodes.ask(met.node, process.where.peer_id, b"alive") == b"alive"
    assert await process.ask("echo", count=1) == 1


async def test_gossip_is_heard_both_ways(process: Peer, met: Ours) -> None:
    topic = "topic"
    async with met.node.subscribe(topic) as heard:
        await process.ask("subscribe", topic=topic)
        await nodes.eventually(lambda: met.node._library.gossip.mesh.get(topic))
        await told(lambda: process.ask("mesh", topic=topic))
        await process.ask("heard")
        await met.node.publish(topic, b"from us")
        assert await told(lambda: process.ask("heard")) == [b"from us".hex()]
        await process.ask("publish", topic=topic, data=b"from them".hex())
        with trio.fail_after(PATIENCE_SECONDS):
            assert await heard.__anext__() == (process.where.peer_id, b"from them")


async def test_hints_are_found_both_ways(process: Peer, met: Ours) -> None:
    node = met.node
    ours, theirs = f"ours {node.peer_id}", f"theirs {node.peer_id}"
    await nodes.eventually(node._library.dht.routing_table.size)
    await node.provide(ours)

    async def seen_by_them() -> bool:
        return node.peer_id in await process.ask("providers", key=key(ours))

    async def seen_by_us() -> bool:
        return process.where.peer_id in {one.peer_id for one in await node.find_providers(theirs)}

    assert await told(seen_by_them)
    await process.ask("provide", key=key(theirs))
    assert await told(seen_by_us)


async def told(ask: Callable[[], Awaitable[Any]]) -> Any:
    """What `ask` gives once that is not nothing: no event reaches over to another process."""
    with trio.fail_after(PATIENCE_SECONDS):
        while not (said := await ask()):  # noqa: ASYNC110
            await trio.sleep(0.05)
    return said


def key(name: str) -> str:
    return (b"\x12\x20" + hashlib.sha256(name.encode()).digest()).hex()
