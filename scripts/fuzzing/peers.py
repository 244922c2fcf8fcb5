"""What strangers and members say to the library that we look at before it does, and of weights."""

import hashlib
import logging
from functools import cache
from random import Random
from types import SimpleNamespace

import trio
from google.protobuf.message import DecodeError
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.identity import update
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.identity.update import update_peerstore_from_identify
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.envelope import make_unsigned, seal_record
from libp2p.peer.id import ID
from libp2p.peer.pb import envelope_pb2
from libp2p.peer.peer_record import PeerRecord
from libp2p.peer.peerstore import PeerStore
from libp2p.pubsub import utils
from libp2p.pubsub.pb import rpc_pb2
from multiaddr import Multiaddr
from scripts.fuzzing.mutations import mutated
from scripts.fuzzing.protobufs import Protobuf
from scripts.fuzzing.target import RefusedError, Target
from trio.testing import MockClock

from aigrid.node.network import dht_messages, identify_messages, key_types
from aigrid.node.network.gossip_author import PEER_ID_BYTES_MAX
from aigrid.node.network.libp2p_dht import collect, usable
from aigrid.node.network.peer_records import PeerRecords
from aigrid.node.network.transport import PeerAddress
from aigrid.protocol.chunks import ChunkHasher, chunk_bytes, chunk_count, read_chunk_list
from aigrid.protocol.errors import VerificationError
from aigrid.protocol.limits import LIMITS

_KEYS = tuple(create_new_key_pair(bytes([n]) * 32) for n in (1, 2, 3))
_PEER, *_OTHERS = (ID.from_pubkey(pair.public_key) for pair in _KEYS)
_HERE = tuple(
    Multiaddr(text)
    for text in (
        "/ip4/192.0.2.1/tcp/4001",
        "/ip6/2001:db8::1/tcp/4001",
        f"/dns4/example.org/tcp/443/p2p/{_PEER}",
    )
)
_DOMAIN = "libp2p-peer-record"


def _dht(data: bytes) -> None:
    """What is let through stays as it is when it is looked at again; its peers can be read."""
    kept = dht_messages.bounded(data)
    assert dht_messages.bounded(kept) == kept
    before, after = Message.FromString(data), Message.FromString(kept)
    found: dict[str, PeerAddress] = {}
    for name in ("closerPeers", "providerPeers"):
        peers = getattr(after, name)
        assert len(peers) <= len(getattr(before, name))
        assert len(peers) <= max(LIMITS.dht_closer_max, LIMITS.dht_providers_max)
        for peer in peers:
            assert len(peer.id) <= PEER_ID_BYTES_MAX
            assert len(peer.addrs) <= LIMITS.addresses_max
            addresses = [Multiaddr(one) for one in peer.addrs]
            usable(addresses)
            said = SimpleNamespace(peer_id=ID(peer.id), addrs=addresses)
            collect(found, [said], lambda _: False)
    assert len(found) <= LIMITS.dht_providers_max


def _dht_seeds() -> list[bytes]:
    record = _envelope(0)
    peers = [
        Message.Peer(
            id=one.to_bytes(),
            addrs=[address.to_bytes() for address in _HERE],
            connection=Message.ConnectionType.CONNECTED,
            signedRecord=record,
        )
        for one in (_PEER, *_OTHERS)
    ]
    key = hashlib.sha256(b"a model").digest()
    return [
        Message(type=Message.MessageType.FIND_NODE, key=_PEER.to_bytes()).SerializeToString(),
        Message(
            type=Message.MessageType.FIND_NODE, key=key, closerPeers=peers, senderRecord=record
        ).SerializeToString(),
        Message(
            type=Message.MessageType.GET_PROVIDERS, key=key, providerPeers=peers, closerPeers=peers
        ).SerializeToString(),
        Message(
            type=Message.MessageType.ADD_PROVIDER, key=key, providerPeers=peers[:1]
        ).SerializeToString(),
    ]


