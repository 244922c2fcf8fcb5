"""The weighted score: properties that hold whatever the candidates, the weights and the seed."""

import math
import random
from collections.abc import Mapping
from dataclasses import replace

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from tests.metagraph.world import MODELS, NOW, candidate

from aigrid.metagraph.evidence import Claim, Claims, Evidence
from aigrid.metagraph.index import Candidate
from aigrid.metagraph.selection import (
    DEFAULT_STRATEGY,
    STRATEGIES,
    Kept,
    Observation,
    Outcomes,
    Pace,
    Parts,
    Ranking,
    Strategy,
    Weights,
    explain,
    rank,
)
from aigrid.protocol.limits import LIMITS

BALANCED = replace(STRATEGIES["balanced"], exploration=0.0)
weights = st.builds(
    Weights, **dict.fromkeys(Parts._fields, st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0]))
).filter(lambda made: any(msgspec.structs.astuple(made)))
outcomes = st.builds(Outcomes, st.floats(0, 1e4), st.floats(0, 1e4), st.none() | st.floats(0, 1e6))
observations = st.builds(
    Observation,
    alive=st.booleans(),
    running=st.integers(0, 5),
    ttft_ms=st.none() | st.floats(0, 1e6),
    models=st.dictionaries(st.sampled_from(MODELS), st.builds(Pace, st.none() | st.floats(0, 1e6))),
    busy_seconds=st.dictionaries(st.sampled_from(MODELS), st.floats(0.001, 1e3), max_size=1),
    stalled=st.sets(st.sampled_from(MODELS), max_size=1),
    failures_in_row=st.integers(0, 3),
    last_failure_age_s=st.none() | st.floats(0, 100),
    outcomes=st.dictionaries(st.sampled_from(MODELS), outcomes),
)
offers = st.lists(
    st.builds(
        candidate,
        st.sampled_from("abcdef"),
        model=st.sampled_from(MODELS),
        state=st.sampled_from(["warm", "loading", "on_disk", "can_fetch"]),
        slots=st.integers(0, 4),
        latency_ms=st.integers(0, 10**6),
        valid_until_ms=st.integers(NOW - 1, NOW + 2),
    ),
    unique_by=lambda made: (made.node, made.model),
)
seen = st.dictionaries(st.sampled_from("abcdef"), observations)


hostile_ms = st.none() | st.sampled_from([0.0, -1000.0, -1000 / 64, -1e300, 1e300, math.inf])
hostile_ms |= st.floats(allow_nan=False)
hostile = st.builds(
    Observation,
    running=st.integers(-3, 2**53),
    ttft_ms=hostile_ms,
    token_ms=hostile_ms,
    models=st.dictionaries(st.sampled_from(MODELS), st.builds(Pace, hostile_ms, hostile_ms)),
    outcomes=st.dictionaries(
        st.sampled_from(MODELS), st.builds(Outcomes, latency_ms=hostile_ms), max_size=1
    ),
)


def evidence(values: Mapping[str, float], *, trust: float = 1.0, items: int = 100) -> Evidence:
    claims = Claims()
    for model, value in values.items():
        claims.put(model, Claim(f"e-{model}", "did:judge", "text", {}, value, items, NOW + 1))
    return Evidence(claims, NOW, trust=lambda _: trust)


def ranked(
    given: list[Candidate],
    observed: Mapping[str, Observation],
    strategy: Strategy = BALANCED,
    seed: int = 0,
    known: Evidence | None = None,
) -> Ranking:
    return rank(
        given,
        observed,
        rng=random.Random(seed),
        own_peer_id="a",
        now_ms=NOW,
        strategy=strategy,
        evidence=known or Evidence(),
    )


def parts(kept: Kept) -> Parts:
    assert kept.weighed is not None
    return kept.weighed.parts


def order(ranking: Ranking) -> list[tuple[str, str]]:
    return [(kept.candidate.node, kept.candidate.model) for kept in ranking.kept]


@given(offers, seen, weights, st.integers(0, 2**32), st.floats(0, 1))
def test_every_candidate_is_kept_or_dropped_once_and_explained(given, observed, drawn, seed, often):
    strategy = Strategy(weights=drawn, exploration=often)
    made = ranked(given, observed, strategy, seed)
    every = [*(k.candidate for k in made.kept), *(d.candidate for d in made.dropped)]
    assert sorted(every, key=repr) == sorted(given, key=repr)
    told = explain(made)
    assert [(one.node, one.model) for one in told] == [(c.node, c.model) for c in every]
    assert [one.place for one in told if not one.reason] == list(range(1, len(made.kept) + 1))
    assert msgspec.json.encode(told)
    assert all(0 <= part <= 1 for kept in made.kept for part in parts(kept))


