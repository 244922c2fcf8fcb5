"""`transport.Transport` over libp2p: TCP, Noise, Yamux, GossipSub, Kad-DHT, mDNS.

The traps of py-libp2p and where each is closed:
    T1  an exception out of a stream handler ends the host      gate.serve
    T2  a cancelled write or read tears the connection          muxer (frames are queued whole)
    T3  a reader slower than 5 s loses its stream               muxer (no time limit)
    T4  end, reset and death look alike                         muxed_stream, libp2p_stream
    T5  a peer that moved is dialed at its old address          connections.dial
    T6  garbage to the library's own handlers ends the host     gate.serve, compat.GuardedManager
    T7  garbage while negotiating ends the host                 negotiation, connections.accept
    T8  250 inbound connections in a lifetime                   connections.accept, tcp
Importing this module imports libp2p (about a second).
"""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import structlog
import trio

from aigrid.node.network import compat, forgetting, negotiation, tcp
from aigrid.node.network.connections import Connections
from aigrid.node.network.gate import Gate, NotAMemberError
from aigrid.node.network.identify_messages import Seldom
from aigrid.node.network.libp2p_dht import Dht
from aigrid.node.network.libp2p_gossip import Gossip
from aigrid.node.network.libp2p_stream import LOST, Libp2pStream
from aigrid.node.network.nearby import NearbyNodes
from aigrid.node.network.peer_events import EventFeed
from aigrid.node.network.transport import (
    Nearby,
    PeerAddress,
    PeerEvent,
    Stream,
    StreamHandler,
)
from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.limits import LIMITS

SHUTDOWN_SECONDS = 0.8
_log = structlog.get_logger(__name__)