def _identify(data: bytes) -> None:
    """What is left is within its bounds and stays as it is; the library keeps no more than that."""
    _as_in_a_node()
    kept = identify_messages.bounded(data)
    assert identify_messages.bounded(kept) == kept
    said, before = Identify.FromString(kept), Identify.FromString(data)
    most_bytes = (LIMITS.dht_address_bytes, LIMITS.negotiation_line_max_bytes)
    most = (LIMITS.addresses_max, LIMITS.identify_protocols)
    for name, longest, count in zip(("listen_addrs", "protocols"), most_bytes, most, strict=True):
        entries = list(getattr(said, name))
        assert len(entries) <= count
        sizes = [len(one.encode() if isinstance(one, str) else one) for one in entries]
        assert all(0 < size <= longest for size in sizes)
        whole = iter(getattr(before, name))
        assert all(one in whole for one in entries), "none is changed, or comes before another"
    store = PeerStore()
    try:
        update_peerstore_from_identify(store, _PEER, said).send(None)
    except StopIteration:
        pass
    else:
        raise AssertionError("it waits for something")
    assert set(store.peer_data_map) | set(store.peer_record_map) <= {_PEER}, "of somebody else"
    if _PEER in store.peer_data_map:
        held = store.peer_data_map[_PEER]
        assert held.pubkey is None or ID.from_pubkey(held.pubkey) == _PEER
        assert len(held.protocols) <= LIMITS.identify_protocols
        usable(held.addrs)


def _identify_seeds() -> list[bytes]:
    pairs = ((number, of) for number in (0, 1) for of in (None, _PEER))
    said = [
        Identify(
            protocol_version="aigrid/1",
            agent_version="aigrid",
            public_key=_KEYS[number].public_key.serialize(),
            listen_addrs=[address.to_bytes() for address in _HERE],
            observed_addr=_HERE[0].to_bytes(),
            protocols=["/aigrid/rpc/1", "/ipfs/id/push/1.0.0", "/meshsub/1.1.0"],
            signedPeerRecord=_envelope(number, of),
        )
        for number, of in pairs
    ]
    longest = "/" + "x" * (LIMITS.negotiation_line_max_bytes - 1)
    said.append(Identify(protocols=["", longest, longest + "x"], listen_addrs=[b"", b"\4" * 9]))
    said.append(Identify(protocols=["/a"] * LIMITS.identify_protocols))
    said.append(Identify(listen_addrs=[_HERE[0].to_bytes()] * LIMITS.addresses_max))
    return [one.SerializeToString() for one in said]


def _envelope(number: int, of: ID | None = None) -> bytes:
    """A record of that peer, or of another, that is signed with the key of this number."""
    pair = _KEYS[number]
    peer = of or ID.from_pubkey(pair.public_key)
    record = PeerRecord(peer, list(_HERE), number)  # numbered by the clock if by nothing else
    return bytes(seal_record(record, pair.private_key).marshal_envelope())


class Enveloped(Protobuf):
    """Two records, each with its length before it; most payloads are signed anew as they are."""

    def __init__(self) -> None:
        super().__init__([_envelope(0), _envelope(1), _envelope(1, _PEER)])

    def make(self, rng: Random) -> bytes:
        parts = [self._one(rng) for _ in range(2)]
        return b"".join(len(one).to_bytes(4, "big") + one for one in parts)

    def _one(self, rng: Random) -> bytes:
        if rng.getrandbits(2) == 0:
            return super().make(rng)
        said = envelope_pb2.Envelope.FromString(self.seeds[0])
        if rng.getrandbits(2):
            said.payload = self._changed(rng, said.payload, 0)
        if rng.getrandbits(3) == 0:
            said.payload_type = mutated(rng, said.payload_type, ())
        unsigned = make_unsigned(_DOMAIN, said.payload_type, said.payload)
        said.signature = _KEYS[0].private_key.sign(unsigned)
        return bytes(said.SerializeToString())


