"""Peers that speak Noise and Yamux by the book and may say anything above: strangers and members."""

import itertools
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.kad_dht.pb.kademlia_pb2 import Message as DhtMessage
from libp2p.pubsub.pb import rpc_pb2
from libp2p.stream_muxer.exceptions import MuxedStreamEOF
from scripts.nodes import NodeProcess

from aigrid.node.control_client import SOCKET_FILE, ControlClient
from aigrid.node.network import compat, negotiation
from aigrid.node.network.muxed_stream import MuxedStream
from aigrid.node.network.muxer import Muxer
from aigrid.node.network.tcp import TcpStream, Traffic
from aigrid.node.network.transport import JOIN_PROTOCOL, RPC_PROTOCOL
from aigrid.protocol.framing import Frame, FrameDecoder, FrameKind
from aigrid.protocol.framing import encode as frame
from aigrid.protocol.identity import Identity
from aigrid.protocol.membership import parse_invitation
from aigrid.protocol.messages import (
    RECORDS_TOPIC,
    Infer,
    JoinAnswer,
    Ping,
    Pong,
    Present,
    Redeem,
    Welcome,
    decode_join_answer,
    decode_join_request,
    decode_rpc_request,
    encode,
)

PUSH = compat.IDENTIFY_PUSH_PROTOCOL
PROTOCOLS = (
    JOIN_PROTOCOL,
    RPC_PROTOCOL,
    compat.MESHSUB_PROTOCOL,
    compat.KAD_PROTOCOL,
    compat.IDENTIFY_PROTOCOL,
    PUSH,
    "/ipfs/ping/1.0.0",
)
GARBAGE = (
    b"\xff" * 64,
    b"\x04\xff\xfe\xfd\n",
    b"\xff\xff\xff\xff\x7f" + b"x" * 40,
    b"\xff" * 9 + b"\x01" + b"z" * 9,
    (1 << 31).to_bytes(4, "big") + b"y" * 60,
    bytes(range(200)),
    b"\x00" * 50,
    b"\x0a\x0a\x08\x01\x12\x06\xff\xfe\xfd\xfc\xfb\xfa",
)
ELSEWHERE = "127.0.0.2"  # an address of this machine that no honest node of the tests uses
Handler = Callable[[MuxedStream], Awaitable[None]]
Evil = Callable[[MuxedStream, Infer], Awaitable[None]]
_seeds = itertools.count(7_000)


def new_identity() -> Identity:
    return Identity(next(_seeds).to_bytes(32, "big"))


def host_port(node: NodeProcess) -> tuple[str, int]:
    parts = node.ready["listen"][0].split("/")
    return parts[2], int(parts[4])


def varint(body: bytes) -> bytes:
    return negotiation.encode_varint(len(body)) + body


