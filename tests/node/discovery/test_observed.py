"""What is remembered of a peer that was asked."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.metagraph.selection import Pace
from aigrid.node.discovery.observed import Observed
from aigrid.protocol.limits import LIMITS


def test_our_own_requests_count_at_once_and_what_it_said_after_that() -> None:
    seen = Observed()
    seen.in_flight = 3
    assert seen.running == 3
    seen.heard(5)  # ours among them
    assert seen.running == 5
    seen.in_flight += 2
    assert seen.running == 7
    seen.in_flight = 0
    assert seen.running == 2
    seen.heard(0)
    assert seen.running == 0


def test_paces_are_moving_averages_of_the_node_and_of_each_model() -> None:
    seen = Observed()
    for ms in (100.0, 200.0):
        seen.began("m", ms)
    seen.began("n", 10.0)
    seen.began("m", None)  # it went on with an answer: no measure
    seen.produced("n", 5.0)
    made = seen.observation(0.0, alive=True)
    assert made.models == {"m": Pace(130.0, None), "n": Pace(10.0, 5.0)}
    assert made.ttft_ms == pytest.approx(94.0)
    assert made.token_ms == 5.0


@pytest.mark.parametrize("ms", [-1e-9, -1000.0, -math.inf, math.nan])
def test_what_cannot_have_been_measured_is_no_pace(ms: float) -> None:
    seen = Observed()
    seen.began("m", ms)
    seen.produced("m", ms)
    assert seen.observation(0.0, alive=True) == Observed().observation(0.0, alive=True)


def test_no_pace_is_longer_than_what_is_believed() -> None:
    seen = Observed()
    seen.began("m", math.inf)
    seen.produced("m", 1e300)
    assert seen.pace == Pace(LIMITS.observed_max_ms, LIMITS.observed_max_ms)


def test_busy_is_believed_for_a_while_and_until_it_answers() -> None:
    seen = Observed()
    seen.busy("m", 5.0, now=10.0)
    seen.busy("n", 1e9, now=10.0)
    assert seen.observation(12.0, alive=True).busy_seconds == {
        "m": 3.0,
        "n": LIMITS.busy_believed_seconds - 2,
    }
    seen.began("n", 1.0)
    assert seen.observation(15.0, alive=True).busy_seconds == {}


def test_a_success_ends_a_row_of_failures() -> None:
    seen = Observed()
    seen.failed(1.0)
    seen.failed(2.0)
    made = seen.observation(5.0, alive=False)
    assert (made.failures_in_row, made.last_failure_age_s, made.alive) == (2, 3.0, False)
    seen.began("m", None)  # and may break off again
    assert seen.observation(5.0, alive=True).failures_in_row == 2
    seen.succeeded()
    assert seen.observation(5.0, alive=True).last_failure_age_s is None


def test_the_last_failure_says_whether_the_protocol_was_broken() -> None:
    seen = Observed()
    seen.failed(1.0, broke=True)
    assert seen.observation(2.0, alive=True).broke
    seen.failed(3.0, 0.5)  # asked before that one, it failed with it
    assert seen.observation(3.0, alive=True).broke is True
    seen.failed(4.0)
    assert not seen.observation(4.0, alive=True).broke


def test_requests_that_fail_together_are_no_row_of_failures() -> None:
    seen = Observed()
    for asked in (1.0, 2.0, 3.0):  # a worker died that ran them all
        seen.failed(4.0, asked)
    assert seen.observation(5.0, alive=True).failures_in_row == 1
    seen.failed(6.0, 3.5)
    assert seen.observation(6.0, alive=True).last_failure_age_s == 2.0
    seen.failed(7.0, 4.0)  # asked after that one, and failed again
    assert seen.observation(7.0, alive=True).failures_in_row == 2
    seen.failed(8.0)
    assert seen.observation(8.0, alive=True).failures_in_row == 3


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 2), st.floats(0, 1e6))))
def test_what_is_remembered_is_bounded(steps: list[tuple[int, int, float]]) -> None:
    seen, now = Observed(), 0.0
    for model, kind, value in steps:
        now += 1
        if kind == 0:
            seen.began(str(model), value)
        elif kind == 1:
            seen.produced(str(model), value)
        else:
            seen.busy(str(model), value, now)
        assert max(len(seen.paces), len(seen.busy_until)) <= LIMITS.models_observed_max


def test_who_refuses_though_it_seems_free_is_left_alone_for_longer_each_time() -> None:
    seen, now, waits = Observed(), 0.0, []
    for _ in range(8):
        seen.busy("m", None, now, slots=4)
        (wait,) = seen.observation(now, alive=True).busy_seconds.values()
        seen.busy("m", None, now, slots=4)  # at the same moment: another request of ours
        waits.append(wait)
        now += wait
    assert waits == sorted(waits)
    assert waits[0] < waits[1] < waits[-1] == LIMITS.refusal_pause_max_seconds
    seen.began("m", 10.0)
    seen.busy("m", 3.0, now, slots=4)
    assert seen.observation(now, alive=True).busy_seconds == {"m": 3.0}
    seen.heard(4)
    seen.busy("n", None, now, slots=4)  # it is full, as it seems
    assert "n" not in seen.observation(now, alive=True).busy_seconds


def test_who_did_not_begin_counts_less_for_a_while_and_longer_if_it_does_so_again() -> None:
    seen, now = Observed(), 0.0
    for pause in (60.0, 120.0, 240.0):
        seen.stalled("m", now)
        assert seen.observation(now + pause - 1, alive=True).stalled == {"m"}
        assert not seen.observation(now + pause, alive=True).stalled
        now += pause
        seen.began("m", 10.0)
        seen.succeeded()
    now += LIMITS.stall_pause_max_seconds + 241
    seen.stalled("m", now)
    assert not seen.observation(now + 60, alive=True).stalled