async def _accepted(records: list[bytes]) -> None:
    store = PeerStore()
    held = PeerRecords(SimpleNamespace(get_peerstore=lambda: store), lambda: ())
    took = False
    for data in records:
        before = store.peer_record_map.get(_PEER)
        rpc = rpc_pb2.RPC(senderRecord=data)
        if not held.accept(rpc, _PEER):
            assert store.peer_record_map.get(_PEER) is before, "refused, and kept"
            continue
        took = True
        state = store.peer_record_map[_PEER]
        assert state.envelope.record().peer_id == _PEER
        assert held.accept(rpc, _PEER)
    assert set(store.peer_record_map) <= {_PEER}, "kept of somebody else"
    assert len(held) <= 1
    if _PEER in store.peer_data_map:
        usable(store.peer_data_map[_PEER].addrs)
    if not took:
        raise RefusedError


@cache
def _as_in_a_node() -> None:
    """Keys of one type alone are read; of each refusal the library would write a line."""
    key_types.ed25519_only()
    for module in (utils, update):
        logging.getLogger(module.__name__).setLevel(logging.CRITICAL)


def _records(data: bytes) -> None:
    """Nothing is kept but what this peer has signed of itself."""
    _as_in_a_node()
    records: list[bytes] = []
    at = 0
    while at < len(data) and len(records) < 4:
        size = int.from_bytes(data[at : at + 4], "big")
        records.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    trio.run(_accepted, records, clock=MockClock())


@cache
def _lists() -> tuple[tuple[int, bytes], ...]:
    """Sizes of files, and their chunk lists."""
    least = LIMITS.chunk_min_bytes
    sizes = (0, 1, least - 1, least, least + 1, 2 * least, 3 * least + 5)
    found = []
    for size in sizes:
        hasher = ChunkHasher(size)
        hasher.add(bytes(size))
        found.append((size, hasher.end()))
    # Of files that are too large to be made here any digests will do.
    wanted = least * LIMITS.chunks_wanted
    large = (wanted, wanted + 1, 7 * wanted + 3)
    found += [(size, b"\x07" * 32 * chunk_count(size)) for size in large]
    return tuple(found)


class ChunkLists:
    """`SIZE SHA-256` of a file and of its list, a line feed, and the list."""

    def make(self, rng: Random) -> bytes:
        size, raw = rng.choice(_lists())
        other = raw if rng.getrandbits(1) else mutated(rng, raw[:4096], ())
        digest = hashlib.sha256(rng.choice((raw, other))).hexdigest()
        if rng.getrandbits(2) == 0:
            most = LIMITS.chunks_max * LIMITS.chunk_max_bytes
            size = rng.choice((0, size + 1, max(0, size - 1), most, most + 1, 2**53, 2**64))
        return f"{size} {digest}\n".encode() + other


def _chunk_list(data: bytes) -> None:
    """What is taken is the list that was named, of the whole file, and of no more."""
    head, _, raw = data.partition(b"\n")
    size, _, digest = head.decode("latin-1").partition(" ")
    file_bytes = int(size)
    found = read_chunk_list(raw, file_bytes=file_bytes, sha256=digest)
    assert found.raw == raw
    assert hashlib.sha256(raw).hexdigest() == digest, "accepted a list that nobody named"
    assert found.size == chunk_bytes(file_bytes)
    lengths = [found.length(number) for number in range(len(found.digests))]
    assert sum(lengths) == file_bytes
    assert all(0 < one <= found.size for one in lengths)
    assert not lengths or not found.holds(0, b"x" * (lengths[0] + 1))


TARGETS = (
    Target(
        "dht-messages",
        lambda: Protobuf(_dht_seeds()),
        _dht,
        (dht_messages.DhtMessageError, DecodeError),
    ),
    Target("identify", lambda: Protobuf(_identify_seeds()), _identify, (DecodeError,)),
    Target("peer-records", Enveloped, _records, ()),
    Target("chunk-lists", ChunkLists, _chunk_list, (VerificationError,)),
)
