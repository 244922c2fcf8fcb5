"""The merge rule: order of arrival changes nothing, and nothing old comes back."""

import functools
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.credential_strategies import example_status
from tests.protocol.strategies import ALICE, NOW_MS, example_bodies

from aigrid.protocol.kinds import KINDS, AvailabilityBody, Kind, WithdrawnBody
from aigrid.protocol.record import Record, build, newer, remembered_until_ms, verify


def offer(start_ms: int, life_ms: int, *, withdrawn: bool = False) -> Record:
    body = (
        WithdrawnBody(id=ALICE.did, withdrawn=True)
        if withdrawn
        else AvailabilityBody(id=ALICE.did, offers=())
    )
    return build(
        Kind.AVAILABILITY,
        body,
        ALICE,
        valid_from_ms=NOW_MS + start_ms,
        valid_until_ms=NOW_MS + start_ms + life_ms,
    )


# Few different times, so that equal ones come up.
offers = st.builds(
    offer, st.integers(0, 3), st.sampled_from([1, 1000, 300_000]), withdrawn=st.booleans()
)


@given(offers, offers)
def test_merging_is_commutative(a: Record, b: Record) -> None:
    assert newer(a, b) == newer(b, a)


@given(offers, offers, offers)
def test_merging_is_associative(a: Record, b: Record, c: Record) -> None:
    assert newer(newer(a, b), c) == newer(a, newer(b, c))


@given(offers)
def test_merging_is_idempotent(a: Record) -> None:
    assert newer(a, a) == a


@given(st.lists(offers, min_size=1, max_size=4))
def test_order_of_arrival_changes_nothing(arrivals: list[Record]) -> None:
    results = {functools.reduce(newer, order) for order in itertools.permutations(arrivals)}
    assert len(results) == 1


def test_the_later_start_wins_even_when_it_ends_sooner() -> None:
    long, short = offer(0, 300_000), offer(1, 1)
    assert newer(long, short) == short


def test_of_equal_starts_the_greater_content_id_wins() -> None:
    a, b = offer(0, 1000), offer(0, 2000)
    assert newer(a, b).content_id == max(a.content_id, b.content_id)


def test_a_withdrawal_is_merged_like_any_other_record() -> None:
    said, taken_back = offer(0, 1000), offer(1, 1000, withdrawn=True)
    assert newer(said, taken_back).withdrawn
    assert not newer(taken_back, offer(2, 1000)).withdrawn


@pytest.mark.parametrize("kind", list(Kind))
@given(data=st.data())
def test_what_was_superseded_has_expired_when_it_is_forgotten(
    kind: Kind, data: st.DataObject
) -> None:
    """While the newest start of a key is remembered, an older record is superseded; after, expired."""
    ttl_ms = KINDS[kind].ttl_seconds * 1000
    newest_ms = NOW_MS
    start_ms = newest_ms - data.draw(st.integers(0, ttl_ms))
    old = build(
        kind,
        example_bodies()[kind],
        ALICE,
        valid_from_ms=start_ms,
        valid_until_ms=start_ms + data.draw(st.integers(1, ttl_ms)),
        status=example_status(kind, ALICE.did),
    )
    assert old.valid_until_ms <= remembered_until_ms(kind, newest_ms)


@pytest.mark.parametrize("kind", list(Kind))
def test_it_is_remembered_no_shorter_than_needed(kind: Kind) -> None:
    """The oldest start that still loses, with the longest life, lives until just before."""
    ttl_ms = KINDS[kind].ttl_seconds * 1000
    old = build(
        kind,
        example_bodies()[kind],
        ALICE,
        valid_from_ms=NOW_MS - 1,
        valid_until_ms=NOW_MS - 1 + ttl_ms,
        status=example_status(kind, ALICE.did),
    )
    last_ms = remembered_until_ms(kind, NOW_MS) - 2
    assert verify(old.raw, now_ms=last_ms) == old
    assert old.valid_until_ms > last_ms


class Receiver:
    """The smallest store that obeys the merge rule, clock and all."""

    def __init__(self) -> None:
        self.held: Record | None = None
        self.newest: tuple[int, str] | None = None
        self.until_ms = 0

    def receive(self, record: Record, now_ms: int) -> None:
        if self.newest is not None and now_ms >= self.until_ms:
            self.newest = None
        if record.valid_until_ms <= now_ms:
            return
        if self.newest is None or record.rank > self.newest:
            self.held, self.newest = record, record.rank
            self.until_ms = remembered_until_ms(record.kind, record.valid_from_ms)

    def sees(self, now_ms: int) -> Record | None:
        if self.held is None or self.held.valid_until_ms <= now_ms:
            return None
        return self.held


moments = st.integers(0, 700_000)


@given(
    st.lists(st.tuples(moments, offers), max_size=6),
    st.lists(st.tuples(moments, offers), max_size=6),
)
def test_receivers_that_got_the_newest_agree_whatever_else_came_when(
    first: list[tuple[int, Record]], second: list[tuple[int, Record]]
) -> None:
    """Replays and reordering of older records never bring one of them back."""
    newest = functools.reduce(newer, [record for _, record in first + second] or [offer(0, 1)])
    start_ms = newest.valid_from_ms
    for arrivals in (first, second):
        receiver = Receiver()
        receiver.receive(newest, start_ms)
        for moment, record in sorted(arrivals, key=lambda arrival: arrival[0]):
            now_ms = start_ms + moment
            receiver.receive(record, now_ms)
            seen = receiver.sees(now_ms)
            assert seen is None or seen == newest
