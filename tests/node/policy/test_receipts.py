"""Receipts as they are kept: what holds, what is disputed, and what is dropped."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.node.policy.receipt_world import (
    ASKER,
    GRANT,
    NOW,
    OTHER,
    SALT,
    SERVER,
    Clock,
    body,
    expected,
    output_hash,
    receipt,
    receipts,
)
from tests.protocol.strategies import example

from aigrid.metagraph.store import Store
from aigrid.node.policy.receipt_queries import Filters, newest, one, problem_of
from aigrid.node.policy.receipt_rows import Row
from aigrid.node.policy.receipts import Receipts, holds
from aigrid.protocol.canonical import canonical, content_id
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.inference import TextChunk
from aigrid.protocol.kinds import Kind, encode_body
from aigrid.protocol.limits import DAY
from aigrid.protocol.timestamp import format_ms


def only(kept: Receipts) -> Row:
    """The one segment that is kept."""
    (number,) = kept.database.row("SELECT COUNT(*) FROM receipts")
    assert number == 1
    return one(kept.database, kept.database.row("SELECT id FROM receipts")[0])


def received(raw: bytes, **changes: Any) -> Row:
    kept = receipts()
    said = kept.received(raw, expected(**changes))
    row = only(kept)
    assert said == row.id
    assert holds(said) == (row.state == "receipted")
    return row


def test_a_receipt_that_says_what_happened_is_kept_as_it_was_signed() -> None:
    record = receipt()
    row = received(record.raw)
    assert (row.id, row.raw, row.salt) == (record.content_id, record.raw, SALT)
    assert (row.role, row.state, row.code, row.because) == ("asked", "receipted", "", "")
    assert (row.actor, row.peer, row.request_id) == ("alice", SERVER.did, "request-1")
    assert (row.prompt_tokens, row.completion_tokens) == (7, 3)
    assert row.ended_ms - row.began_ms == 3980
    assert problem_of(row) is None


def test_a_receipt_that_was_made_here_is_held_against_what_happened_all_the_same() -> None:
    for changes, state in (({}, "receipted"), ({"output_hash": "ab" * 32}, "disputed")):
        kept = receipts()
        kept.received(receipt(), expected(**changes))
        row = only(kept)
        assert (row.state, row.raw) == (state, receipt().raw)


def test_what_this_node_served_counts_for_whoever_presented() -> None:
    kept = receipts()
    record = receipt()
    assert kept.served(record, SALT, peer=OTHER.peer_id) == record.content_id
    row = only(kept)
    assert (row.role, row.state, row.actor, row.peer) == (
        "served",
        "receipted",
        ASKER.did,
        OTHER.did,
    )


def test_a_node_that_asks_itself_keeps_both_ends() -> None:
    kept = receipts()
    record = receipt()
    kept.served(record, SALT, peer=ASKER.did)
    kept.received(record.raw, expected())
    assert one(kept.database, record.content_id).role == "asked"


def test_a_segment_without_a_receipt_is_kept_with_what_is_known() -> None:
    kept = receipts()
    said = kept.unreceipted(expected(completion_tokens=2), Code.CONNECTION_LOST)
    row = only(kept)
    assert (row.id, row.state, row.code) == (said, "unreceipted", "connection_lost")
    assert said.startswith("local-")
    assert (row.completion_tokens, row.raw) == (2, None)
    assert json.loads(row.seen or "")["outputHash"] == expected().output_hash
    problem = problem_of(row)
    assert problem is not None
    assert problem.code is Code.CONNECTION_LOST
    assert kept.unreceipted(expected(began_ms=NOW - 4999)) != said


# Each field of a receipt with something that it does not say of the segment.
WRONG: dict[str, Any] = {
    "id": OTHER.did,
    "request_id": "request-2",
    "model": content_id(b"other"),
    "manifest": content_id(b"other"),
    "request_hash": "0" * 64,
    "prefix_hash": "0" * 64,
    "output_hash": output_hash(TextChunk("another", (1, 2, 3))),
    "prompt_tokens": 8,
    "completion_tokens": 4,
    "began": format_ms(NOW - 5000 - 121_000),
    "ended": format_ms(NOW + 120_001),
    "reason": "length",
    "presentation": "0" * 64,
    "credentials": (GRANT, content_id(b"other")),
}


def test_no_field_of_a_receipt_is_left_out() -> None:
    assert WRONG.keys() == set(body().__struct_fields__)


@pytest.mark.parametrize("member", WRONG)
def test_a_signed_receipt_that_says_something_else_is_disputed(member: str) -> None:
    record = receipt(**{member: WRONG[member]})
    row = received(record.raw)
    assert (row.state, row.code) == ("disputed", "receipt_mismatch")
    assert row.because
    assert row.raw == record.raw  # the server's own signature shows what it said
    assert (row.prompt_tokens, row.completion_tokens) == (7, 3)  # as they were counted here
    assert row.began_ms == NOW - 5000


@pytest.mark.parametrize("member", WRONG)
def test_a_receipt_changed_after_it_was_signed_is_disputed(member: str) -> None:
    document = json.loads(receipt().raw)
    subject = document["credentialSubject"]
    wire = encode_body(body(**{member: WRONG[member]}))
    subject |= {name: value for name, value in wire.items() if subject.get(name) != value}
    row = received(canonical(document))
    assert (row.state, row.code) == ("disputed", "bad_signature")
    assert row.raw is None


@settings(max_examples=300, deadline=None, derandomize=True)
@given(position=st.integers(0, len(receipt().raw) - 1), flip=st.integers(1, 255))
def test_no_byte_of_a_receipt_can_be_changed(position: int, flip: int) -> None:
    raw = bytearray(receipt().raw)
    raw[position] ^= flip
    assert received(bytes(raw)).state == "disputed"


def test_fewer_tokens_and_fewer_credentials_than_known_are_no_dispute() -> None:
    row = received(receipt(completion_tokens=2, prompt_tokens=0, credentials=()).raw)
    assert (row.state, row.completion_tokens) == ("receipted", 2)


def test_where_the_end_did_not_come_the_receipt_says_how_it_ended() -> None:
    assert received(receipt(reason="failed").raw, reason="").state == "receipted"


@pytest.mark.parametrize(
    ("began_ms", "ended_ms", "state"),
    [
        (NOW - 5000 + 119_000, NOW - 1000 + 119_000, "receipted"),
        (NOW - 5000 - 120_000, NOW - 1000 - 120_000, "receipted"),
        (NOW - 5000 - 2000, NOW - 1000, "receipted"),
        (NOW - 5000 - 2001, NOW - 1000, "disputed"),  # longer than it was waited for
        (NOW - 5000 - 120_001, NOW - 1000 - 120_001, "disputed"),
        (NOW - 1000 + 120_001, NOW - 1000 + 120_001, "disputed"),
    ],
)
def test_clocks_may_differ_and_durations_may_not(began_ms, ended_ms, state) -> None:
    record = receipt(began=format_ms(began_ms), ended=format_ms(ended_ms))
    assert received(record.raw).state == state


HOSTILE = [
    (b"", Code.MALFORMED),
    (b"\xff" * 100, Code.MALFORMED),
    (b"[" * 60_000, Code.MALFORMED),
    (b'"' + b"a" * 2_000_000 + b'"', Code.RECORD_TOO_LARGE),
    (receipt(by=OTHER).raw, Code.RECEIPT_MISMATCH),
    (receipt(by=ASKER).raw, Code.RECEIPT_MISMATCH),
    (receipt(at_ms=NOW + 121_000).raw, Code.FROM_FUTURE),
    (receipt(at_ms=NOW - 9000, lives_seconds=9).raw, Code.EXPIRED),
    *((example(kind).raw, None) for kind in (Kind.NODE, Kind.MODEL, Kind.MEMBERSHIP)),
]


@pytest.mark.parametrize("case", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_receipt_for_the_segment_is_recorded_as_that(case) -> None:
    raw, code = case
    row = received(raw)
    assert row.state == "disputed"
    assert code is None or row.code == code.value
    assert not row.raw or code in {Code.FROM_FUTURE, Code.EXPIRED}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(raw=st.binary(max_size=300))
def test_random_bytes_raise_nothing(raw: bytes) -> None:
    assert received(raw).state == "disputed"


def test_a_receipt_replayed_for_another_segment_is_disputed_and_leaves_the_first_alone() -> None:
    kept, record = receipts(), receipt()
    first = kept.received(record.raw, expected())
    again = kept.received(record.raw, expected(presentation="cd" * 32, began_ms=NOW - 4000))
    assert first == record.content_id
    assert not holds(again)
    assert one(kept.database, first).state == "receipted"
    assert one(kept.database, again).state == "disputed"


def test_what_a_peer_wrote_into_a_broken_receipt_is_not_kept() -> None:
    document = json.loads(receipt().raw)
    document["canary-prompt"] = "canary-prompt"
    kept = receipts()
    kept.received(json.dumps(document).encode(), expected())
    dump = "\n".join(kept.database._connection.iterdump())
    assert "disputed" in dump
    assert "canary" not in dump


def test_only_the_newest_are_kept() -> None:
    kept = receipts(receipts_kept_max=300)
    for number in range(1, 1025):
        kept.unreceipted(expected(request_id=f"request-{number}"))
    rows = [row[0] for row in kept.database.rows("SELECT request_id FROM receipts ORDER BY number")]
    assert rows == [f"request-{number}" for number in range(725, 1025)]


def test_old_ones_go_and_nothing_takes_their_number() -> None:
    clock, store = Clock(), Store()
    kept = receipts(store, clock)
    for _ in range(3):
        kept.unreceipted(expected())
    clock.now_ms += 367 * DAY * 1000
    kept = receipts(store, clock)
    assert kept.database.row("SELECT COUNT(*) FROM receipts") == (0,)
    kept.unreceipted(expected())
    assert kept.database.row("SELECT number FROM receipts") == (4,)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    steps=st.lists(st.integers(0, 200 * DAY * 1000), min_size=1, max_size=40),
    kept_max=st.integers(1, 20),
)
def test_pruning_keeps_the_newest_and_no_older_ones(steps: list[int], kept_max: int) -> None:
    clock, store = Clock(), Store()
    made: list[tuple[str, int]] = []
    for number, step in enumerate(steps):
        clock.now_ms += step
        receipts(store, clock).unreceipted(expected(request_id=f"request-{number}"))
        made.append((f"request-{number}", clock.now_ms))
    receipts(store, clock, receipts_kept_max=kept_max)
    found = [row[0] for row in store.database.rows("SELECT request_id FROM receipts")]
    young = [name for name, at_ms in made if at_ms > clock.now_ms - 366 * DAY * 1000]
    assert found == young[-kept_max:]


def test_receipts_survive_the_node(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    said = receipts(store).received(receipt().raw, expected())
    # Not closed, as after kill -9: another connection sees what was committed.
    with sqlite3.connect(tmp_path / "db") as connection:
        assert connection.execute("SELECT id FROM receipts").fetchall() == [(said,)]
    connection.close()
    store.close()
    assert only(receipts(Store(tmp_path / "db"))).id == said


def test_a_full_disk_costs_no_answer() -> None:
    store = Store()
    kept = receipts(store)
    store.database.execute("PRAGMA query_only = ON")
    assert kept.received(receipt().raw, expected()) == ""
    assert kept.unreceipted(expected()) == ""
    assert kept.served(receipt(), SALT, peer=OTHER.did) == ""


def test_receipts_are_no_change_of_the_records() -> None:
    store = Store()
    before = store.changes
    receipts(store).unreceipted(expected())
    assert store.changes == before


async def test_the_newest_come_first() -> None:
    kept = receipts()
    for number in range(5000):
        kept.unreceipted(expected(request_id=f"request-{number}", actor=f"actor-{number % 2}"))
    rows, more = await newest(kept.database, Filters(), limit=3)
    assert [row.request_id for row in rows] == [f"request-{n}" for n in (4999, 4998, 4997)]
    assert more
    rows, more = await newest(kept.database, Filters(actor="actor-0"), limit=2500)
    assert (len(rows), rows[-1].request_id, more) == (2500, "request-0", False)


def test_an_unknown_receipt_is_said_to_be_unknown() -> None:
    with pytest.raises(AigridError) as caught:
        one(receipts().database, "x" * 1000)
    assert caught.value.code is Code.NOT_FOUND
    assert len(caught.value.message) < 300


def test_a_receipt_damaged_on_the_disk_no_longer_holds() -> None:
    kept = receipts()
    said = kept.received(receipt().raw, expected())
    kept.database.execute("UPDATE receipts SET raw = ?", (receipt(completion_tokens=1).raw,))
    problem = problem_of(one(kept.database, said))
    assert problem is not None
    assert problem.code is Code.HASH_MISMATCH
    kept.database.execute("UPDATE receipts SET raw = ?", (b"{}",))
    problem = problem_of(one(kept.database, said))
    assert problem is not None
    assert problem.code is Code.UNSIGNED


def test_the_end_of_an_id_is_enough_while_no_other_ends_so() -> None:
    kept = receipts()
    said = kept.received(receipt().raw, expected())
    kept.served(receipt(), SALT, peer=OTHER.did)  # the same receipt, at the other end
    assert one(kept.database, said[-8:]).id == said
    kept.database.execute(
        "UPDATE receipts SET id = ? WHERE role = 'served'", (f"local-{said[-8:]}",)
    )
    with pytest.raises(AigridError) as caught:
        one(kept.database, said[-8:])
    assert caught.value.code is Code.INVALID_REQUEST
    for short in (said[-7:], "", "%" * 8, "_" * 8):
        with pytest.raises(AigridError) as caught:
            one(kept.database, short)
        assert caught.value.code is Code.NOT_FOUND
