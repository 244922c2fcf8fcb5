"""The signed record of the sender's addresses in every gossip frame: made once, verified once.

py-libp2p signs, parses and verifies it anew for each frame: a third of a busy node's CPU. Here what
a peer sent last is remembered by its exact bytes, and ours is made again when our addresses change.
Part of what `compat` touches; stands in for two functions of `libp2p.pubsub`, for hosts that were
given to `remember` only.

The library parses all addresses of a record, and compares each with each: of the 1100 that fit
8 KiB that takes a quarter of a second. Here the first few are parsed, of any record in the process,
those that identify brings included; what is signed stays whole. A key that is not the sender's is
not parsed: numbers for RSA can be chosen so that looking at them takes long.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import libp2p.peer.peer_record
import libp2p.pubsub.gossipsub
import libp2p.pubsub.pubsub
import trio
from google.protobuf.message import DecodeError
from libp2p.crypto.pb.crypto_pb2 import PublicKey
from libp2p.peer.envelope import consume_envelope as open_envelope
from libp2p.peer.pb.envelope_pb2 import Envelope
from libp2p.peer.peer_record import addrs_from_protobuf as parse_addresses
from libp2p.peer.peerstore import env_to_send_in_RPC as make_own
from libp2p.pubsub.utils import maybe_consume_signed_record as verify

from aigrid.protocol.limits import LIMITS

# The library forgets addresses two hours after it took in a record.
RENEW_SECONDS = 600.0
_KEPT_SECONDS = 7200
_DOMAIN = "libp2p-peer-record"  # of RFC 0002 and 0003 of libp2p
MODULES = (libp2p.pubsub.pubsub, libp2p.pubsub.gossipsub)


class PeerRecords:
    """What one host sends and has verified."""

    def __init__(self, host: Any, listen_addresses: Callable[[], tuple[str, ...]]) -> None:
        self._host = host
        self._store = host.get_peerstore()
        self._listen_addresses = listen_addresses
        self._own: tuple[tuple[str, ...], bytes] | None = None
        self._known: dict[Any, tuple[bytes, object, bool, float]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def own(self) -> bytes:
        """Our record of the addresses that we have now."""
        addresses = self._listen_addresses()
        if self._own is None or self._own[0] != addresses:
            self._own = (addresses, make_own(self._host)[0])
        return self._own[1]

    def accept(self, rpc: Any, peer: Any) -> bool:
        """Whether the sender's record, if there is one, is its own.

        It may be older than the last: the clock of a peer that started again may be behind.
        """
        if not rpc.HasField("senderRecord"):
            return True
        data = rpc.senderRecord
        if len(data) > LIMITS.gossip_sender_bytes:
            return False
        if self.knows(data, peer):
            return True
        if not _is_by(data, peer) or not self._take(data, peer):
            return False
        self._known.pop(peer, None)
        self._known[peer] = (data, *self._stored(peer), trio.current_time() + RENEW_SECONDS)
        if len(self._known) > LIMITS.connections_max:
            del self._known[next(iter(self._known))]
        return True

    def _take(self, data: bytes, peer: Any) -> bool:
        """Keep the addresses. False if it is not signed by the peer.

        It comes from the peer itself, over a connection that proves it: what it says now holds,
        whatever number that has.
        """
        try:
            envelope, record = open_envelope(data, _DOMAIN)
            if record.peer_id != peer:
                return False
            if not self._store.consume_peer_record(envelope, _KEPT_SECONDS):
                del self._store.peer_record_map[peer]  # it is older: by a clock that is behind
                self._store.consume_peer_record(envelope, _KEPT_SECONDS)
        except Exception:  # noqa: BLE001 - boundary: the library, and what a peer sent
            return False
        return True

    def knows(self, data: bytes, peer: Any) -> bool:
        """Whether it is what the peer sent last, verified lately and still in the store."""
        known = self._known.get(peer)
        return (
            known is not None
            and known[:3] == (data, *self._stored(peer))
            and trio.current_time() < known[3]
        )

    def _stored(self, peer: Any) -> tuple[object, bool]:
        """The record in the store, another object for each taken in; whether it has addresses."""
        data = self._store.peer_data_map.get(peer)
        return self._store.peer_record_map.get(peer), data is not None and bool(data.addrs)


def _is_by(data: bytes, peer: Any) -> bool:
    """Whether the record names the key that the PeerId is made of."""
    try:
        named: Any = Envelope.FromString(data).public_key
        key: bytes = PublicKey(key_type=named.Type, data=named.Data).SerializeToString()
    except (DecodeError, ValueError):  # or a kind of key that does not exist
        return False
    own: bytes = peer.to_bytes()
    return own in {
        b"\x00" + bytes([len(key) & 0x7F]) + key,
        b"\x12\x20" + hashlib.sha256(key).digest(),
    }


def _first_addresses(infos: Any) -> Any:
    """Stands in for the library's parser of the addresses of a record."""
    most, long = LIMITS.addresses_max, LIMITS.dht_address_bytes
    return parse_addresses([one for one in infos[:most] if len(one.multiaddr) <= long])


def remember(host: Any, listen_addresses: Callable[[], tuple[str, ...]]) -> PeerRecords:
    """From now on gossip of this host uses what is remembered of it."""
    libp2p.peer.peer_record.addrs_from_protobuf = _first_addresses
    for module in MODULES:
        module.maybe_consume_signed_record = _accept
        module.env_to_send_in_RPC = _own
    host.peer_records = PeerRecords(host, listen_addresses)
    return host.peer_records  # type: ignore[no-any-return]  # the library is untyped


def _accept(rpc: Any, host: Any, peer: Any) -> bool:
    records: PeerRecords | None = getattr(host, "peer_records", None)
    return bool(verify(rpc, host, peer)) if records is None else records.accept(rpc, peer)


def _own(host: Any) -> tuple[bytes, bool]:
    """The record, and whether it is new, for which nobody asks."""
    records: PeerRecords | None = getattr(host, "peer_records", None)
    if records is not None:
        return records.own(), False
    data, is_new = make_own(host)
    return bytes(data), bool(is_new)
