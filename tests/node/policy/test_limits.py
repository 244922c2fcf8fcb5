"""What an actor may do, as pure arithmetic."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.policy.limits import (
    DAY_MS,
    ActorLimits,
    Usage,
    admit,
    check_tokens,
    check_use,
    release,
    spend,
)
from aigrid.protocol.errors import AigridError, Code, LocalError
from aigrid.protocol.limits import LIMITS

DAY = 20_000 * DAY_MS
TIMES = st.lists(st.floats(0, 600, allow_nan=False), min_size=1, max_size=60).map(sorted)


def refused(check: Callable[..., None], *given: Any, **named: Any) -> AigridError | None:
    try:
        check(*given, **named)
    except AigridError as error:
        return error
    return None


def admitted(usage: Usage, limits: ActorLimits, now: float) -> Usage | AigridError:
    try:
        return admit(usage, limits, now_seconds=now)
    except AigridError as error:
        return error


@given(times=TIMES, per_minute=st.integers(1, 20))
def test_no_minute_admits_more_than_twice_the_rate(times: list[float], per_minute: int) -> None:
    limits = ActorLimits(requests_per_minute=per_minute)
    usage, served = Usage(), []
    for now in times:
        found = admitted(usage, limits, now)
        if isinstance(found, Usage):
            served.append(now)
            usage = release(found, 0)
    for start in served:  # a full bucket, and what flows off meanwhile
        assert sum(start <= at < start + 60 for at in served) <= 2 * per_minute


@given(times=TIMES, per_minute=st.integers(1, 20))
def test_who_waits_as_long_as_told_is_admitted(times: list[float], per_minute: int) -> None:
    limits = ActorLimits(requests_per_minute=per_minute)
    usage = Usage()
    for now in times:
        found = admitted(usage, limits, now)
        if isinstance(found, AigridError):
            assert found.code is Code.RATE_LIMITED
            assert found.retry_after_seconds
            later = now + found.retry_after_seconds + 1e-6
            assert isinstance(admitted(usage, limits, later), Usage)
        else:
            usage = release(found, 0)


@given(
    spent=st.lists(st.tuples(st.integers(0, 3 * DAY_MS), st.integers(0, 1000)), max_size=30).map(
        sorted
    ),
    budget=st.integers(1, 5000),
)
def test_no_answer_begins_on_a_day_whose_budget_is_spent(
    spent: list[tuple[int, int]], budget: int
) -> None:
    limits, usage = ActorLimits(tokens_per_day=budget), Usage()
    for passed_ms, tokens in spent:
        now_ms = DAY + passed_ms
        today = now_ms // DAY_MS
        before = usage.day_tokens if usage.day == today else 0
        error = refused(check_tokens, usage, limits, now_seconds=0, now_ms=now_ms)
        assert (error is None) == (before < budget)
        if error is None:
            usage = spend(usage, limits, tokens, now_seconds=0, now_ms=now_ms)
            continue
        assert error.code is Code.OVER_BUDGET
        assert error.retry_after_seconds is not None
        midnight = now_ms + round(error.retry_after_seconds * 1000)
        assert midnight == (today + 1) * DAY_MS
        check_tokens(usage, limits, now_seconds=0, now_ms=midnight)


def test_tokens_beyond_the_rate_have_to_flow_off() -> None:
    limits = ActorLimits(tokens_per_minute=60)
    usage = spend(Usage(), limits, 90, now_seconds=0, now_ms=DAY)
    with pytest.raises(AigridError) as caught:
        check_tokens(usage, limits, now_seconds=1, now_ms=DAY)
    assert caught.value.code is Code.RATE_LIMITED
    assert caught.value.retry_after_seconds == pytest.approx(30)
    check_tokens(usage, limits, now_seconds=31.001, now_ms=DAY)


def test_a_clock_that_steps_back_gives_nothing_away() -> None:
    limits = ActorLimits(requests_per_minute=1)
    usage = release(admit(Usage(), limits, now_seconds=100), 0)
    assert isinstance(admitted(usage, limits, 40), AigridError)


def test_concurrency_counts_what_runs() -> None:
    limits = ActorLimits(concurrency=2)
    usage = admit(admit(Usage(), limits, now_seconds=0), limits, now_seconds=0)
    assert isinstance(admitted(usage, limits, 0), AigridError)
    assert isinstance(admitted(release(usage, 0), limits, 0), Usage)


@given(st.integers(0, 100), st.integers(0, 10**9))
def test_without_limits_everything_is_admitted(requests: int, tokens: int) -> None:
    limits, usage = ActorLimits(), Usage()
    for _ in range(requests):
        usage = admit(usage, limits, now_seconds=0)
    usage = spend(usage, limits, tokens, now_seconds=0, now_ms=DAY)
    check_tokens(usage, limits, now_seconds=0, now_ms=DAY)
    check_use(limits, model="", called=(), capability="", broader=())


@pytest.mark.parametrize(
    ("model", "called", "allowed"),
    [
        ("tiny", (("bafy1", "tiny"),), True),
        ("bafy1", (("bafy1", "tiny"),), True),
        ("urn:aigrid:model:bafy1", (("bafy1", "tiny"),), True),
        ("bafy2", (("bafy2", "large"),), True),
        ("large", (("bafy2", "large"),), True),
        ("other", (("bafy3", "other"),), False),
        ("large", (("bafy2", "large"), ("bafy3", "large")), False),
        ("unknown", (), False),
        ("", (), False),
    ],
)
def test_only_listed_models_are_used_by_whatever_name(
    model: str, called: tuple[tuple[str, str], ...], allowed: bool
) -> None:
    limits = ActorLimits(models=("tiny", "bafy2"))
    error = refused(check_use, limits, model=model, called=called, capability="x", broader=())
    assert (error is None) == allowed
    assert error is None or error.code is Code.DENIED


@pytest.mark.parametrize(
    ("capability", "broader", "allowed"),
    [
        ("text-classification", (), True),
        ("sentiment", ("text-classification", "text"), True),
        ("text-generation", ("text",), False),
        ("", (), False),
    ],
)
def test_only_listed_capabilities_and_narrower_ones_are_asked_for(
    capability: str, broader: tuple[str, ...], allowed: bool
) -> None:
    limits = ActorLimits(capabilities=("text-classification",))
    error = refused(check_use, limits, model="m", called=(), capability=capability, broader=broader)
    assert (error is None) == allowed
    assert error is None or error.code is Code.DENIED


@pytest.mark.parametrize(
    "limits", [ActorLimits(tokens_per_day=100), ActorLimits(tokens_per_minute=100)]
)
def test_what_running_answers_may_use_is_spoken_for(limits: ActorLimits) -> None:
    usage = replace(Usage(running=1), spoken_for=99)
    check_tokens(usage, limits, now_seconds=0, now_ms=0)
    with pytest.raises(LocalError) as caught:
        check_tokens(replace(usage, spoken_for=100), limits, now_seconds=0, now_ms=0)
    assert caught.value.code is Code.RATE_LIMITED
    assert caught.value.retry_after_seconds == LIMITS.retry_after_seconds
    check_tokens(release(replace(usage, spoken_for=100), 1), limits, now_seconds=0, now_ms=0)
