"""Quotas: what strangers may hold, who makes room, and that members never do."""

import contextlib
import random
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.bench import strangers
from tests.metagraph.test_graph import ingest
from tests.metagraph.test_store import put, versions
from tests.metagraph.world import (
    ANN,
    AUTHORITY,
    BEN,
    DAY_MS,
    MINUTE_MS,
    NOW,
    OWN,
    STRANGER,
    availability,
    graph,
    manifest,
    membership,
    node_record,
    visible,
    with_members,
    withdrawal,
)

from aigrid.metagraph.accounts import (
    MEMBERSHIPS,
    Shortage,
    introduced_by,
    member_allowance,
    shortage,
    units_of,
)
from aigrid.metagraph.database import MIGRATIONS
from aigrid.metagraph.dataset_ipc import Update
from aigrid.metagraph.feed import Feed
from aigrid.metagraph.store import PutResult, Store
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record

SMALL = replace(
    LIMITS,
    records_per_introducer_max=4,
    strangers_records_max=6,
    keys_per_record_max=2,
    records_burst_per_issuer=10**6,
)
PEER_A, PEER_B = introduced_by("a"), introduced_by("b")
CROWD = [Identity(bytes([77, n]) * 16) for n in range(40)]


def lasting(count: int) -> list[Record]:
    """Records of ever new keys, each issued and ending a moment after the one before."""
    return [
        replace(record, valid_from_ms=NOW + n, valid_until_ms=NOW + MINUTE_MS + n)
        for n, record in enumerate(versions(count))
    ]


def held(store: Store) -> dict[str, int]:
    rows = store.database.rows("SELECT account, units FROM accounts WHERE total IS NOT NULL")
    return {account: units for account, units in rows if units}


def counted(store: Store) -> dict[str, tuple[int, int]]:
    """What `accounts` should say, by counting."""
    units: Counter[str] = Counter()
    keys: Counter[str] = Counter()
    for account, raw in store.database.rows("SELECT account, raw FROM records"):
        units[account] += units_of(raw, LIMITS)
    for (account,) in store.database.rows("SELECT account FROM remembered"):
        keys[account] += 1
    for tally in (units, keys):
        for account, amount in list(tally.items()):
            total = "strangers" if account.startswith("via ") else "members"
            tally["all memberships" if account == MEMBERSHIPS else total] += amount
    return {name: (units[name], keys[name]) for name in units | keys}


def exact(store: Store) -> bool:
    rows = store.database.rows("SELECT account, units, keys FROM accounts")
    return {row[0]: (row[1], row[2]) for row in rows} == counted(store)


def test_who_makes_room_is_the_introducer_that_is_full_and_else_the_one_that_has_most() -> None:
    def of(introducer: int, fullest: int, everybody: int) -> Shortage | None:
        return shortage(introducer=introducer, fullest=fullest, everybody=everybody, limits=SMALL)

    assert of(4, 4, 6) is None
    assert of(5, 4, 6) == Shortage(1, of_fullest=False)
    assert of(5, 4, 9) == Shortage(3, of_fullest=False)
    assert of(2, 4, 7) == Shortage(1, of_fullest=True)
    assert of(4, 4, 7) == Shortage(1, of_fullest=False)


@given(st.integers(0, 2 * LIMITS.members_records_max))
def test_members_together_stay_within_their_bound_and_the_last_room_is_for_who_has_least(
    everybody: int,
) -> None:
    allowance = member_allowance(everybody, LIMITS)
    assert allowance <= LIMITS.records_per_issuer_max
    if everybody <= LIMITS.members_records_max // 2:
        assert allowance == LIMITS.records_per_issuer_max
    assert everybody + allowance <= max(everybody, LIMITS.members_records_max)


def test_the_soonest_to_expire_make_room_in_any_order_of_arrival() -> None:
    made = lasting(12)
    for seed in range(5):
        store = Store(limits=SMALL)
        arrivals = [*made]
        random.Random(seed).shuffle(arrivals)
        for record in arrivals * 2:  # what has gone comes again with each sync
            with contextlib.suppress(VerificationError):
                put(store, record, account=PEER_A)
        assert exact(store)
        assert store.accounts.held(PEER_A)[0] == 4
    store = Store(limits=replace(SMALL, keys_per_record_max=100))
    for record in [*made[6:], *made[:6], *made]:
        with contextlib.suppress(VerificationError):
            put(store, record, account=PEER_A)
    assert set(store.live(NOW)) == set(made[-4:])


def test_the_introducer_that_has_most_gives_when_all_are_full() -> None:
    store, made = Store(limits=SMALL), lasting(9)
    for record in made[2:6]:
        put(store, record, account=PEER_A)
    for record in made[6:8]:
        put(store, record, account=PEER_B)
    assert put(store, made[8], account=PEER_B) is PutResult.CHANGED
    assert held(store) == {PEER_A: 3, PEER_B: 3}
    assert store.take_evicted() == [made[2]]
    with pytest.raises(VerificationError):
        put(store, made[1], account=PEER_B)  # would be the next to go
    assert store.take_evicted() == []
    assert exact(store)


