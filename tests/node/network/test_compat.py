"""Canaries: what `compat` leans on in py-libp2p 0.8.1. A failure here means: read upstream again."""

import importlib.metadata
import inspect
import logging
from typing import Any

import pytest
import trio
from libp2p.host.basic_host import BasicHost
from libp2p.identity.update import update_peerstore_from_identify
from libp2p.network.connection import swarm_connection
from libp2p.network.stream.net_stream import NetStream
from libp2p.network.swarm import Swarm
from libp2p.peer.peerstore import PeerStore
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.security.noise.io import (
    BYTE_ORDER,
    MAX_PLAINTEXT_LENGTH,
    SIZE_NOISE_MESSAGE_LEN,
    NoiseTransportReadWriter,
)
from libp2p.security.secure_session import SecureSession
from noise.connection import NoiseConnection
from tests.node.network import nodes

from aigrid.node.network import compat, dht_messages, identify_messages, yamux_frames
from aigrid.node.network.mux_link import LENGTH_BYTES, FusedLink
from aigrid.node.network.muxer import Muxer


@pytest.fixture
def library() -> compat.Library:
    return compat.build(nodes.new_seed(), lambda: ("/ip4/127.0.0.1/tcp/1",))


def source(function: Any) -> str:
    return inspect.getsource(function)


def test_version_is_the_one_that_was_read() -> None:
    assert importlib.metadata.version("libp2p") == "0.8.1"


def test_peer_id_is_the_identity_multihash_of_the_key(library: compat.Library) -> None:
    again = compat.build((77).to_bytes(32, "big"), lambda: ())
    assert str(again.peer_id) == nodes.peer_id_of_seed((77).to_bytes(32, "big"))


def test_replaced_parts_are_still_called_through_the_instance() -> None:
    assert "self.swarm.common_stream_handler(" in source(swarm_connection.SwarmConn)
    assert "self.manager.run_task(muxed_conn.start)" in source(Swarm.add_conn)
    assert "self.host.new_stream(" in source(Pubsub._handle_new_peer)
    assert "self.is_peer_blacklisted(" in source(Pubsub._handle_new_peer)
    assert "await self.router.publish(msg_forwarder, msg)" in source(Pubsub.push_msg)
    assert "self._schedule_identify(" in source(BasicHost._on_notifee_connected)
    assert "self.counter" in source(Pubsub._next_seqno)
    assert "self.muxed_stream = " in source(NetStream.__init__)


