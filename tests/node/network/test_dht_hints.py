"""What a node keeps of hints: bounded, and nobody's push out those of anybody who gives fewer."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.kad_dht.provider_store import ProviderStore
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from tests.node.network import nodes

from aigrid.node.network import compat
from aigrid.node.network.dht_hints import BoundedHints
from aigrid.protocol.limits import LIMITS

SMALL = replace(LIMITS, dht_hints_max=12, dht_keys_per_peer_max=5)
PEERS = [ID(b"\x00\x24\x08\x01\x12\x20" + bytes([n]) * 32) for n in range(6)]
OWN = PEERS[0]


def kept() -> tuple[BoundedHints, ProviderStore]:
    host: Any = SimpleNamespace(get_id=lambda: OWN)
    store = ProviderStore(host)
    return BoundedHints(store, str(OWN), SMALL), store


def key(number: int) -> bytes:
    return b"key %d" % number


def named(store: ProviderStore, peer: ID) -> set[bytes]:
    return {key for key, found in store.providers.items() if str(peer) in found}


@given(st.lists(st.tuples(st.sampled_from(PEERS), st.integers(0, 40)), max_size=150))
def test_the_store_is_bounded_and_has_what_is_counted(hints: list[tuple[ID, int]]) -> None:
    bounded, store = kept()
    for peer, number in hints:
        store.add_provider(key(number), PeerInfo(peer, []))
        assert key(number) in named(store, peer) or peer != OWN
        assert len(bounded) == sum(map(len, store.providers.values()))
        assert len(bounded) <= max(SMALL.dht_hints_max, len(named(store, OWN)))
        assert all(store.providers.values())
        for other in PEERS[1:]:
            assert len(named(store, other)) <= SMALL.dht_keys_per_peer_max


def test_no_more_are_kept_than_may_be_however_many_give_them() -> None:
    bounded, store = kept()
    for number in range(4):
        for peer in PEERS[1:]:
            store.add_provider(key(number), PeerInfo(peer, []))
    assert len(bounded) == sum(map(len, store.providers.values())) == SMALL.dht_hints_max


def test_members_that_fill_the_store_take_it_from_each_other() -> None:
    _, store = kept()
    store.add_provider(key(1), PeerInfo(OWN, []))
    store.add_provider(key(2), PeerInfo(PEERS[1], []))
    for number in range(100, 200):
        for greedy in PEERS[2:]:
            store.add_provider(key(number), PeerInfo(greedy, []))
    assert named(store, OWN) == {key(1)}
    assert named(store, PEERS[1]) == {key(2)}
    store.add_provider(key(3), PeerInfo(PEERS[1], []))
    assert named(store, PEERS[1]) == {key(2), key(3)}


def test_what_was_named_first_goes_first_unless_it_was_renewed() -> None:
    _, store = kept()
    for number in (1, 2, 3, 4, 5, 1, 6):
        store.add_provider(key(number), PeerInfo(PEERS[1], []))
    assert named(store, PEERS[1]) == {key(number) for number in (1, 3, 4, 5, 6)}


def test_hints_that_the_library_let_go_of_take_no_room() -> None:
    bounded, store = kept()
    for number in range(5):
        store.add_provider(key(number), PeerInfo(PEERS[1], []))
    store.providers.clear()
    for number in range(5, 10):
        store.add_provider(key(number), PeerInfo(PEERS[1], []))
    assert named(store, PEERS[1]) == {key(number) for number in range(5, 10)}
    assert len(bounded) == 5


def expire(store: ProviderStore, key: bytes) -> None:
    for record in store.providers[key].values():
        record.timestamp = 1.0


@pytest.mark.parametrize("all_at_once", [True, False])
def test_hints_of_the_gone_that_have_ended_take_no_room_from_those_who_are_there(
    all_at_once: bool,
) -> None:
    bounded, store = kept()
    for number in range(4):
        for gone in PEERS[2:5]:
            store.add_provider(key(number), PeerInfo(gone, []))
    assert len(bounded) == SMALL.dht_hints_max
    for number in range(4):
        expire(store, key(number))
        if not all_at_once:
            assert store.get_providers(key(number)) == []
    store.cleanup_expired()
    for number in range(10, 15):
        store.add_provider(key(number), PeerInfo(PEERS[1], []))
    assert named(store, PEERS[1]) == {key(number) for number in range(10, 15)}
    assert len(bounded) == 5


def test_a_host_keeps_hints_so() -> None:
    library = compat.build(nodes.new_seed(), lambda: ())
    store = library.dht.provider_store
    for number in range(LIMITS.dht_keys_per_peer_max + 3):
        store.add_provider(key(number), PeerInfo(PEERS[1], []))
    assert len(store.providers) == LIMITS.dht_keys_per_peer_max
