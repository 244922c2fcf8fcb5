"""The metagraph against a naive model, through any history of arrivals, expiry and restarts."""

import random
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.metagraph.test_index import naive_candidates
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
    offer,
    visible,
    withdrawal,
)

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Candidate
from aigrid.metagraph.store import Store
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record

PEOPLE = (OWN, ANN, BEN, STRANGER)
TTLS_MS = {
    Kind.NODE: LIMITS.node_ttl_seconds * 1000,
    Kind.AVAILABILITY: LIMITS.availability_ttl_seconds * 1000,
    Kind.MODEL: LIMITS.manifest_ttl_seconds * 1000,
    Kind.MEMBERSHIP: LIMITS.membership_ttl_seconds * 1000,
}
SKEW_MS = LIMITS.clock_skew_seconds * 1000
kinds = st.sampled_from(list(TTLS_MS))
people = st.sampled_from(PEOPLE)


@st.composite
def some_records(draw: st.DrawFn, now: int = NOW, manifests: tuple[Record, ...] = ()) -> Record:
    """A record that somebody might sign about now: few keys, so that they often meet."""
    kind, issuer = draw(kinds), draw(people)
    ttl = TTLS_MS[kind]
    start = now + draw(st.integers(-3, 3)) * draw(st.sampled_from([1, 10_000, MINUTE_MS]))
    life = min(ttl, draw(st.sampled_from([1, 20_000, 4 * MINUTE_MS, DAY_MS, 300 * DAY_MS])))
    subject = draw(st.sampled_from((ANN, BEN, OWN)))
    if kind is Kind.MODEL:
        made = manifest(issuer, draw(st.integers(0, 1)), start=start, life=life)
    elif kind is Kind.NODE:
        made = node_record(issuer, start, life)
    elif kind is Kind.MEMBERSHIP:
        by = draw(st.sampled_from((AUTHORITY, AUTHORITY, AUTHORITY, BEN)))
        made = membership(subject, start, life, by)
    else:
        of = draw(st.lists(st.sampled_from(manifests), max_size=2)) if manifests else []
        offers = {each.model: each for each in map(offer, of)}
        made = availability(issuer, *offers.values(), start=start, life=life)
    if draw(st.integers(0, 4)) == 0:
        signer = next(who for who in (*PEOPLE, AUTHORITY) if who.did == made.issuer)
        return withdrawal(kind, made.subject, signer, start, life)
    return made


class Naive:
    """What should be believed: the newest record of each key that was ever acceptable."""

    def __init__(self) -> None:
        self.newest: dict[tuple[str, str, str], Record] = {}

    def member(self, did: str, now: int) -> bool:
        record = self.newest.get((AUTHORITY.did, "Membership", did))
        return record is not None and not record.withdrawn and record.valid_until_ms > now

    def may_say(self, record: Record, now: int) -> bool:
        if record.kind is Kind.MEMBERSHIP:
            return record.issuer == AUTHORITY.did
        return record.issuer == OWN.did or self.member(record.issuer, now)

    def accept(self, record: Record, now: int) -> bool:
        known = self.newest.get(record.key)
        fits = (
            record.valid_from_ms <= now + SKEW_MS
            and record.valid_until_ms > now
            and self.may_say(record, now)
            and (known is None or record.rank > known.rank)
        )
        if fits:
            self.newest[record.key] = record
        return fits

    def believed(self, now: int) -> list[Record]:
        return [
            record
            for record in self.newest.values()
            if not record.withdrawn and record.valid_until_ms > now and self.may_say(record, now)
        ]

    def candidates(self, now: int) -> set[Candidate]:
        """Offers with an end no later than their signers' memberships."""
        entries = {}
        for record in self.believed(now):
            until = record.valid_until_ms
            if record.issuer != OWN.did and record.kind is not Kind.MEMBERSHIP:
                admitted = self.newest[(AUTHORITY.did, "Membership", record.issuer)]
                until = min(until, admitted.valid_until_ms)
            entries[record.key] = (record, until)
        return naive_candidates(entries, now)


