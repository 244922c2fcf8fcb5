"""The Transport in virtual time: many nodes in one process, deterministic from a seed.

It models what the services rely on, with the same gate: peers that are not admitted reach only the
protocols registered for strangers. Gossip is flooding to connected members; the DHT is one table
whose entries outlive dead nodes; everybody on the same `lan` is nearby.

Failures: a killed peer's connections die one latency later; between partitioned peers, and to and
from a frozen one, nothing passes while the connections stay (its own tasks still run). What waits
on a stream arrives when the peers are healed; gossip is lost.

Only trio's clock and the given random source are used, no thread and no task per message.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import structlog
import trio

from aigrid.node.network.admitted import Admitted
from aigrid.node.network.memory_gossip import Gossip, MessageId
from aigrid.node.network.memory_links import (
    Connection,
    Inbox,
    MemoryStream,
    Offer,
    PeerEvents,
    lost,
    unreachable,
)
from aigrid.node.network.memory_network import MemoryNetwork
from aigrid.node.network.transport import (
    JOIN_PROTOCOL,
    Nearby,
    PeerAddress,
    PeerChange,
    PeerEvent,
    StreamHandler,
)
from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.limits import LIMITS, Limits

__all__ = ["MemoryNetwork", "MemoryTransport"]

_log = structlog.get_logger()


class MemoryTransport:
    """See `transport.Transport`. Runs once: a restarted node makes a new one."""

    def __init__(
        self,
        network: MemoryNetwork,
        peer_id: str,
        *,
        address: str,
        open_to_strangers: bool = False,
        lan: str = "lan",
        limits: Limits = LIMITS,
    ) -> None:
        self._network = network
        self._peer_id = peer_id
        self._address = address
        self._open = open_to_strangers
        self._limits = limits
        self.lan = lan
        self.announced: tuple[str, str] | None = None
        self.alive = False
        self._members = Admitted(peer_id)
        self._dialable: set[str] = set()
        self._handlers: dict[str, tuple[StreamHandler, bool]] = {}
        self._connections: dict[str, Connection] = {}
        self._events = PeerEvents()
        self._counters: dict[str, int] = {}
        self._gossip = Gossip(peer_id, self._forward, limits.gossip_max_bytes)
        self.inbox = Inbox(network.post, blocked=lambda source: network.blocked(source, peer_id))
        self._nursery: trio.Nursery | None = None

    @property
    def peer_id(self) -> str:
        return self._peer_id

    @property
    def listen_addresses(self) -> tuple[str, ...]:
        return (self._address,)

    @property
    def host(self) -> str:
        """The IP address within a multiaddr; the whole address where it is something else."""
        parts = self._address.split("/")
        return parts[2] if len(parts) > 2 else self._address

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self._network.attach(self)
        self.alive = True
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._network.post.run)
                try:
                    yield
                finally:
                    self.stop()
                    nursery.cancel_scope.cancel()
        finally:
            self.stop()

    def stop(self) -> None:
        """Die: our ends are lost now, those of the peers one latency later."""
        if not self.alive:
            return
        self.alive = False
        self.inbox.clear()
        self._network.detach(self)
        for peer_id in tuple(self._connections):
            self._hang_up(peer_id)

    def resume(self) -> None:
        """Something was healed: look again at what is held up."""
        self.inbox.resume()
        for connection in self._connections.values():
            for stream in connection.ends[self._peer_id].streams:
                stream.wake()

    def _tell(
        self,
        peer: "MemoryTransport",
        act: Callable[[], None],
        size_bytes: int = 0,
        *,
        lossy: bool = False,
    ) -> None:
        if not peer.alive:
            return
        travel = self._network.travel_seconds(self._peer_id, peer.peer_id, size_bytes, lossy=lossy)
        if travel is not None:
            peer.inbox.put(trio.current_time() + travel, self._peer_id, act, lossy=lossy)

    # Membership gate

    def admit(self, peer_ids: Iterable[str]) -> None:
        for peer_id in peer_ids:
            self._members.add(peer_id)

    async def remove(self, peer_id: str) -> None:
        self._members.discard(peer_id)
        self._dialable.discard(peer_id)
        await self.disconnect(peer_id)

    def allow_dial(self, peer_id: str) -> None:
        self._dialable.add(peer_id)

    @property
    def members(self) -> frozenset[str]:
        return self._members.all

    def _is_member(self, peer_id: str) -> bool:
        return self._open or peer_id in self._members

    def _check_dial(self, peer_id: str, protocol: str = JOIN_PROTOCOL) -> None:
        if self._is_member(peer_id):
            return
        if peer_id not in self._dialable or protocol != JOIN_PROTOCOL:
            self._count("dials_refused")
            raise RemoteError("the peer is not a member", Code.NOT_MEMBER, peer=peer_id)

    def _count(self, name: str, amount: int = 1) -> None:
        self._counters[name] = self._counters.get(name, 0) + amount

    def counters(self) -> dict[str, int]:
        """Of dials, streams, strangers and gossip `*_refused`; `bytes_sent`, `bytes_received`."""
        return dict(self._counters)

    # Connections

    async def connect(self, peer: PeerAddress) -> None:
        self._check_dial(peer.peer_id)
        await trio.lowlevel.checkpoint()
        if peer.peer_id in self._connections:
            return
        if peer.peer_id == self._peer_id or not self.alive:
            raise unreachable(peer.peer_id)
        remote = self._network.find(peer)
        if remote is None:
            await trio.sleep(2 * self._network.latency_seconds(self._peer_id, peer.peer_id))
            raise unreachable(peer.peer_id)
        offer = Offer()
        self._tell(remote, partial(remote.accept, self, offer))
        await self._wait(offer, peer.peer_id)

    async def _wait(self, offer: Offer, peer_id: str) -> None:
        try:
            with trio.move_on_after(self._limits.dial_timeout_seconds):
                await offer.answered.wait()
        finally:
            offer.abandoned = not offer.answered.is_set()
        if offer.abandoned:
            raise unreachable(peer_id)
        if offer.error is not None:
            raise offer.error

    def accept(self, dialer: "MemoryTransport", offer: Offer) -> None:
        """A peer dials us: everybody is let in, strangers few and not for long."""
        connection = self._network.connection(dialer.peer_id, self._peer_id)
        if not self._is_member(dialer.peer_id):
            self._make_room_for_a_stranger(connection, dialer.peer_id)
        self._join(connection, dialer.peer_id)
        self._tell(dialer, partial(dialer.established, self, connection, offer))

    def established(self, remote: "MemoryTransport", connection: Connection, offer: Offer) -> None:
        """The peer that we dialled has accepted."""
        if connection.closed:
            offer.answer(error=lost(remote.peer_id))
            return
        self._join(connection, remote.peer_id)
        offer.answer(error=None)

    def _make_room_for_a_stranger(self, connection: Connection, peer_id: str) -> None:
        strangers = [peer for peer in self._connections if not self._is_member(peer)]
        if len(strangers) >= self._limits.strangers_max:
            self._count("strangers_refused")
            self._hang_up(strangers[0])
        due = trio.current_time() + self._limits.stranger_seconds
        expire = partial(self._expire, connection, peer_id)
        self.inbox.put(due, self._peer_id, expire)

    def _expire(self, connection: Connection, peer_id: str) -> None:
        if self._connections.get(peer_id) is connection and not self._is_member(peer_id):
            self._hang_up(peer_id)

    def _join(self, connection: Connection, peer_id: str) -> None:
        if self._connections.get(peer_id) is connection:
            return
        self._leave(peer_id)
        self._connections[peer_id] = connection
        self._events.emit(PeerEvent(PeerChange.CONNECTED, peer_id))

    def _leave(self, peer_id: str, only: Connection | None = None) -> None:
        connection = self._connections.get(peer_id)
        if connection is None or (only is not None and connection is not only):
            return
        del self._connections[peer_id]
        connection.ends[self._peer_id].lose()
        self._events.emit(PeerEvent(PeerChange.DISCONNECTED, peer_id))

    def _hang_up(self, peer_id: str) -> None:
        connection = self._connections.get(peer_id)
        if connection is None:
            return
        self._network.forget(connection)
        self._leave(peer_id)
        remote = self._network.live(peer_id)
        if remote is not None:
            leave = partial(remote._leave, self._peer_id, connection)  # noqa: SLF001 (another of us)
            self._tell(remote, leave)

    async def disconnect(self, peer_id: str) -> None:
        self._hang_up(peer_id)
        await trio.lowlevel.checkpoint()

    def connected(self) -> frozenset[str]:
        return frozenset(self._connections)

    def events(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[PeerEvent]]:
        return self._events.subscribe()

    # Streams

    def handle_stream(
        self, protocol: str, handler: StreamHandler, *, strangers: bool = False
    ) -> None:
        self._handlers[protocol] = (handler, strangers)

    async def open_stream(self, peer_id: str, protocol: str) -> MemoryStream:
        self._check_dial(peer_id, protocol)
        await trio.lowlevel.checkpoint()
        connection = self._connections.get(peer_id)
        if connection is None:
            raise unreachable(peer_id)
        remote = self._network.live(peer_id)
        offer, offers = Offer(), connection.ends[self._peer_id].offers
        offers[offer] = None
        if remote is not None:
            accept = partial(remote.accept_stream, self, connection, protocol, offer)
            self._tell(remote, accept)
        try:
            await self._wait(offer, peer_id)
        finally:
            offers.pop(offer, None)
        if offer.stream is None:
            raise lost(peer_id)
        return offer.stream

    def accept_stream(
        self, opener: "MemoryTransport", connection: Connection, protocol: str, offer: Offer
    ) -> None:
        """A peer opens a stream: the gate stands here, before the protocol is served."""
        peer_id = opener.peer_id
        if self._connections.get(peer_id) is not connection or self._nursery is None:
            return
        handler, strangers = self._handlers.get(protocol, (None, False))
        stranger = not self._is_member(peer_id)
        many = len(connection.ends[self._peer_id].streams) >= self._limits.stranger_streams_max
        if handler is None or (stranger and (many or not strangers)):
            self._count("streams_refused")
            code = Code.NOT_MEMBER if stranger else Code.UNREACHABLE
            error = RemoteError("the peer refused the stream", code, peer=self._peer_id)
            refuse = partial(offer.answer, error=error)
            self._tell(opener, refuse)
            return
        ours = self._stream(connection, opener)
        theirs = opener._stream(connection, self)  # noqa: SLF001 (another of us)
        ours.other, theirs.other = theirs, ours
        self._nursery.start_soon(self._serve, handler, ours)
        give = partial(opener.opened, connection, offer, theirs)
        self._tell(opener, give)

    def opened(self, connection: Connection, offer: Offer, stream: MemoryStream) -> None:
        """The peer accepted our stream."""
        if offer.abandoned or self._connections.get(stream.peer_id) is not connection:
            stream.refuse()
        else:
            offer.answer(stream=stream, error=None)

    def _stream(self, connection: Connection, peer: "MemoryTransport") -> MemoryStream:
        return MemoryStream(
            (peer.peer_id, peer.host),
            connection.ends[self._peer_id],
            tell=partial(self._tell, peer),
            blocked=partial(self._network.blocked, self._peer_id, peer.peer_id),
            count=self._count,
        )

    async def _serve(self, handler: StreamHandler, stream: MemoryStream) -> None:
        try:
            await handler(stream)
        except Exception as error:  # noqa: BLE001 - boundary: a stream handler
            _log.warning("stream_handler_failed", peer=stream.peer_id, error=type(error).__name__)
            await stream.reset()
        else:
            await stream.close()

    # Gossip

    async def publish(self, topic: str, data: bytes) -> None:
        self._gossip.publish(topic, data)
        await trio.lowlevel.checkpoint()

    def _forward(self, topic: str, data: bytes, message_id: MessageId) -> None:
        for peer_id in self._connections:
            remote = self._network.live(peer_id)
            if remote is not None and self._is_member(peer_id) and peer_id != message_id[0]:
                hear = partial(remote.hear, self._peer_id, topic, data, message_id)
                self._tell(remote, hear, len(data), lossy=True)

    def hear(self, sender: str, topic: str, data: bytes, message_id: MessageId) -> None:
        """A peer forwards a message; neither it nor the publisher may be a stranger."""
        if self._is_member(sender) and self._is_member(message_id[0]):
            self._gossip.hear(topic, data, message_id)
        else:
            self._count("gossip_refused")

    def subscribe(
        self, topic: str
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[str, bytes]]]:
        return self._gossip.subscribe(topic)

    # DHT and local network

    async def provide(self, key: str) -> None:
        await trio.sleep(self._network.draw_latency_seconds())
        if self.alive:
            self._network.provide(key, PeerAddress(self._peer_id, self.listen_addresses))

    async def find_providers(self, key: str) -> tuple[PeerAddress, ...]:
        await trio.sleep(2 * self._network.draw_latency_seconds())
        if not any(self._is_member(peer_id) for peer_id in self._connections):
            return ()
        return self._network.providers(key)

    def announce_nearby(self, grid: str, name: str) -> None:
        self.announced = (grid, name)

    def nearby(self) -> tuple[Nearby, ...]:
        return self._network.nearby(self) if self.alive else ()
