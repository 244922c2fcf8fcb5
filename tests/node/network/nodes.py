"""Nodes, hostile peers and waiting, for the tests of the network. Traffic stays on 127.0.0.1."""

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import trio
from tests.patience import PATIENCE_SECONDS

from aigrid.node.network import compat, negotiation
from aigrid.node.network.libp2p_transport import Libp2pTransport
from aigrid.node.network.muxer import Muxer
from aigrid.node.network.tcp import TcpStream, Traffic, parse_address
from aigrid.node.network.transport import PeerAddress, Stream, StreamHandler
from aigrid.protocol.errors import RemoteError
from aigrid.protocol.identity import Identity

TOPICS = frozenset({"topic", "late", "other"})
LOCAL = ("/ip4/127.0.0.1/tcp/0",)
ECHO, LOBBY = "/test/echo/1", "/test/lobby/1"
Pair = tuple[Libp2pTransport, Libp2pTransport]
_seeds = itertools.count(1)


class Start(Protocol):
    """Starts a node that serves ECHO to members and LOBBY to everybody."""

    async def __call__(
        self,
        *,
        seed: bytes | None = None,
        listen: tuple[str, ...] = LOCAL,
        handlers: Mapping[str, StreamHandler] = ...,
        open_to_strangers: bool = False,
    ) -> Libp2pTransport: ...


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def new_seed() -> bytes:
    return next(_seeds).to_bytes(32, "big")


def peer_id_of_seed(seed: bytes) -> str:
    return Identity(seed).peer_id


def address(node: Libp2pTransport) -> PeerAddress:
    return PeerAddress(node.peer_id, node.listen_addresses)


async def eventually(condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> None:
    """Real sockets have no event for everything: poll until true."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def echo(stream: Stream) -> None:
    while data := await stream.receive_some(65536):
        await stream.send_all(data)


async def ask(node: Libp2pTransport, peer_id: str, data: bytes, protocol: str = ECHO) -> bytes:
    """Send, end, read to the end."""
    answer = b""
    with trio.fail_after(PATIENCE_SECONDS):
        stream = await node.open_stream(peer_id, protocol)
        await stream.send_all(data)
        await stream.close()
        while part := await stream.receive_some(65536):
            answer += part
    return answer


async def befriend(one: Libp2pTransport, two: Libp2pTransport) -> None:
    """Members of one grid, the first connected to the second."""
    one.admit([two.peer_id])
    two.admit([one.peer_id])
    await one.connect(address(two))
    await eventually(lambda: one.peer_id in two.connected())


async def run_in(nursery: trio.Nursery, node: Libp2pTransport) -> None:
    """Start a node; it stops when the nursery is cancelled."""

    async def run(*, task_status: Any) -> None:
        async with node.running():
            task_status.started()
            await trio.sleep_forever()

    await nursery.start(run)


async def raw_connection(target: Libp2pTransport) -> TcpStream:
    at = parse_address(target.listen_addresses[0])
    return TcpStream(await trio.open_tcp_stream(at.host, at.port), Traffic())


class Hostile:
    """A peer that speaks Noise and Yamux properly and may say anything above."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.library = compat.build(new_seed(), lambda: ())
        self.peer_id = str(self.library.peer_id)
        self._nursery = nursery

    async def connect(self, target: Libp2pTransport) -> Muxer:
        tcp = await raw_connection(target)
        expected = compat.ID.from_base58(target.peer_id)
        muxer = await compat.secure(tcp, self.library.noise, expected)
        self._nursery.start_soon(muxer.start)
        await muxer.event_started.wait()
        return muxer

    @staticmethod
    async def protocols(muxer: Muxer) -> set[str]:
        """What `ls` lists."""
        stream = await muxer.open_stream()
        await stream.write(
            negotiation.encode_line(negotiation.HEADER) + negotiation.encode_line("ls")
        )
        assert await negotiation.read_line(stream) == negotiation.HEADER
        length = (await stream.read(1))[0]
        if length > 0x7F:
            length = (length & 0x7F) | ((await stream.read(1))[0] << 7)
        listing = b""
        while len(listing) < length:
            listing += await stream.read(length - len(listing))
        await stream.reset()
        return {line[line.index(b"/") :].decode() for line in listing.split(b"\n") if line}

    @staticmethod
    async def is_served(muxer: Muxer, protocol: str) -> bool:
        stream = await muxer.open_stream()
        try:
            await negotiation.select(stream, protocol)
        except RemoteError:
            return False
        finally:
            await stream.reset()
        return True
