"""Hard constraints within `rank`, and the nearest miss."""

import random
from typing import Any

import msgspec
import pytest
from tests.metagraph.world import DESCRIPTIONS, MODELS, NOW, candidate, model_body

from aigrid.metagraph.index import Candidate
from aigrid.metagraph.selection import (
    Filters,
    Observation,
    Ranking,
    Reason,
    Stated,
    nearest_miss,
    rank,
    what_would_admit,
)
from aigrid.protocol.errors import UsageError
from aigrid.protocol.model import ModelFile

EN_FR = {"source": ("en", "en-GB"), "target": ("fr",)}


def ranked(
    *candidates: Candidate,
    serves: tuple[dict[str, tuple[str, ...]], ...] = (EN_FR,),
    seen: dict[str, Observation] | None = None,
    size_bytes: int = 0,
    stated: bool = True,
    **wanted: Any,
) -> Ranking:
    files = (ModelFile("w", "0" * 64, size_bytes),) if size_bytes else ()
    model = msgspec.structs.replace(DESCRIPTIONS[0], files=files)
    body = msgspec.structs.replace(model_body(), model=model)
    facts = Stated("did:issuer", body, serves=serves)
    filters = Filters(capability="translation", **wanted)
    filters.check()
    return rank(
        candidates or (candidate("a"),),
        seen or {},
        rng=random.Random(0),
        now_ms=NOW,
        constraints=filters,
        facts=lambda _: facts if stated else None,
    )


@pytest.mark.parametrize(
    "wanted",
    [
        {"source": "en", "target": "fr"},
        {"source": "EN-gb"},
        {"parameters": {"style": "any"}},
        {"deadline_ms": 500},
        {"latency_ms_max": 100},
        {"size_bytes_max": 1000},
    ],
)
def test_what_fulfils_the_constraints_is_kept(wanted):
    assert ranked(candidate("a", latency_ms=100), size_bytes=1000, **wanted).kept


@pytest.mark.parametrize(
    ("wanted", "reason", "admits"),
    [
        ({"source": "fr"}, Reason.SOURCE, "ask for source en, en-GB"),
        ({"target": "en"}, Reason.TARGET, "ask for target fr"),
        ({"deadline_ms": 499}, Reason.DEADLINE, "allow 500 ms"),
        ({"latency_ms_max": 99}, Reason.LATENCY, "leave the bound of the latency out"),
        ({"size_bytes_max": 999}, Reason.SIZE, "allow 1000 bytes"),
        ({"format": "gguf"}, Reason.FORMAT, "ask for format echo"),
        ({"license": "MIT"}, Reason.LICENSE, "do not ask for `license`"),
    ],
)
def test_what_does_not_is_dropped_with_what_would_admit_it(wanted, reason, admits):
    made = ranked(size_bytes=1000, **wanted)
    assert not made.kept
    (dropped,) = made.dropped
    assert dropped.reason is reason
    assert [check.admits for check in dropped.missed] == [admits]
    assert nearest_miss(made.dropped) is dropped
    assert what_would_admit(dropped).endswith(admits)


def test_who_states_nothing_serves_no_language():
    (dropped,) = ranked(serves=(), source="en", target="fr").dropped
    assert {check.reason for check in dropped.missed} == {Reason.SOURCE, Reason.TARGET}
    assert dropped.missed[0].text == "source: not stated, wanted en"


def test_all_languages_have_to_be_served_in_one_place():
    elsewhere: dict[str, tuple[str, ...]] = {"source": ("de",), "target": ("en",)}
    assert ranked(serves=(EN_FR, elsewhere), source="de", target="en").kept
    (dropped,) = ranked(serves=(EN_FR, elsewhere), source="de", target="fr").dropped
    assert len(dropped.missed) == 1


def test_a_deadline_counts_the_load_and_what_was_observed():
    quick = {"a": Observation(ttft_ms=20.0)}
    assert ranked(seen=quick, deadline_ms=20).kept
    cold = ranked(candidate("a", state="on_disk"), seen=quick, deadline_ms=5000)
    assert [one.reason for one in cold.dropped] == [Reason.DEADLINE]


def test_the_nearest_miss_is_the_one_that_lacks_the_least():
    made = ranked(candidate("a", state="on_disk"), candidate("c"), warm=True, format="gguf")
    miss = nearest_miss(made.dropped)
    assert miss is not None
    assert miss.candidate.node == "c"
    assert what_would_admit(miss) == (
        "nearest is 'echo' at c (format: echo, wanted gguf): ask for format echo"
    )


@pytest.mark.parametrize("wanted", [{"deadline_ms": 1}, {"latency_ms_max": 1}])
def test_the_nearest_miss_lacks_the_least_of_a_bound(wanted):
    seen = {name: Observation(ttft_ms=ms) for name, ms in (("a", 900.0), ("b", 6.0), ("c", 40.0))}
    miss = nearest_miss(ranked(*map(candidate, "abc"), seen=seen, **wanted).dropped)
    assert miss is not None
    assert miss.candidate.node == "b"
    assert "6 ms" in miss.missed[0].admits


@pytest.mark.parametrize("wanted", [{"deadline_ms": 1}, {"latency_ms_max": 1}, {"format": "gguf"}])
@pytest.mark.parametrize(
    "unable",
    [
        Observation(alive=False, ttft_ms=2.0),
        Observation(ttft_ms=2.0, busy_seconds={MODELS[0]: 9.0}),
        Observation(ttft_ms=2.0, failures_in_row=3, last_failure_age_s=1.0),
    ],
)
def test_the_nearest_miss_is_one_that_could_be_asked(wanted, unable):
    both = candidate("a"), candidate("b")
    seen = {"a": unable, "b": Observation(ttft_ms=6.0)}
    miss = nearest_miss(ranked(*both, seen=seen, **wanted).dropped)
    assert miss is not None
    assert miss.candidate.node == "b"


def test_of_the_only_miss_it_is_said_that_it_does_not_answer():
    made = ranked(seen={"a": Observation(alive=False, ttft_ms=6.0)}, deadline_ms=1)
    miss = nearest_miss(made.dropped)
    assert miss is not None
    assert what_would_admit(miss).startswith("nearest is 'echo' at a, which does not answer (")


def test_a_candidate_whose_manifest_is_gone_is_dropped():
    assert [one.reason for one in ranked(stated=False).dropped] == [Reason.EXPIRED]
    assert nearest_miss(ranked(stated=False).dropped) is None


@pytest.mark.parametrize(
    "wanted",
    [
        {"source": "not a tag"},
        {"parameters": {"Bad Name": "x"}},
        {"parameters": {"ok": ""}},
        {"parameters": {f"p{n}": "x" for n in range(99)}},
        {"size_bytes_max": 0},
        {"deadline_ms": -1},
    ],
)
def test_what_cannot_be_meant_is_said_so(wanted):
    with pytest.raises(UsageError):
        Filters(capability="translation", **wanted).check()
