"""Connections and streams of the memory transport: FIFO, a constant latency, bounded buffers."""

import heapq
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from aigrid.node.network.transport import PeerEvent
from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.limits import MIB

# What may be in flight in one direction of a stream, as in a Yamux window.
WINDOW_BYTES: Final = 1 * MIB
# Gossip beyond this many waiting actions is lost.
INBOX_MAX: Final = 8192
# A reader of peer events that is so far behind finds its channel closed.
EVENTS_MAX: Final = 4096


class Pipe:
    """One direction of a stream. An empty chunk is the end."""

    def __init__(self) -> None:
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self.arrival = trio.lowlevel.ParkingLot()
        self.room = trio.lowlevel.ParkingLot()

    @property
    def full(self) -> bool:
        """Whether a writer has to wait."""
        return self._held_bytes >= WINDOW_BYTES

    def put(self, due: float, data: bytes) -> None:
        self._chunks.append((due, data))
        self._held_bytes += len(data)
        if len(self._chunks) == 1:
            self.arrival.unpark_all()

    def due(self) -> float:
        """When something can be read, infinite when nothing is on its way."""
        return self._chunks[0][0] if self._chunks else float("inf")

    def take(self, now: float, max_bytes: int) -> bytes:
        """What has arrived, up to `max_bytes`; the end is never taken out."""
        chunks, parts, room = self._chunks, [], max_bytes
        while chunks and chunks[0][0] <= now and room:
            due, data = chunks[0]
            if not data:
                break
            if len(data) > room:
                chunks[0] = (due, data[room:])
                data = data[:room]
            else:
                chunks.popleft()
            parts.append(data)
            room -= len(data)
        self._held_bytes -= max_bytes - room
        if self.room and not self.full:
            self.room.unpark_all()
        return parts[0] if len(parts) == 1 else b"".join(parts)


class Inbox:
    """What others do to a node, each at its time; `blocked(source)` holds it up or loses it."""

    def __init__(self, *, blocked: Callable[[str], bool]) -> None:
        self._blocked = blocked
        # (due, order, source, whether it may be lost, what to do)
        self._waiting: list[tuple[float, int, str, bool, Callable[[], None]]] = []
        self._held: deque[tuple[str, Callable[[], None]]] = deque(maxlen=INBOX_MAX)
        self._order = 0
        self._arrival = trio.lowlevel.ParkingLot()

    def put(self, due: float, source: str, act: Callable[[], None], *, lossy: bool = False) -> None:
        """Do `act` at `due`; what may be lost is when too much waits."""
        if lossy and len(self._waiting) >= INBOX_MAX:
            return
        self._order += 1
        heapq.heappush(self._waiting, (due, self._order, source, lossy, act))
        if self._waiting[0][1] == self._order:
            self._arrival.unpark_all()

    def clear(self) -> None:
        """Nothing happens to this node any more."""
        self._waiting.clear()
        self._held.clear()

    def resume(self) -> None:
        """Something was healed: try again what was held up."""
        held, self._held = self._held, deque(maxlen=INBOX_MAX)
        for source, act in held:
            self.put(trio.current_time(), source, act)

    async def run(self) -> None:
        """Do what is due, for as long as the node lives."""
        while True:
            due = self._waiting[0][0] if self._waiting else float("inf")
            if due > trio.current_time():
                with trio.move_on_at(due):
                    await self._arrival.park()
                continue
            _, _, source, lossy, act = heapq.heappop(self._waiting)
            if not self._blocked(source):
                act()
            elif not lossy:
                self._held.append((source, act))


class PeerEvents:
    """Who wants to hear of connections."""

    def __init__(self) -> None:
        self._listeners: set[trio.MemorySendChannel[PeerEvent]] = set()

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[trio.MemoryReceiveChannel[PeerEvent]]:
        send, receive = trio.open_memory_channel[PeerEvent](EVENTS_MAX)
        self._listeners.add(send)
        try:
            yield receive
        finally:
            self._listeners.discard(send)
            send.close()
            receive.close()

    def emit(self, event: PeerEvent) -> None:
        for listener in tuple(self._listeners):
            try:
                listener.send_nowait(event)
            except trio.WouldBlock:  # rather no more events than one missing
                self._listeners.discard(listener)
                listener.close()


