"""What the memory transports of one simulation share: who is where, latencies, and failures."""

import random
from typing import TYPE_CHECKING, Final

from aigrid.node.network.memory_links import Connection, Post
from aigrid.node.network.transport import Nearby, PeerAddress
from aigrid.protocol.errors import Code, UsageError

if TYPE_CHECKING:
    from aigrid.node.network.memory_transport import MemoryTransport

_KEYS_MAX: Final = 65536
_PROVIDERS_MAX: Final = 64


class MemoryNetwork:
    """See `memory_transport`. `latency_seconds` is the range that a pair's latency is drawn from.

    A pair keeps its latency, so what one peer does to another arrives in order; `tick_seconds` is
    explained at `Post`.
    """

    def __init__(
        self,
        *,
        rng: random.Random,
        latency_seconds: tuple[float, float],
        tick_seconds: float = 0.0,
    ) -> None:
        self.post = Post(tick_seconds)
        self._rng = rng
        self._range_seconds = latency_seconds
        self._pair_seconds: dict[frozenset[str], float] = {}
        self._transports: dict[str, MemoryTransport] = {}
        self._addresses: dict[str, MemoryTransport] = {}
        self._connections: dict[frozenset[str], Connection] = {}
        self._providers: dict[str, dict[str, PeerAddress]] = {}
        self._cuts: set[frozenset[str]] = set()
        self._frozen: set[str] = set()

    # Failures

    def kill(self, peer_id: str) -> None:
        """End a node as kill -9 does. The caller cancels its tasks; it may be started anew."""
        self._frozen.discard(peer_id)
        transport = self._transports.get(peer_id)
        if transport is not None:
            transport.stop()

    def partition(self, a: str, b: str) -> None:
        """Let nothing pass between two peers; their connection stays."""
        self._cuts.add(frozenset((a, b)))

    def heal(self, a: str, b: str) -> None:
        """Undo `partition`."""
        self._cuts.discard(frozenset((a, b)))
        self._resume()

    def freeze(self, peer_id: str) -> None:
        """Let nothing pass to or from a peer, as SIGSTOP does; its connections stay."""
        self._frozen.add(peer_id)

    def thaw(self, peer_id: str) -> None:
        """Undo `freeze`."""
        self._frozen.discard(peer_id)
        self._resume()

    def _resume(self) -> None:
        for transport in tuple(self._transports.values()):
            transport.resume()

    def blocked(self, a: str, b: str) -> bool:
        """Whether nothing passes between two peers."""
        if not self._cuts and not self._frozen:
            return False
        return a in self._frozen or b in self._frozen or frozenset((a, b)) in self._cuts

    # Who is where

    def attach(self, transport: "MemoryTransport") -> None:
        """A transport starts.

        Raises:
            UsageError: `port_in_use`.
        """
        (address,) = transport.listen_addresses
        if address in self._addresses:
            raise UsageError(f"{address} is in use", Code.PORT_IN_USE)
        self._addresses[address] = transport
        self._transports[transport.peer_id] = transport

    def detach(self, transport: "MemoryTransport") -> None:
        """A transport has ended."""
        (address,) = transport.listen_addresses
        if self._addresses.get(address) is transport:
            del self._addresses[address]
        if self._transports.get(transport.peer_id) is transport:
            del self._transports[transport.peer_id]

    def live(self, peer_id: str) -> "MemoryTransport | None":
        return self._transports.get(peer_id)

    def find(self, peer: PeerAddress) -> "MemoryTransport | None":
        """Who answers at one of the addresses with the right key."""
        for address in peer.addresses:
            transport = self._addresses.get(address)
            if transport is not None and transport.peer_id == peer.peer_id:
                return transport
        return None

    # Links

    def draw_latency_seconds(self) -> float:
        return self._rng.uniform(*self._range_seconds)

    def latency_seconds(self, a: str, b: str) -> float:
        pair = frozenset((a, b))
        if pair not in self._pair_seconds:
            self._pair_seconds[pair] = self.draw_latency_seconds()
        return self._pair_seconds[pair]

    def travel_seconds(
        self,
        source: str,
        target: str,
        size_bytes: int,
        *,
        lossy: bool = False,
    ) -> float | None:
        """How long something takes that leaves now; None for what is lost, if it is `lossy`.

        A network that loses and delays overrides this.
        """
        return self.latency_seconds(source, target)

    def connection(self, a: str, b: str) -> Connection:
        """The one of a pair; two peers that dial each other at once share it."""
        pair = frozenset((a, b))
        if pair not in self._connections:
            self._connections[pair] = Connection((a, b))
        return self._connections[pair]

    def forget(self, connection: Connection) -> None:
        """One side hung up; the next dial makes a new one."""
        connection.closed = True
        pair = frozenset(connection.ends)
        if self._connections.get(pair) is connection:
            del self._connections[pair]

    # DHT and local network

    def provide(self, key: str, peer: PeerAddress) -> None:
        entries = self._providers.setdefault(key, {})
        entries.pop(peer.peer_id, None)
        entries[peer.peer_id] = peer
        if len(entries) > _PROVIDERS_MAX:
            del entries[next(iter(entries))]
        if len(self._providers) > _KEYS_MAX:
            del self._providers[next(iter(self._providers))]

    def providers(self, key: str) -> tuple[PeerAddress, ...]:
        return tuple(self._providers.get(key, {}).values())

    def nearby(self, seen_by: "MemoryTransport") -> tuple[Nearby, ...]:
        """Transports on the same LAN that have announced something, in order of their start."""
        return tuple(
            Nearby(PeerAddress(other.peer_id, other.listen_addresses), *other.announced)
            for other in self._transports.values()
            if other is not seen_by
            and other.announced is not None
            and other.lan == seen_by.lan
            and not self.blocked(seen_by.peer_id, other.peer_id)
        )
