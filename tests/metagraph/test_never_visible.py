"""What is refused shows in no answer: index, records, export, SPARQL, what peers are told."""

from dataclasses import replace
from typing import Any

import pytest
from tests.metagraph.hostile import (
    SHARED,
    SKEW_MS,
    flipped,
    hostile,
    issuer_of,
    record_of,
    replayed,
)
from tests.metagraph.world import (
    ANN,
    BEN,
    MINUTE_MS,
    NOW,
    OWN,
    availability,
    manifest,
    node_record,
    offer,
    with_members,
)

from aigrid.metagraph.dataset import Dataset
from aigrid.metagraph.feed import Feed
from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.query import AnswerFormat
from aigrid.metagraph.repair import Repair
from aigrid.metagraph.store import Store
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS

EVERYTHING = "SELECT ?g ?s ?p ?o WHERE { GRAPH ?g { ?s ?p ?o } }"
CRIMES = ("tampered", "expired", "future", "foreign", "unknown field", "misspelt")


class Answers:
    """Every way to ask a metagraph, the dataset included."""

    def __init__(self, made: Metagraph) -> None:
        self.made = made
        self._feed = Feed(made)
        self._feed.start_over()
        self._dataset = Dataset(limits=replace(LIMITS, query_rows_max=10**6))

    def at(self, now: int) -> dict[str, Any]:
        for update in self._feed.updates(now):
            self._dataset.remove(update.removed)
            self._dataset.add(update.added)
        made, index = self.made, self.made.index
        made._repair = Repair(made.store)  # a snapshot may be a moment old: none of that here
        items = made.items(now)
        said = items.ids(0, len(items))
        everybody = (ANN.did, BEN.did, OWN.did)
        return {
            "candidates": set(index.candidates(now)),
            "find": {
                name: set(index.offers_of_capability(name, now))
                for name in ("text", "text-generation", f"{ANN.did}#never")
            },
            "models": {model.model: model.manifests for model in index.models(now)},
            "nodes": [index.node(did, now) for did in everybody],
            "names": index.resolve("never", now),
            "records": {record.content_id for record in made.live_records(now)},
            "of issuers": [set(made.live_records(now, issuer=did)) for did in everybody],
            "members": made.members(now),
            "export": set(made.believed(now)),
            "counts": made.counts(now),
            "reconciliation": set(said),
            "fetched": set(made.raws(said, now_ms=now)),
            "sparql": sorted(self._dataset.answer(EVERYTHING, AnswerFormat.CSV).splitlines()),
        }


def world(limits: Any = LIMITS) -> Answers:
    """ANN is a member with an offer of her own; BEN is none."""
    made = with_members(ANN, store=Store(limits=limits))
    about = manifest(ANN)
    then = NOW - MINUTE_MS
    mine = [about, availability(ANN, offer(about), start=then), node_record(ANN, then)]
    assert send(made, *(record.raw for record in mine)) == 3
    return Answers(made)


def send(made: Metagraph, *raws: bytes, now: int = NOW) -> int:
    changed, _ = made.ingest_batch(raws, now_ms=now, received_from="peer")
    return len(changed)


@pytest.mark.parametrize("kind", SHARED)
def test_the_answers_would_show_a_record_that_is_good(kind: Kind) -> None:
    answers = world()
    before = answers.at(NOW + 1)
    assert send(answers.made, record_of(kind, NOW + 1, by=issuer_of(kind)).raw) == 1
    after = answers.at(NOW + 1)
    for what in ("records", "export", "reconciliation", "fetched", "sparql"):
        assert after[what] != before[what]


@pytest.mark.parametrize("crime", CRIMES)
@pytest.mark.parametrize("kind", SHARED)
def test_a_hostile_record_shows_nowhere(kind: Kind, crime: str) -> None:
    answers = world()
    before = answers.at(NOW)
    evil = hostile(kind, NOW)[crime]
    assert evil
    assert send(answers.made, *evil) == 0
    assert answers.at(NOW) == before


@pytest.mark.parametrize("kind", SHARED)
def test_a_tampered_record_does_not_touch_the_one_it_was_made_of(kind: Kind) -> None:
    answers = world()
    good = record_of(kind, NOW, by=issuer_of(kind))
    send(answers.made, good.raw)
    before = answers.at(NOW)
    assert send(answers.made, *flipped(good.raw)) == 0
    assert answers.at(NOW) == before


@pytest.mark.parametrize("kind", [kind for kind in SHARED if kind is not Kind.STATUS_LIST])
def test_nothing_is_replayed_or_resurrected(kind: Kind) -> None:
    answers = world()
    old, new, gone = replayed(kind, NOW, by=issuer_of(kind))
    for record in (old, new):
        assert send(answers.made, record.raw) == 1
    replaced = answers.at(NOW)
    assert send(answers.made, old.raw) == 0
    assert answers.at(NOW) == replaced
    assert send(answers.made, gone.raw) == 1
    withdrawn = answers.at(NOW)
    assert send(answers.made, old.raw, new.raw) == 0
    assert answers.at(NOW) == withdrawn


@pytest.mark.parametrize("kind", SHARED)
def test_what_replaced_a_record_keeps_it_away_even_when_it_has_expired(kind: Kind) -> None:
    answers, by = world(), issuer_of(kind)
    long, short = record_of(kind, NOW - 2, by=by), record_of(kind, NOW - 1, 1000, by)
    send(answers.made, long.raw)
    send(answers.made, short.raw)
    for tidy in (lambda: None, lambda: answers.made.expire(NOW + 1000)):
        tidy()
        before = answers.at(NOW + 1000)
        assert send(answers.made, long.raw, short.raw, now=NOW + 1000) == 0
        assert answers.at(NOW + 1000) == before
        assert long.content_id not in before["records"]


@pytest.mark.parametrize("kind", [kind for kind in SHARED if kind is not Kind.MEMBERSHIP])
def test_over_rate_shows_nowhere(kind: Kind) -> None:
    answers = world(replace(LIMITS, records_burst_per_issuer=3))
    before = answers.at(NOW)
    assert send(answers.made, record_of(kind, NOW + 1).raw) == 0
    assert answers.at(NOW) == before


@pytest.mark.parametrize("kind", [Kind.MODEL, Kind.CAPABILITY])  # a member has one of the others
def test_over_quota_shows_nowhere(kind: Kind) -> None:
    answers = world(replace(LIMITS, records_per_issuer_max=3))
    before = answers.at(NOW)
    newer = record_of(kind, NOW + 1)
    assert send(answers.made, newer.raw) == 0
    assert answers.at(NOW) == before


def test_the_skew_that_is_allowed_is_allowed() -> None:
    answers = world()
    assert send(answers.made, node_record(ANN, NOW + SKEW_MS + 1).raw) == 0
    assert send(answers.made, node_record(ANN, NOW + SKEW_MS).raw) == 1