class Connection:
    """What two transports share; each holds its own `End` of it, possibly at other times."""

    def __init__(self, peers: tuple[str, str]) -> None:
        self.ends = {peer_id: End() for peer_id in peers}
        self.closed = False


class Offer:
    """Somebody waits for an answer of the other side, which may never come."""

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.error: RemoteError | None = None
        self.stream: MemoryStream | None = None
        self.abandoned = False

    def answer(self, *, stream: "MemoryStream | None" = None, error: RemoteError | None) -> None:
        if not self.answered.is_set():
            self.stream, self.error = stream, error
            self.answered.set()


class End:
    """One side's open streams and pending offers."""

    def __init__(self) -> None:
        self.streams: set[MemoryStream] = set()
        self.offers: set[Offer] = set()

    def lose(self) -> None:
        """The connection is gone, as this side sees it."""
        for stream in tuple(self.streams):
            stream.lose()
        for offer in tuple(self.offers):
            offer.answer(error=lost())
        self.offers.clear()


def lost(peer_id: str | None = None) -> RemoteError:
    return RemoteError("the connection was lost", Code.CONNECTION_LOST, peer=peer_id)


def unreachable(peer_id: str) -> RemoteError:
    return RemoteError("the peer cannot be reached", Code.UNREACHABLE, peer=peer_id)


class MemoryStream:
    """See `transport.Stream`. `peer` is its PeerId and IP address.

    `travel_seconds(bytes)` is how long what is sent now takes, `blocked` says whether nothing
    passes between the two peers now, `count` takes (name, bytes), `tell_reset` makes the other side
    lose its end after the latency.
    """

    def __init__(
        self,
        peer: tuple[str, str],
        pipes: tuple[Pipe, Pipe],
        end: End,
        *,
        travel_seconds: Callable[[int], float],
        blocked: Callable[[], bool],
        count: Callable[[str, int], None],
    ) -> None:
        self._peer_id, self._remote_host = peer
        self._incoming, self._outgoing = pipes
        self._end = end
        self._travel_seconds = travel_seconds
        self._blocked = blocked
        self._count = count
        self._lost = self._closed = self._ended = False
        self.tell_reset: Callable[[], None] | None = None
        end.streams.add(self)

    @property
    def peer_id(self) -> str:
        return self._peer_id

    @property
    def remote_host(self) -> str:
        return self._remote_host

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        outgoing = self._outgoing
        while outgoing.full and not self._lost:
            await outgoing.room.park()
        if self._lost or self._closed:
            raise lost(self._peer_id)
        if data:
            outgoing.put(trio.current_time() + self._travel_seconds(len(data)), bytes(data))
            self._count("bytes_sent", len(data))
        await trio.lowlevel.cancel_shielded_checkpoint()

    @property
    def room_bytes(self) -> int:
        return 0

    def send_now(self, data: bytes) -> None:
        """There is never room."""

    def deliver(self, sink: Callable[[bytes], bytes | None]) -> None:
        """Bytes arrive when time passes, not when somebody sends them."""

    async def receive_some(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        incoming = self._incoming
        while not self._lost:
            now, due = trio.current_time(), incoming.due()
            if self._blocked():
                await incoming.arrival.park()
            elif due <= now:
                data = incoming.take(now, max_bytes)
                self._count("bytes_received", len(data))
                if not data:
                    self._ended = True
                    self._forget()
                await trio.lowlevel.cancel_shielded_checkpoint()
                return data
            else:
                with trio.move_on_at(due):
                    await incoming.arrival.park()
        raise lost(self._peer_id)

    async def close(self) -> None:
        if not (self._closed or self._lost):
            self._closed = True
            self._outgoing.put(trio.current_time() + self._travel_seconds(0), b"")
            self._forget()
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def reset(self) -> None:
        if not self._lost:
            self.lose()
            if self.tell_reset is not None:
                self.tell_reset()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def lose(self) -> None:
        """End it here and now; wakes whoever waits on our side."""
        self._lost = True
        self._end.streams.discard(self)
        self.wake()

    def wake(self) -> None:
        """Let a reader and a writer of ours look again."""
        self._incoming.arrival.unpark_all()
        self._outgoing.room.unpark_all()

    def _forget(self) -> None:
        if self._closed and self._ended:
            self._end.streams.discard(self)