@dataclass(eq=False)
class Attacker:
    """One PeerId. What nodes open towards it is served from `table`, else reset."""

    nursery: trio.Nursery
    identity: Identity = field(default_factory=new_identity)
    source: str = ""
    table: dict[str, Handler] = field(default_factory=dict)
    membership: bytes = b""
    evil: Evil | None = None
    infers: list[Infer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.library = compat.build(self.identity.seed, lambda: ())
        self.peer_id = self.identity.peer_id

    # Connections

    async def dial(self, node: NodeProcess) -> Muxer:
        """Raises whatever the node does to it."""
        sock = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if self.source:
                await sock.bind((self.source, 0))
            await sock.connect(host_port(node))
            stream = TcpStream(trio.SocketStream(sock), Traffic())
            expected = compat.ID.from_base58(node.peer_id)
            muxer = await compat.secure(stream, self.library.noise, expected)
        except BaseException:
            sock.close()
            raise
        self.run(muxer)
        await muxer.event_started.wait()
        return muxer

    def run(self, muxer: Muxer) -> None:
        muxer.window_bytes = 1 << 20
        self.nursery.start_soon(muxer.start)
        self.nursery.start_soon(self._serve, muxer)

    async def listen(self) -> str:
        """Be dialed; the address."""
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def accept(stream: trio.SocketStream) -> None:
            with suppress(Exception):
                tcp = TcpStream(stream, Traffic())
                muxer = await compat.secure(tcp, self.library.noise, None)
                self.run(muxer)
                await muxer.event_closed.wait()

        self.nursery.start_soon(trio.serve_listeners, accept, [listener])
        return f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}"

    async def _serve(self, muxer: Muxer) -> None:
        with suppress(compat.MuxedConnUnavailable):
            while True:
                self.nursery.start_soon(self._one, await muxer.accept_stream())

    async def _one(self, stream: MuxedStream) -> None:
        with suppress(Exception):
            await self.table[await negotiation.offer(stream, self.table.keys())](stream)
            stream.end()
            return
        stream.abandon()

    # Talking

    @staticmethod
    async def open(muxer: Muxer, protocol: str) -> MuxedStream:
        """Raises RemoteError(not_member) where it is not served, and when the stream is reset."""
        stream = await muxer.open_stream()
        await negotiation.select(stream, protocol)
        return stream

    async def is_served(self, muxer: Muxer, protocol: str) -> bool:
        try:
            stream = await self.open(muxer, protocol)
        except Exception:  # noqa: BLE001 - however it is refused
            return False
        stream.abandon()
        return True

    async def join(self, muxer: Muxer, message: Any) -> JoinAnswer:
        """One exchange of the join protocol; bytes are sent as they are."""
        stream = await self.open(muxer, JOIN_PROTOCOL)
        body = message if isinstance(message, bytes) else encode(message)
        await stream.write(len(body).to_bytes(4, "big") + body)
        stream.end()
        answer = await read_all(stream)
        stream.abandon()
        return decode_join_answer(answer[4:])

    # As a member

    async def become_member(self, authority: NodeProcess) -> Muxer:
        """Invited and let in as anybody is."""
        control = ControlClient(authority.data_dir / SOCKET_FILE)  # quicker than a command
        params = {"did": self.identity.did}
        text = await trio.to_thread.run_sync(control.call, "invite", params)
        record, _ = parse_invitation(str(text["invitation"]))
        muxer = await self.dial(authority)
        answer = await self.join(muxer, Redeem(record.raw))
        assert isinstance(answer, Welcome)
        self.membership = answer.membership
        self.behave()
        return muxer

    async def meet(self, node: NodeProcess) -> Muxer:
        """Connect to another member and be one to it."""
        muxer = await self.dial(node)
        assert isinstance(await self.join(muxer, Present(self.membership)), Welcome)
        return muxer

    def behave(self) -> None:
        """Serve what a member serves, so that nodes keep to us; `evil` answers requests."""
        self.table = {
            JOIN_PROTOCOL: self._welcome,
            RPC_PROTOCOL: self._rpc,
            compat.MESHSUB_PROTOCOL: drain,
            compat.IDENTIFY_PROTOCOL: self._identify,
        }

    async def _welcome(self, stream: MuxedStream) -> None:
        message = await read_frame(stream)
        presented: bytes = _presented(message)
        body = encode(Welcome(presented, self.membership))
        await stream.write(len(body).to_bytes(4, "big") + body)
        stream.end()
        await drain(stream)

    async def _identify(self, stream: MuxedStream) -> None:
        await stream.write(compat.reduced_identify(self.library.host, tuple(self.table)))

    async def _rpc(self, stream: MuxedStream) -> None:
        decoder = FrameDecoder()
        with suppress(compat.MuxedStreamError):
            while data := await stream.read(65536):
                for one in decoder.feed(data):
                    await self._answer(stream, one)

    async def _answer(self, stream: MuxedStream, one: Frame) -> None:
        if one.kind is FrameKind.CANCEL:
            await stream.write(frame(FrameKind.CANCEL))
        if one.kind is not FrameKind.REQUEST:
            return
        request = decode_rpc_request(one.body)
        if isinstance(request, Infer) and self.evil is not None:
            self.infers.append(request)
            await self.evil(stream, request)
            return
        if isinstance(request, Ping):
            await stream.write(frame(FrameKind.DATA, encode(Pong(time.time_ns() // 1_000_000))))
        await stream.write(frame(FrameKind.END))

    # Gossip

    def message(self, data: bytes, *, seqno: int, publisher: str = "", signed: bool = True) -> Any:
        """A pubsub message, signed with our key whoever is said to publish it."""
        said = compat.ID.from_base58(publisher or self.peer_id)
        made = rpc_pb2.Message(
            from_id=said.to_bytes(),
            data=data,
            seqno=seqno.to_bytes(8, "big"),
            topicIDs=[RECORDS_TOPIC],
        )
        if signed:
            key = create_new_key_pair(self.identity.seed).private_key
            made.signature = key.sign(b"libp2p-pubsub:" + made.SerializeToString())
        return made


async def publish(made: Attacker, muxer: Muxer, *bodies: bytes) -> None:
    """Gossip messages, by the book."""
    rpc = rpc_pb2.RPC()
    for number, body in enumerate(bodies):
        rpc.publish.append(made.message(body, seqno=time.time_ns() + number))
    stream = await made.open(muxer, compat.MESHSUB_PROTOCOL)
    await stream.write(varint(rpc.SerializeToString()))


def _presented(message: bytes) -> bytes:
    request = decode_join_request(message)
    assert isinstance(request, Present)
    return request.membership


async def read_frame(stream: MuxedStream) -> bytes:
    """A body behind four bytes of length."""
    size = int.from_bytes(await read_exactly(stream, 4), "big")
    return await read_exactly(stream, size)


async def read_exactly(stream: MuxedStream, count: int) -> bytes:
    got = b""
    while len(got) < count:
        got += await stream.read(count - len(got))
    return got


async def read_all(stream: MuxedStream) -> bytes:
    """Until the end; raises MuxedStreamReset when cut off."""
    got = b""
    with suppress(MuxedStreamEOF):
        while True:
            got += await stream.read(65536)
    return got


async def drain(stream: MuxedStream) -> None:
    with suppress(compat.MuxedStreamError):
        while await stream.read(65536):
            pass


def dht(kind: Any, key: bytes, **fields: Any) -> bytes:
    return varint(DhtMessage(type=kind, key=key, **fields).SerializeToString())


def msgpack_text(text: str) -> bytes:
    return bytes([0xA0 + len(text)]) + text.encode()
