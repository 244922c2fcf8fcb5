"""What claims come to: by whose word, drawn towards an assumption, the owner's nearly for nothing."""

from hypothesis import given
from hypothesis import strategies as st
from tests.metagraph.world import ANN, BEN, MODELS, NOW, signed

from aigrid.metagraph.evidence import UNKNOWN, Audits, Claim, Claims, Evidence, weighed
from aigrid.protocol.evidence import AuditBody, EvaluationBody, Finding, evaluation_id
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS

OWNER = "did:owner"
issuers = st.sampled_from(["did:a", "did:b", "did:c", OWNER, "did:other-owner"])
claims = st.builds(
    Claim,
    record=st.uuids().map(str),
    issuer=issuers,
    capability=st.just("text"),
    parameters=st.just({}),
    value=st.floats(0, 1),
    items=st.integers(1, 2**53 - 1),
    until_ms=st.just(NOW + 1),
)
trusts = st.dictionaries(issuers, st.floats(0, 1))
OWNERS = frozenset({OWNER, "did:other-owner"})


def claim(issuer: str, value: float, items: int = 100, record: str = "") -> Claim:
    return Claim(record or f"{issuer}-{value}", issuer, "text", {}, value, items, NOW + 1)


def body(model: str, value: str, dataset: str = "0" * 64, **parameters: str) -> EvaluationBody:
    of = (model, "translation", parameters, "chrf", dataset)
    return EvaluationBody(
        id=evaluation_id(*of),
        model=model,
        capability="translation",
        parameters=parameters,
        metric="chrf",
        dataset=dataset,
        items=100,
        value=value,
        low="0",
        high="1",
    )


@given(st.lists(claims, max_size=8), trusts)
def test_owners_alone_move_quality_by_no_more_than_the_discount(made, trust):
    word = {issuer: min(weight, 0.99) for issuer, weight in trust.items()}
    others = [one for one in made if one.issuer not in OWNERS]

    def value(said: list[Claim]) -> float:
        return weighed(said, lambda did: word.get(did, 0.0), OWNERS).value

    assert abs(value(made) - value(others)) <= LIMITS.owner_discount + 1e-12


@given(st.lists(claims, max_size=8), trusts, st.randoms(use_true_random=False))
def test_order_of_arrival_changes_nothing_and_the_value_stays_in_bounds(made, trust, shuffle):
    before = weighed(made, lambda did: trust.get(did, 0.0), OWNERS)
    shuffle.shuffle(made)
    assert weighed(made, lambda did: trust.get(did, 0.0), OWNERS) == before
    assert 0 <= before.value <= 1


def test_the_more_items_the_less_is_assumed():
    few = weighed([claim("did:a", 1.0, items=5)], lambda _: 1.0, frozenset())
    many = weighed([claim("did:a", 1.0, items=500)], lambda _: 1.0, frozenset())
    assert LIMITS.quality_prior < few.value < 0.61
    assert 0.97 < many.value < 1


def test_many_datasets_of_one_issuer_count_no_more_than_the_bound():
    flood = [claim("did:a", 1.0, 10**6, record=str(n)) for n in range(50)]
    assert weighed(flood, lambda _: 1.0, frozenset()).weight == LIMITS.evaluated_items_max


def test_a_word_that_counts_nothing_is_no_source():
    made = weighed([claim("did:a", 1.0), claim("did:b", 0.2)], lambda d: d == "did:b", OWNERS)
    assert made.sources == ("did:b-0.2",)


def test_ones_own_word_counts_in_full_though_one_owns_the_model():
    made = weighed([claim(OWNER, 1.0, 1000)], lambda _: 1.0, OWNERS)
    assert made.value > 0.98


def test_evaluations_of_another_value_of_a_parameter_do_not_count():
    made = Claims()
    for record in (
        signed(body(MODELS[0], "0.9", source="en", target="fr"), Kind.EVALUATION, ANN),
        signed(body(MODELS[0], "0.1", source="de", target="fr"), Kind.EVALUATION, ANN),
        signed(body(MODELS[1], "0.2"), Kind.EVALUATION, BEN),
    ):
        made.add(record, record.valid_until_ms)
    known = Evidence(made, NOW, trust=lambda _: 1.0, above=lambda _: {"text": NOW + 1})
    assert known.quality(MODELS[0], "translation", {"source": "en"}).value > 0.8
    assert known.quality(MODELS[0], "translation", {"source": "es"}) == UNKNOWN
    assert known.quality(MODELS[0], "text").weight == 200
    assert known.quality(MODELS[0], "vision") == UNKNOWN
    assert known.quality(MODELS[1], "translation", {"source": "en"}).value < 0.3


