"""Where members were last reached: persisted, bounded, and only a hint."""

import random
from dataclasses import replace

import msgspec
import pytest

from aigrid.metagraph.local import LocalState
from aigrid.metagraph.store import Store
from aigrid.node.discovery import known
from aigrid.node.discovery.known import KnownPeers
from aigrid.protocol.errors import Code, UsageError
from aigrid.protocol.identity import Identity
from aigrid.protocol.limits import LIMITS

OWN, *OTHERS = (Identity(bytes([n]) * 32) for n in range(1, 7))
AT = ("/ip4/192.0.2.1/tcp/4001",)


def peers(store, *bootstrap):
    return KnownPeers(LocalState(store), own_peer_id=OWN.peer_id, bootstrap=bootstrap)


def everybody():
    return frozenset(identity.peer_id for identity in (OWN, *OTHERS))


def test_addresses_outlive_the_process_and_belong_to_members_only():
    store = Store()
    peers(store).learn(OTHERS[0].did, AT)
    again = peers(store)
    assert [p.addresses for p in again.addresses(everybody())] == [AT]
    assert again.addresses(frozenset()) == ()


def test_own_addresses_and_empty_ones_are_not_dialled():
    store = Store()
    made = peers(store)
    made.learn(OWN.did, AT)
    made.learn(OTHERS[0].did, ())
    assert made.addresses(everybody()) == ()


def test_the_least_recently_learned_is_forgotten_first(monkeypatch):
    monkeypatch.setattr(known, "LIMITS", replace(LIMITS, peers_known_max=2))
    store = Store()
    made = peers(store)
    for identity in (OTHERS[0], OTHERS[1], OTHERS[0], OTHERS[2]):
        made.learn(identity.did, (*AT, f"/ip4/192.0.2.1/tcp/{len(made._addresses)}"))
    left = {peer.peer_id for peer in peers(store).addresses(everybody())}
    assert left == {OTHERS[0].peer_id, OTHERS[2].peer_id}


def test_a_newer_address_stands_in_for_the_bootstrap_one():
    store = Store()
    made = peers(store, f"/dns4/host.example/tcp/1/p2p/{OTHERS[0].peer_id}")
    assert [p.addresses for p in made.addresses(frozenset())] == [("/dns4/host.example/tcp/1",)]
    made.learn(OTHERS[0].did, AT)
    assert [p.addresses for p in made.addresses(everybody())] == [AT]


def test_one_bootstrap_list_fits_every_node():
    made = peers(
        Store(),
        f"/ip4/192.0.2.1/tcp/1/p2p/{OWN.peer_id}",
        f"/ip4/192.0.2.2/tcp/1/p2p/{OTHERS[0].peer_id}",
    )
    assert [p.peer_id for p in made.addresses(frozenset())] == [OTHERS[0].peer_id]


@pytest.mark.parametrize(
    "text", ["", "/ip4/192.0.2.1/tcp/1", "/p2p/12D3", "/ip4/x/p2p/" + "y" * 999]
)
def test_a_bootstrap_address_without_a_peer_is_refused(text):
    with pytest.raises(UsageError):
        peers(Store(), text)


def test_a_disk_that_is_full_costs_the_hint_and_not_the_record(monkeypatch):
    store = Store()
    made = peers(store)

    def full(*args, **kwargs):
        raise UsageError("the disk is full", Code.DATA_DIRECTORY_UNUSABLE)

    monkeypatch.setattr(store.database, "execute", full)
    made.learn(OTHERS[0].did, AT)
    assert [p.addresses for p in made.addresses(everybody())] == [AT]


def test_a_new_address_writes_one_row_however_many_are_known(monkeypatch):
    store = Store()
    made = peers(store)
    for identity in OTHERS:
        made.learn(identity.did, AT)
    written = []
    monkeypatch.setattr(made._local, "set", lambda name, value: written.append((name, value)))
    made.learn(OTHERS[0].did, (*AT, "/ip4/192.0.2.9/tcp/1"))
    ((name, value),) = written
    assert OTHERS[0].peer_id in name
    assert OTHERS[1].peer_id not in value


def test_addresses_that_an_earlier_version_kept_are_taken_over():
    store = Store()
    kept = {OTHERS[0].peer_id: AT, OTHERS[1].peer_id: AT}
    LocalState(store).set("addresses", msgspec.json.encode(kept).decode())
    for _ in range(2):
        assert {p.peer_id for p in peers(store).addresses(everybody())} == kept.keys()
    assert LocalState(store).get("addresses") is None


def test_members_are_dialled_in_random_order_after_whom_the_operator_named():
    made = peers(Store(), f"/ip4/192.0.2.2/tcp/1/p2p/{OTHERS[4].peer_id}")
    for identity in OTHERS[:4]:
        made.learn(identity.did, AT)
    orders = {
        tuple(p.peer_id for p in made.addresses(everybody(), random.Random(n))) for n in range(20)
    }
    assert len(orders) > 5
    assert {order[0] for order in orders} == {OTHERS[4].peer_id}
