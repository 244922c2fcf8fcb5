"""The sender's signed record is verified once, and never taken on trust."""

import inspect
from dataclasses import replace
from typing import Any

import libp2p.peer.peer_record
import libp2p.pubsub.gossipsub
import libp2p.pubsub.pubsub
import pytest
from libp2p.crypto.ed25519 import create_new_key_pair as ed25519
from libp2p.crypto.rsa import create_new_key_pair as rsa
from libp2p.crypto.secp256k1 import create_new_key_pair as secp256k1
from libp2p.peer.envelope import consume_envelope
from libp2p.peer.pb.envelope_pb2 import Envelope
from libp2p.peer.peer_record import PeerRecord
from libp2p.peer.peerdata import PeerData
from libp2p.peer.peerstore import PeerStore, create_signed_peer_record
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from tests.node.network import nodes

from aigrid.node.network import compat, peer_records
from aigrid.protocol.limits import LIMITS

HERE = "/ip4/127.0.0.1/tcp/1"


class World:
    """One host, and what it verifies."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: tuple[str, ...] = (HERE,)
        self.library = compat.build(nodes.new_seed(), lambda: self.addresses)
        self.records: peer_records.PeerRecords = self.library.host.peer_records
        self.verified: list[bytes] = []
        monkeypatch.setattr(peer_records, "open_envelope", self.open)

    def open(self, data: bytes, domain: str) -> Any:
        self.verified.append(data)
        return consume_envelope(data, domain)

    def accepts(self, peer: compat.Library, record: bytes) -> bool:
        return self.records.accept(rpc_pb2.RPC(senderRecord=record), peer.peer_id)

    def known_addresses(self, peer: compat.Library) -> list[str]:
        return [str(a) for a in self.library.host.get_peerstore().addrs(peer.peer_id)]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def sender() -> compat.Library:
    return compat.build(nodes.new_seed(), lambda: (HERE,))


def record_of(peer: compat.Library, *addresses: str) -> bytes:
    key = peer.host.get_private_key()
    each = [compat.Multiaddr(a) for a in addresses or (HERE,)]
    return bytes(create_signed_peer_record(peer.peer_id, each, key).marshal_envelope())


@pytest.mark.usefixtures("world")
def test_upstream_still_asks_as_we_read_it() -> None:
    for module in (libp2p.pubsub.pubsub, libp2p.pubsub.gossipsub):
        assert module.maybe_consume_signed_record is peer_records._accept
        assert module.env_to_send_in_RPC is peer_records._own
    asks = "maybe_consume_signed_record(rpc, self.pubsub.host, sender_peer_id)"
    assert asks in inspect.getsource(GossipSub.handle_rpc)
    for function in (Pubsub.get_hello_packet, Pubsub._build_announce_rpc):
        assert "envelope_bytes, _ = env_to_send_in_RPC(self.host)" in inspect.getsource(function)
    for function in (GossipSub.publish, GossipSub.emit_control_message, GossipSub.handle_iwant):
        sends = "envelope_bytes, _ = env_to_send_in_RPC(self.pubsub.host)"
        assert sends in inspect.getsource(function)


@pytest.mark.usefixtures("world")
def test_upstream_still_stores_as_we_read_it() -> None:
    consume = inspect.getsource(PeerStore.consume_peer_record)
    assert "self.peer_record_map[peer_id] = PeerRecordState(envelope, record.seq)" in consume
    assert "existing.seq > record.seq" in consume
    assert PeerData().addrs == []
    parses = "addrs = addrs_from_protobuf(msg.addresses)"
    assert parses in inspect.getsource(libp2p.peer.peer_record.peer_record_from_protobuf)
    assert libp2p.peer.peer_record.addrs_from_protobuf is peer_records._first_addresses
    assert "7200" in inspect.getsource(libp2p.pubsub.utils.maybe_consume_signed_record)


async def test_the_same_bytes_are_verified_once_per_peer(world: World) -> None:
    one, two = sender(), sender()
    first, second = record_of(one), record_of(two)
    for _ in range(5):
        assert world.accepts(one, first)
        assert world.accepts(two, second)
    assert world.verified == [first, second]
    assert world.known_addresses(one) == [HERE]


async def test_no_record_is_none_to_verify(world: World) -> None:
    assert world.records.accept(rpc_pb2.RPC(), sender().peer_id)
    assert not world.verified


async def test_a_changed_record_is_verified_and_taken(world: World) -> None:
    one = sender()
    moved = "/ip4/127.0.0.1/tcp/2"
    for record in (record_of(one), record_of(one, moved)):
        assert world.accepts(one, record)
    assert len(world.verified) == 2
    assert world.known_addresses(one) == [moved]


async def test_a_forged_record_is_refused_however_often_the_good_one_came(world: World) -> None:
    one = sender()
    good = record_of(one)
    assert world.accepts(one, good)
    for place in range(0, len(good), 7):
        forged = bytearray(good)
        forged[place] ^= 1
        assert not world.accepts(one, bytes(forged))
    assert world.accepts(one, good)


async def test_a_record_of_another_peer_is_refused_though_that_was_verified(world: World) -> None:
    one, two = sender(), sender()
    record = record_of(one)
    assert world.accepts(one, record)
    assert not world.accepts(two, record)
    assert not world.accepts(two, record)


async def test_what_a_peer_says_now_holds_though_its_record_is_older(
    world: World,
) -> None:
    """As from a peer that started again with its clock behind."""
    one, moved = sender(), "/ip4/127.0.0.1/tcp/2"
    older, newer = record_of(one), record_of(one, moved)
    assert PeerRecord(one.peer_id, []).seq > 1 << 32  # by the clock, in upstream: they differ
    assert world.accepts(one, newer)
    for _ in range(3):
        assert world.accepts(one, older)
        assert world.known_addresses(one) == [HERE]
    assert world.verified == [newer, older]


async def test_what_the_store_lost_is_put_back(world: World) -> None:
    one = sender()
    record = record_of(one)
    assert world.accepts(one, record)
    world.library.host.get_peerstore().clear_addrs(one.peer_id)
    assert world.accepts(one, record)
    assert world.known_addresses(one) == [HERE]


async def test_a_record_is_taken_in_again_before_the_library_forgets_it(
    world: World, autojump_clock: Any
) -> None:
    one = sender()
    record = record_of(one)
    assert world.accepts(one, record)
    autojump_clock.jump(peer_records.RENEW_SECONDS - 1)
    assert world.accepts(one, record)
    assert len(world.verified) == 1
    autojump_clock.jump(2)
    assert world.accepts(one, record)
    assert len(world.verified) == 2


async def test_no_more_is_kept_than_there_may_be_connections(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_records, "LIMITS", replace(LIMITS, connections_max=3))
    senders = [sender() for _ in range(5)]
    for one in senders:
        assert world.accepts(one, record_of(one))
    assert len(world.records) == 3


async def test_a_record_over_size_is_refused_unread(world: World) -> None:
    one = sender()
    record = record_of(one, *(f"/ip4/127.0.0.1/tcp/{n}" for n in range(1, 400)))
    assert len(record) > LIMITS.gossip_sender_bytes
    assert not world.accepts(one, record)
    assert not world.verified
    most = [f"/dns4/{'a' * 60}.example/tcp/{n}" for n in range(1, LIMITS.addresses_max + 1)]
    assert world.accepts(one, record_of(one, *most))


async def test_of_a_record_with_many_addresses_the_first_are_parsed_and_it_stays_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, parsed = sender(), list[bytes]()
    short = [f"/tcp/{n}" for n in range(1, 400)]
    record = record_of(one, *short)
    assert len(record) <= LIMITS.gossip_sender_bytes
    really = libp2p.peer.peer_record.Multiaddr

    def counted(address: Any) -> Any:
        parsed.append(address)
        return really(address)

    monkeypatch.setattr(libp2p.peer.peer_record, "Multiaddr", counted)
    assert world.accepts(one, record)
    assert len(parsed) == LIMITS.addresses_max
    assert set(world.known_addresses(one)) == set(short[: LIMITS.addresses_max])
    envelope = world.library.host.get_peerstore().get_peer_record(one.peer_id)
    assert envelope.marshal_envelope() == record  # others can verify it


async def test_an_address_in_a_record_that_is_longer_than_any_is_not_parsed(world: World) -> None:
    one = sender()
    long = HERE * LIMITS.dht_address_bytes
    assert world.accepts(one, record_of(one, long, HERE))
    assert world.known_addresses(one) == [HERE]


async def test_a_record_under_a_key_that_is_not_the_senders_is_not_looked_at(world: World) -> None:
    """It might be one for RSA, made of numbers that take long."""
    one, two = sender(), sender()
    envelope: Any = Envelope.FromString(record_of(one))
    envelope.public_key.Type = 0
    envelope.public_key.Data = b"\x30" * 1000
    assert not world.accepts(one, envelope.SerializeToString())
    envelope.public_key.Type = 99
    assert not world.accepts(one, envelope.SerializeToString())
    assert not world.accepts(one, record_of(two))
    assert not world.accepts(one, b"\xff")
    assert not world.accepts(one, b"")
    assert not world.verified
    assert world.accepts(one, record_of(one))


def test_every_kind_of_key_is_found_in_its_peer_id() -> None:
    for pair in (ed25519(), secp256k1(), rsa(2048)):
        peer_id = compat.ID.from_pubkey(pair.public_key)
        address = [compat.Multiaddr(HERE)]
        record = create_signed_peer_record(peer_id, address, pair.private_key).marshal_envelope()
        assert peer_records._is_by(record, peer_id)


async def test_our_own_record_is_made_again_when_our_addresses_change(world: World) -> None:
    first, _ = libp2p.pubsub.pubsub.env_to_send_in_RPC(world.library.host)
    again, _ = libp2p.pubsub.gossipsub.env_to_send_in_RPC(world.library.host)
    assert again is first
    world.addresses = ("/ip4/127.0.0.1/tcp/2",)
    moved, _ = libp2p.pubsub.pubsub.env_to_send_in_RPC(world.library.host)
    assert moved != first
    other = World(pytest.MonkeyPatch())
    assert other.accepts(world.library, moved)
    assert [a.split("/p2p/")[0] for a in other.known_addresses(world.library)] == [
        "/ip4/127.0.0.1/tcp/2"
    ]


async def test_another_host_of_the_process_is_served_by_the_library(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    del world.library.host.peer_records
    data, _ = libp2p.pubsub.pubsub.env_to_send_in_RPC(world.library.host)
    assert world.accepts(world.library, data)
    world.verified.clear()
    monkeypatch.setattr(libp2p.pubsub.utils, "consume_envelope", world.open)
    one = sender()
    rpc = rpc_pb2.RPC(senderRecord=record_of(one))
    for _ in range(2):
        assert libp2p.pubsub.pubsub.maybe_consume_signed_record(
            rpc, world.library.host, one.peer_id
        )
    assert len(world.verified) == 2