def test_what_others_tell_of_a_node_counts_by_their_word_and_up_to_a_bound():
    made = Audits()
    said = [Finding(MODELS[0], "translation", 1000, 3000), Finding(MODELS[1], "summary", 4, 0)]
    said.sort(key=lambda one: one.model)
    record = signed(AuditBody(id=BEN.did, findings=tuple(said)), Kind.AUDIT, ANN)
    made.add(record, record.valid_until_ms)
    known = Evidence(audits=made, now_ms=NOW, trust=lambda _: 0.5)
    most = LIMITS.heard_requests_max
    assert known.heard(BEN.did, "translation") == {MODELS[0]: (most / 8, most * 3 / 8)}
    assert known.heard(BEN.did, "")[MODELS[1]] == (2.0, 0.0)
    assert known.heard(ANN.did, "") == {}
    assert Evidence(audits=made, now_ms=NOW).heard(BEN.did, "") == {}
    assert not made.of(BEN.did, record.valid_until_ms)
    made.remove(record)
    assert not made


def test_what_was_asked_before_is_not_gone_through_again():
    made = Claims()
    made.put(MODELS[0], claim("did:a", 0.9))
    known = Evidence(made, NOW, trust=lambda _: 1.0)
    before = known.quality(MODELS[0], "text", {"a": "1", "b": "2"})
    made.put(MODELS[0], claim("did:b", 0.1))
    assert made.changes == 2
    assert known.quality(MODELS[0], "text", {"b": "2", "a": "1"}) is before
    assert Evidence(made, NOW, trust=lambda _: 1.0).quality(MODELS[0], "text") != before


def test_what_is_withdrawn_or_expired_does_not_count():
    made, record = Claims(), signed(body(MODELS[0], "0.9"), Kind.EVALUATION, ANN)
    made.add(record, record.valid_until_ms)
    late = Evidence(made, record.valid_until_ms, trust=lambda _: 1.0)
    assert late.quality(MODELS[0], "translation") == UNKNOWN
    made.remove(record)
    made.remove(record)
    assert Evidence(made, NOW, trust=lambda _: 1.0).quality(MODELS[0], "translation") == UNKNOWN


def test_models_are_compared_by_what_both_were_put_to():
    made = Claims()

    def put(model: str, issuer: Identity, value: str, dataset: str) -> None:
        record = signed(body(model, value, dataset * 64), Kind.EVALUATION, issuer)
        made.add(record, record.valid_until_ms)

    put(MODELS[0], ANN, "0.8", "0")
    put(MODELS[0], ANN, "0.2", "1")  # a hard one, to which the other was not put
    put(MODELS[1], ANN, "0.7", "0")
    known = Evidence(made, NOW, trust=lambda _: 1.0)
    alone = known.quality(MODELS[0], "translation")
    assert alone.value < known.quality(MODELS[1], "translation").value
    compared = known.qualities(MODELS[:2], "translation")
    assert compared[MODELS[0]].value > compared[MODELS[1]].value
    assert len(compared[MODELS[0]].sources) == 1
    assert known.qualities(MODELS[1::-1], "translation") is compared
    assert known.qualities(MODELS[:1], "translation")[MODELS[0]] == alone


def test_nobody_takes_away_what_another_measured():
    made = Claims()
    made.put("a", measured("did:judge", 0.9, "one"))
    made.put("b", measured("did:judge", 0.2, "two"))
    made.put("a", measured("did:liar", 0.0, "three"))
    made.put("b", measured("did:liar", 1.0, "three"))
    word = {"did:judge": 1.0, "did:liar": 0.1}
    known = Evidence(made, NOW, trust=lambda did: word.get(did, 0.0))
    found = known.qualities(("a", "b", "c"), "text")
    assert {did.partition("-")[0] for did in found["a"].sources} == {"did:judge", "did:liar"}
    assert found["a"].value > 0.7
    assert found["b"].value < 0.4
    assert found["c"] == UNKNOWN


def measured(issuer: str, value: float, dataset: str) -> Claim:
    record = f"{issuer}-{dataset}-{value}"
    return Claim(record, issuer, "text", {}, value, 100, NOW + 1, ("accuracy", dataset))


def test_what_was_compared_is_forgotten_within_bounds():
    made = Claims()
    made.put("a", measured("did:judge", 0.9, "one"))
    known = Evidence(made, NOW, trust=lambda _: 1.0)
    for number in range(200):
        known.qualities(("a", str(number)), "text")
    assert len(known._compared) <= 64