def test_a_long_record_counts_for_several() -> None:
    store, made = Store(limits=SMALL), lasting(6)
    for record in made[:4]:
        put(store, record, account=PEER_A)
    long = replace(made[4], raw=made[4].raw + b" " * 8192)
    put(store, long, account=PEER_A)
    assert store.accounts.held(PEER_A)[0] == 4
    assert store.take_evicted() == made[:3]
    grown = replace(long, raw=long.raw + b" " * 8192, content_id="grown", valid_from_ms=NOW + 99)
    with pytest.raises(VerificationError):
        put(store, grown, account=PEER_A)  # 5 of 4, however many go
    assert units_of(b"x" * 4096, LIMITS) == 1
    assert LIMITS.record_unit_bytes == 4096  # as the triggers have it
    assert exact(store)


def test_a_withdrawal_counts_where_there_is_no_room_for_it() -> None:
    made, crowd = graph(Store(limits=SMALL), open_to_strangers=True), CROWD[:4]
    first = manifest(STRANGER, life=MINUTE_MS)
    ingest(made, first)
    ingest(made, *(manifest(who, life=DAY_MS) for who in crowd))
    assert first.content_id not in visible(made, NOW)
    gone = withdrawal(Kind.MODEL, first.subject, STRANGER, NOW + 1, MINUTE_MS)
    assert ingest(made, gone)[1] == [Code.OVER_QUOTA]
    made.store.delete(made.store.of_issuer(crowd[0].did))  # room again
    assert ingest(made, first)[1] == [Code.SUPERSEDED]
    assert ingest(made, gone)[1] == []


def test_keys_of_strangers_are_forgotten_and_nothing_that_old_comes_back() -> None:
    store, made = Store(limits=SMALL), lasting(100)
    for record in made:
        put(store, record, record.valid_from_ms, account=PEER_A)
        assert store.accounts.held(PEER_A)[1] <= 8
    assert list(store.live(NOW)) == made[-4:]
    for record in made[:-8]:  # forgotten each by each, but not as a whole
        with pytest.raises(VerificationError) as caught:
            put(store, record, account=PEER_B)
        assert caught.value.code in {Code.OVER_QUOTA, Code.SUPERSEDED}
    assert (
        put(store, made[0], account=ANN.did) is PutResult.CHANGED
    )  # a member's are not strangers'
    store.expire(NOW + LIMITS.manifest_ttl_seconds * 1000 + 100)
    assert store.database.row("SELECT COUNT(*) FROM forgotten") == (0,)
    assert exact(store)


def test_keys_from_the_future_shut_no_new_strangers_out() -> None:
    made = graph(Store(limits=SMALL), open_to_strangers=True)
    for n in range(40):  # each makes the one before it go
        who = Identity(bytes([100 + n]) * 32)
        ingest(made, availability(who, start=NOW + MINUTE_MS, life=MINUTE_MS + n), peer="evil")
    assert ingest(made, availability(STRANGER), peer="honest")[1] == []
    assert made.store.newest((STRANGER.did, Kind.AVAILABILITY.value, STRANGER.did)) is not None


def test_a_key_stays_with_who_introduced_it_first() -> None:
    store, (record, *rest) = Store(limits=SMALL), lasting(5)
    put(store, record, account=PEER_A)
    for other in rest:
        put(store, other, account=PEER_B)
    renewed = replace(record, valid_from_ms=NOW + 9, content_id="renewed")
    put(store, renewed, account=PEER_B)
    assert held(store) == {PEER_A: 1, PEER_B: 4}


def test_admitting_charges_a_strangers_records_to_itself_and_removing_back() -> None:
    made = graph(Store(limits=SMALL), open_to_strangers=True)
    ingest(made, node_record(ANN), manifest(ANN), node_record(STRANGER), peer="p")
    assert held(made.store) == {"via p": 3}
    ingest(made, membership(ANN))
    assert held(made.store) == {"via p": 1, ANN.did: 2, MEMBERSHIPS: 1}
    crowd = [node_record(who, life=9 * MINUTE_MS) for who in CROWD[:9]]
    ingest(made, *crowd, peer="p")
    assert {node_record(ANN).content_id, manifest(ANN).content_id} <= visible(made, NOW)
    made.withdraw(Kind.MEMBERSHIP, ANN.did, AUTHORITY, now_ms=NOW + 1)
    assert held(made.store) == {"via p": 4, MEMBERSHIPS: 1}
    assert exact(made.store)


def test_a_membership_that_ends_makes_its_holder_a_stranger_even_across_a_restart(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "db")
    made = graph(store)
    ingest(made, membership(ANN, life=1000), membership(BEN, life=2000))
    ingest(made, manifest(ANN), manifest(BEN), manifest(OWN), peer="p")
    made.expire(NOW + 1000)
    assert held(store) == {"via p": 1, BEN.did: 1, OWN.did: 1, MEMBERSHIPS: 1}
    store.close()
    made = graph(Store(tmp_path / "db"), now=NOW + 2000)
    assert held(made.store) == {"via p": 2, OWN.did: 1}
    made.switch_grid(BEN.did)
    assert held(made.store) == {OWN.did: 1}
    assert exact(made.store)