@given(offers, seen, weights, st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_the_same_seed_gives_the_same_order_however_they_come(
    given, observed, drawn, seed, shuffle
):
    strategy = Strategy(weights=drawn, exploration=0.5)
    before = ranked(given, observed, strategy, seed)
    shuffled = given.copy()
    shuffle.shuffle(shuffled)
    turned = dict(reversed(observed.items()))
    assert ranked(shuffled, turned, strategy, seed) == before


@given(offers, seen, weights, st.integers(0, 2**32))
def test_one_that_is_better_in_every_part_is_never_below(given, observed, drawn, seed):
    made = ranked(given, observed, Strategy(weights=drawn), seed)
    for place, above in enumerate(made.kept):
        for below in made.kept[place + 1 :]:
            pairs = zip(parts(below), parts(above), strict=True)
            assert not all(one > other for one, other in pairs)


@given(offers, seen, weights, st.integers(-8, 8), st.integers(0, 2**32))
def test_only_the_proportions_of_weights_count(given, observed, drawn, power, seed):
    more = Weights(*(one * 2.0**power for one in msgspec.structs.astuple(drawn)))
    before = ranked(given, observed, Strategy(weights=drawn, exploration=0.5), seed)
    after = ranked(given, observed, Strategy(weights=more, exploration=0.5), seed)
    assert order(after) == order(before)


@given(offers, st.dictionaries(st.sampled_from("abcdef"), hostile), st.booleans())
def test_whatever_was_observed_predictions_are_none_below_zero(given, observed, tiers):
    made = ranked(given, observed, DEFAULT_STRATEGY if tiers else BALANCED)
    for kept in made.kept:
        assert 0 <= kept.scored.first_ms <= kept.scored.predicted_ms < math.inf
        assert kept.weighed is None or all(0 <= part <= 1 for part in parts(kept))
    assert not any("-" in text for one in explain(made) for text in one.why if " ms" in text)


def test_a_pace_below_zero_is_lent_to_nobody_and_makes_nobody_quicker():
    both = [candidate("b"), candidate("c")]
    observed = {
        "b": Observation(ttft_ms=200.0, token_ms=-1e6),
        "c": Observation(ttft_ms=100.0, token_ms=1.0),
    }
    fastest = replace(STRATEGIES["fastest"], exploration=0.0)
    for strategy in (DEFAULT_STRATEGY, fastest):
        made = ranked(both, observed, strategy)
        assert [kept.candidate.node for kept in made.kept] == ["c", "b"]
        assert [kept.scored.predicted_ms for kept in made.kept] == [164.0, 264.0]


def test_a_declared_latency_makes_nobody_quicker_than_what_is_assumed():
    boaster, silent, slow = (
        candidate("b", latency_ms=1),
        candidate("c"),
        candidate("d", latency_ms=900),
    )
    fastest = replace(STRATEGIES["fastest"], exploration=0.0)
    found = {
        k.candidate.node: parts(k).speed for k in ranked([boaster, silent, slow], {}, fastest).kept
    }
    assert found["b"] == found["c"] > found["d"]


def test_evaluations_put_the_better_model_first():
    one, other = candidate("b", model=MODELS[0]), candidate("c", model=MODELS[1])
    known = evidence({MODELS[0]: 0.6, MODELS[1]: 0.9})
    made = ranked([one, other], {}, known=known)
    assert order(made)[0] == ("c", MODELS[1])
    assert explain(made)[0].evidence == (f"e-{MODELS[1]}",)
    assert any(text.startswith("quality 0.8") for text in explain(made)[0].why)


def lowered(*nodes: str, to: float = 0.3, faulted: str = "") -> Evidence:
    return Evidence(
        reputations=lambda did: to if did.removeprefix("did:") in nodes else 1.0,
        faulted=lambda did: did == f"did:{faulted}",
    )


def test_a_reputation_takes_from_the_whole_score():
    both = [candidate("b"), candidate("c")]
    observed = {"b": Observation(ttft_ms=1.0), "c": Observation(ttft_ms=900.0)}
    for strategy in STRATEGIES.values():
        ranking = ranked(both, observed, replace(strategy, exploration=0), known=lowered("b"))
        assert [node for node, _ in order(ranking)] == ["c", "b"]
    whole = {k.candidate.node: k.weighed for k in ranked(both, observed).kept}
    part = {k.candidate.node: k.weighed for k in ranked(both, observed, known=lowered("b")).kept}
    assert part["b"] is not None
    assert whole["b"] is not None
    assert abs(part["b"].total - 0.3 * whole["b"].total) < 1e-8
    assert part["b"].parts == whole["b"].parts
    assert part["c"] == whole["c"]


def test_without_weights_a_suspect_is_asked_last_of_those_that_can_answer():
    given = [candidate("b"), candidate("c", state="on_disk"), candidate("d", state="can_fetch")]
    for to, expected in ((0.49, "cbd"), (0.5, "bcd")):
        made = ranked(given, {}, DEFAULT_STRATEGY, known=lowered("b", to=to))
        assert "".join(node for node, _ in order(made)) == expected


def test_what_audits_made_of_a_node_is_said():
    made = ranked(
        [candidate("b"), candidate("c"), candidate("d")], {}, known=lowered("b", "c", faulted="c")
    )
    why = {one.node: "; ".join(one.why) for one in explain(made)}
    assert "not audited enough yet: reputation 0.30" in why["b"]
    assert "audits found it wrong: reputation 0.30" in why["c"]
    assert "audit" not in why["d"]


def test_of_a_node_at_full_standing_audits_say_nothing():
    for to in (1.0, 0.9951, 0.99999):
        for faulted in ("", "b"):
            known = lowered("b", to=to, faulted=faulted)
            assert "audit" not in "; ".join(
                explain(ranked([candidate("b")], {}, known=known))[0].why
            )
    (nearly,) = explain(ranked([candidate("b")], {}, known=lowered("b", to=0.99, faulted="b")))
    assert "audits found it wrong: reputation 0.99" in nearly.why


def test_this_node_is_no_suspect_to_itself():
    made = ranked([candidate("a"), candidate("b")], {}, known=lowered("a"))
    assert "audit" not in "".join(text for one in explain(made) for text in one.why)


@given(offers, seen, st.integers(0, 2**32))
def test_where_nobody_audits_tiers_go_by_readiness_alone(given, observed, seed):
    made = ranked(given, observed, DEFAULT_STRATEGY, seed)
    tiers = [kept.scored.tier(DEFAULT_STRATEGY.latency_step)[2:] for kept in made.kept]
    assert tiers == sorted(tiers)


def test_what_failed_before_comes_after_what_did_not():
    both = [candidate("b"), candidate("c")]
    observed = {
        "b": Observation(outcomes={MODELS[0]: Outcomes(served=2.0, failed=8.0)}),
        "c": Observation(outcomes={MODELS[0]: Outcomes(served=2.0, failed=0.0)}),
    }
    assert [node for node, _ in order(ranked(both, observed))] == ["c", "b"]


def test_local_first_asks_this_node_wherever_it_can():
    own, other = candidate("a", state="on_disk"), candidate("b")
    known = evidence({MODELS[0]: 0.9})
    observed = {"a": Observation(running=9), "b": Observation(ttft_ms=1.0)}
    made = ranked([own, other], observed, STRATEGIES["local_first"], known=known)
    assert order(made)[0][0] == "a"


def test_exploration_is_as_frequent_as_stated_and_says_so():
    near = [candidate(name) for name in "bcd"]
    far = candidate("e", state="can_fetch")
    observed = {"b": Observation(ttft_ms=1.0)}
    strategy = replace(BALANCED, exploration=0.2)
    firsts = [ranked([*near, far], observed, strategy, seed).kept[0] for seed in range(2000)]
    drawn = [kept.candidate.node for kept in firsts if kept.explored]
    assert 320 <= len(drawn) <= 480
    assert set(drawn) == {"c", "d"}
    assert all(kept.candidate.node == "b" for kept in firsts if not kept.explored)
    assert next(kept for kept in firsts if kept.explored).explanation[0] == "drawn to be tried"


def test_one_that_is_much_worse_is_not_tried():
    best, worse = candidate("b", model=MODELS[0]), candidate("c", model=MODELS[1])
    known = evidence({MODELS[0]: 1.0, MODELS[1]: 0.0}, items=LIMITS.evaluated_items_max)
    strategy = replace(STRATEGIES["quality"], exploration=1.0)
    firsts = {order(ranked([best, worse], {}, strategy, seed, known))[0][0] for seed in range(50)}
    assert firsts == {"b"}
