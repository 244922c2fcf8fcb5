"""A stock py-libp2p host that does what it is told in lines of JSON; see peers.py for the calls."""

import hashlib
import json
import logging
import struct
import sys
from typing import Any

import libp2p.kad_dht
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

ECHO, SINK, SOURCE, RPC = "/test/echo/1", "/test/sink/1", "/test/source/1", "/aigrid/rpc/1"
REQUEST, DATA, END = 1, 3, 4
PIECE = 65536
PATTERN = bytes(range(256)) * (PIECE // 256)
LISTEN = [Multiaddr("/ip4/127.0.0.1/tcp/0")]


class Reader:
    def __init__(self, stream: Any) -> None:
        self._stream, self._waiting = stream, b""

    async def some(self) -> bytes:
        """At least one byte; none at the end."""
        if self._waiting:
            waiting, self._waiting = self._waiting, b""
            return waiting
        try:
            return bytes(await self._stream.read(PIECE))
        except StreamEOF:
            return b""

    async def exactly(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            part = await self.some()
            if not part:
                raise EOFError
            got += part
        got, self._waiting = got[:count], got[count:]
        return got

    async def digest(self, count: int) -> str:
        digest = hashlib.sha256()
        while count:
            part = await self.some()
            if not part:
                raise EOFError(f"{count} bytes early")
            digest.update(part)
            count -= len(part)
        return digest.hexdigest()

    async def frame(self) -> tuple[int, bytes]:
        (length,) = struct.unpack("!I", await self.exactly(4))
        body = await self.exactly(length)
        return body[0], body[1:]


def frame(kind: int, body: bytes = b"") -> bytes:
    return struct.pack("!IB", len(body) + 1, kind) + body


async def write_pattern(stream: Any, count: int) -> None:
    for start in range(0, count, PIECE):
        await stream.write(PATTERN[: min(PIECE, count - start)])


async def serve_echo(stream: Any, reader: Reader) -> None:
    while part := await reader.some():
        await stream.write(part)
    await stream.close()


async def serve_sink(stream: Any, reader: Reader) -> None:
    digest = await reader.digest(int.from_bytes(await reader.exactly(8), "big"))
    await stream.write(bytes.fromhex(digest))
    await stream.close()


async def serve_source(stream: Any, reader: Reader) -> None:
    await write_pattern(stream, int.from_bytes(await reader.exactly(8), "big"))
    await stream.close()


async def serve_rpc(stream: Any, reader: Reader) -> None:
    while True:
        kind, body = await reader.frame()
        if kind == REQUEST:
            await stream.write(frame(DATA, body) + frame(END))


class Peer:
    def __init__(self) -> None:
        self.host = new_host(key_pair=create_new_key_pair(), listen_addrs=LISTEN)
        gossip = GossipSub([TProtocol("/meshsub/1.1.0")], 6, 4, 12, heartbeat_interval=1)
        self.gossip = gossip
        self.pubsub = Pubsub(self.host, gossip, strict_signing=True)
        self.dht = KadDHT(self.host, DHTMode.SERVER)
        self.target: Any = None
        self.ended: list[str] = []
        self.messages: list[str] = []
        for protocol, serve in (
            (ECHO, serve_echo),
            (SINK, serve_sink),
            (SOURCE, serve_source),
            (RPC, serve_rpc),
        ):
            self._handle(protocol, serve)

    def _handle(self, protocol: str, serve: Any) -> None:
        async def guarded(stream: Any) -> None:
            try:
                await serve(stream, Reader(stream))
                self.ended.append(f"{protocol} end")
            except Exception:  # noqa: BLE001 - T1: what escapes would end the host
                self.ended.append(f"{protocol} broken")

        self.host.set_stream_handler(TProtocol(protocol), guarded)

    async def _open(self, protocol: str) -> tuple[Any, Reader]:
        stream = await self.host.new_stream(self.target, [TProtocol(protocol)])
        return stream, Reader(stream)

    async def start(self) -> dict[str, str]:
        address = str(self.host.get_transport_addrs()[0])
        return {"peer_id": str(self.host.get_id()), "address": address}

    async def use(self, address: str) -> None:
        self.target = info_from_p2p_addr(Multiaddr(address)).peer_id

    async def dial(self, address: str) -> None:
        await self.use(address)
        await self.host.connect(info_from_p2p_addr(Multiaddr(address)))

    async def echo(self, count: int) -> int:
        for _ in range(count):
            stream, reader = await self._open(ECHO)
            await stream.write(PATTERN[:1024])
            await stream.close()
            assert await reader.exactly(1024) == PATTERN[:1024]
            assert await reader.some() == b""
        return count

    async def together(self, count: int) -> int:
        """All open at the same time; how many of these were refused, and are to be asked again."""
        echoed: list[Any] = []

        async def one() -> None:
            try:
                stream, reader = await self._open(ECHO)
                await stream.write(PATTERN[:1024])
                if await reader.exactly(1024) == PATTERN[:1024]:
                    echoed.append(stream)
            except Exception:  # noqa: BLE001 - refused, whatever the library calls it
                pass

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one)
        for stream in echoed:
            await stream.close()
        return count - len(echoed)

    async def rpc(self, count: int) -> int:
        stream, reader = await self._open(RPC)
        for _ in range(count):
            await stream.write(frame(REQUEST, PATTERN[:1024]))
            assert await reader.frame() == (DATA, PATTERN[:1024])
            assert await reader.frame() == (END, b"")
        await stream.close()
        return count

    async def push(self, bytes: int) -> str:  # noqa: A002 - the name of the call's field
        stream, reader = await self._open(SINK)
        await stream.write(bytes.to_bytes(8, "big"))
        await write_pattern(stream, bytes)
        digest = await reader.exactly(32)
        await stream.close()
        return digest.hex()

    async def pull(self, bytes: int) -> str:  # noqa: A002 - as above
        stream, reader = await self._open(SOURCE)
        await stream.write(bytes.to_bytes(8, "big"))
        digest = await reader.digest(bytes)
        await stream.close()
        return digest

    async def abort(self, bytes: int) -> None:  # noqa: A002 - as above
        stream, reader = await self._open(SOURCE)
        await stream.write(bytes.to_bytes(8, "big"))
        await reader.exactly(1024)
        await stream.reset()

    async def served(self) -> list[str]:
        ended, self.ended = self.ended, []
        return ended

    async def subscribe(self, topic: str) -> None:
        subscription = await self.pubsub.subscribe(topic)

        async def listen() -> None:
            while True:
                message = await subscription.get()
                self.messages.append(message.data.hex())

        trio.lowlevel.spawn_system_task(listen)

    async def mesh(self, topic: str) -> int:
        return len(self.gossip.mesh.get(topic, ()))

    async def publish(self, topic: str, data: str) -> None:
        await self.pubsub.publish(topic, bytes.fromhex(data))

    async def heard(self) -> list[str]:
        messages, self.messages = self.messages, []
        return messages

    async def provide(self, key: str) -> None:
        await self.dht.provider_store.provide(bytes.fromhex(key))

    async def providers(self, key: str) -> list[str]:
        found = await self.dht.provider_store.find_providers(bytes.fromhex(key))
        return [str(one.peer_id) for one in found]


async def main() -> None:
    logging.disable(logging.CRITICAL)
    for name in ("common", "kad_dht", "peer_routing", "provider_store", "value_store"):
        sys.modules[f"libp2p.kad_dht.{name}"].PROTOCOL_ID = TProtocol("/aigrid/kad/1.0.0")  # type: ignore[attr-defined]
    peer = Peer()
    async with (
        peer.host.run(LISTEN),
        background_trio_service(peer.pubsub),
        background_trio_service(peer.gossip),
        background_trio_service(peer.dht),
    ):
        async for line in trio.wrap_file(sys.stdin):
            asked = json.loads(line)
            call = asked.pop("call")
            try:
                said = {"answer": await getattr(peer, call)(**asked)}
            except Exception as error:  # noqa: BLE001 - said to the test, which fails
                said = {"error": f"{call}: {type(error).__name__}: {error}"}
            print(json.dumps(said), flush=True)


if __name__ == "__main__":
    assert libp2p.kad_dht
    trio.run(main)
