"""A node for `reconnects.py`, in a process of its own.

    python scripts/faults/reconnecting_node.py SEED PEER_SEED...

Seeds are numbers. It says its PeerId and address on standard output, and then does what standard
input tells it, a line of JSON each, answering each by a line: `close` or `abort` all connections,
`dial` a `peer_id` at an `address`, `whole` (are all peers there?), `size` (see `Node._size`), and
`types` (how many objects of which type: a list of all objects, which takes a MiB to make).
"""

import gc
import json
import os
import socket
import struct
import sys
import threading
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from aigrid.node.daemon import wall_ms
from aigrid.node.network import connections
from aigrid.node.network.libp2p_transport import Libp2pTransport
from aigrid.node.network.streams import RpcClient, RpcServer, Send
from aigrid.node.network.tcp import TcpStream
from aigrid.node.network.transport import RPC_PROTOCOL, PeerAddress
from aigrid.protocol.errors import AigridError
from aigrid.protocol.identity import Identity

PATIENCE_SECONDS = 30.0
TOPIC = "reconnects"
CALLERS = 2  # for each peer
CALL_SECONDS = 0.05  # from an answer to the next call
GOSSIP_SECONDS = 1.0
SEEK_SECONDS = 5.0
REQUEST_BYTES = 1024

_live: "weakref.WeakSet[Abortable]" = weakref.WeakSet()


class Abortable(TcpStream):
    """A connection whose socket can be taken away, whatever lies above it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        _live.add(self)


def abort_all() -> None:
    for stream in tuple(_live):
        with suppress(OSError):  # it has ended already
            stream._stream.socket.setsockopt(  # noqa: SLF001 - the network is not asked
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            stream.abort()


class Node:
    """One of them."""

    def __init__(self, seed: bytes, peer_ids: Sequence[str]) -> None:
        self.transport = Libp2pTransport(
            signing_seed=seed,
            topics=frozenset({TOPIC}),
            now_ms=wall_ms,
            listen=("/ip4/127.0.0.1/tcp/0",),
        )
        self.transport.admit(peer_ids)
        self.transport.handle_stream(RPC_PROTOCOL, RpcServer(_echo).serve)
        self._client = RpcClient(self.transport)
        self._peer_ids = peer_ids
        self._answered = self._failed = self._heard = 0

    async def run(self) -> None:
        """Until standard input ends."""
        async with self.transport.running(), trio.open_nursery() as nursery:
            await nursery.start(self._client.run)
            for task in (self._listen, self._gossip, self._seek):
                nursery.start_soon(task)
            for peer_id in self._peer_ids:
                for _ in range(CALLERS):
                    nursery.start_soon(self._call, peer_id)
            _say(peer_id=self.transport.peer_id, address=self.transport.listen_addresses[0])
            async with trio.lowlevel.FdStream(os.dup(0)) as commands:
                async for line in _lines(commands):
                    _say(**await self._obey(json.loads(line)))
            nursery.cancel_scope.cancel()

    async def _obey(self, command: dict[str, Any]) -> dict[str, Any]:
        with trio.fail_after(PATIENCE_SECONDS):
            match command["do"]:
                case "close":
                    for peer_id in self.transport.connected():
                        await self.transport.disconnect(peer_id)
                case "abort":
                    abort_all()
                case "dial":
                    with suppress(AigridError):  # `whole` tells
                        address = PeerAddress(command["peer_id"], (command["address"],))
                        await self.transport.connect(address)
                case "whole":
                    return {"whole": self._is_whole()}
                case "size":
                    return self._size()
                case "types":
                    return _types()
        return {}

    def _is_whole(self) -> bool:
        """Whether each peer is connected and gossips with us, and no dead connection is left.

        A peer may have two: both ends dialed at once.
        """
        library = self.transport._library  # noqa: SLF001 - what leaks is in there
        gossiping = {str(peer) for peer in library.pubsub.peers}
        dead = [c for c in library.swarm.get_connections() if c.muxed_conn.dead is not None]
        return set(self._peer_ids) == self.transport.connected() == gossiping and not dead

    def _size(self) -> dict[str, Any]:
        gc.collect()
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return {
            "kib": int(status.partition("VmRSS:")[2].split()[0]),
            "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "threads": threading.active_count(),
            "answered": self._answered,
            "failed": self._failed,
            "heard": self._heard,
        }

    async def _call(self, peer_id: str) -> None:
        request = os.urandom(REQUEST_BYTES)
        while True:
            try:
                answer = await self._client.ask(peer_id, request, silence_seconds=PATIENCE_SECONDS)
                self._answered += answer == request
            except AigridError:
                self._failed += 1
            await trio.sleep(CALL_SECONDS)

    async def _listen(self) -> None:
        async with self.transport.subscribe(TOPIC) as heard:
            async for _ in heard:
                self._heard += 1

    async def _gossip(self) -> None:
        while True:
            await trio.sleep(GOSSIP_SECONDS)
            await self.transport.publish(TOPIC, os.urandom(4 * REQUEST_BYTES))

    async def _seek(self) -> None:
        while True:
            await trio.sleep(SEEK_SECONDS)
            await self.transport.provide(TOPIC)
            await self.transport.find_providers(TOPIC)


def _types() -> dict[str, int]:
    gc.collect()
    return Counter(f"{type(o).__module__}.{type(o).__qualname__}" for o in gc.get_objects())


async def _echo(_peer_id: str, request: bytes, send: Send) -> None:
    await send(request)


def _say(**words: Any) -> None:
    print(json.dumps(words), flush=True)


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[bytes]:
    rest = b""
    async for data in stream:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line


def main() -> None:
    setattr(connections, "TcpStream", Abortable)  # noqa: B010 - no type checker may know
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    seeds = [int(number).to_bytes(32, "big") for number in sys.argv[1:]]
    trio.run(Node(seeds[0], [Identity(seed).peer_id for seed in seeds[1:]]).run)


if __name__ == "__main__":
    main()
