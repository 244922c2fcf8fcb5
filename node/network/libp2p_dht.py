"""Provider hints in the grid's own Kad-DHT."""

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any

import structlog
import trio

from aigrid.metagraph.quota import TokenBucket, TokenBuckets
from aigrid.node.network import compat, dht_messages
from aigrid.node.network.dht_places import Place, Places
from aigrid.node.network.gate import Gate
from aigrid.node.network.tcp import parse_address
from aigrid.node.network.transport import PeerAddress
from aigrid.protocol.limits import LIMITS

_log = structlog.get_logger(__name__)


class Dht:
    """Bounded calls; whatever goes wrong is a counter and a log line, never an exception."""

    def __init__(self, library: compat.Library, gate: Gate) -> None:
        self._dht = library.dht
        self._own = library.peer_id
        self._gate = gate
        self._add = self._dht.routing_table.add_peer
        self._dht.routing_table.add_peer = self._add_member
        self._places = Places(LIMITS.dht_streams_per_peer_max, LIMITS.dht_streams_max)
        self._asked = TokenBuckets(
            burst=LIMITS.dht_messages_burst, per_second=LIMITS.dht_messages_per_second
        )
        # Telling a key takes up to two messages to each, which nobody answers: what came too fast
        # would be lost unseen. Half of what others take is left for questions.
        self._telling = TokenBucket(
            burst=LIMITS.dht_messages_burst / 4,
            per_second=LIMITS.dht_messages_per_second / 4,
            now_seconds=-math.inf,
        )
        library.host.set_stream_handler(compat.KAD_PROTOCOL, self._serve)

    async def _serve(self, stream: Any) -> None:
        """In a place of ours: the library has no bound of its own, see `compat`."""
        peer, now = str(stream.muxed_conn.peer_id), trio.current_time()
        scope = trio.CancelScope()
        place = Place(peer, now, scope.cancel)
        try:
            out = self._places.enter(place)
        except LookupError:
            self._gate.counts["streams_refused"] += 1
            await stream.reset()
            return
        if out is not None:
            self._gate.counts["dht_evicted"] += 1
            out.end()
        try:
            with trio.fail_after(LIMITS.dht_stream_seconds), scope:
                rate = self._asked.of(peer, now)
                await self._dht.handle_stream(dht_messages.Paced(stream, rate, place))
        finally:
            self._places.leave(place)
            if not place.used:
                self._was_useless(stream.muxed_stream.conn, place)
        if scope.cancelled_caught:
            await stream.reset()

    @staticmethod
    def _was_useless(muxer: Any, place: Place) -> None:
        if muxer.dead is not None:
            return
        muxer.provoked(
            LIMITS.mux_given_up_stream_counts
            if place.given_up
            else LIMITS.mux_useless_stream_counts
        )

    async def _add_member(self, peer: Any, *, skip_server_mode_check: bool = False) -> bool:
        if not self._gate.is_member(str(getattr(peer, "peer_id", peer))):
            return False
        added: bool = await self._add(peer, skip_server_mode_check=skip_server_mode_check)
        return added

    async def add(self, peer_id: Any, addresses: Iterable[Any]) -> None:
        await self._dht.routing_table.add_peer(
            compat.PeerInfo(peer_id, list(addresses)), skip_server_mode_check=True
        )

    def remove(self, peer_id: Any) -> None:
        self._dht.routing_table.remove_peer(peer_id)

    def holds(self, peer_id: Any) -> bool:
        return bool(self._dht.routing_table.peer_in_table(peer_id))

    async def provide(self, key: str) -> None:
        """Tell others, at a pace that all of them can take."""
        while not self._telling.take(trio.current_time()):  # noqa: ASYNC110 - no condition
            await trio.sleep(max(self._telling.wait_seconds(trio.current_time()), 0.001))
        try:
            with trio.fail_after(LIMITS.dht_call_seconds):
                await self._dht.provider_store.provide(_hash(key))
        except Exception as error:  # noqa: BLE001 - boundary: the library, and peers behind it
            self._failed("provide", error)

    async def find_providers(self, key: str) -> tuple[PeerAddress, ...]:
        """Asks the closest peers even when something is known here: a local hint may be partial.

        What was found within `seek_seconds` is returned. Half of that is for the way there, which
        is long where members are gone: then those are asked that are the closest known here.
        """
        digest = _hash(key)
        found: dict[str, PeerAddress] = {}
        store = self._dht.provider_store
        try:
            collect(found, store.get_providers(digest), self._gate.is_member)
            with trio.move_on_after(LIMITS.seek_seconds) as scope:
                closest = self._dht.routing_table.find_local_closest_peers(digest)
                with trio.move_on_after(LIMITS.seek_seconds / 2):
                    closest = await self._dht.peer_routing.find_closest_peers_network(digest)
                # Members name those they know, the long gone and our strangers included.
                members = [p for p in closest if p != self._own and self._gate.is_member(str(p))]
                async with trio.open_nursery() as nursery:
                    for peer in members[: LIMITS.dht_queries_max]:
                        nursery.start_soon(self._ask, peer, digest, found)
            if scope.cancelled_caught:
                self._gate.counts["dht_failed"] += 1
        except Exception as error:  # noqa: BLE001 - boundary: as above
            self._failed("find", error)
        return tuple(found.values())

    async def _ask(self, peer: Any, digest: bytes, found: dict[str, PeerAddress]) -> None:
        try:
            with trio.move_on_after(LIMITS.dht_query_seconds):
                (
                    providers,
                    _closer,
                ) = await self._dht.provider_store._get_providers_from_peer_with_closers(  # noqa: SLF001 - the public call stops at a local hint
                    peer, digest
                )
                collect(found, providers, self._gate.is_member)
        except Exception as error:  # noqa: BLE001 - boundary: as above
            self._failed("ask", error)

    def _failed(self, call: str, error: Exception) -> None:
        self._gate.counts["dht_failed"] += 1
        _log.info("dht_call_failed", call=call, error=type(error).__name__)


def collect(
    found: dict[str, PeerAddress], providers: Iterable[Any], is_member: Callable[[str], bool]
) -> None:
    """Add what one peer says to what others said; it can neither crowd out members nor move them.

    At most `dht_providers_max` are taken of which nothing is known.
    """
    for provider in providers:
        peer_id, addresses = str(provider.peer_id), usable(provider.addrs)
        known = found.get(peer_id)
        if known is not None:
            merged = dict.fromkeys((*known.addresses, *addresses))
            addresses = tuple(merged)[: LIMITS.addresses_max]
        elif len(found) >= LIMITS.dht_providers_max and not is_member(peer_id):
            continue
        found[peer_id] = PeerAddress(peer_id, addresses)


def usable(addresses: Iterable[Any]) -> tuple[str, ...]:
    """TCP addresses among multiaddrs, without the /p2p part."""
    kept: dict[str, None] = {}
    for address in addresses:
        try:
            kept.setdefault(str(parse_address(str(address))))
        except ValueError:
            continue
    return tuple(kept)[: LIMITS.addresses_max]


def _hash(key: str) -> bytes:
    """A sha2-256 multihash, as Kad-DHT keys are."""
    return b"\x12\x20" + hashlib.sha256(key.encode()).digest()
