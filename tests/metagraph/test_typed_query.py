"""What belongs to the answer of a typed query: all that an offer takes, and nothing else."""

from functools import partial

import pytest
from tests.metagraph.world import (
    ANN,
    AUTHORITY,
    BEN,
    MODELS,
    NOW,
    OWN,
    STRANGER,
    availability,
    graph,
    manifest,
    membership,
    model_body,
    node_record,
    offer,
    signed,
    with_members,
)

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.typed_query import Source, Wanted, gather, givers, offers, related
from aigrid.protocol.kinds import AvailabilityBody, CapabilityBody, Kind, ModelBody, Seed
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN, ModelDescription, model_id
from aigrid.protocol.record import Record

LEGAL = f"{BEN.did}#legal-writing"
PATENTS = f"{ANN.did}#patent-writing"
NOW_MS = NOW + 1


def capability(issuer, iri, *broader):
    body = CapabilityBody(id=iri, broader=broader, labels={"en": "x"})
    return signed(body, Kind.CAPABILITY, issuer)


# Ann offers what Ben described; her capability stands below his, and his below a shipped one.
DESCRIBED = signed(model_body(0, "patents", (PATENTS,)), Kind.MODEL, BEN)
ABOVE = [capability(ANN, PATENTS, LEGAL), capability(BEN, LEGAL, "text-generation")]
OFFER = [availability(ANN, offer(DESCRIBED)), node_record(ANN), DESCRIBED]
MEMBERSHIPS = [membership(ANN), membership(BEN)]
OTHER = manifest(BEN, 1, "other")
UNRELATED = [OTHER, availability(BEN, offer(OTHER)), node_record(BEN), membership(OWN)]


def knowing(*records: Record, open_to_strangers: bool = False) -> Metagraph:
    made = graph(open_to_strangers=open_to_strangers)
    _, refusals = made.ingest_batch(
        [record.raw for record in records], now_ms=NOW_MS, received_from=None
    )
    assert refusals == []
    return made


def answer(made: Metagraph, wanted: Wanted, limit: int = LIMITS.find_records_max) -> list[Record]:
    membership_of = partial(made.membership_of, now_ms=NOW_MS)
    found: list[Source] = [*offers(wanted, made.index, NOW_MS)]
    found += givers(wanted, made.index, NOW_MS)
    return gather(wanted, found, made.index, membership_of, now_ms=NOW_MS, limit=limit)


def ids(records) -> set[str]:
    return {record.content_id for record in records}


@pytest.mark.parametrize("name", ["text-generation", "text", LEGAL, PATENTS])
def test_a_capability_is_answered_with_all_that_leads_up_to_it(name):
    made = knowing(*MEMBERSHIPS, *OFFER, *ABOVE, *UNRELATED)
    wanted = Wanted("capability", name)
    found = answer(made, wanted)
    assert ids(found) >= ids(MEMBERSHIPS + OFFER + ABOVE)
    assert [r.kind for r in found[:2]] == [Kind.MEMBERSHIP] * 2
    newcomer = knowing(*found)  # nothing is known there but the authority
    assert {c.name for c in newcomer.index.offers_of_capability(name, NOW_MS)} >= {"patents"}


@pytest.mark.parametrize("name", [MODELS[0], "patents"])
def test_a_model_is_answered_by_id_and_by_name_without_capabilities(name):
    made = knowing(*MEMBERSHIPS, *OFFER, *ABOVE, *UNRELATED)
    assert ids(answer(made, Wanted("model", name))) == ids(MEMBERSHIPS + OFFER)


@pytest.mark.parametrize("by", ["capability", "model"])
def test_what_is_not_known_or_no_longer_valid_is_answered_by_nothing(by):
    made = knowing(*MEMBERSHIPS, *OFFER)
    assert answer(made, Wanted(by, "nothing")) == []
    later = NOW + LIMITS.availability_ttl_seconds * 1000 + 1
    assert offers(Wanted("model", "patents"), made.index, later) == ()


def test_an_offer_is_there_with_all_it_takes_or_not_at_all():
    made = knowing(*MEMBERSHIPS, *OFFER)
    wanted = Wanted("model", MODELS[0])
    assert len(answer(made, wanted, limit=5)) == 5
    assert answer(made, wanted, limit=4) == []


