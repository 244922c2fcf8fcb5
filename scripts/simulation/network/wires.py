"""TCP between simulated nodes: what `node/network/tcp.py` has of the operating system, in memory.

Everything above is the node's own and py-libp2p's: Noise, the muxer, GossipSub, Kad-DHT. Below
there are bytes in order, with the latencies and losses of `Conditions`, where what is lost comes
later; the writer waits for a reader that is a window behind. What nodes say to each other arrives
in steps of a millisecond, so that much of it arrives at once and costs little.
"""

import hashlib
import heapq
import math
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final

import trio
from libp2p.io.exceptions import ConnectionClosedError
from scripts.simulation.network.conditions import Conditions
from scripts.simulation.network.spread import Spread

from aigrid.node.network.tcp import HostPort, Listening, TcpStream, Traffic
from aigrid.protocol.errors import Code, UsageError

WINDOW_BYTES: Final = 1 << 20
TICK_SECONDS: Final = 0.001
FIRST_PORT: Final = 32768

Accept = Callable[[TcpStream], Awaitable[None]]
# (tick, order, source, target, what to do there)
_Posted = tuple[int, int, str, str, Callable[[], None]]


class Wires(Conditions):
    """A network of byte streams. `run` carries what is written, for as long as it runs."""

    def __init__(self, rng: random.Random, latency_ms: Spread, loss: Spread) -> None:
        super().__init__(rng, latency_ms, loss)
        self.listening: dict[str, Port] = {}
        self.streams: defaultdict[str, dict[WireStream, None]] = defaultdict(dict)
        self._on_the_way: list[_Posted] = []
        self._held: list[_Posted] = []
        self._order = 0
        self._sleep = trio.CancelScope()
        self._digest = hashlib.sha256()

    def sockets(self, peer_id: str, host: str) -> "WireSockets":
        """What a node connects with, from this IP address."""
        return WireSockets(self, peer_id, host)

    def sent(self) -> tuple[object, ...]:
        """With a hash of who wrote how much to whom, and when it arrived: so does a trace."""
        return *super().sent(), self._digest.hexdigest()

    async def run(self) -> None:
        """Carry everything, until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._next_due()) as self._sleep:
                await trio.sleep_forever()
            self._deliver(trio.current_time())

    def _next_due(self) -> float:
        return self._on_the_way[0][0] * TICK_SECONDS if self._on_the_way else math.inf

    def _deliver(self, now: float) -> None:
        while self._next_due() <= now:
            posted = heapq.heappop(self._on_the_way)
            _, _, source, target, act = posted
            if self.blocked(source, target):
                self._held.append(posted)
            else:
                act()

    def carry(self, source: str, target: str, act: Callable[[], None], size_bytes: int = 0) -> None:
        """Do `act` at the target, after all that went there before."""
        seconds = self.travel_seconds(source, target, size_bytes) or 0.0
        tick = math.ceil((trio.current_time() + seconds) / TICK_SECONDS - 1e-6)
        self._order += 1
        self._digest.update(f"{tick} {source} {target} {size_bytes}\n".encode())
        self._carry((tick, self._order, source, target, act))

    def _carry(self, posted: _Posted) -> None:
        heapq.heappush(self._on_the_way, posted)
        if self._on_the_way[0] is posted:
            self._sleep.deadline = self._next_due()

    def _resume(self) -> None:
        held, self._held = self._held, []
        for posted in held:  # as old as they are, so before what was said later
            self._carry(posted)

    def kill(self, peer_id: str) -> None:
        """As kill -9 does: its sockets are gone, which others hear a latency later."""
        self._frozen.discard(peer_id)
        for address in [a for a, port in self.listening.items() if port.peer_id == peer_id]:
            del self.listening[address]
        for stream in tuple(self.streams[peer_id]):
            stream.abort()


class WireStream(TcpStream):
    """One end of a connection."""

    def __init__(  # what the base keeps of its socket is not made
        self, wires: Wires, ends: tuple[str, str], remote: tuple[str, int], traffic: Traffic
    ) -> None:
        self._wires = wires
        self._source, self._target = ends
        self._remote = remote
        self._traffic = traffic
        self._buffer = bytearray()
        self.received_bytes = 0
        self.peer: WireStream | None = None
        self._arrived = bytearray()
        self._unread_bytes = 0  # ours, that the peer has not read
        self._ended = self._dead = False
        self._news, self._room = trio.lowlevel.ParkingLot(), trio.lowlevel.ParkingLot()
        wires.streams[self._source][self] = None

    async def _receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._arrived:
            if self._ended:
                return b""
            if self._dead:
                raise ConnectionClosedError("closed here", transport="tcp")
            await self._news.park()
        data = bytes(self._arrived)
        self._arrived.clear()
        if self.peer is not None:
            self.peer.has_read(len(data))
        self.received_bytes += len(data)
        self._traffic.received += len(data)
        return data

    async def wait_spoken(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._arrived:
            if self._dead:
                raise ConnectionClosedError("ended without a word", transport="tcp")
            await self._news.park()

    def has_read(self, size_bytes: int) -> None:
        """The peer took so much."""
        self._unread_bytes -= size_bytes
        self._room.unpark_all()

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                await self.wait_writable()
                view = view[self.send_now([view]) :]
        except (trio.ClosedResourceError, OSError) as error:
            raise ConnectionClosedError(str(error), transport="tcp") from error

    def send_now(self, parts: list[bytes] | list[memoryview]) -> int:
        if self._dead:
            raise BrokenPipeError("the connection is gone")
        data = b"".join(parts)[: max(0, WINDOW_BYTES - self._unread_bytes)]
        if data:
            self._unread_bytes += len(data)
            self._traffic.sent += len(data)
            self._post(partial(self._there().arrive, data), len(data))
        return len(data)

    @property
    def unacknowledged_bytes(self) -> int:
        return self._unread_bytes

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()
        while self._unread_bytes >= WINDOW_BYTES and not self._dead:
            await self._room.park()

    def _there(self) -> "WireStream":
        if self.peer is None:
            raise BrokenPipeError("not connected")
        return self.peer

    def _post(self, act: Callable[[], None], size_bytes: int = 0) -> None:
        self._wires.carry(self._source, self._target, act, size_bytes)

    def arrive(self, data: bytes) -> None:
        """The peer's bytes are here."""
        if not self._dead:
            self._arrived += data
            self._news.unpark_all()

    def closed(self) -> None:
        """The peer closed, or died; what it wrote before can still be read."""
        self._ended = True
        self._end()

    def abort(self) -> None:
        if not self._dead:
            self._end()
            if self.peer is not None:
                self._post(self.peer.closed)

    @property
    def is_dead(self) -> bool:
        return self._dead

    async def close(self) -> None:
        self.abort()
        await trio.lowlevel.checkpoint()

    def _end(self) -> None:
        self._dead = True
        self._wires.streams[self._source].pop(self, None)
        self._news.unpark_all()
        self._room.unpark_all()


