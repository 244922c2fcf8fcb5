"""Accepting, dialing and keeping track of connections."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import structlog
import trio

from aigrid.node.network import compat, yamux_frames
from aigrid.node.network.gate import Gate, NotAMemberError
from aigrid.node.network.muxer import Muxer
from aigrid.node.network.penance import Penance
from aigrid.node.network.tcp import Tcp, TcpStream, Traffic, parse_address
from aigrid.node.network.transport import PeerChange, PeerEvent
from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.limits import LIMITS

DIAL_STAGGER_SECONDS = 0.15
_log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class Link:
    """One authenticated connection. `since` is `trio.current_time()`."""

    peer_id: str
    muxer: Muxer
    swarm_conn: Any
    inbound: bool
    since: float
    broken: bool = False  # by what the peer said on a stream


@dataclass(eq=False, slots=True)
class _Handshake:
    """A connection that has not finished its handshake."""

    host: str
    stream: TcpStream
    spoke: bool = False
    waiting: bool = False  # for its turn, see `penance`
    waits: trio.CancelScope = field(default_factory=trio.CancelScope)
    newest: trio.Event = field(default_factory=trio.Event)  # of those that wait

    @property
    def silent(self) -> bool:
        return not (self.spoke or self.stream.received_bytes)


def _dispensable(pool: list[_Handshake]) -> _Handshake:
    """Who leaves for the next: the oldest of those that said nothing, while they are half or more.

    Where they are few, they have just come. Else the oldest of those that wait for a turn, since
    the newest goes first, or of all.
    """
    silent = [h for h in pool if h.silent]
    if 2 * len(silent) >= len(pool):
        return silent[0]
    return next((h for h in pool if h.waiting), None) or next(h for h in pool if not h.silent)


@dataclass(eq=False, slots=True)
class _Dial:
    """A dial in progress, shared by all who want the same peer."""

    done: trio.Event = field(default_factory=trio.Event)
    failure: str = ""


class Connections:
    """The table of live connections. Runs its tasks in `nursery`, set by the transport."""

    def __init__(
        self, library: compat.Library, gate: Gate, emit: Callable[[PeerEvent], None], tcp: Tcp
    ) -> None:
        self.traffic = Traffic()
        self._tcp = tcp
        self.nursery: trio.Nursery | None = None
        self._library = library
        self._gate = gate
        self._emit = emit
        self._links: dict[str, list[Link]] = {}
        self._handshakes: list[_Handshake] = []
        self._dials: dict[str, _Dial] = {}
        self._announced: set[str] = set()
        self._penance: Penance[_Handshake] = Penance(random.random)
        self._add_conn = library.swarm.add_conn
        library.swarm.add_conn = self._enter
        library.swarm.dial_peer = self._dial_for_library

    # Table

    def widen(self, peer_id: str, window_bytes: int) -> None:
        """Allow a peer more unread bytes per stream, on live connections too."""
        for link in self._links.get(peer_id, ()):
            link.muxer.window_bytes = window_bytes

    def live(self, peer_id: str) -> Link | None:
        """The newest connection that is not known to be dead."""
        return next(
            (k for k in reversed(self._links.get(peer_id, ())) if k.muxer.dead is None), None
        )

    def connected(self) -> frozenset[str]:
        return frozenset(peer for peer in self._links if self.live(peer) is not None)

    async def close(self, peer_id: str) -> None:
        """Close all connections to a peer at once."""
        async with trio.open_nursery() as nursery:
            for link in tuple(self._links.get(peer_id, ())):
                nursery.start_soon(link.muxer.close)

    def break_off(self, peer_id: str) -> None:
        """End all connections of a peer for what it said on a stream of one."""
        for link in self._links.get(peer_id, ()):
            if not link.broken:
                link.broken = True
                self._start(link.muxer.close, yamux_frames.GO_AWAY_VIOLATION)

    async def close_all(self) -> None:
        async with trio.open_nursery() as nursery:
            for links in tuple(self._links.values()):
                for link in links:
                    nursery.start_soon(link.muxer.close)
            for handshake in self._handshakes:
                handshake.stream.abort()

    # Accepting

    async def accept(self, tcp: TcpStream) -> None:
        """Serve an inbound connection until its handshake is over; never raises (T7, T8)."""
        handshake = _Handshake(tcp.get_remote_address()[0], tcp)
        self._make_room(handshake.host)
        self._handshakes.append(handshake)
        muxer = None
        try:
            with trio.move_on_after(LIMITS.pre_auth_seconds):
                with handshake.waits:
                    await self._turn(handshake)
                muxer = await compat.secure(tcp, self._library.noise, None)
        except Exception as error:  # noqa: BLE001 - boundary: whatever an unknown peer sends
            _log.debug("handshake_failed", remote=handshake.host, error=type(error).__name__)
        finally:
            if handshake in self._handshakes:
                self._handshakes.remove(handshake)
            if muxer is None:
                self._gate.counts["pre_auth_failed"] += 1
                tcp.abort()
        if muxer is not None and await self._register(muxer, inbound=True):
            await muxer.event_closed.wait()  # returning closes the socket

    async def _turn(self, handshake: _Handshake) -> None:
        """Wait for it, where the host is in penance: who says nothing has none.

        Raises:
            ConnectionClosedError: the connection ended before anything was said.
        """
        host, penance = handshake.host, self._penance
        if penance.per_second(host, trio.current_time()) is None:
            return
        await handshake.stream.wait_spoken()
        handshake.spoke = handshake.waiting = True
        try:
            while (due := penance.ask(host, handshake, trio.current_time())) is not None:
                handshake.newest = trio.Event()
                with trio.move_on_at(due):
                    await handshake.newest.wait()
        finally:
            handshake.waiting = False
            if (following := penance.leave(host, handshake)) is not None:
                following.newest.set()

    def _make_room(self, host: str) -> None:
        """Close a connection in handshake if there are too many, see `_dispensable`."""
        pool = [h for h in self._handshakes if h.host == host]
        if len(pool) < LIMITS.pre_auth_per_ip_max:
            pool = self._handshakes
            if len(pool) < LIMITS.pre_auth_max:
                return
        victim = _dispensable(pool)
        victim.stream.abort()
        victim.waits.cancel()
        self._handshakes.remove(victim)
        self._gate.counts["pre_auth_evicted"] += 1

    async def _register(self, muxer: Muxer, *, inbound: bool) -> bool:
        try:
            await self._library.swarm.add_conn(
                muxer, direction="inbound" if inbound else "outbound"
            )
        except Exception as error:  # noqa: BLE001 - boundary: the library; the connection may have died meanwhile
            _log.debug("connection_not_kept", peer=str(muxer.peer_id), error=type(error).__name__)
            await muxer.close()
            return False
        return True

    async def _enter(self, muxer: Muxer, direction: str = "unknown") -> Any:
        """Stands in for `Swarm.add_conn`: every connection passes, whoever made it."""
        peer_id, inbound = str(muxer.peer_id), direction == "inbound"
        if sum(map(len, self._links.values())) >= LIMITS.connections_max:
            self._gate.counts["connections_refused"] += 1
            raise compat.SwarmException("too many connections")
        evicted = self._gate.enter(muxer, peer_id, inbound=inbound)
        if evicted is not None:
            self._start(evicted.close)
        try:
            swarm_conn = await self._add_conn(muxer, direction=direction)
        except BaseException:
            self._gate.leave(muxer)
            raise
        link = Link(peer_id, muxer, swarm_conn, inbound, trio.current_time())
        self._replace_older(link)
        self._announce(peer_id, connected=self.live(peer_id) is not None)
        self._links.setdefault(peer_id, []).append(link)
        self._announce(peer_id, connected=True)
        self._gate.counts["connections_opened"] += 1
        self._start(self._watch, link)
        if inbound and not self._gate.is_member(peer_id):
            self._start(self._gate.watch_stranger, muxer)
        return swarm_conn

    def _announce(self, peer_id: str, *, connected: bool) -> None:
        """Tell of a change since the last time, if there is one."""
        if connected == (peer_id in self._announced):
            return
        if connected:
            self._announced.add(peer_id)
            self._emit(PeerEvent(PeerChange.CONNECTED, peer_id))
        else:
            self._announced.discard(peer_id)
            self._emit(PeerEvent(PeerChange.DISCONNECTED, peer_id))

    def _replace_older(self, link: Link) -> None:
        """A peer dials again only when it lost the connection, unless both dialed at once."""
        for other in self._links.get(link.peer_id, ()):
            age = link.since - other.since
            if other.inbound == link.inbound or age > LIMITS.dial_timeout_seconds:
                self._gate.counts["connections_replaced"] += 1
                self._start(other.muxer.close)

    async def _watch(self, link: Link) -> None:
        """Tell when a connection ended; the library's own notice comes 0.1 s later."""
        await link.muxer.event_shutting_down.wait()
        remote = link.muxer.get_remote_address()
        broken = link.broken or link.muxer.session.violated is not None
        if broken and remote is not None:
            self._gate.counts["protocol_broken"] += 1
            self._penance.broke(remote[0], trio.current_time())
        self._gate.leave(link.muxer)
        links = self._links[link.peer_id]
        links.remove(link)
        if not links:
            del self._links[link.peer_id]
            self._gate.forget(link.peer_id)
            self._announce(link.peer_id, connected=False)

    def _start(self, task: Callable[..., Any], *args: Any) -> None:
        if self.nursery is not None:
            self.nursery.start_soon(task, *args)

    # Dialing

    async def dial(self, peer_id: str, addresses: Iterable[str]) -> Link:
        """Connect unless connected. Raises RemoteError(unreachable | not_member)."""
        if not self._gate.may_dial(peer_id):
            self._gate.counts["outbound_refused"] += 1
            raise RemoteError("That peer is not a member.", Code.NOT_MEMBER, peer=peer_id)
        link = self.live(peer_id)
        if link is not None:
            return link
        if self.nursery is None:
            raise RemoteError("The node is not running.", Code.UNREACHABLE, peer=peer_id)
        dial = self._dials.get(peer_id)
        if dial is None:
            dial = self._dials[peer_id] = _Dial()
            self.nursery.start_soon(self._dial, dial, peer_id, tuple(addresses))
        await dial.done.wait()
        link = self.live(peer_id)
        if link is None:
            raise RemoteError(
                f"Cannot reach {peer_id}: {dial.failure}.", Code.UNREACHABLE, peer=peer_id
            )
        return link

    async def _dial(self, dial: _Dial, peer_id: str, addresses: tuple[str, ...]) -> None:
        """Try these addresses and no others (T5), one every 0.15 s; the first to answer wins."""
        dial.failure = "it did not answer" if addresses else "no address is known"
        try:
            with trio.move_on_after(LIMITS.dial_timeout_seconds):
                async with trio.open_nursery() as nursery:
                    for address in addresses[: LIMITS.addresses_max]:
                        failed = trio.Event()
                        nursery.start_soon(
                            self._dial_one, dial, peer_id, address, failed, nursery.cancel_scope
                        )
                        with trio.move_on_after(DIAL_STAGGER_SECONDS):
                            await failed.wait()
        finally:
            del self._dials[peer_id]
            dial.done.set()

    async def _dial_one(
        self,
        dial: _Dial,
        peer_id: str,
        address: str,
        failed: trio.Event,
        others: trio.CancelScope,
    ) -> None:
        tcp = muxer = None
        try:
            at = parse_address(address)
            tcp = await self._tcp.dial(at, self.traffic)
            expected = compat.ID.from_base58(peer_id)
            muxer = await compat.secure(tcp, self._library.noise, expected)
        except Exception as error:  # noqa: BLE001 - boundary: whatever listens at that address
            dial.failure = "nothing there is that node" if tcp else "nobody listens there"
            _log.debug("dial_failed", peer=peer_id, address=address, error=type(error).__name__)
            failed.set()
        finally:
            if muxer is None and tcp is not None:
                tcp.abort()
        if muxer is not None:
            others.cancel()
            # Kept beside one the peer dialed meanwhile: if both ends dropped theirs, none was left.
            with trio.CancelScope(shield=True):
                await self._register(muxer, inbound=False)

    async def _dial_for_library(self, peer_id: Any) -> list[Any]:
        """Stands in for `Swarm.dial_peer`."""
        if not self._gate.may_dial(str(peer_id)):
            self._gate.counts["outbound_refused"] += 1
            raise NotAMemberError(str(peer_id))
        try:
            addresses = [str(a) for a in self._library.host.get_peerstore().addrs(peer_id)]
        except Exception as error:  # the peerstore raises its own kind for a peer it lacks
            raise compat.SwarmException(f"no address of {peer_id}") from error
        try:
            return [(await self.dial(str(peer_id), addresses)).swarm_conn]
        except RemoteError as error:
            raise compat.SwarmException(str(error)) from error