class Libp2pTransport:
    """See the module and `transport.Transport`.

    Args:
        signing_seed: the node's 32-byte Ed25519 seed.
        topics: all there may be; of no other is anything kept, delivered or forwarded.
        now_ms: the wall clock, by which messages of gossip are numbered.
        listen: multiaddrs `/ip4|ip6/.../tcp/PORT`; none means `tcp.DEFAULT_PORT` on all
            interfaces, or the next free port.
        mdns: announce ourselves on the local network and listen for others.
        open_to_strangers: treat every peer as a member.
        sockets: how connections are made, which a simulation does otherwise.

    `counters()` has the names of `gate.COUNTERS`.
    """

    def __init__(
        self,
        *,
        signing_seed: bytes,
        topics: frozenset[str],
        now_ms: Callable[[], int],
        listen: tuple[str, ...] = (),
        mdns: bool = False,
        open_to_strangers: bool = False,
        sockets: tcp.Tcp | None = None,
    ) -> None:
        self._listen = listen
        self._sockets = sockets or tcp.Sockets()
        self._addresses: tuple[str, ...] = ()
        self._library = compat.build(signing_seed, lambda: self._addresses, topics)
        self._peer_id = str(self._library.peer_id)
        self._gate = Gate(self._peer_id, open_to_strangers=open_to_strangers)
        self._gate.on_refused_often = self._close_soon
        self._gate.on_member_stream = self._on_member_stream
        self._feed = EventFeed()
        self._connections = Connections(
            self._library, self._gate, self._on_peer_event, self._sockets
        )
        self._gate.on_flood = self._connections.break_off
        self._gossip = Gossip(self._library, self._gate, now_ms)
        self._dht = Dht(self._library, self._gate)
        self._nursery: trio.Nursery | None = None
        self._welcoming: set[str] = set()
        self._nearby = NearbyNodes(self._peer_id) if mdns else None
        host, swarm = self._library.host, self._library.swarm
        self._gate.lobby[compat.IDENTIFY_PROTOCOL] = self._identify_to_stranger
        for protocol in (compat.IDENTIFY_PROTOCOL, compat.IDENTIFY_PUSH_PROTOCOL):
            host.set_stream_handler(protocol, Seldom(host.multiselect.handlers[protocol]))
        swarm.common_stream_handler = self._on_inbound_stream
        host.new_stream = self._new_stream_for_library

    @property
    def peer_id(self) -> str:
        return self._peer_id

    @property
    def listen_addresses(self) -> tuple[str, ...]:
        return self._addresses

    @property
    def members(self) -> frozenset[str]:
        return self._gate.members.all

    def counters(self) -> dict[str, int]:
        traffic = self._connections.traffic
        counts = {"bytes_received": traffic.received, "bytes_sent": traffic.sent}
        return self._gate.counts | counts

    # Life

    def running(self) -> AbstractAsyncContextManager[None]:
        return self._running()

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        listening = await self._sockets.listen(self._listen)
        self._addresses = listening.addresses
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            self._nursery = self._connections.nursery = nursery
            async with AsyncExitStack() as services:
                for service in (
                    self._library.swarm,
                    self._library.pubsub,
                    self._library.gossip,
                    self._library.dht,
                ):
                    await services.enter_async_context(
                        compat.run_service(service, self._on_task_failure)
                    )
                await self._library.pubsub.wait_until_ready()
                outward = trio.CancelScope()
                nursery.start_soon(self._face_outward, listening, outward, nursery)
                try:
                    yield
                except Exception as error:  # noqa: BLE001 - raised again below, not inside a group
                    failure = error
                finally:
                    outward.cancel()
                    await self._shut_down()
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _face_outward(
        self, listening: tcp.Listening, scope: trio.CancelScope, tasks: trio.Nursery
    ) -> None:
        """Accept connections and be seen on the local network; ends before the rest does."""
        with scope:
            async with trio.open_nursery() as nursery:
                if self._nearby is not None:
                    nursery.start_soon(self._nearby.run, self._addresses)
                await listening.serve(self._connections.accept, self._connections.traffic, tasks)

    async def _shut_down(self) -> None:
        with trio.CancelScope(shield=True), trio.move_on_after(SHUTDOWN_SECONDS):
            await self._connections.close_all()
        self._nursery = self._connections.nursery = None

    def _on_task_failure(self, task: str, error: Exception) -> None:
        self._gate.counts["tasks_failed"] += 1
        _log.info("library_task_failed", task=task, error=type(error).__name__)

    def _start(self, task: Any, *args: Any) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(task, *args)

    # Membership

    def admit(self, peer_ids: Iterable[str]) -> None:
        for peer_id in peer_ids:
            if peer_id in self._gate.members:
                continue
            self._gate.admit(peer_id)
            self._connections.widen(peer_id, LIMITS.mux_window_bytes)
            if self._connections.live(peer_id) is not None:
                self._welcome_soon(peer_id)

    async def remove(self, peer_id: str) -> None:
        self._gate.expel(peer_id)
        identity = _identity(peer_id)
        if identity is None:
            return
        self._library.pubsub._handle_dead_peer(identity)  # noqa: SLF001 - now, not 0.1 s later
        self._dht.remove(identity)
        await self._connections.close(peer_id)
        forgetting.forget(self._library.host.get_peerstore(), identity)

    def allow_dial(self, peer_id: str) -> None:
        self._gate.invite(peer_id)

    def _on_peer_event(self, event: PeerEvent) -> None:
        self._feed.put(event)
        if self._connections.live(event.peer_id) is not None:
            self._welcome_soon(event.peer_id)

    def _on_member_stream(self, peer_id: str, protocol: str) -> None:
        """A gossip stream shows that the peer has admitted us: try what it refused before."""
        identity = _identity(peer_id)
        if protocol == compat.MESHSUB_PROTOCOL and not (
            identity in self._library.pubsub.peers and self._dht.holds(identity)
        ):
            self._welcome_soon(peer_id)

    def _welcome_soon(self, peer_id: str) -> None:
        if self._gate.is_member(peer_id) and peer_id not in self._welcoming:
            self._welcoming.add(peer_id)
            self._start(self._welcome, peer_id)

    async def _welcome(self, peer_id: str) -> None:
        """Identify, gossip and DHT on a connection that is already there."""
        identity = _identity(peer_id)
        host = self._library.host
        try:
            with trio.move_on_after(LIMITS.welcome_seconds):
                await host._identify_peer(identity, reason="member")  # noqa: SLF001 - see compat
                await self._library.pubsub.ensure_peer_stream(identity, 1.0)
                await self._dht.add(identity, host.get_peerstore().addrs(identity))
        except Exception as error:  # noqa: BLE001 - boundary: the library, and the peer behind it
            _log.debug("welcome_failed", peer=peer_id, error=type(error).__name__)
        finally:
            self._welcoming.discard(peer_id)

    # Connections and streams

    async def connect(self, peer: PeerAddress) -> None:
        if _identity(peer.peer_id) is None:
            raise RemoteError("That is not a PeerId.", Code.UNREACHABLE)
        if peer.peer_id == self._peer_id:
            raise RemoteError("That is this node.", Code.UNREACHABLE, peer=peer.peer_id)
        await self._connections.dial(peer.peer_id, peer.addresses)

    async def disconnect(self, peer_id: str) -> None:
        await self._connections.close(peer_id)

    def connected(self) -> frozenset[str]:
        return self._connections.connected()

    def _close_soon(self, peer_id: str) -> None:
        self._start(self._connections.close, peer_id)

    async def open_stream(self, peer_id: str, protocol: str) -> Stream:
        if not self._gate.may_dial(peer_id):
            self._gate.counts["outbound_refused"] += 1
            raise RemoteError("That peer is not a member.", Code.NOT_MEMBER, peer=peer_id)
        link = self._connections.live(peer_id)
        if link is None:
            raise RemoteError("Not connected to that peer.", Code.UNREACHABLE, peer=peer_id)
        try:
            raw = await link.muxer.open_stream()
        except compat.MuxedConnUnavailable as error:
            raise RemoteError(LOST, Code.CONNECTION_LOST, peer=peer_id) from error
        await _negotiate(raw, peer_id, protocol)
        return Libp2pStream(raw, peer_id)

    async def _new_stream_for_library(self, identity: Any, protocols: Iterable[Any]) -> Any:
        """Stands in for `BasicHost.new_stream`; pubsub retries what raises SwarmException."""
        peer_id = str(identity)
        if not self._gate.is_member(peer_id):
            self._gate.counts["outbound_refused"] += 1
            raise NotAMemberError(peer_id)
        link = self._connections.live(peer_id)
        if link is not None:
            swarm_conn = link.swarm_conn
        else:
            (swarm_conn,) = await self._library.swarm.dial_peer(identity)
        protocol = str(next(iter(protocols)))
        try:
            stream = await swarm_conn.new_stream()
            await _negotiate(stream.muxed_stream, peer_id, protocol)
        except (RemoteError, compat.MuxedConnUnavailable) as error:
            raise compat.SwarmException(str(error)) from error
        stream.set_protocol(protocol)
        return stream

    def handle_stream(
        self, protocol: str, handler: StreamHandler, *, strangers: bool = False
    ) -> None:
        async def serve(stream: Any) -> None:
            raw = stream.muxed_stream
            peer_id = str(raw.conn.peer_id)
            limit = None if self._gate.is_member(peer_id) else LIMITS.stranger_stream_max_bytes
            await handler(Libp2pStream(raw, peer_id, limit))

        self._library.host.set_stream_handler(protocol, serve)
        if strangers:
            self._gate.lobby[protocol] = serve

    async def _on_inbound_stream(self, stream: Any) -> None:
        await self._gate.serve(stream, self._library.host.multiselect.handlers)

    async def _identify_to_stranger(self, stream: Any) -> None:
        await stream.write(compat.reduced_identify(self._library.host, tuple(self._gate.lobby)))

    def events(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[PeerEvent]]:
        return self._feed.subscribe()

    # Gossip and DHT

    async def publish(self, topic: str, data: bytes) -> None:
        await self._gossip.publish(topic, data)

    def subscribe(
        self, topic: str
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[str, bytes]]]:
        return self._gossip.subscribe(topic)

    async def provide(self, key: str) -> None:
        await self._dht.provide(key)

    async def find_providers(self, key: str) -> tuple[PeerAddress, ...]:
        return await self._dht.find_providers(key)

    # Local network

    def announce_nearby(self, grid: str, name: str) -> None:
        if self._nearby is not None:
            self._nearby.announce(grid, name)

    def nearby(self) -> tuple[Nearby, ...]:
        return () if self._nearby is None else self._nearby.seen()


async def _negotiate(raw: Any, peer_id: str, protocol: str) -> None:
    """Raises RemoteError(not_member | connection_lost | timeout | protocol_violation)."""
    chosen = False
    try:
        with trio.fail_after(LIMITS.negotiate_seconds):
            await negotiation.select(raw, protocol)
        chosen = True
    except trio.TooSlowError as error:
        raise RemoteError("The peer did not answer.", Code.TIMEOUT, peer=peer_id) from error
    except compat.MuxedStreamError as error:
        raise RemoteError(LOST, Code.CONNECTION_LOST, peer=peer_id) from error
    finally:
        if not chosen:
            raw.abandon()


def _identity(peer_id: str) -> Any | None:
    try:
        identity = compat.ID.from_base58(peer_id)
    except ValueError:
        return None
    return identity if str(identity) == peer_id else None
