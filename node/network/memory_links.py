"""Connections and streams of the memory transport: FIFO, bounded buffers, no task of their own."""

import heapq
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import structlog
import trio

from aigrid.node.network.transport import PeerEvent
from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.limits import MIB

_log = structlog.get_logger()

# What may be unread in one direction of a stream, as in a Yamux window.
WINDOW_BYTES: Final = 1 * MIB
# Gossip beyond this many waiting actions is lost.
INBOX_MAX: Final = 8192
# A reader of peer events that is so far behind finds its channel closed.
EVENTS_MAX: Final = 4096


class Post:
    """What is on its way in a network: one queue and one task for all nodes.

    With `tick_seconds` everything arrives at a multiple of that, a little late: many at a time cost
    much less than each by itself. What is due at the same time arrives in the order of departure.
    """

    def __init__(self, tick_seconds: float = 0.0) -> None:
        self._tick_seconds = tick_seconds
        # (due, order, to whom, from whom, whether it may be lost, what to do)
        self._waiting: list[tuple[float, int, Inbox, str, bool, Callable[[], None]]] = []
        self._order = 0
        self._arrival = trio.lowlevel.ParkingLot()
        self._turn = trio.Lock()

    def put(
        self,
        due: float,
        inbox: "Inbox",
        source: str,
        act: Callable[[], None],
        *,
        lossy: bool = False,
        order: int = 0,
    ) -> None:
        """What was held up comes with its former `order`."""
        if not order:
            self._order += 1
            order = self._order
            if self._tick_seconds:
                due = math.ceil(due / self._tick_seconds) * self._tick_seconds
        heapq.heappush(self._waiting, (due, order, inbox, source, lossy, act))
        if self._waiting[0][1] == order:
            self._arrival.unpark_all()

    async def run(self) -> None:
        """Do what is due. Every node runs this: one of them works, the others stand in for it."""
        waiting = self._waiting
        async with self._turn:
            while True:
                now = trio.current_time()
                while waiting and waiting[0][0] <= now:
                    _, order, inbox, source, lossy, act = heapq.heappop(waiting)
                    inbox.take(order, source, act, lossy=lossy)
                due = waiting[0][0] if waiting else math.inf
                with trio.move_on_at(due):
                    await self._arrival.park()


