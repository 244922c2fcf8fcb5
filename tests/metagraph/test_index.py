"""The index against a model that knows no dictionaries: every answer from all records, each time."""

import random

from hypothesis import given
from hypothesis import strategies as st
from tests.metagraph.world import (
    ANN,
    BEN,
    MODELS,
    NOW,
    OWN,
    availability,
    manifest,
    model_body,
    node_record,
    offer,
    unsigned,
)

from aigrid.metagraph.capabilities import ancestors
from aigrid.metagraph.index import Candidate, Index
from aigrid.protocol.canonical import content_id
from aigrid.protocol.identity import peer_id_of_did
from aigrid.protocol.kinds import AvailabilityBody, Kind, ModelBody, Offer, Seed, WithdrawnBody
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.record import Record, RecordKey

ISSUERS = (OWN.did, ANN.did, BEN.did)
CAPABILITIES = ("text-generation", "text-to-speech", "text-to-audio", "mind-reading")
ASKED = (*CAPABILITIES, "text", "audio", "vision")
NAMES = ("echo", "other")

Step = tuple[str, Record, int | None]
Believed = dict[RecordKey, tuple[Record, int]]

starts = st.integers(NOW - 50, NOW)
lives = st.integers(1, 200)
manifests = st.builds(
    lambda n, name, capabilities, issuer, serial, start, life: unsigned(
        Kind.MODEL, issuer, model_body(n, name, capabilities), serial, start=start, life=life
    ),
    st.integers(0, 2),
    st.sampled_from(NAMES),
    st.lists(st.sampled_from(CAPABILITIES), min_size=1, max_size=2, unique=True).map(tuple),
    st.sampled_from(ISSUERS),
    st.integers(0, 3),
    starts,
    lives,
)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Step], Believed]:
    """Steps of feeding, and what is believed at the end: key -> (record, until)."""
    known = draw(st.lists(manifests, max_size=5, unique_by=lambda record: record.content_id))
    targets = [record.content_id for record in known] + [content_id(b"never seen")]
    models = {record.content_id: record.subject.removeprefix(MODEL_URN) for record in known}
    pairs = st.sampled_from(targets).map(lambda of: (models.get(of, MODELS[0]), of))
    mismatched = st.tuples(st.sampled_from(MODELS), st.sampled_from(targets))
    offers = st.builds(
        lambda pair, **rest: Offer(model=pair[0], manifest=pair[1], **rest),
        pairs | pairs | pairs | mismatched,
        state=st.sampled_from(["warm", "loading", "on_disk", "can_fetch"]),
        slots=st.integers(0, 3),
        latency_ms=st.integers(0, 3),
    )
    bodies = st.lists(offers, max_size=3, unique_by=lambda made: made.model).map(tuple)
    records = list(known)
    for serial in range(draw(st.integers(0, 4))):
        issuer = draw(st.sampled_from(ISSUERS))
        given = draw(st.sets(st.sampled_from(MODELS)))
        seeds = tuple(Seed(model, draw(st.sampled_from(targets))) for model in sorted(given))
        body = AvailabilityBody(id=issuer, offers=draw(bodies), seeds=seeds)
        records.append(
            unsigned(Kind.AVAILABILITY, issuer, body, serial, start=draw(starts), life=draw(lives))
        )
    steps: list[Step] = []
    believed: Believed = {}
    if not records:
        return steps, believed
    for _ in range(draw(st.integers(0, 14))):
        record = draw(st.sampled_from(records))
        act = draw(st.sampled_from(["add", "add", "add", "remove", "withdraw"]))
        until = draw(st.none() | st.integers(NOW - 10, NOW + 200))
        steps.append((act, record, until))
        if act == "add":
            most = record.valid_until_ms if until is None else until
            believed[record.key] = (record, min(record.valid_until_ms, most))
        elif act == "withdraw" or believed.get(record.key, (None, 0))[0] == record:
            believed.pop(record.key, None)
    return steps, believed


