"""Published capabilities extend the taxonomy while their records are believed."""

from itertools import permutations

import pytest
from tests.metagraph.world import (
    ANN,
    BEN,
    MINUTE_MS,
    MODELS,
    NOW,
    OWN,
    availability,
    model_body,
    offer,
    signed,
    with_members,
    withdrawal,
)

from aigrid.metagraph.capabilities import default_taxonomy
from aigrid.metagraph.concepts import LiveConcepts
from aigrid.metagraph.index import Index
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import CapabilityBody, Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record

LEGAL, COURT = f"{ANN.did}#legal", f"{BEN.did}#court"


def body(iri: str, *broader: str) -> CapabilityBody:
    return CapabilityBody(id=iri, broader=broader, labels={"en": "x"})


def capability(
    issuer: Identity, iri: str, *broader: str, start: int = NOW, life: int = 100 * MINUTE_MS
) -> Record:
    return signed(body(iri, *broader), Kind.CAPABILITY, issuer, start, life)


def offered(*capabilities: str) -> tuple[Record, Record]:
    manifest = signed(model_body(0, "m", capabilities), Kind.MODEL, OWN, NOW, 100 * MINUTE_MS)
    return manifest, availability(OWN, offer(manifest))


def found(index: Index, name: str, now: int = NOW) -> list[str]:
    return [candidate.model for candidate in index.offers_of_capability(name, now)]


def test_a_published_capability_answers_for_what_is_above_it_in_any_order() -> None:
    records = (
        capability(ANN, LEGAL, "summarization"),
        capability(BEN, COURT, LEGAL),
        *offered(COURT),
    )
    for order in permutations(records):
        index = Index()
        for record in order:
            index.add(record)
        for name in (COURT, LEGAL, "summarization", "text"):
            assert found(index, name) == [MODELS[0]], name
            assert index.concepts.known(name, NOW)
        assert found(index, "translation") == []


def test_it_is_forgotten_with_its_record_and_comes_back_with_the_next() -> None:
    index = Index()
    legal = capability(ANN, LEGAL, "summarization")
    for record in (legal, *offered(LEGAL)):
        index.add(record)
    index.add(withdrawal(Kind.CAPABILITY, LEGAL, ANN, NOW + 1, 100 * MINUTE_MS))
    assert found(index, "summarization") == []
    assert found(index, LEGAL) == [MODELS[0]]
    assert not index.concepts.known(LEGAL, NOW)
    index.add(capability(ANN, LEGAL, "translation", start=NOW + 2))
    assert found(index, "summarization") == []
    assert found(index, "translation") == [MODELS[0]]


def test_nothing_is_found_by_an_expired_one_even_before_it_is_removed() -> None:
    index = Index()
    for record in (capability(ANN, LEGAL, "summarization", life=MINUTE_MS), *offered(LEGAL)):
        index.add(record)
    end = NOW + MINUTE_MS
    assert found(index, "text", end - 1) == [MODELS[0]]
    assert found(index, "text", end) == []
    assert found(index, LEGAL, end) == [MODELS[0]]
    assert not index.concepts.known(LEGAL, end)


def test_offers_that_go_leave_nothing_behind() -> None:
    index = Index()
    manifest, offers = offered(LEGAL)
    for record in (capability(ANN, LEGAL, "summarization"), manifest, offers):
        index.add(record)
    index.remove(offers)
    index.remove(index.manifest(manifest.content_id, NOW) or manifest)
    assert index._of_capability == {}
    assert index._refilable == {}


def test_circles_and_loose_ends_are_not_known() -> None:
    concepts = LiveConcepts(default_taxonomy())
    concepts.put(body(LEGAL, COURT), NOW + 1)
    concepts.put(body(COURT, LEGAL), NOW + 1)
    assert not concepts.known(LEGAL, NOW)
    assert concepts.ancestors(LEGAL) == {COURT: NOW + 1}
    concepts.put(body(COURT, LEGAL, "text-generation"), NOW + 1)
    assert concepts.known(LEGAL, NOW)
    assert set(concepts.ancestors(LEGAL)) == {COURT, "text-generation", "text"}
    concepts.put(body(LEGAL, f"{ANN.did}#nowhere"), NOW + 1)
    assert not concepts.known(LEGAL, NOW)


def test_the_way_that_holds_longest_counts() -> None:
    concepts = LiveConcepts(default_taxonomy())
    concepts.put(body(LEGAL, COURT, "summarization"), NOW + 10)
    concepts.put(body(COURT, "summarization", "translation"), NOW + 5)
    above = concepts.ancestors(LEGAL)
    assert above == {
        COURT: NOW + 10,
        "summarization": NOW + 10,
        "text": NOW + 10,
        "translation": NOW + 5,
    }


@pytest.mark.parametrize("member", [True, False])
def test_only_members_extend_the_taxonomy_of_a_grid(member: bool) -> None:
    graph = with_members(*([ANN] if member else []))
    raw = capability(ANN, LEGAL, "summarization").raw
    _, refusals = graph.ingest_batch([raw], now_ms=NOW, received_from=None)
    assert bool(refusals) is not member
    assert graph.index.concepts.known(LEGAL, NOW) is member


def test_engines_know_a_published_capability_by_the_shipped_one_above_it() -> None:
    concepts = LiveConcepts(default_taxonomy())
    concepts.put(body(LEGAL, "summarization"), NOW + 1)
    concepts.put(body(COURT, f"{ANN.did}#nowhere", LEGAL, COURT), NOW + 1)
    assert concepts.task_of("translation") == "translation"
    assert concepts.task_of(LEGAL) == "summarization"
    assert concepts.task_of(COURT) == "summarization"
    assert concepts.task_of(f"{ANN.did}#nowhere") == f"{ANN.did}#nowhere"


def test_what_stands_below_too_many_published_ones_has_nothing_above_it() -> None:
    """Every step above one costs every node that holds a model with it."""
    most = LIMITS.published_above_max
    names = [f"{ANN.did}#n{n}" for n in range(most + 2)]
    concepts = LiveConcepts(default_taxonomy())
    for n, name in enumerate(names):
        concepts.put(body(name, *names[n + 1 : n + 9] or ["summarization"]), NOW + n)
    assert concepts.ancestors(names[0]) == {}
    assert not concepts.known(names[0], NOW - 1)
    assert len(concepts.ancestors(names[1])) == most + 2  # summarization and text
    assert concepts.known(names[1], NOW - 1)


def test_any_number_of_published_capabilities_moves_the_offers_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index = Index()
    filed: list[tuple[str, ...]] = []
    for record in offered(COURT):
        index.add(record)
    satisfied = index.concepts.satisfied

    def counted(names: tuple[str, ...]) -> dict[str, int]:
        filed.append(names)
        return satisfied(names)

    monkeypatch.setattr(index.concepts, "satisfied", counted)
    for n in range(50):
        index.add(capability(BEN, COURT, "summarization", start=NOW + n))
        index.add(capability(ANN, f"{ANN.did}#n{n}", "summarization"))
    assert not filed
    assert found(index, "summarization") == found(index, "text") != []
    assert len(filed) == 1
