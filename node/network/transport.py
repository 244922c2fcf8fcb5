"""How a node reaches other nodes: the one interface between the services and the network.

Two implementations: `libp2p_transport` (TCP + Noise + Yamux, GossipSub, Kad-DHT, mDNS) and
`memory_transport` (virtual time). Both enforce membership *before* a stream is handed out: a peer
that is not admitted can reach only the protocols registered for strangers.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import trio

JOIN_PROTOCOL = "/aigrid/join/1"
RPC_PROTOCOL = "/aigrid/rpc/1"


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """A peer and where it listens. `addresses` are multiaddrs without the /p2p part."""

    peer_id: str
    addresses: tuple[str, ...]


class PeerChange(Enum):
    """What happened to a peer's connection."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"


@dataclass(frozen=True, slots=True)
class PeerEvent:
    """A connection to `peer_id` opened (the first) or closed (the last)."""

    change: PeerChange
    peer_id: str


@dataclass(frozen=True, slots=True)
class Nearby:
    """A node seen on the local network. Hearsay: nothing in it is verified.

    `grid` is the grid's DID as announced; `name` is shown to a person, sanitised.
    """

    peer: PeerAddress
    grid: str
    name: str


class Stream(Protocol):
    """A bidirectional byte stream to one peer, already negotiated.

    `send_all` and `receive_some` may be cancelled at any point without harm to other streams of
    the same connection; the stream itself is then only good for `reset`.
    """

    @property
    def peer_id(self) -> str: ...

    @property
    def remote_host(self) -> str:
        """The IP address the peer connected from, for rate limits; "" where there is none."""

    async def send_all(self, data: bytes) -> None:
        """Raises RemoteError(connection_lost) once the peer is gone."""

    async def receive_some(self, max_bytes: int) -> bytes:
        """At least one byte; b"" at a clean end. Raises RemoteError(connection_lost)."""

    @property
    def room_bytes(self) -> int:
        """How much may be sent without waiting; 0 too where a stream cannot tell."""

    def send_now(self, data: bytes) -> None:
        """Send at most `room_bytes`, while no `send_all` is under way. Never raises."""

    def deliver(self, sink: Callable[[bytes], bytes | None]) -> None:
        """Hand to `sink` what arrives, at once, so that `receive_some` tells of the end alone.

        What `sink` gives back it does not take: from there on all is for `receive_some` again.
        A stream that cannot goes on giving everything to `receive_some`.
        """

    async def close(self) -> None:
        """End our side; never raises."""

    async def reset(self) -> None:
        """Give the stream up; wakes a reader and a writer of ours. Never raises."""


StreamHandler = Callable[[Stream], Awaitable[None]]


class Transport(Protocol):
    """See the module. All PeerIds are base58 strings."""

    @property
    def peer_id(self) -> str: ...

    @property
    def listen_addresses(self) -> tuple[str, ...]:
        """Multiaddrs we can be reached at, without /p2p; known once running."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Listen and serve while the context is open; leaving it closes everything.

        Raises:
            UsageError: `port_in_use`, when a port asked for is taken.
        """

    # Membership gate
    def admit(self, peer_ids: Iterable[str]) -> None:
        """Treat these peers as members from now on, on live connections too."""

    async def remove(self, peer_id: str) -> None:
        """Cut a former member off: streams cancelled, connection closed, gossip refused."""

    def allow_dial(self, peer_id: str) -> None:
        """Let us dial a peer that is not a member, for the join protocol alone."""

    @property
    def members(self) -> frozenset[str]:
        """Admitted peers, ourselves included: the same object until they change."""

    # Connections and streams
    async def connect(self, peer: PeerAddress) -> None:
        """Connect unless connected. Raises RemoteError(unreachable | not_member)."""

    async def disconnect(self, peer_id: str) -> None: ...

    def connected(self) -> frozenset[str]: ...

    async def open_stream(self, peer_id: str, protocol: str) -> Stream:
        """Open and negotiate. Raises RemoteError(unreachable | not_member | connection_lost)."""

    def handle_stream(
        self, protocol: str, handler: StreamHandler, *, strangers: bool = False
    ) -> None:
        """Serve `protocol`; whatever the handler raises ends only its stream. Call before running.

        With `strangers`, peers that are not members may open it too, within their limits.
        """

    def events(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[PeerEvent]]:
        """Changes from now on, members and strangers alike; bounded, a slow reader misses none."""

    # Gossip, members only
    async def publish(self, topic: str, data: bytes) -> None:
        """Best effort, at most `limits.gossip_max_bytes`."""

    def subscribe(
        self, topic: str
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[str, bytes]]]:
        """(publisher's PeerId, data) of messages by others; drops the oldest when not drained."""

    # DHT hints, told among members. Never taken for liveness; keys are plain strings.
    async def provide(self, key: str) -> None: ...

    async def find_providers(self, key: str) -> tuple[PeerAddress, ...]:
        """What members say within `seek_seconds`.

        Whom they name need not be a member, nor be known as one.
        """

    # Local network
    def announce_nearby(self, grid: str, name: str) -> None:
        """What mDNS says about this node from now on."""

    def nearby(self) -> tuple[Nearby, ...]: ...

    def counters(self) -> dict[str, int]:
        """What the gate refused, and bytes: see `libp2p_transport` for the names."""