def fed(steps: list[Step]) -> Index:
    index = Index()
    for act, record, until in steps:
        if act == "add":
            index.add(record, until_ms=until)
        elif act == "remove":
            index.remove(record)
        else:
            gone = WithdrawnBody(id=record.subject, withdrawn=True)
            index.add(unsigned(record.kind, record.issuer, gone, 99))
    return index


def naive_candidates(believed: Believed, now: int) -> set[Candidate]:
    live = [(record, until) for record, until in believed.values() if until > now]
    described = {r.content_id: (r.body, u) for r, u in live if isinstance(r.body, ModelBody)}
    found = set()
    for record, until in live:
        if not isinstance(record.body, AvailabilityBody):
            continue
        for made in record.body.offers:
            if made.manifest not in described:
                continue
            about, about_until = described[made.manifest]
            if about.id != MODEL_URN + made.model:
                continue
            found.add(
                Candidate(
                    model=made.model,
                    name=about.name,
                    capabilities=about.capabilities,
                    manifest=made.manifest,
                    record=record.content_id,
                    node=peer_id_of_did(record.subject),
                    signer=record.issuer,
                    state=made.state,
                    slots=made.slots,
                    latency_ms=made.latency_ms,
                    valid_until_ms=min(until, about_until),
                    context_tokens=about.context_tokens,
                )
            )
    return found


def naive_seeders(believed: Believed, model: str, now: int) -> list[tuple[str, str]]:
    """DID and manifest of everybody who gives a model."""
    return sorted(
        (record.issuer, seed.manifest)
        for record, until in believed.values()
        if isinstance(record.body, AvailabilityBody) and until > now
        for seed in record.body.seeds
        if seed.model == model
    )


@given(histories(), st.integers(NOW - 60, NOW + 220))
def test_who_gives_a_model_is_known(history: tuple[list[Step], Believed], now: int) -> None:
    steps, believed = history
    index = fed(steps)
    for model in MODELS:
        found = [(one.signer, one.manifest) for one in index.seeders_of(model, now)]
        assert found == naive_seeders(believed, model, now)


def once(candidates: tuple[Candidate, ...]) -> set[Candidate]:
    assert len(set(candidates)) == len(candidates)
    return set(candidates)


def satisfies(candidate: Candidate, asked: str) -> bool:
    return any(asked == name or asked in ancestors(name) for name in candidate.capabilities)


@given(histories(), st.integers(NOW - 1, NOW + 160))
def test_answers_are_those_of_the_naive_model(
    history: tuple[list[Step], Believed], now: int
) -> None:
    steps, believed = history
    index, expected = fed(steps), naive_candidates(believed, now)
    assert once(index.candidates(now)) == expected
    for model in MODELS:
        of_model = {c for c in expected if c.model == model}
        assert once(index.offers_of_model(model, now)) == of_model
    for asked in ASKED:
        matching = {c for c in expected if satisfies(c, asked)}
        assert once(index.offers_of_capability(asked, now)) == matching
    live = [r for r, until in believed.values() if until > now and r.kind is Kind.MODEL]
    bodies = [r.body for r in live if isinstance(r.body, ModelBody)]
    for name in NAMES:
        ids = {body.id.removeprefix(MODEL_URN) for body in bodies if body.name == name}
        assert index.resolve(name, now) == tuple(sorted(ids))
    summaries = index.models(now)
    assert [s.model for s in summaries] == sorted({r.subject.removeprefix(MODEL_URN) for r in live})
    assert {m.content_id for s in summaries for m in s.manifests} == {r.content_id for r in live}
    assert {c for s in summaries for c in s.candidates} == expected


