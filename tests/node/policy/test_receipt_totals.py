"""Sums over receipts, held against the rows themselves."""

from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.node.policy.receipt_world import (
    ASKER,
    NOW,
    OTHER,
    SALT,
    SERVER,
    Clock,
    expected,
    receipt,
    receipts,
)

from aigrid.metagraph.store import Store
from aigrid.node.policy.receipt_queries import By, Filters, Total, newest, totals
from aigrid.node.policy.receipt_rows import Row
from aigrid.node.policy.receipts import Receipts
from aigrid.protocol.canonical import content_id
from aigrid.protocol.limits import DAY

PEERS = {SERVER.did: SERVER, OTHER.did: OTHER}
segments = st.builds(
    expected,
    request_id=st.sampled_from(["request-1", "request-2", "request-3"]),
    peer=st.sampled_from([*PEERS]),
    model=st.sampled_from([content_id(b"a"), content_id(b"b")]),
    actor=st.sampled_from(["alice", "bob", ""]),
    prompt_tokens=st.integers(0, 2**53 - 1),
    completion_tokens=st.integers(0, 2**53 - 1),
    began_ms=st.integers(NOW - 60_000, NOW - 40_000),
    ended_ms=st.integers(NOW - 30_000, NOW),
)
histories = st.lists(
    st.tuples(
        st.sampled_from(["served", "receipted", "disputed", "unreceipted"]),
        segments,
        st.integers(0, DAY * 1000),
    ),
    max_size=25,
)
filters = st.builds(
    Filters,
    role=st.sampled_from(["", "", "served", "asked"]),
    state=st.sampled_from(["", "", "receipted", "disputed", "unreceipted"]),
    actor=st.sampled_from(["", "", "alice", ASKER.did]),
    model=st.sampled_from(["", "", content_id(b"a")]),
    peer=st.sampled_from(["", "", SERVER.did]),
    since_ms=st.sampled_from([0, 0, NOW + DAY * 1000]),
)


def lived(history: list[Any]) -> Receipts:
    clock = Clock()
    kept = receipts(Store(), clock)
    for what, segment, passed_ms in history:
        record = receipt(segment, by=PEERS[segment.peer])
        if what == "served":
            kept.served(record, SALT, peer=segment.peer)
        elif what == "receipted":
            kept.received(record.raw, segment)
        elif what == "disputed":
            kept.received(b"", segment)
        else:
            kept.unreceipted(segment)
        clock.now_ms += passed_ms
    return kept


def kept_by(filters: Filters, row: Row) -> bool:
    return row.kept_ms >= filters.since_ms and all(
        getattr(filters, name) in {"", getattr(row, name)}
        for name in ("role", "state", "actor", "model", "peer")
    )


def summed(rows: list[Row], by: str) -> list[Total]:
    """The same by other means: one group at a time."""
    groups = {(getattr(row, by), row.role) for row in rows}
    made = []
    for value, role in groups:
        mine = [row for row in rows if (getattr(row, by), row.role) == (value, role)]
        made.append(
            Total(
                value,
                role,
                segments=len(mine),
                unreceipted=len([row for row in mine if row.state == "unreceipted"]),
                disputed=len([row for row in mine if row.state == "disputed"]),
                prompt_tokens=sum(row.prompt_tokens for row in mine),
                completion_tokens=sum(row.completion_tokens for row in mine),
                took_ms=sum(row.ended_ms - row.began_ms for row in mine),
                requests={(row.peer if role == "served" else "", row.request_id) for row in mine},
            )
        )
    return made


@settings(max_examples=60, deadline=None, derandomize=True)
@given(history=histories, filters=filters, by=st.sampled_from(["actor", "model", "peer"]))
def test_totals_are_the_sums_of_the_rows(history: list[Any], filters: Filters, by: By) -> None:
    kept = lived(history)

    async def both() -> tuple[list[Row], list[Total]]:
        rows, more = await newest(kept.database, Filters(), limit=1000)
        assert not more
        found, _ = await newest(kept.database, filters, limit=1000)
        assert found == [row for row in rows if kept_by(filters, row)]
        return found, await totals(kept.database, filters, by)

    rows, found = trio.run(both)

    def order(total: Total) -> tuple[str, str]:
        return total.value, total.role

    assert sorted(found, key=order) == sorted(summed(rows, by), key=order)
    tokens = [total.prompt_tokens + total.completion_tokens for total in found]
    assert tokens == sorted(tokens, reverse=True)


async def test_a_request_in_several_segments_counts_once_for_each_who_asked() -> None:
    kept = receipts()
    for _ in range(3):
        kept.received(receipt().raw, expected())
    (total,) = await totals(kept.database, Filters(), "actor")
    assert (total.value, len(total.requests), total.segments) == ("alice", 1, 3)
    kept = receipts()
    for peer in (SERVER, OTHER):  # two callers may choose one request id
        kept.served(receipt(), SALT, peer=peer.did)
    (total,) = await totals(kept.database, Filters(), "actor")
    assert (total.value, len(total.requests)) == (ASKER.did, 2)