def test_a_stranger_that_has_more_than_a_member_may_loses_the_surplus_when_it_is_admitted() -> None:
    limits = replace(LIMITS, records_per_issuer_max=2)
    made = graph(Store(limits=limits), open_to_strangers=True)
    records = [manifest(ANN, n, life=DAY_MS * (n + 1)) for n in range(3)]
    ingest(made, *records)
    ingest(made, membership(ANN))
    assert visible(made, NOW) == {r.content_id for r in (*records[1:], membership(ANN))}
    assert made.index.models(NOW) != ()
    assert len(made.index.models(NOW)) == 2


def test_an_eviction_reaches_index_listeners_and_feed() -> None:
    made = graph(Store(limits=SMALL), open_to_strangers=True)
    feed = Feed(made)
    feed.start_over()
    first, *crowd = (manifest(who, life=DAY_MS + n) for n, who in enumerate(CROWD[:7]))
    heard: list[Record] = []
    made.listeners.append(heard.append)

    def dataset() -> set[str]:
        for update in feed.updates(NOW):
            assert isinstance(update, Update)
            shown.difference_update(update.removed)
            shown.update(content_id for content_id, _ in update.added)
        return shown

    shown: set[str] = set()
    ingest(made, first)
    assert dataset() == {first.content_id}
    ingest(made, *crowd)  # in one batch, so some are never heard of
    assert dataset() == visible(made, NOW) == {r.content_id for r in crowd[-4:]}
    assert {r.content_id for r in heard} == {r.content_id for r in (first, *crowd[-4:])}
    assert {r.content_id for r in made.manifests_of(first.subject[-61:], NOW)} <= shown


def test_a_transaction_that_fails_evicts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    made = graph(Store(limits=SMALL), open_to_strangers=True)
    ingest(made, *(manifest(who, life=DAY_MS) for who in CROWD[:4]))
    before = visible(made, NOW)

    def full(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(made.store, "_write", full)
    with pytest.raises(RuntimeError):
        ingest(made, manifest(STRANGER, life=2 * DAY_MS))
    monkeypatch.undo()
    assert visible(made, NOW) == before
    assert made.store.take_evicted() == []
    assert exact(made.store)


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_no_flood_takes_a_members_record_and_the_counts_stay_exact(rng: random.Random) -> None:
    made = with_members(ANN, BEN, store=Store(limits=SMALL), open_to_strangers=True)
    ours = [node_record(ANN), manifest(BEN), node_record(OWN)]
    ingest(made, *ours)
    kept = {record.content_id for record in ours}
    for _ in range(12):
        life = rng.randrange(MINUTE_MS, 9 * MINUTE_MS)
        flood = [node_record(who, NOW + rng.randrange(9), life) for who in rng.sample(CROWD, 3)]
        ingest(made, *flood, peer=rng.choice("abc"))
        assert kept <= visible(made, NOW + 10)
        assert made.store.accounts.held("strangers")[0] <= SMALL.strangers_records_max
    assert exact(made.store)


def test_an_older_database_is_counted_when_it_is_opened(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "db")
    connection.executescript("".join(f"{step};" for step in MIGRATIONS[:2]))
    connection.execute("PRAGMA user_version = 2")
    kinds = ["Membership", "NodeRecord", "NodeRecord", "NodeRecord"]
    accounts = [None, ANN.did, ANN.did, PEER_A]
    for n, (kind, account) in enumerate(zip(kinds, accounts, strict=True)):
        row = (
            f"id{n}",
            b"",
            "x",
            kind,
            str(n),
            NOW,
            NOW,
            False,
            account,
            NOW,
            None,
            b"x" * 4097,
            1,
        )
        connection.execute(f"INSERT INTO records VALUES ({', '.join('?' * 13)})", row)
        known = ("x", kind, str(n), NOW, f"id{n}", account, NOW)
        connection.execute("INSERT INTO remembered VALUES (?, ?, ?, ?, ?, ?, ?)", known)
    connection.commit()
    connection.close()
    store = Store(tmp_path / "db")
    assert held(store) == {MEMBERSHIPS: 2, ANN.did: 4, PEER_A: 2}
    assert exact(store)


@pytest.mark.parametrize("per_second", [10.0, 1000.0])
def test_thousands_of_strangers_through_three_peers_leave_members_alone(
    tmp_path: Path, per_second: float
) -> None:
    limits = replace(
        LIMITS,
        records_per_introducer_max=100,
        strangers_records_max=200,
        records_burst_per_issuer=50,
        keys_per_record_max=2,
    )
    world = strangers.World(tmp_path / "db", 5, limits=limits)
    now = NOW
    for n in range(0, 2000, 20):
        now = NOW + round(n * 1000 / (3 * per_second))
        raws = [strangers.stranger_record((m, now)) for m in range(n, n + 20)]
        world.push(raws, now, f"peer-{n // 20 % 3}")
        held_now = world.held()
        assert held_now["strangers"] <= 200
        assert held_now["strangers_keys"] <= 400
    assert world.members_kept
    assert world.held()["strangers"] >= 150
    assert exact(world.graph.store)