@given(histories(), st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(
    history: tuple[list[Step], Believed], rng: random.Random
) -> None:
    _, believed = history
    adds: list[Step] = [("add", record, until) for record, until in believed.values()]
    shuffled = rng.sample(adds, len(adds))
    one, other = fed(adds), fed(shuffled)
    assert set(one.candidates(NOW)) == set(other.candidates(NOW))
    assert one.models(NOW) == other.models(NOW) or {
        (s.model, s.names, frozenset(s.candidates)) for s in one.models(NOW)
    } == {(s.model, s.names, frozenset(s.candidates)) for s in other.models(NOW)}


@given(histories())
def test_nothing_is_left_behind_when_everything_is_removed(
    history: tuple[list[Step], Believed],
) -> None:
    steps, believed = history
    index = fed(steps)
    for record, _ in believed.values():
        index.remove(record)
    tables = {name: table for name, table in vars(index).items() if name != "concepts"}
    assert tables
    assert not any(tables.values())


def test_an_offer_waits_for_its_manifest() -> None:
    index, about = Index(), manifest(ANN)
    index.add(availability(BEN, offer(about)))
    assert index.offers_of_model(MODELS[0], NOW) == ()
    index.add(about)
    (found,) = index.offers_of_model(MODELS[0], NOW)
    assert (found.node, found.signer) == (BEN.peer_id, BEN.did)
    assert found.manifest == about.content_id


def test_an_offer_under_the_manifest_of_another_model_is_no_candidate() -> None:
    index, about = Index(), manifest(ANN, 0)
    index.add(about)
    index.add(availability(BEN, Offer(model=MODELS[1], manifest=about.content_id, state="warm")))
    assert index.candidates(NOW) == ()


def test_a_reissued_manifest_leaves_offers_of_the_old_one_waiting() -> None:
    index, old = Index(), manifest(ANN)
    index.add(old)
    index.add(availability(BEN, offer(old)))
    index.add(manifest(ANN, name="renamed", start=NOW + 1))
    assert index.candidates(NOW + 1) == ()
    assert index.resolve("echo", NOW + 1) == ()
    assert index.resolve("renamed", NOW + 1) == (MODELS[0],)


def test_expiry_is_looked_at_when_the_question_is_asked() -> None:
    index, about = Index(), manifest(ANN, life=1000)
    made = availability(BEN, offer(about), life=500)
    index.add(about)
    index.add(made)
    index.add(node_record(BEN, life=700))
    assert index.offers_of_capability("text", NOW + 499)
    assert index.offers_of_capability("text", NOW + 500) == ()
    assert index.node(BEN.did, NOW + 699)
    assert index.node(BEN.did, NOW + 700) is None
    assert index.manifest(about.content_id, NOW + 999) == about
    assert index.manifest(about.content_id, NOW + 1000) is None
    assert index.resolve(MODELS[0], NOW + 1000) == ()


def test_an_offer_ends_with_its_manifest() -> None:
    index, about = Index(), manifest(ANN, life=100)
    index.add(availability(BEN, offer(about), life=500))
    index.add(about)
    (found,) = index.offers_of_model(MODELS[0], NOW + 99)
    assert found.valid_until_ms == NOW + 100
    assert index.offers_of_model(MODELS[0], NOW + 100) == ()


def test_one_name_for_several_models_gives_them_all() -> None:
    index = Index()
    index.add(manifest(ANN, 0))
    index.add(manifest(BEN, 1))
    assert index.resolve("echo", NOW) == tuple(sorted(MODELS[:2]))
    assert index.resolve(MODELS[1], NOW) == (MODELS[1],)
    assert index.resolve(MODEL_URN + MODELS[1], NOW) == (MODELS[1],)
    assert index.resolve(MODELS[2], NOW) == ()


def test_a_limit_keeps_the_warm_ones() -> None:
    index, about = Index(), manifest(ANN)
    index.add(about)
    index.add(availability(ANN, offer(about, "can_fetch")))
    index.add(availability(BEN, offer(about, "warm")))
    index.add(availability(OWN, offer(about, "on_disk")))
    states = [c.state for c in index.offers_of_model(MODELS[0], NOW, limit=2)]
    assert states == ["warm", "on_disk"]