class Port:
    """Where a node listens: see `tcp.Listening`."""

    def __init__(self, wires: Wires, peer_id: str, address: str) -> None:
        self.peer_id = peer_id
        self.addresses = (address,)
        self._wires = wires
        self._serve: Callable[[WireStream], None] | None = None
        self.traffic = Traffic()

    async def serve(self, accept: Accept, traffic: Traffic, tasks: trio.Nursery) -> None:
        async def take(stream: WireStream) -> None:
            try:
                await accept(stream)
            finally:
                stream.abort()

        self.traffic = traffic
        self._serve = lambda stream: tasks.start_soon(take, stream)
        try:
            await trio.sleep_forever()
        finally:
            self._serve = None
            (address,) = self.addresses
            if self._wires.listening.get(address) is self:
                del self._wires.listening[address]

    def connect(self, dialer: WireStream, remote: tuple[str, int]) -> None:
        """Accept it, if somebody serves."""
        if self._serve is None:
            return
        ours = WireStream(self._wires, (self.peer_id, dialer._source), remote, self.traffic)  # noqa: SLF001 (another of us)
        ours.peer, dialer.peer = dialer, ours
        self._serve(ours)


class WireSockets:
    """See `tcp.Tcp`; of one node."""

    def __init__(self, wires: Wires, peer_id: str, host: str) -> None:
        self._wires = wires
        self._peer_id = peer_id
        self._host = host
        self._dialed = 0

    async def listen(self, wanted: Iterable[str]) -> Listening:
        await trio.lowlevel.checkpoint()
        (address,) = wanted
        if address in self._wires.listening:
            raise UsageError(f"{address} is in use", Code.PORT_IN_USE)
        port = self._wires.listening[address] = Port(self._wires, self._peer_id, address)
        return port

    async def dial(self, at: HostPort, traffic: Traffic) -> TcpStream:
        port = self._wires.listening.get(str(at))
        if port is None:
            await trio.sleep(2 * self._wires.draw_latency_seconds())
            raise ConnectionRefusedError(f"nobody listens at {at}")
        stream = WireStream(self._wires, (self._peer_id, port.peer_id), (at.host, at.port), traffic)
        answered = trio.Event()

        def arrive() -> None:
            if not stream.is_dead and self._wires.listening.get(str(at)) is port:
                port.connect(stream, remote)
            self._wires.carry(port.peer_id, self._peer_id, answered.set)

        self._dialed += 1
        remote = (self._host, FIRST_PORT + self._dialed % FIRST_PORT)
        self._wires.carry(self._peer_id, port.peer_id, arrive)
        try:
            await answered.wait()
        except trio.Cancelled:
            stream.abort()
            raise
        if stream.peer is None:
            stream.abort()
            raise ConnectionRefusedError(f"nobody listens at {at}")
        return stream
