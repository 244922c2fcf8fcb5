"""The columns that run on trio: plain TCP, py-libp2p as it is shipped, and this node's transport.

Of each there are two functions: one serves and prints its address, one gives a `Peer` of it.
libp2p is imported where it is used: it takes a second.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio
from scripts.bench.data_path.figures import ECHO, TOKENS, WRITE
from scripts.bench.data_path.peer import (
    Ask,
    BytesPeer,
    ByteStream,
    Peer,
    numbers,
    request,
    serve_bytes,
    timed_tokens,
)

from aigrid.node.daemon import wall_ms
from aigrid.node.network.streams import RpcClient, RpcServer, Send
from aigrid.node.network.transport import RPC_PROTOCOL, PeerAddress, Transport
from aigrid.protocol.identity import Identity

PROTOCOL = "/bench/bytes/1"
SILENCE_SECONDS = 30.0
CALLER, SERVER = Identity(b"c" * 32), Identity(b"s" * 32)
LOCAL = "/ip4/127.0.0.1/tcp/0"


@dataclass(frozen=True)
class Column:
    """`serve` prints an address and goes on for ever; `peer` is its caller's end."""

    serve: Callable[[], Awaitable[None]]
    peer: Callable[[str], AbstractAsyncContextManager[Peer]]


def say(address: str) -> None:
    print(json.dumps({"address": address}), flush=True)


# --- plain TCP


class TcpStream:
    """A `ByteStream`."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.send_all = stream.send_all
        self.receive_some = stream.receive_some
        self.close = stream.aclose


async def serve_raw() -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await serve_bytes(TcpStream(stream))

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    say(str(listeners[0].socket.getsockname()[1]))
    await trio.serve_listeners(answer, listeners)


@asynccontextmanager
async def raw_peer(address: str) -> AsyncIterator[Peer]:
    """Each stream is a connection."""
    held: list[ByteStream] = []

    async def open_stream() -> ByteStream:
        return TcpStream(await trio.open_tcp_stream("127.0.0.1", int(address)))

    async def connect() -> None:
        held.append(await open_stream())

    async def disconnect() -> None:
        await held.pop().close()

    yield BytesPeer(connect, disconnect, open_stream)


# --- py-libp2p as it is shipped


class StockStream:
    """A `ByteStream` over the library's."""

    def __init__(self, stream: Any) -> None:
        self.send_all = stream.write
        self.close = stream.close
        self._read = stream.read

    async def receive_some(self, max_bytes: int) -> bytes:
        from libp2p.network.stream.exceptions import StreamEOF

        try:
            return bytes(await self._read(max_bytes))
        except StreamEOF:
            return b""


def stock_host() -> tuple[Any, Any]:
    """A host of the library's own making, and where it is to listen."""
    from libp2p import new_host
    from multiaddr import Multiaddr

    return new_host(listen_addrs=[Multiaddr(LOCAL)]), [Multiaddr(LOCAL)]


async def serve_stock() -> None:
    async def answer(stream: Any) -> None:
        try:
            await serve_bytes(StockStream(stream))
        except Exception:  # noqa: BLE001 - boundary: what leaves a handler ends the host
            pass

    host, listen = stock_host()
    host.set_stream_handler(PROTOCOL, answer)
    async with host.run(listen_addrs=listen):
        say(stock_address(host))
        await trio.sleep_forever()


def stock_address(host: Any) -> str:
    address = str(host.get_addrs()[0])
    return address if "/p2p/" in address else f"{address}/p2p/{host.get_id()}"


@asynccontextmanager
async def stock_peer(address: str) -> AsyncIterator[Peer]:
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from libp2p.security.noise.io import NoiseTransportReadWriter
    from libp2p.stream_muxer.yamux.yamux import Yamux
    from multiaddr import Multiaddr

    host, listen = stock_host()
    async with host.run(listen_addrs=listen):
        info = info_from_p2p_addr(Multiaddr(address))

        async def connect() -> None:
            await host.connect(info)
            (connection, *_) = host.get_network().connections[info.peer_id]
            muxer = connection.muxed_conn
            assert type(muxer) is Yamux
            assert type(muxer.secured_conn.conn) is NoiseTransportReadWriter

        async def disconnect() -> None:
            await host.disconnect(info.peer_id)

        async def open_stream() -> ByteStream:
            return StockStream(await host.new_stream(info.peer_id, [PROTOCOL]))

        yield BytesPeer(connect, disconnect, open_stream)


