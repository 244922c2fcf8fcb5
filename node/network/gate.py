"""The members-only gate: who may dial, connect, open a stream, gossip and be in the routing table.

Every inbound stream passes `serve` before anything is negotiated: members get what the host
serves, strangers a lobby. Nothing a peer does there escapes to the library's tasks.
"""

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
import trio
from libp2p.stream_muxer.exceptions import MuxedStreamReset

from aigrid.node.network import negotiation
from aigrid.node.network.admitted import Admitted
from aigrid.node.network.muxer import Muxer
from aigrid.protocol.errors import BREACHES, AigridError
from aigrid.protocol.limits import LIMITS

_MEMBER_STREAMS_MAX = LIMITS.streams_per_peer_max + LIMITS.library_streams_max

Handler = Callable[[Any], Awaitable[None]]
_log = structlog.get_logger(__name__)

COUNTERS = (
    "pre_auth_evicted",  # unauthenticated connections closed to make room
    "pre_auth_failed",  # handshakes that did not succeed, time-outs included
    "connections_opened",
    "connections_replaced",  # a newer connection of the same peer and direction came
    "connections_refused",  # over the cap on all connections
    "protocol_broken",  # connections ended for what the peer said on them
    "strangers_evicted",
    "strangers_expired",
    "streams_refused",  # over the cap of its peer
    "streams_failed",  # negotiation or handler raised on a live connection
    "outbound_refused",  # dials and streams to peers that are not members
    "gossip_refused",  # from or by a peer that is not a member, over size, not its author's
    "gossip_held_back",  # not passed on to a peer, which would take it for too much
    "gossip_dropped",  # oldest message of a subscription nobody drained
    "dht_evicted",  # DHT streams of peers ended to make room
    "dht_failed",
    "tasks_failed",  # library tasks that raised
    "bytes_received",
    "bytes_sent",
)


def _provocations(error: BaseException) -> int:
    """What a stream counts that came to nothing.

    Less where the peer gave it up: it may have waited for us in vain, and have tried again.
    """
    if isinstance(error, MuxedStreamReset):
        return LIMITS.mux_given_up_stream_counts
    return LIMITS.mux_useless_stream_counts


class NotAMemberError(Exception):
    """Not a SwarmException on purpose: Pubsub would retry those for ever."""