def agree(made: Metagraph, naive: Naive, now: int) -> None:
    assert visible(made, now) == {record.content_id for record in naive.believed(now)}
    assert made.members(now) == {who.did for who in PEOPLE if naive.member(who.did, now)}
    assert set(made.index.candidates(now)) == naive.candidates(now)


class Histories(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "db"
        self.now = NOW
        self.naive = Naive()
        self.sent: list[Record] = []
        self.graph = graph(Store(self.path), now=self.now)

    def deliver(self, records: list[Record]) -> None:
        changed, refusals = self.graph.ingest_batch(
            [record.raw for record in records], now_ms=self.now, received_from="peer"
        )
        records.sort(key=lambda record: record.kind is not Kind.MEMBERSHIP)
        accepted = {r.key: r for r in records if self.naive.accept(r, self.now)}
        assert {r.key: r for r in changed} == accepted
        assert len(refusals) <= len(records)

    @rule(data=st.data(), count=st.integers(1, 4))
    def new_records_arrive(self, data: st.DataObject, count: int) -> None:
        manifests = tuple(r for r in self.sent if r.kind is Kind.MODEL and not r.withdrawn)
        made = [data.draw(some_records(self.now, manifests)) for _ in range(count)]
        self.sent += made
        self.deliver(made)

    @rule(data=st.data())
    def old_records_arrive_again(self, data: st.DataObject) -> None:
        if self.sent:
            again = data.draw(st.lists(st.sampled_from(self.sent), min_size=1, max_size=5))
            self.deliver(again)

    @rule(who=st.sampled_from([ANN, BEN]))
    def somebody_is_admitted(self, who: Identity) -> None:
        made = membership(who, self.now)
        self.sent.append(made)
        self.deliver([made])

    @rule(step=st.sampled_from([1, 1000, MINUTE_MS, 6 * MINUTE_MS, DAY_MS, 200 * DAY_MS]))
    def time_passes(self, step: int) -> None:
        self.now += step

    @rule()
    def what_is_due_expires(self) -> None:
        gone = self.graph.expire(self.now)
        assert all(record.valid_until_ms <= self.now for record in gone)

    @rule(tidy=st.booleans())
    def the_node_restarts(self, tidy: bool) -> None:
        if tidy:
            self.graph.store.close()
        self.graph = graph(Store(self.path), now=self.now)

    @invariant()
    def what_is_believed_is_what_should_be(self) -> None:
        if hasattr(self, "graph"):
            agree(self.graph, self.naive, self.now)

    def teardown(self) -> None:
        if hasattr(self, "graph"):
            self.graph.store.close()
            self.folder.cleanup()


Histories.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
test_any_history_ends_in_what_the_naive_model_says = Histories.TestCase


@st.composite
def sets_of_records(draw: st.DrawFn) -> list[Record]:
    made: list[Record] = [membership(ANN)] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 10))):
        manifests = tuple(r for r in made if r.kind is Kind.MODEL and not r.withdrawn)
        made.append(draw(some_records(NOW, manifests)))
    return made


@settings(max_examples=60)
@given(sets_of_records(), st.randoms(use_true_random=False), st.booleans())
def test_any_order_of_arrival_of_a_set_ends_in_the_same_state(
    records: list[Record], rng: random.Random, in_batches: bool
) -> None:
    outcomes = []
    for _ in range(2):
        made = graph()
        news = True
        while news:  # a record refused for want of a membership comes again with the next sync
            rng.shuffle(records)
            size = len(records) if in_batches else 1
            batches = [records[i : i + size] for i in range(0, len(records), size)]
            news = False
            for batch in batches:
                changed, _ = made.ingest_batch(
                    [record.raw for record in batch], now_ms=NOW, received_from=None
                )
                news = news or bool(changed)
        outcomes.append((visible(made, NOW), set(made.index.candidates(NOW)), made.members(NOW)))
        made.store.close()
    assert outcomes[0] == outcomes[1]