# --- ours: bare streams of the transport, and requests as nodes make them


def transport(identity: Identity, other: Identity) -> Transport:
    from aigrid.node.network.libp2p_transport import Libp2pTransport

    made = Libp2pTransport(
        signing_seed=identity.seed, topics=frozenset(), now_ms=wall_ms, listen=(LOCAL,)
    )
    made.admit([other.peer_id])
    return made


async def serve_ours() -> None:
    """Both."""
    ours = transport(SERVER, CALLER)
    ours.handle_stream(PROTOCOL, serve_bytes)
    ours.handle_stream(RPC_PROTOCOL, RpcServer(answer_rpc).serve)
    async with ours.running():
        say(ours.listen_addresses[0])
        await trio.sleep_forever()


async def answer_rpc(_peer: str, asked: bytes, send: Send) -> None:
    kind = asked[:1]
    if kind == ECHO:
        await send(asked[1:])
    elif kind == WRITE:
        write_bytes, total_bytes = numbers(asked)
        piece = bytes(write_bytes)
        for _ in range(total_bytes // write_bytes):
            await send(piece)
    elif kind == TOKENS:
        async for made in timed_tokens(*numbers(asked)):
            await send(made)


@asynccontextmanager
async def bare_peer(address: str) -> AsyncIterator[Peer]:
    ours = transport(CALLER, SERVER)
    where = PeerAddress(SERVER.peer_id, (address,))

    async def open_stream() -> ByteStream:
        return await ours.open_stream(SERVER.peer_id, PROTOCOL)

    async with ours.running():
        yield BytesPeer(
            lambda: ours.connect(where), lambda: ours.disconnect(where.peer_id), open_stream
        )


class RpcPeer:
    """A `Peer` that makes requests. Its writes are bodies of an answer: so weights come."""

    def __init__(self, ours: Transport, rpc: RpcClient, address: str) -> None:
        self._ours = ours
        self._rpc = rpc
        self._where = PeerAddress(SERVER.peer_id, (address,))

    async def connect(self) -> None:
        await self._ours.connect(self._where)

    async def disconnect(self) -> None:
        await self._ours.disconnect(SERVER.peer_id)

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[Ask]:
        async def ask(body: bytes) -> bytes:
            return await self._rpc.ask(SERVER.peer_id, ECHO + body, silence_seconds=SILENCE_SECONDS)

        yield ask

    async def ask_fresh(self, body: bytes) -> bytes | None:
        """Streams are pooled."""
        return None

    async def write(self, write_bytes: int, total_bytes: int) -> None:
        asked, got = request(WRITE, write_bytes, total_bytes), 0
        call = self._rpc.call(SERVER.peer_id, asked, silence_seconds=SILENCE_SECONDS)
        async with call as bodies:
            async for body in bodies:
                got += len(body)
        if got != total_bytes // write_bytes * write_bytes:
            raise EOFError

    def tokens(
        self, count: int, interval_ms: int
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        asked = request(TOKENS, count, interval_ms)
        return self._rpc.call(SERVER.peer_id, asked, silence_seconds=SILENCE_SECONDS)


@asynccontextmanager
async def rpc_peer(address: str) -> AsyncIterator[Peer]:
    ours = transport(CALLER, SERVER)
    rpc = RpcClient(ours)
    async with ours.running(), trio.open_nursery() as nursery:
        await nursery.start(rpc.run)
        yield RpcPeer(ours, rpc, address)
        nursery.cancel_scope.cancel()


COLUMNS = {
    "raw": Column(serve_raw, raw_peer),
    "stock": Column(serve_stock, stock_peer),
    "ours": Column(serve_ours, rpc_peer),
    "bare": Column(serve_ours, bare_peer),
}