async def test_what_a_node_offered_once_is_not_told_by_the_library(
    library: compat.Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past our pace, and for ever: `ProviderHints` tells what is offered now."""
    store, told = library.dht.provider_store, list[bytes]()

    async def provide(key: bytes) -> bool:
        told.append(key)
        return True

    monkeypatch.setattr(store, "provide", provide)
    store.providing_keys.update([b"one", b"two"])
    await store._republish_provider_records()
    assert told == []


def test_nothing_else_writes_what_we_bounded() -> None:
    for name in ("recent_message_deliveries", "recent_peer_connections"):
        assert name in source(GossipSub)
    assert "self.connection_pruner.start()" in source(Swarm.run)
    assert "self.auto_connector.run_background_task(" in source(Swarm.run)


def test_what_is_forgotten_is_kept_where_it_was() -> None:
    """`forgetting`: who calls what it replaces, and that nothing else needs what it drops."""
    assert "self._enforce_peer_limit()" in source(PeerStore.add_addrs)
    assert "self.add_addrs(" in source(PeerStore.add_addr)
    assert "self.add_addrs(" in source(PeerStore.consume_peer_record)
    assert "peerstore.clear_addrs(" in source(update_peerstore_from_identify)
    assert " = _safe_parse_multiaddr_cached(" in source(update_peerstore_from_identify)
    assert "self._check_equivocation(" in source(GossipSub.publish)
    assert source(GossipSub).count("equivocation_detection[") == 3  # two there, one to clean up
    assert "self._is_msg_seen(" in source(Pubsub.push_msg)
    assert "self.fanout_heartbeat()" in source(GossipSub.heartbeat)
    assert "del self.back_off[topic][peer]" in source(GossipSub._check_back_off)


def test_gossip_is_set_up_as_measured(library: compat.Library) -> None:
    gossip = library.gossip
    assert gossip.protocols == [compat.MESHSUB_PROTOCOL]
    assert gossip.heartbeat_interval == 1
    assert not gossip.spam_protection_enabled
    assert not gossip.adaptive_gossip_enabled
    assert not gossip.do_px
    assert gossip.scorer is None
    assert library.pubsub.strict_signing


def test_host_serves_our_dht_and_not_the_public_one(library: compat.Library) -> None:
    handlers = set(library.host.multiselect.handlers)
    assert compat.KAD_PROTOCOL in handlers
    assert not [h for h in handlers if "/ipfs/kad" in h]
    for module in compat._KAD_MODULES:
        assert module.PROTOCOL_ID == compat.KAD_PROTOCOL
        assert module.read_varint_prefixed_bytes_limited is dht_messages.read


def test_identify_is_read_with_our_bounds(library: compat.Library) -> None:
    """Both where it is pushed and where it answers."""
    for module in compat._IDENTIFY_MODULES:
        assert module.read_length_prefixed_protobuf is identify_messages.read
        assert "await read_length_prefixed_protobuf(" in inspect.getsource(module)


def test_host_has_no_listener_transport_security_or_muxer_of_the_library(
    library: compat.Library,
) -> None:
    upgrader = library.swarm.upgrader
    assert not upgrader.security_multistream.transports
    assert not upgrader.muxer_multistream.transports
    assert not library.swarm.transport_manager.get_transports()
    assert library.swarm._resource_manager is None
    assert [str(a).split("/p2p/")[0] for a in library.host.get_addrs()] == ["/ip4/127.0.0.1/tcp/1"]


def test_noise_message_holds_our_largest_frame() -> None:
    assert yamux_frames.NOISE_MESSAGE_MAX_BYTES == MAX_PLAINTEXT_LENGTH


def test_noise_is_as_the_fused_link_speaks_it() -> None:
    """Two bytes of length, and the cipher states used with no associated data."""
    assert SIZE_NOISE_MESSAGE_LEN == LENGTH_BYTES
    assert BYTE_ORDER == "big"
    for method, call in (
        (NoiseTransportReadWriter.encrypt, "return self.noise_state.encrypt(data)"),
        (NoiseTransportReadWriter.decrypt, "return self.noise_state.decrypt(data)"),
        (NoiseConnection.encrypt, "self.noise_protocol.cipher_state_encrypt.encrypt_with_ad(None,"),
        (NoiseConnection.decrypt, "self.noise_protocol.cipher_state_decrypt.decrypt_with_ad(None,"),
        (NoiseTransportReadWriter.read_msg, "await self.read_writer.read_msg()"),
        (SecureSession.read, "self._drain(n)"),
    ):
        assert call in source(method)


async def test_connections_are_fused(pair: nodes.Pair) -> None:
    for node, other in (pair, pair[::-1]):
        link = node._connections.live(other.peer_id)
        assert link is not None
        assert type(link.muxer._link) is FusedLink


async def test_connections_use_our_muxer(pair: nodes.Pair) -> None:
    one, two = pair
    for node, other in ((one, two), (two, one)):
        (conn,) = node._library.swarm.get_connections(other._library.peer_id)
        assert type(conn.muxed_conn) is Muxer
        assert isinstance(node._library.swarm.manager, compat.GuardedManager)


async def test_library_task_that_fails_ends_alone(pair: nodes.Pair) -> None:
    one, two = pair

    async def boom() -> None:
        raise RuntimeError("task exploded")

    for service in (two._library.swarm, two._library.pubsub, two._library.gossip, two._library.dht):
        service.manager.run_task(boom)
    await nodes.eventually(lambda: two.counters()["tasks_failed"] == 4)
    assert await nodes.ask(one, two.peer_id, b"alive") == b"alive"


async def test_daemon_of_the_library_is_started_again(
    monkeypatch: pytest.MonkeyPatch, pair: nodes.Pair
) -> None:
    monkeypatch.setattr(compat, "RESTART_SECONDS", 0.01)
    runs = []

    async def heartbeat() -> None:
        runs.append(trio.current_time())
        raise RuntimeError

    pair[0]._library.gossip.manager.run_daemon_task(heartbeat)
    await nodes.eventually(lambda: len(runs) > 2)


def test_library_is_quiet(library: compat.Library) -> None:
    assert not logging.getLogger("libp2p.pubsub").isEnabledFor(logging.ERROR)
    assert swarm_connection.logging.name == "libp2p"
