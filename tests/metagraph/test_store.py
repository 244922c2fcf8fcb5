import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.metagraph.world import (
    ANN,
    BEN,
    DAY_MS,
    MINUTE_MS,
    NOW,
    availability,
    manifest,
    model_body,
    node_record,
    unsigned,
    withdrawal,
)
from tests.protocol.strategies import NOW_MS, records

from aigrid.metagraph.database import MIGRATIONS, Database
from aigrid.metagraph.local import LocalState
from aigrid.metagraph.store import PutResult, Store
from aigrid.protocol.errors import Code, UsageError, VerificationError
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import DAY, LIMITS
from aigrid.protocol.record import Record


def put(
    store: Store, record: Record, now: int = NOW, account: str | None = "a", *, rated: bool = True
) -> PutResult:
    return store.put(record, now_ms=now, received_from="peer", account=account, rated=rated)


def refused(store: Store, record: Record, code: Code, now: int = NOW) -> None:
    with pytest.raises(VerificationError) as caught:
        put(store, record, now)
    assert caught.value.code is code


def versions(count: int) -> list[Record]:
    """Records of ever new keys, without signatures: the store does not look at them."""
    return [
        replace(unsigned(Kind.MODEL, ANN.did, model_body(), n), subject=f"urn:{n}")
        for n in range(count)
    ]


@given(st.sampled_from(list(Kind)).flatmap(records))
def test_a_record_comes_out_as_it_went_in(record: Record) -> None:
    store = Store()
    assert put(store, record, NOW_MS) is PutResult.CHANGED
    stored = store.get(record.content_id)
    assert stored is not None
    assert stored.record == record
    assert (stored.received_ms, stored.received_from) == (NOW_MS, "peer")
    assert list(store.live(NOW_MS)) == [record]
    assert store.newest(record.key) == record
    assert store.newest_valid_from_ms(record.key) == record.valid_from_ms
    store.close()


def test_a_duplicate_changes_nothing() -> None:
    store, record = Store(), node_record(ANN)
    assert put(store, record) is PutResult.CHANGED
    assert put(store, record, NOW + 5) is PutResult.DUPLICATE
    stored = store.get(record.content_id)
    assert stored is not None
    assert stored.received_ms == NOW


def test_what_superseded_a_record_is_remembered_for_a_bounded_number() -> None:
    store = Store(limits=replace(LIMITS, successors_kept_max=2))
    chain = [node_record(ANN, start=NOW + n) for n in range(4)]
    for record in chain[:3]:
        put(store, record)
    newest = chain[2].content_id
    assert [store.successor(r.content_id) for r in chain[:3]] == [newest, newest, None]
    put(store, chain[3])
    assert store.successor(chain[0].content_id) is None
    assert store.successor(chain[2].content_id) == chain[3].content_id
    store.delete([chain[3]])
    assert put(store, chain[3]) is PutResult.CHANGED  # it comes back, and does not follow itself
    assert store.successor(chain[3].content_id) is None


def test_an_older_record_is_superseded_and_a_newer_one_replaces() -> None:
    store = Store()
    old, new = node_record(ANN), node_record(ANN, start=NOW + 1)
    put(store, old)
    put(store, new)
    refused(store, old, Code.SUPERSEDED)
    assert store.get(old.content_id) is None
    assert list(store.live(NOW)) == [new]


def test_of_two_records_of_one_instant_the_greater_content_id_counts() -> None:
    one, other = (availability(ANN, life=life) for life in (1000, 2000))
    low, high = sorted([one, other], key=lambda record: record.content_id)
    for order in ((low, high), (high, low)):
        store = Store()
        for record in order:
            with contextlib.suppress(VerificationError):
                put(store, record)
        assert list(store.live(NOW)) == [high]


