"""Whom a request would rather be answered by: what `rank` makes of it."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.metagraph.world import NOW, candidate

from aigrid.metagraph.index import Candidate
from aigrid.metagraph.preferences import ANY, Preferences
from aigrid.metagraph.selection import Observation, Pace, Ranking, Reason, rank

NODES = "abcdef"
MODELS = ("m1", "m2", "m3")
NAMES = st.sampled_from([*NODES, *(f"did:{node}" for node in NODES), "nobody"])
CANDIDATES = st.lists(
    st.builds(
        candidate,
        st.sampled_from(NODES),
        model=st.sampled_from(MODELS),
        state=st.sampled_from(["warm", "on_disk", "can_fetch"]),
        takes=st.sampled_from([(), ("tools",), ("*",)]),
        precision=st.sampled_from(["", "q4_0", "F16", "int8"]),
    ),
    max_size=8,
    unique_by=lambda c: (c.node, c.model),
)
PREFERENCES = st.builds(
    Preferences,
    order=st.lists(NAMES, max_size=3).map(tuple),
    only=st.lists(NAMES, max_size=3).map(tuple),
    ignore=st.lists(NAMES, max_size=2).map(tuple),
    sort=st.sampled_from([None, "latency", "throughput"]),
    allow_fallbacks=st.booleans(),
    precisions=st.lists(st.sampled_from(["int4", "fp16", "unknown"]), max_size=1).map(tuple),
)


def ranked(candidates: list[Candidate], preferences: Preferences = ANY, **more: Any) -> Ranking:
    observations = {c.node: Observation(running=ord(c.node[0]) % 3) for c in candidates}
    return rank(
        candidates,
        more.pop("observations", observations),
        rng=random.Random(0),
        now_ms=NOW,
        preferences=preferences,
        **more,
    )


def nodes(ranking: Ranking) -> list[str]:
    return [kept.candidate.node for kept in ranking.kept]


@given(CANDIDATES, PREFERENCES, st.sampled_from([(), ("tools",)]), st.permutations(MODELS))
def test_what_is_kept_is_what_was_asked_for(
    candidates: list[Candidate],
    preferences: Preferences,
    needed: tuple[str, ...],
    models: list[str],
) -> None:
    made = ranked(candidates, preferences, needed=needed, models=models[:2])
    assert len(made.kept) + len(made.dropped) == len(candidates)
    kept = [one.candidate for one in made.kept]
    for one in kept:
        called = {one.node, one.signer}
        assert not called & set(preferences.ignore)
        assert not preferences.only or called & set(preferences.only)
        assert not needed or set(one.takes) & {"*", *needed}
        assert preferences.fits(one.precision)
    if not preferences.allow_fallbacks:
        assert len(kept) <= 1
        named = [c for c in candidates if {c.node, c.signer} & set(preferences.order)]
        assert not preferences.order or set(kept) <= set(named)
        freely = ranked(
            named if preferences.order else candidates,
            Preferences(
                preferences.order,
                preferences.only,
                preferences.ignore,
                preferences.sort,
                precisions=preferences.precisions,
            ),
            needed=needed,
            models=models[:2],
        )
        assert kept == [one.candidate for one in freely.kept[:1]]
    wanted = [(*models[:2], one.model).index(one.model) for one in kept]
    assert wanted == sorted(wanted)
    for of in {one.model for one in kept} & set(models[:2]):
        places = [preferences.place(one) for one in kept if one.model == of]
        assert places == sorted(places)


@given(CANDIDATES)
def test_who_prefers_nobody_changes_nothing(candidates: list[Candidate]) -> None:
    assert ranked(candidates, Preferences()) == ranked(candidates)


def test_the_order_counts_more_than_how_soon_a_node_can_start() -> None:
    some = [candidate("a"), candidate("b", state="can_fetch"), candidate("c", state="on_disk")]
    assert nodes(ranked(some, Preferences(order=("did:b", "c")))) == ["b", "c", "a"]
    assert nodes(ranked(some, Preferences(order=("b",), allow_fallbacks=False))) == ["b"]


def test_the_models_order_counts_most() -> None:
    some = [candidate("a", model="m2"), candidate("b", model="m1", state="can_fetch")]
    made = ranked(some, Preferences(order=("a",)), models=("m1", "m2"))
    assert nodes(made) == ["b", "a"]


def test_what_is_known_sorts_and_what_is_not_comes_last() -> None:
    some = [candidate("a", latency_ms=50), candidate("b"), candidate("c", state="on_disk")]
    seen = {
        "a": Observation(token_ms=9.0),
        "b": Observation(),
        "c": Observation(ttft_ms=40.0, models={some[2].model: Pace(None, 2.0)}),
    }
    for sort in ("latency", "throughput"):
        made = ranked(some, Preferences(sort=sort), observations=seen)
        assert nodes(made) == ["c", "a", "b"]


def test_who_is_dropped_hears_why() -> None:
    some = [candidate("a"), candidate("b", takes=("tools",)), candidate("c", takes=("*",))]
    only = Preferences(only=("a", "b"), ignore=("b",))
    dropped = {
        one.candidate.node: (one.reason, one.explanation)
        for one in ranked(some, only, needed=("tools", "top_k")).dropped
    }
    assert dropped == {
        "a": (Reason.PARAMETER, ("does not take `tools`, `top_k`",)),
        "b": (Reason.PARAMETER, ("does not take `top_k`",)),
        "c": (Reason.PREFERENCE, ("is none of those to be asked",)),
    }


@pytest.mark.parametrize(
    ("stated", "wanted", "fits"),
    [
        ("q4_k_m", "int4", True),
        ("Q8_0", "int8", True),
        ("f16", "fp16", True),
        ("bfloat16", "bf16", True),
        ("bfloat16", "fp16", False),
        ("q4_k_m", "q4_k_m", True),
        ("", "int4", False),
        ("", "unknown", True),
        ("int8", "unknown", False),
    ],
)
def test_precisions_go_by_their_families(stated: str, wanted: str, fits: bool) -> None:
    assert Preferences(precisions=(wanted,)).fits(stated) is fits
