"""What a node keeps of hints: bounded, and nobody's push out those of anybody who gives fewer."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.kad_dht.common import BUCKET_SIZE
from libp2p.kad_dht.provider_store import ProviderStore
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr
from tests.node.network import nodes
from trio.testing import MockClock

from aigrid.node.network import compat
from aigrid.node.network.dht_hints import RENEWALS_MISSED, BoundedHints
from aigrid.protocol.limits import LIMITS, Limits

SMALL = replace(LIMITS, dht_hints_max=12, dht_keys_per_peer_max=5)
WIDE = replace(LIMITS, dht_hints_max=60, dht_keys_per_peer_max=5)
EVERYBODY = [ID(b"\x00\x24\x08\x01\x12\x20" + bytes([n]) * 32) for n in range(45)]
PEERS = EVERYBODY[:6]
OWN = PEERS[0]
RENEWED, GONE = LIMITS.provide_seconds, RENEWALS_MISSED * LIMITS.provide_seconds


def test_who_is_there_renews_a_hint_in_time_though_one_is_lost() -> None:
    a_round = max(LIMITS.provide_seconds, LIMITS.provide_keys_max * LIMITS.dht_call_seconds)
    assert 2 * a_round < GONE


class Clock:
    """Seconds, as the test has them."""

    now = 0.0

    def read(self) -> float:
        return self.now


def kept(limits: Limits = SMALL, clock: Clock | None = None) -> tuple[BoundedHints, ProviderStore]:
    host: Any = SimpleNamespace(get_id=lambda: OWN)
    store = ProviderStore(host)
    return BoundedHints(store, str(OWN), (clock or Clock()).read, limits), store


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


# Keys of as many providers as the library keeps


def tell(store: ProviderStore, *peers: ID) -> None:
    for peer in peers:
        store.add_provider(key(0), PeerInfo(peer, []))


def told(store: ProviderStore) -> set[ID]:
    return {one.peer_id for one in store.get_providers(key(0))}


def test_providers_that_are_gone_make_room_for_those_who_are_there() -> None:
    clock = Clock()
    bounded, store = kept(WIDE, clock)
    gone, there = EVERYBODY[1:21], EVERYBODY[21:24]
    tell(store, *gone)
    clock.now = GONE
    tell(store, *there)
    assert told(store) == {*gone[3:], *there}
    assert len(bounded) == BUCKET_SIZE == len(gone)


def test_who_renews_is_pushed_out_by_nobody_also_where_a_renewal_is_lost() -> None:
    clock = Clock()
    bounded, store = kept(WIDE, clock)
    there, others = EVERYBODY[1:21], EVERYBODY[21:]
    tell(store, *there)
    for lost in (0, 1, 0, 1, 1):
        clock.now += RENEWED * (1 + lost)
        tell(store, *others)
        assert told(store) == set(there)
        tell(store, *reversed(there))
    assert len(bounded) == len(there)


def test_of_those_that_are_gone_who_was_there_last_stays_longest() -> None:
    clock = Clock()
    _, store = kept(WIDE, clock)
    tell(store, *EVERYBODY[1:21])
    clock.now = 1.0
    tell(store, *EVERYBODY[1:20])
    clock.now += GONE
    tell(store, EVERYBODY[21])
    assert told(store) == {*EVERYBODY[1:20], EVERYBODY[21]}


def test_a_nodes_own_hint_is_kept_whoever_else_is_named() -> None:
    clock = Clock()
    bounded, store = kept(WIDE, clock)
    tell(store, *EVERYBODY[1:21])
    clock.now = 1.0
    tell(store, EVERYBODY[1], OWN)
    assert told(store) == {OWN, EVERYBODY[1], *EVERYBODY[3:21]}
    for _ in range(10):
        clock.now += RENEWED
        tell(store, *EVERYBODY[1:], OWN)
        assert OWN in told(store)
        assert len(bounded) == BUCKET_SIZE


def test_what_a_node_itself_offers_no_more_makes_room_too() -> None:
    clock = Clock()
    _, store = kept(WIDE, clock)
    tell(store, *EVERYBODY[:20])
    for _ in range(RENEWALS_MISSED):
        clock.now += RENEWED
        tell(store, *EVERYBODY[1:20])
    tell(store, EVERYBODY[20])
    assert told(store) == set(EVERYBODY[1:21])


@given(
    st.lists(
        st.tuples(
            st.permutations(EVERYBODY[:24]), st.integers(1, 24), st.sampled_from([1.0, RENEWED])
        ),
        min_size=1,
        max_size=6,
    )
)
def test_nobody_who_renews_is_pushed_out_in_whatever_order_they_tell(
    rounds: list[tuple[list[ID], int, float]],
) -> None:
    clock = Clock()
    bounded, store = kept(WIDE, clock)
    tell(store, *EVERYBODY[:20])
    renewed = dict.fromkeys(EVERYBODY[:20], 0.0)
    for peers, count, seconds in rounds:
        clock.now += seconds
        for peer in peers[:count]:
            before = told(store)
            tell(store, peer)
            pushed = before - told(store)
            assert len(pushed) <= 1
            assert peer == OWN or all(clock.now - renewed[one] >= GONE for one in pushed)
            assert peer in told(store) or not any(
                clock.now - renewed[one] >= GONE for one in before
            )
            assert OWN in told(store) or peer != OWN
            assert len(bounded) == len(told(store)) == BUCKET_SIZE
            renewed[peer] = clock.now


def test_of_a_hint_some_addresses_are_kept_the_first() -> None:
    _, store = kept()
    addresses = [Multiaddr(f"/ip4/192.0.2.1/tcp/{port}") for port in range(1, 1000)]
    store.add_provider(key(1), PeerInfo(PEERS[1], list(addresses)))
    (one,) = store.get_providers(key(1))
    assert one.addrs == addresses[: LIMITS.dht_hint_addresses_max]


# A host


async def test_on_a_host_those_who_are_gone_make_room(autojump_clock: MockClock) -> None:
    store = compat.build(nodes.new_seed(), lambda: ()).dht.provider_store
    tell(store, *EVERYBODY[:20])
    await trio.sleep(GONE - 1)
    tell(store, EVERYBODY[20])
    assert EVERYBODY[20] not in told(store)
    await trio.sleep(1)
    tell(store, EVERYBODY[20])
    assert EVERYBODY[20] in told(store)


def test_a_host_keeps_hints_so() -> None:
    library = compat.build(nodes.new_seed(), lambda: ())
    store = library.dht.provider_store
    for number in range(LIMITS.dht_keys_per_peer_max + 3):
        store.add_provider(key(number), PeerInfo(PEERS[1], []))
    assert len(store.providers) == LIMITS.dht_keys_per_peer_max