def test_nothing_old_comes_back_after_expiry_withdrawal_and_restart(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    old = manifest(ANN, life=300 * DAY_MS)
    gone = withdrawal(Kind.MODEL, old.subject, ANN, NOW + 10, 1000)  # shorter than it should be
    put(store, old)
    put(store, gone)
    refused(store, old, Code.SUPERSEDED)
    assert store.expire(NOW + 2000) == [gone]
    refused(store, old, Code.SUPERSEDED, NOW + 2000)
    store.close()
    store = Store(tmp_path / "db")
    refused(store, old, Code.SUPERSEDED, NOW + 200 * DAY_MS)
    assert store.newest_valid_from_ms(old.key) == NOW + 10


def test_a_rank_is_forgotten_once_nothing_older_can_be_valid() -> None:
    store, record = Store(), node_record(ANN, life=1000)
    put(store, record)
    until = NOW + LIMITS.node_ttl_seconds * 1000
    store.expire(until - 1)
    assert store.newest_valid_from_ms(record.key) == NOW
    store.expire(until)
    assert store.newest_valid_from_ms(record.key) == 0


def test_expiry_takes_what_is_due_and_says_when_the_next_is() -> None:
    store = Store()
    assert store.next_expiry_ms() is None
    short, long = node_record(ANN, life=1000), node_record(BEN, life=5000)
    put(store, short)
    put(store, long)
    assert store.next_expiry_ms() == NOW + 1000
    assert store.expire(NOW + 999) == []
    assert store.expire(NOW + 1000) == [short]
    assert store.next_expiry_ms() == NOW + 5000
    assert store.counts(NOW) == {"NodeRecord": 1}
    assert store.counts(NOW + 5000) == {}


def test_expiry_quotas_and_counts_scan_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every statement of a flood, of expiry and of the counts, as the store really says them."""
    limits = replace(
        LIMITS, records_per_introducer_max=2, strangers_records_max=3, keys_per_record_max=1
    )
    store = Store(limits=limits)
    said: set[str] = set()
    execute, row = store.database.execute, store.database.row

    def spy(real: Callable[..., Any]) -> Callable[..., Any]:
        def noting(statement: str, values: Sequence[Any] = ()) -> Any:
            said.add(statement)
            return real(statement, values)

        return noting

    monkeypatch.setattr(store.database, "execute", spy(execute))
    monkeypatch.setattr(store.database, "row", spy(row))
    for n, record in enumerate(versions(12)):
        longer = replace(record, valid_from_ms=NOW + n, valid_until_ms=NOW + DAY_MS // 2 + n)
        put(store, longer, account=("via a", "via b", "member")[n % 3])
    store.admit(ANN.did)
    store.expel(ANN.did)
    store.counts(NOW)
    store.next_due_ms()
    store.expire(NOW + DAY_MS, records_max=2)
    monkeypatch.undo()
    assert any("forgotten" in query for query in said)
    for query in sorted(said):
        if not query.startswith(("SELECT", "UPDATE", "DELETE")):
            continue
        nothing = [None] * query.count("?")
        for step in store.database.rows(f"EXPLAIN QUERY PLAN {query}", nothing):
            few = "forgotten" in step[3]  # a row for each kind
            assert few or not step[3].startswith("SCAN") or "INDEX" in step[3], (query, step[3])


def test_an_account_has_a_quota_of_live_records_and_others_do_not_notice() -> None:
    store = Store(limits=replace(LIMITS, records_per_issuer_max=3))
    first, *_ = made = versions(5)
    for record in made[:3]:
        put(store, record)
    refused(store, made[3], Code.OVER_QUOTA)
    newer = replace(first, valid_from_ms=NOW + 1, content_id="another")
    assert put(store, newer) is PutResult.CHANGED  # of a key it already has
    assert put(store, made[3], account="b") is PutResult.CHANGED
    assert put(store, made[4], account=None) is PutResult.CHANGED


def test_expired_records_do_not_count_even_before_they_are_deleted() -> None:
    store = Store(limits=replace(LIMITS, records_per_issuer_max=2))
    made = versions(3)
    put(store, made[0])
    put(store, made[1])
    later = replace(made[2], valid_from_ms=NOW + 2 * MINUTE_MS, valid_until_ms=NOW + DAY_MS)
    assert put(store, later, NOW + 2 * MINUTE_MS) is PutResult.CHANGED


def test_ever_new_short_lived_keys_end_at_a_bound() -> None:
    store = Store(limits=replace(LIMITS, records_per_issuer_max=2))
    *most, last = versions(17)
    for n, record in enumerate(most):
        now = NOW + n * DAY_MS // 10
        put(store, replace(record, valid_from_ms=now, valid_until_ms=now + 1), now)
        store.expire(now + 1)
    refused(store, last, Code.OVER_QUOTA)
    assert store.database.row("SELECT COUNT(*) FROM remembered") == (16,)


def test_the_rate_is_bounded_per_account_and_says_when_to_try_again() -> None:
    limits = replace(LIMITS, records_burst_per_issuer=3, records_per_second_per_issuer=2.0)
    store = Store(limits=limits)
    made = versions(7)
    for record in made[:3]:
        put(store, record)
        put(store, record)  # a duplicate costs nothing
    with pytest.raises(VerificationError) as caught:
        put(store, made[3])
    assert caught.value.code is Code.OVER_RATE
    assert caught.value.retry_after_seconds == 0.5
    assert put(store, made[4], account="b") is PutResult.CHANGED
    assert put(store, made[5], rated=False) is PutResult.CHANGED
    assert put(store, made[3], NOW + 500) is PutResult.CHANGED


def test_a_transaction_is_all_or_nothing_but_a_refusal_undoes_nothing() -> None:
    store = Store()
    one, two = node_record(ANN), node_record(BEN)
    with contextlib.suppress(RuntimeError), store.transaction():
        put(store, one)
        raise RuntimeError
    assert not store.has(one.content_id)
    assert store.newest_valid_from_ms(one.key) == 0
    with store.transaction():
        put(store, two)
        refused(store, node_record(BEN, start=NOW - 1), Code.SUPERSEDED)
        put(store, one)
    assert store.has(one.content_id)
    assert store.has(two.content_id)


def test_a_database_left_open_is_readable_by_the_next(tmp_path: Path) -> None:
    first = Store(tmp_path / "db")
    record = node_record(ANN)
    put(first, record)
    second = Store(tmp_path / "db")
    assert list(second.live(NOW)) == [record]
    first.close()


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from tests.metagraph.test_store import put, versions
from aigrid.metagraph.store import Store
store = Store(Path(sys.argv[1]))
for record in versions(500):
    put(store, record)
    print(record.content_id, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "db")], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        acknowledged = [child.stdout.readline().strip() for _ in range(100)]
        child.kill()
        acknowledged += [line for line in child.stdout.read().split("\n") if len(line) == 61]
    store = Store(tmp_path / "db")
    assert store.database.row("PRAGMA integrity_check") == ("ok",)
    assert len(acknowledged) >= 100
    assert all(store.has(content_id) for content_id in acknowledged)


def unusable(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        Store(path)
    assert caught.value.code is Code.DATA_DIRECTORY_UNUSABLE
    return caught.value.message


def test_a_directory_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    message = unusable(tmp_path / "missing" / "db")
    assert "\n" not in message
    assert message.endswith(".")
    (tmp_path / "file").write_text("")
    unusable(tmp_path / "file" / "db")
    unusable(tmp_path)


def test_the_database_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Whatever the mode of the directory: receipts and their salts are in it."""
    path = tmp_path / "records.db"

    def modes() -> dict[str, int]:
        return {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}

    before = os.umask(0o022)
    try:
        first = Database(path)
        assert modes() == dict.fromkeys(("records.db", "records.db-wal", "records.db-shm"), 0o600)
        for file in tmp_path.iterdir():  # as an earlier version left them
            file.chmod(0o644)
        second = Database(path)
        assert set(modes().values()) == {0o600}
    finally:
        os.umask(before)
    first.close()
    second.close()


def test_a_corrupt_database_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "db"
    path.write_bytes(b"not a database at all" * 500)
    unusable(path)


def test_a_damaged_record_is_one_sentence(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    put(store, node_record(ANN))
    store.database.execute("UPDATE records SET raw = ?", (b'{"credentialSubject":{}}',))
    with pytest.raises(UsageError):
        list(store.live(NOW))


def test_a_database_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "db")
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    assert "newer version" in unusable(tmp_path / "db")


def test_settings_survive_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    local = LocalState(store)
    assert local.grid is None
    local.grid = ANN.did
    local.set("port", "1")
    local.set("port", "2")
    store.close()
    local = LocalState(Store(tmp_path / "db"))
    assert (local.grid, local.get("port")) == (ANN.did, "2")
    local.remove("port")
    assert local.get("port") is None


def test_an_invitation_is_redeemed_once_even_across_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    until = NOW + DAY * 1000
    assert LocalState(store).redeem("nonce", until_ms=until, now_ms=NOW)
    assert not LocalState(store).redeem("nonce", until_ms=until, now_ms=NOW)
    store.close()
    store = Store(tmp_path / "db")
    assert not LocalState(store).redeem("nonce", until_ms=until, now_ms=until - 1)
    assert LocalState(store).redeem("another", until_ms=until + 1, now_ms=until)
    assert not LocalState(store).redeemed("nonce")  # expired by itself, so no longer remembered