class Inbox:
    """What others do to a node, each at its time; `blocked(source)` holds it up or loses it."""

    def __init__(self, post: Post, *, blocked: Callable[[str], bool]) -> None:
        self._post = post
        self._blocked = blocked
        self._held: list[tuple[int, str, Callable[[], None]]] = []
        self._waiting = 0
        self._closed = False

    def put(self, due: float, source: str, act: Callable[[], None], *, lossy: bool = False) -> None:
        """Do `act` at `due`; what may be lost is when too much waits."""
        if lossy and self._waiting >= INBOX_MAX:
            return
        self._waiting += 1
        self._post.put(due, self, source, act, lossy=lossy)

    def take(self, order: int, source: str, act: Callable[[], None], *, lossy: bool) -> None:
        """Something is due."""
        self._waiting -= 1
        if self._closed:
            return
        if not self._blocked(source):
            act()
        elif not lossy:
            self._held.append((order, source, act))

    def clear(self) -> None:
        """Nothing happens to this node any more."""
        self._closed = True
        self._held.clear()

    def resume(self) -> None:
        """Something was healed: try again what was held up, before what came later."""
        held, self._held = self._held, []
        for order, source, act in held:
            self._waiting += 1
            self._post.put(trio.current_time(), self, source, act, order=order)


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
        self.streams: dict[MemoryStream, None] = {}  # in order: what they do is to repeat itself
        self.offers: dict[Offer, None] = {}

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
    """See `transport.Stream`. `peer` is its PeerId and IP address, `other` the peer's side of it.

    `tell(act, bytes)` has something done at the peer once the bytes could have arrived, `blocked`
    says whether nothing passes between the two peers now, `count` takes (name, bytes).
    """

    other: "MemoryStream"

    def __init__(
        self,
        peer: tuple[str, str],
        end: End,
        *,
        tell: Callable[[Callable[[], None], int], None],
        blocked: Callable[[], bool],
        count: Callable[[str, int], None],
    ) -> None:
        self._peer_id, self._remote_host = peer
        self._end = end
        self._tell = tell
        self._blocked = blocked
        self._count = count
        self._unread: deque[bytes] = deque()  # an empty chunk is the end
        self._unread_there = 0
        self._sink: Callable[[bytes], bytes | None] | None = None
        self._arrival = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._lost = self._closed = self._ended = False
        end.streams[self] = None

    @property
    def peer_id(self) -> str:
        return self._peer_id

    @property
    def remote_host(self) -> str:
        return self._remote_host

    # Writing

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._unread_there >= WINDOW_BYTES and not self._lost:
            await self._room.park()
        if self._lost or self._closed:
            raise lost(self._peer_id)
        if data:
            self._send(bytes(data))
        await trio.lowlevel.cancel_shielded_checkpoint()

    @property
    def room_bytes(self) -> int:
        if self._lost or self._closed or self._room:
            return 0
        return max(0, WINDOW_BYTES - self._unread_there)

    def send_now(self, data: bytes) -> None:
        self._send(bytes(data))

    def _send(self, data: bytes) -> None:
        self._unread_there += len(data)
        self._count("bytes_sent", len(data))
        self._tell(partial(self.other.arrive, data), len(data))

    def taken(self, size_bytes: int) -> None:
        """The peer has read so much: there is room for more."""
        self._unread_there -= size_bytes
        if self._room and self._unread_there < WINDOW_BYTES:
            self._room.unpark_all()

    # Reading

    def arrive(self, data: bytes) -> None:
        """Bytes of the peer, or its end, are here."""
        if self._lost:
            return
        if not data or self._sink is None or self._unread:
            self._unread.append(data)
            self._arrival.unpark_all()
            return
        left: bytes | None = None
        try:
            left = self._sink(data)
        except Exception as error:  # noqa: BLE001 - boundary: what serves one stream ends no other
            _log.error("stream_sink_failed", error=type(error).__name__)
            self._give_up()
        if left:
            self._sink = None
            self._unread.append(left)
            self._arrival.unpark_all()
        taken = len(data) - len(left or b"")
        self._count("bytes_received", taken)
        self.other.taken(taken)

    def deliver(self, sink: Callable[[bytes], bytes | None]) -> None:
        self._sink = sink

    async def receive_some(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._lost:
            if not self._unread or self._blocked():
                await self._arrival.park()
                continue
            data = self._take(max_bytes)
            if data:
                self._count("bytes_received", len(data))
                self.other.taken(len(data))
            else:
                self._ended = True
                self._forget()
            await trio.lowlevel.cancel_shielded_checkpoint()
            return data
        raise lost(self._peer_id)

    def _take(self, max_bytes: int) -> bytes:
        """What has arrived, up to `max_bytes`; the end is never taken out."""
        unread, parts, room = self._unread, list[bytes](), max_bytes
        while unread and unread[0] and room:
            data = unread.popleft()
            if len(data) > room:
                unread.appendleft(data[room:])
                data = data[:room]
            parts.append(data)
            room -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # Ending

    async def close(self) -> None:
        if not (self._closed or self._lost):
            self._closed = True
            self._tell(partial(self.other.arrive, b""), 0)
            self._forget()
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def reset(self) -> None:
        self._give_up()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _give_up(self) -> None:
        if not self._lost:
            self.refuse()

    def refuse(self) -> None:
        """End both sides: ours now, the peer's after the latency."""
        self.lose()
        self._tell(self.other.lose, 0)

    def lose(self) -> None:
        """End it here and now; wakes whoever waits on our side."""
        self._lost = True
        self._sink = None
        self._end.streams.pop(self, None)
        self.wake()

    def wake(self) -> None:
        """Let a reader and a writer of ours look again."""
        self._arrival.unpark_all()
        self._room.unpark_all()

    def _forget(self) -> None:
        if self._closed and self._ended:
            self._end.streams.pop(self, None)
