"""RPC streams over the real transport, where they send and receive without tasks of their own."""

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
from libp2p.stream_muxer.exceptions import MuxedStreamError
from tests.node.network import nodes
from tests.patience import PATIENCE_SECONDS

from aigrid.node.network import negotiation
from aigrid.node.network.libp2p_transport import Libp2pTransport
from aigrid.node.network.muxed_stream import MuxedStream
from aigrid.node.network.streams import RpcClient, RpcServer, Send
from aigrid.node.network.transport import RPC_PROTOCOL, Stream
from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.framing import FrameKind, encode
from aigrid.protocol.limits import KIB, LIMITS, MIB

Two = tuple[RpcClient, Libp2pTransport, Libp2pTransport]
Serve = Callable[[Callable[[str, bytes, Send], Awaitable[None]]], Awaitable[Two]]


async def echo(_peer_id: str, request: bytes, send: Send) -> None:
    for start in range(0, len(request) or 1, 60_000):
        await send(request[start : start + 60_000])


@pytest.fixture
def serve(start: nodes.Start, nursery: trio.Nursery) -> Serve:
    async def serve_with(handler: Callable[[str, bytes, Send], Awaitable[None]]) -> Two:
        one, two = await start(), await start(handlers={RPC_PROTOCOL: RpcServer(handler).serve})
        await nodes.befriend(one, two)
        client = RpcClient(one)
        await nursery.start(client.run)
        return client, one, two

    return serve_with


async def whole(client: RpcClient, peer_id: str, request: bytes) -> bytes:
    async with client.call(peer_id, request, silence_seconds=PATIENCE_SECONDS) as answer:
        return b"".join([body async for body in answer])


async def test_answers_of_every_size_arrive_whole_many_at_once(serve: Serve) -> None:
    client, _, two = await serve(echo)
    rng = random.Random(2)

    async def ask(size: int) -> None:
        request = rng.randbytes(size)
        assert await whole(client, two.peer_id, request) == request
        asked.append(size)

    asked: list[int] = []
    sizes = [0, 1, 1024, 65_507, 65_508, 300_000, 2 * MIB, 4 * MIB] + [1024] * 24
    with trio.fail_after(PATIENCE_SECONDS):
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for size in sizes:
                    nursery.start_soon(ask, size)
    assert len(asked) == 3 * len(sizes)


async def test_slow_reader_bounds_what_the_server_may_send(serve: Serve) -> None:
    sent = 0

    async def flood(_peer_id: str, _request: bytes, send: Send) -> None:
        nonlocal sent
        for _ in range(200):
            await send(bytes(32 * KIB))
            sent += 32 * KIB

    client, _, two = await serve(flood)
    got = 0
    with trio.fail_after(PATIENCE_SECONDS):
        async with client.call(two.peer_id, b"", silence_seconds=PATIENCE_SECONDS) as answer:
            async for body in answer:
                assert sent <= got + LIMITS.stream_credit_bytes + 2 * 32 * KIB
                if got < 4 * LIMITS.stream_credit_bytes:
                    await trio.sleep(0.001)
                got += len(body)
    assert got == sent == 200 * 32 * KIB


async def test_random_cancels_leave_the_connection(serve: Serve) -> None:
    client, one, two = await serve(echo)
    rng = random.Random(4)
    with trio.fail_after(PATIENCE_SECONDS):
        for _ in range(100):
            with trio.move_on_after(rng.uniform(0, 0.003)):
                await whole(client, two.peer_id, bytes(rng.choice((100, 200_000))))
        assert await client.ask(two.peer_id, b"x", silence_seconds=9) == b"x"
    assert one.counters()["connections_opened"] == 1


async def read_on(stream: MuxedStream) -> None:
    while True:
        await stream.read()


@pytest.mark.parametrize(
    "junk", [b"\xff" * 50, encode(FrameKind.DATA, b"x"), encode(FrameKind.REQUEST, b"x") * 2]
)
async def test_nonsense_from_a_client_ends_only_its_stream(
    serve: Serve, hostile: nodes.Hostile, junk: bytes
) -> None:
    async def slow(_peer_id: str, request: bytes, send: Send) -> None:
        if request == b"x":
            await trio.sleep_forever()
        await send(request)

    client, _, two = await serve(slow)
    two.admit([hostile.peer_id])
    muxer = await hostile.connect(two)
    stream, other = await muxer.open_stream(), await muxer.open_stream()
    with trio.fail_after(PATIENCE_SECONDS):
        await negotiation.select(stream, RPC_PROTOCOL)
        await stream.write(junk)
        with pytest.raises(MuxedStreamError):
            await read_on(stream)
        await negotiation.select(other, nodes.ECHO)
        assert await client.ask(two.peer_id, b"alive", silence_seconds=9) == b"alive"
    assert muxer.dead is None


async def test_nonsense_from_a_server_is_an_error_of_that_call(start: nodes.Start) -> None:
    async def babble(stream: Stream) -> None:
        with suppress(RemoteError):
            await stream.receive_some(1000)
            await stream.send_all(encode(FrameKind.REQUEST, b"a server asks nothing"))
            await stream.receive_some(1000)

    one, two = await start(), await start(handlers={RPC_PROTOCOL: babble})
    await nodes.befriend(one, two)
    client = RpcClient(one)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RemoteError) as caught:
            await client.ask(two.peer_id, b"x", silence_seconds=9)
        assert caught.value.code is Code.PROTOCOL_VIOLATION
        assert await nodes.ask(one, two.peer_id, b"alive") == b"alive"
        nursery.cancel_scope.cancel()
