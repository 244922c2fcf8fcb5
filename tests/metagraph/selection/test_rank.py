import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.metagraph.world import NOW, candidate

from aigrid.metagraph.index import Candidate
from aigrid.metagraph.selection import Observation, Pace, Ranking, Reason, Strategy, rank

SEEN = Observation()
MODEL = candidate("a").model


def order(ranking: Ranking) -> list[str]:
    return [kept.candidate.node for kept in ranking.kept]


def ranked(
    *candidates: Candidate,
    seen: dict[str, Observation] | None = None,
    own: str | None = None,
    seed: int = 0,
) -> Ranking:
    observations = {c.node: SEEN for c in candidates} | (seen or {})
    return rank(
        candidates,
        observations,
        rng=random.Random(seed),
        own_peer_id=own,
        now_ms=NOW,
    )


def test_warm_comes_before_on_disk_before_can_fetch() -> None:
    made = ranked(
        candidate("a", state="can_fetch"), candidate("b", state="on_disk"), candidate("c")
    )
    assert order(made) == ["c", "b", "a"]


def test_state_counts_more_than_being_this_node() -> None:
    made = ranked(candidate("own", state="on_disk"), candidate("b"), own="own")
    assert order(made) == ["b", "own"]


def test_this_node_comes_first_at_equal_state() -> None:
    fast = {"b": Observation(ttft_ms=1)}
    made = ranked(candidate("b"), candidate("own", latency_ms=900), seen=fast, own="own")
    assert order(made) == ["own", "b"]
    assert "this node" in made.kept[0].explanation


def test_what_was_observed_counts_and_not_what_is_declared() -> None:
    made = ranked(
        candidate("boaster", latency_ms=1),
        candidate("honest", latency_ms=100),
        seen={"boaster": Observation(ttft_ms=5000)},
    )
    assert order(made) == ["honest", "boaster"]
    assert "declared 100 ms to the first chunk" in made.kept[0].explanation
    assert "observed 5000 ms to the first chunk" in made.kept[1].explanation


def test_who_failed_just_now_comes_after_who_was_not_met_yet() -> None:
    failed = {"b": Observation(failures_in_row=1, last_failure_age_s=3.0)}
    made = rank([candidate("a"), candidate("b")], failed, rng=random.Random(0), now_ms=NOW)
    assert order(made) == ["a", "b"]
    assert "not met yet" in made.kept[0].explanation
    assert "failed 3 s ago" in made.kept[1].explanation


def test_a_single_failure_is_forgiven_in_time() -> None:
    old = {"b": Observation(failures_in_row=1, last_failure_age_s=61.0, ttft_ms=1)}
    assert order(ranked(candidate("a"), candidate("b"), seen=old)) == ["b", "a"]


@pytest.mark.parametrize(
    ("one", "seen", "reason"),
    [
        (candidate("a", valid_until_ms=NOW), SEEN, Reason.EXPIRED),
        (candidate("a"), Observation(alive=False), Reason.DEAD),
        (candidate("a", slots=0), SEEN, Reason.FULL),
        (
            candidate("a"),
            Observation(failures_in_row=2, last_failure_age_s=1.0),
            Reason.COOLING,
        ),
        (
            candidate("a"),
            Observation(failures_in_row=2, last_failure_age_s=1.0, broke=True),
            Reason.BROKEN,
        ),
    ],
)
def test_who_cannot_serve_is_dropped_with_the_reason(
    one: Candidate, seen: Observation, reason: Reason
) -> None:
    made = ranked(one, candidate("b"), seen={"a": seen})
    assert order(made) == ["b"]
    assert [(d.candidate.node, d.reason) for d in made.dropped] == [("a", reason)]
    assert made.dropped[0].explanation


def test_each_further_failure_doubles_the_pause_up_to_a_bound() -> None:
    def left(failures: int) -> float | None:
        seen = {"a": Observation(failures_in_row=failures, last_failure_age_s=1.0)}
        return ranked(candidate("a"), seen=seen).retry_after_seconds

    assert [left(n) for n in (1, 2, 3, 4, 9, 5000)] == [None, 4, 9, 19, 59, 59]


def test_a_pause_ends() -> None:
    rested = {"a": Observation(failures_in_row=2, last_failure_age_s=5.0)}
    assert order(ranked(candidate("a"), seen=rested)) == ["a"]


def test_the_busier_of_two_equals_comes_second() -> None:
    busy = {"a": Observation(running=3), "b": Observation(running=1)}
    for seed in range(20):
        assert order(ranked(candidate("a"), candidate("b"), seen=busy, seed=seed)) == ["b", "a"]


def test_equals_share_the_work() -> None:
    nodes = [candidate(name) for name in "abcdefgh"]
    firsts = [order(ranked(*nodes, seed=seed))[0] for seed in range(400)]
    assert all(20 <= firsts.count(node.node) <= 90 for node in nodes)