class Gate:
    """Membership and what follows from it. PeerIds are base58 strings."""

    def __init__(self, own_peer_id: str, *, open_to_strangers: bool) -> None:
        self.members = Admitted(own_peer_id)
        self.lobby: dict[str, Handler] = {}
        self.counts = dict.fromkeys(COUNTERS, 0)
        self.on_refused_often: Callable[[str], None] = lambda _peer: None
        self.on_flood: Callable[[str], None] = lambda _peer: None
        self.on_member_stream: Callable[[str, str], None] = lambda _peer, _protocol: None
        self._open = open_to_strangers
        self._invited: dict[str, None] = {}
        self._served: dict[str, set[trio.CancelScope]] = {}
        self._strangers: dict[Muxer, str] = {}
        self._refusals: dict[str, int] = {}

    # Who

    def is_member(self, peer_id: str) -> bool:
        return self._open or peer_id in self.members

    def may_dial(self, peer_id: str) -> bool:
        return self.is_member(peer_id) or peer_id in self._invited

    def admit(self, peer_id: str) -> None:
        self.members.add(peer_id)
        self._invited.pop(peer_id, None)
        for muxer in [m for m, peer in self._strangers.items() if peer == peer_id]:
            del self._strangers[muxer]

    def invite(self, peer_id: str) -> None:
        """Let us dial a stranger. Hints may name any number of those: the oldest is forgotten."""
        self._invited[peer_id] = None
        if len(self._invited) > LIMITS.peers_known_max:
            del self._invited[next(iter(self._invited))]

    def expel(self, peer_id: str) -> None:
        """No member any more, and whatever is being served to it stops."""
        self.members.discard(peer_id)
        self._invited.pop(peer_id, None)
        for scope in tuple(self._served.get(peer_id, ())):
            scope.cancel()

    # Connections

    def enter(self, muxer: Muxer, peer_id: str, *, inbound: bool) -> Muxer | None:
        """Let an authenticated connection in; the stranger to close to make room, if any."""
        if self.is_member(peer_id):
            muxer.window_bytes = LIMITS.mux_window_bytes
            return None
        if not inbound:
            return None
        evicted = None
        if len(self._strangers) >= LIMITS.strangers_max:
            evicted = next(iter(self._strangers))
            del self._strangers[evicted]
            self.counts["strangers_evicted"] += 1
        self._strangers[muxer] = peer_id
        return evicted

    async def watch_stranger(self, muxer: Muxer) -> None:
        """Close a stranger's connection when its time is up."""
        with trio.move_on_after(LIMITS.stranger_seconds):
            await muxer.event_shutting_down.wait()
        if self._strangers.pop(muxer, None) is not None and muxer.dead is None:
            self.counts["strangers_expired"] += 1
            await muxer.close()

    def leave(self, muxer: Muxer) -> None:
        self._strangers.pop(muxer, None)

    def forget(self, peer_id: str) -> None:
        """The last connection of a peer is gone."""
        self._refusals.pop(peer_id, None)

    # Streams

    async def serve(self, stream: Any, member_protocols: Mapping[Any, Handler]) -> None:
        """Negotiate an inbound stream and run its handler; raises nothing but cancellation."""
        raw = stream.muxed_stream
        peer_id = str(raw.conn.peer_id)
        member = self.is_member(peer_id)
        served = self._served.setdefault(peer_id, set())
        if len(served) >= (_MEMBER_STREAMS_MAX if member else LIMITS.stranger_streams_max):
            self._refuse(raw, peer_id, member=member)
            return
        seconds = math.inf if member else LIMITS.stranger_stream_seconds
        scope = trio.CancelScope(deadline=trio.current_time() + seconds)
        served.add(scope)
        try:
            with scope:
                await self._run(stream, peer_id, member_protocols if member else self.lobby)
                raw.end()
        except Exception as error:  # noqa: BLE001 - boundary: a stream handler, ours or the library's (T1, T6, T7)
            self._failed(stream, peer_id, error)
        except BaseExceptionGroup as group:  # Cancelled beside errors: only Cancelled goes on
            failed, rest = group.split(Exception)
            if failed is not None:
                self._failed(stream, peer_id, failed)
            if rest is not None:
                raise rest from None
        finally:
            served.discard(scope)
            if not served and self._served.get(peer_id) is served:
                del self._served[peer_id]
            if scope.cancelled_caught:
                raw.abandon()
        await raw.linger(LIMITS.stream_linger_seconds)

    async def _run(self, stream: Any, peer_id: str, table: Mapping[Any, Handler]) -> None:
        with trio.fail_after(LIMITS.negotiate_seconds):
            protocol = await negotiation.offer(stream.muxed_stream, table.keys())
        stream.set_protocol(protocol)
        if table is not self.lobby:
            self.on_member_stream(peer_id, protocol)
        await table[protocol](stream)

    def _refuse(self, raw: Any, peer_id: str, *, member: bool) -> None:
        self.counts["streams_refused"] += 1
        raw.abandon()
        if member:
            return
        self._refusals[peer_id] = self._refusals.get(peer_id, 0) + 1
        if self._refusals[peer_id] >= LIMITS.stranger_refusals_max:
            self.on_refused_often(peer_id)

    def _failed(self, stream: Any, peer_id: str, error: BaseException) -> None:
        stream.muxed_stream.abandon()
        if stream.muxed_stream.conn.dead is not None:
            return
        self.counts["streams_failed"] += 1
        code = error.code if isinstance(error, AigridError) else type(error).__name__
        if stream.get_protocol() is None or code in BREACHES:
            stream.muxed_stream.conn.provoked(_provocations(error))
        log = _log.info if self.is_member(peer_id) else _log.debug  # strangers fill no log
        log("stream_failed", peer=peer_id, protocol=stream.get_protocol(), error=code)