def test_an_offer_too_large_leaves_room_for_another(monkeypatch):
    other = [OTHER, availability(BEN, offer(OTHER, "on_disk")), node_record(BEN)]
    made = knowing(*MEMBERSHIPS, *OFFER, *ABOVE, *other)
    small = sum(len(record.raw) for record in (MEMBERSHIPS[1], *other))
    limits = type(LIMITS)(find_max_bytes=small)
    monkeypatch.setattr("aigrid.metagraph.typed_query.LIMITS", limits)
    assert ids(answer(made, Wanted("capability", "text-generation"))) == ids(
        [MEMBERSHIPS[1], *other]
    )


def test_of_an_answer_only_what_belongs_to_the_question_is_taken():
    everything = [*MEMBERSHIPS, *OFFER, *ABOVE, *UNRELATED]
    for wanted, expected in (
        (Wanted("capability", PATENTS), [*MEMBERSHIPS, *OFFER, *ABOVE]),
        (Wanted("model", "patents"), [*MEMBERSHIPS, *OFFER]),
        (Wanted("model", MODELS[1]), [MEMBERSHIPS[1], *UNRELATED[:3]]),
        (Wanted("capability", "text-to-image"), []),
    ):
        assert ids(related(wanted, everything, now_ms=NOW_MS)) == ids(expected)


@pytest.mark.parametrize("missing", [0, 2])
def test_an_offer_without_its_manifest_or_availability_is_nothing(missing):
    part = [record for n, record in enumerate(OFFER) if n != missing]
    assert related(Wanted("model", "patents"), MEMBERSHIPS + part, now_ms=NOW_MS) == []


def test_a_capability_is_not_taken_without_the_record_that_places_it():
    part = [*MEMBERSHIPS, *OFFER, ABOVE[0]]
    assert related(Wanted("capability", "text-generation"), part, now_ms=NOW_MS) == []


def test_what_was_gathered_is_related_whatever_is_asked():
    made = with_members(ANN, BEN)
    made.ingest_batch(
        [record.raw for record in (*OFFER, *ABOVE, *UNRELATED)], now_ms=NOW_MS, received_from=None
    )
    for wanted in (
        Wanted("capability", "text"),
        Wanted("capability", LEGAL),
        Wanted("model", MODELS[1]),
    ):
        found = answer(made, wanted)
        assert ids(related(wanted, found, now_ms=NOW_MS)) == ids(found) != set()


def test_in_an_open_grid_an_offer_of_a_stranger_needs_no_membership():
    theirs = manifest(STRANGER, 2, "theirs")
    records = [theirs, availability(STRANGER, offer(theirs)), node_record(STRANGER)]
    made = knowing(*records, open_to_strangers=True)
    found = answer(made, Wanted("model", "theirs"))
    assert ids(found) == ids(records)
    assert AUTHORITY.did not in {record.issuer for record in found}


def test_one_node_with_many_offers_leaves_room_for_the_only_one_of_another():
    many = []
    for n in range(LIMITS.offers_max):
        described = ModelDescription(
            format="echo", task="text-generation", files=(), options={"of": n}
        )
        name = MODEL_URN + model_id(described)
        body = ModelBody(id=name, name="m", capabilities=("text-generation",), model=described)
        many.append(signed(body, Kind.MODEL, ANN))
    loud = [availability(ANN, *map(offer, many)), node_record(ANN), membership(ANN), *many]
    quiet = manifest(BEN)
    modest = [availability(BEN, offer(quiet, "on_disk")), node_record(BEN), membership(BEN), quiet]
    made = knowing(*loud, *modest)
    for wanted in (Wanted("capability", "text"), Wanted("capability", "text-generation")):
        found = answer(made, wanted)
        assert len(found) <= LIMITS.find_records_max
        assert ids(modest) <= ids(found)
        assert ids(answer(made, wanted, limit=8)) > ids(modest)


def test_who_gives_a_model_without_offering_it_is_found_by_the_model_alone():
    seed = Seed(DESCRIBED.subject.removeprefix(MODEL_URN), DESCRIBED.content_id)
    body = AvailabilityBody(id=ANN.did, offers=(), seeds=(seed,))
    given = [signed(body, Kind.AVAILABILITY, ANN), node_record(ANN), DESCRIBED]
    made = knowing(*MEMBERSHIPS, *given, *UNRELATED)
    for name in (seed.model, "patents"):
        wanted = Wanted("model", name)
        found = answer(made, wanted)
        assert ids(found) == ids([*MEMBERSHIPS, *given])
        assert ids(related(wanted, [*found, *UNRELATED], now_ms=NOW_MS)) == ids(found)
    assert answer(made, Wanted("capability", "text-generation")) != found
    assert DESCRIBED not in answer(made, Wanted("capability", LEGAL))