observations = st.builds(
    Observation,
    alive=st.booleans(),
    running=st.integers(0, 5),
    ttft_ms=st.none() | st.floats(0, 1e9),
    token_ms=st.none() | st.floats(0, 1e9),
    models=st.dictionaries(
        st.sampled_from([MODEL, "another"]),
        st.builds(Pace, st.none() | st.floats(0, 1e9), st.none() | st.floats(0, 1e9)),
    ),
    busy_seconds=st.dictionaries(st.sampled_from([MODEL, "another"]), st.floats(0.001, 1e5)),
    failures_in_row=st.integers(0, 2000),
    last_failure_age_s=st.none() | st.floats(0, 1e6),
)
offers = st.lists(
    st.builds(
        candidate,
        st.sampled_from("abcdef"),
        state=st.sampled_from(["warm", "loading", "on_disk", "can_fetch"]),
        slots=st.integers(0, 4),
        latency_ms=st.integers(0, 2**53 - 1),
        valid_until_ms=st.integers(NOW - 1, NOW + 2),
    ),
    unique_by=lambda made: made.node,
)


@given(offers, st.dictionaries(st.sampled_from("abcdef"), observations), st.integers(), st.data())
def test_every_candidate_is_kept_or_dropped_once_whatever_their_order(
    all_: list[Candidate], seen: dict[str, Observation], seed: int, data: st.DataObject
) -> None:
    def choose(candidates: list[Candidate]) -> Ranking:
        rng = random.Random(seed)
        return rank(candidates, seen, rng=rng, own_peer_id="a", now_ms=NOW)

    made = choose(all_)
    kept = [k.candidate for k in made.kept]
    dropped = [d.candidate for d in made.dropped]
    assert sorted(c.node for c in kept + dropped) == sorted(c.node for c in all_)
    assert choose(data.draw(st.permutations(all_))) == made
    assert made.best == (kept[0] if kept else None)
    for one in kept:
        state = seen.get(one.node, SEEN)
        assert state.alive
        assert one.slots
        assert one.valid_until_ms > NOW
        assert one.model not in state.busy_seconds
    waits = [readiness(c, seen.get(c.node, SEEN)) for c in kept]
    assert waits == sorted(waits)
    assert all(k.explanation for k in made.kept)


def readiness(one: Candidate, state: Observation) -> str:
    busy = state.running >= one.slots and one.state != "can_fetch"
    return (
        {"warm": "0", "loading": "1", "on_disk": "2", "can_fetch": "4"}[one.state]
        if not busy
        else "3"
    )


def test_a_node_that_seems_full_is_asked_late_but_asked() -> None:
    full = {"a": Observation(running=4)}
    cold = candidate("b", state="on_disk")
    far = candidate("c", state="can_fetch")
    assert order(ranked(candidate("a"), cold, far, seen=full)) == ["b", "a", "c"]


def test_a_strategy_can_be_chosen() -> None:
    impatient = replace(Strategy(), cooling_failures=1)
    seen = {"a": Observation(failures_in_row=1, last_failure_age_s=0.0)}
    made = rank([candidate("a")], seen, rng=random.Random(0), strategy=impatient)
    assert made.best is None
    assert made.retry_after_seconds == impatient.cooling_seconds


def test_the_pace_with_a_model_counts_before_that_of_the_node() -> None:
    seen = {
        "a": Observation(ttft_ms=10, models={MODEL: Pace(ttft_ms=4000)}),
        "b": Observation(ttft_ms=4000, models={MODEL: Pace(ttft_ms=10), "another": Pace(9000)}),
    }
    assert order(ranked(candidate("a"), candidate("b"), seen=seen)) == ["b", "a"]


def test_quick_tokens_count_more_than_a_quick_beginning() -> None:
    seen = {
        "a": Observation(ttft_ms=10, token_ms=100),
        "b": Observation(ttft_ms=200, token_ms=5),
    }
    made = ranked(candidate("a"), candidate("b"), seen=seen)
    assert order(made) == ["b", "a"]
    assert "observed 5.0 ms a token" in made.kept[0].explanation
    assert f"predicted {200 + 64 * 5} ms in all" in made.kept[0].explanation


def test_a_node_that_was_never_timed_is_taken_to_be_as_quick_as_the_quickest() -> None:
    seen = {
        "a": Observation(ttft_ms=100, token_ms=5),
        "b": Observation(ttft_ms=100),
        "c": Observation(ttft_ms=100, token_ms=50),
    }
    firsts = {
        tuple(order(ranked(*map(candidate, "abc"), seen=seen, seed=seed))) for seed in range(20)
    }
    assert firsts == {("a", "b", "c"), ("b", "a", "c")}


def test_of_two_full_nodes_the_one_with_the_shorter_queue_is_asked_first() -> None:
    seen = {
        "a": Observation(running=12, ttft_ms=100),
        "b": Observation(running=4, ttft_ms=100),
    }
    made = ranked(candidate("a"), candidate("b"), seen=seen)
    assert order(made) == ["b", "a"]
    assert "predicted 325 ms in all" in made.kept[1].explanation


@pytest.mark.parametrize("local", [False, True])
def test_who_said_when_to_ask_again_is_not_asked_before(*, local: bool) -> None:
    seen = {"a": Observation(busy_seconds={MODEL: 7.0}), "b": Observation(busy_seconds={"x": 7.0})}
    made = ranked(candidate("a"), candidate("b"), seen=seen, own="a" if local else None)
    assert order(made) == ["b"]
    assert [(d.candidate.node, d.reason) for d in made.dropped] == [("a", Reason.BUSY)]
    assert made.retry_after_seconds == 7.0
