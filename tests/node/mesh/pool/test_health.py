"""Who is to blame for a crash, and what follows: decisions over times that are given."""

import pytest

from aigrid.node.mesh.pool.health import OWN, Health, passed_on
from aigrid.protocol.errors import AigridError, Code, EngineError, LocalError
from aigrid.protocol.limits import LIMITS

CRASH = EngineError("engine echo died with SIGSEGV", Code.ENGINE_CRASHED)
A, B, C = "did:key:a", "did:key:b", "did:key:c"


def refused(health: Health, now: float) -> AigridError | None:
    try:
        health.check_load(now)
    except AigridError as error:
        return error
    return None


def test_after_one_failure_it_is_loaded_at_once_then_later_and_later() -> None:
    health, now, pauses = Health(LIMITS), 100.0, []
    for _ in range(LIMITS.crashes_max - 1):
        health.crashed(now, CRASH)
        error = refused(health, now)
        wait = 0.0 if error is None else error.retry_after_seconds or 0.0
        assert error is None or error.code is Code.BUSY
        pauses.append(wait)
        now += wait
        assert refused(health, now) is None
    assert pauses == [0.0, 1.0, 2.0, 4.0]


def test_a_model_that_keeps_crashing_is_quarantined_says_why_and_for_how_long() -> None:
    health = Health(LIMITS)
    told = [health.crashed(float(n), CRASH) for n in range(LIMITS.crashes_max)]
    now = float(LIMITS.crashes_max - 1)
    assert told == [False] * (LIMITS.crashes_max - 1) + [True]
    assert "SIGSEGV" in health.problem(now)
    error = refused(health, now + 100)
    assert isinstance(error, EngineError)
    assert error.code is Code.QUARANTINED
    assert error.retry_after_seconds == LIMITS.quarantine_seconds - 100
    end = now + LIMITS.quarantine_seconds
    assert health.quarantined_until(now) == end
    assert health.problem(end) == ""
    assert health.quarantined_until(end) == float("inf")
    assert refused(health, end + 1) is None


def test_failures_that_lie_far_apart_do_not_add_up() -> None:
    health = Health(LIMITS)
    for n in range(20):
        assert not health.crashed(n * LIMITS.crash_window_seconds, CRASH)


def test_who_crashes_it_alone_waits_longer_each_time_and_the_others_do_not() -> None:
    health, now, pauses = Health(LIMITS), 0.0, []
    for _ in range(4):
        health.crashed(now, CRASH, {A})
        health.served()  # for others the model works
        try:
            health.check_asker(now, A)
            pauses.append(0.0)
        except LocalError as error:
            pauses.append(error.retry_after_seconds or 0.0)
        health.check_asker(now, B)
        assert refused(health, now) is None
        now += pauses[-1]
        health.check_asker(now, A)
    first = LIMITS.asker_pause_seconds
    assert pauses == [0.0, first, 2 * first, 4 * first]
    assert health.problem(now) == ""


def test_one_client_whose_requests_crash_takes_the_model_from_nobody_who_succeeds() -> None:
    health = Health(LIMITS)
    for n in range(50):
        assert not health.crashed(n * 5.0, CRASH, {A})
        health.served()
    assert refused(health, 250.0) is None


def test_one_client_that_nobody_contradicts_takes_it_for_a_short_time() -> None:
    health = Health(LIMITS)
    for n in range(LIMITS.crashes_max):
        health.crashed(float(n), CRASH, {A})
    error = refused(health, LIMITS.crashes_max - 1.0)
    assert error is not None
    assert error.retry_after_seconds == LIMITS.quarantine_one_seconds


def test_crashes_of_several_clients_are_the_models() -> None:
    health = Health(LIMITS)
    told = [
        health.crashed(float(n), CRASH, {asker})
        for n, asker in enumerate([A, B, A, C, B][: LIMITS.crashes_max])
    ]
    assert told[-1]
    assert health.quarantined_until(4.0) == 4.0 + LIMITS.quarantine_seconds


def test_this_nodes_own_callers_count_and_never_wait() -> None:
    health = Health(LIMITS)
    for n in range(3):
        health.crashed(n * 10.0, CRASH, {OWN})
        health.check_asker(n * 10.0, OWN)
    error = refused(health, 20.0)
    assert error is not None
    assert error.retry_after_seconds == 2.0


def test_a_crash_among_several_names_nobody_but_the_next_one_will() -> None:
    health = Health(LIMITS)
    assert not health.crashed(0.0, CRASH, {A, B, C})
    for asker in (A, B, C):
        health.check_asker(0.0, asker)
    assert health.alone(LIMITS.crash_alone_seconds - 1)
    assert not health.alone(LIMITS.crash_alone_seconds)
    for n in range(20):
        assert not health.crashed(float(n), CRASH, {A, B})
    assert health.problem(20.0) == ""


def test_success_does_not_excuse_a_worker_that_dies_on_its_own() -> None:
    health = Health(LIMITS)
    told = []
    for n in range(LIMITS.crashes_max):
        told.append(health.crashed(n * 10.0, CRASH))
        health.served()
    assert told[-1]


def test_what_was_mended_begins_anew() -> None:
    health = Health(LIMITS)
    for n in range(LIMITS.crashes_max):
        health.crashed(float(n), CRASH, {A})
    health.forgive()
    health.check_asker(5.0, A)
    assert refused(health, 5.0) is None
    assert health.problem(5.0) == ""


@pytest.mark.parametrize("suspects", [1, 2])
def test_any_number_of_clients_takes_bounded_room(suspects: int) -> None:
    health = Health(LIMITS)
    for n in range(1000):
        health.crashed(n * 0.001, CRASH, {f"did:key:{n + m}" for m in range(suspects)})
    assert len(health._pauses) <= LIMITS.suspects_max
    assert len(health._crashes) <= 64


def pause(health: Health, asker: str, now: float) -> float:
    try:
        health.check_asker(now, asker)
    except LocalError as error:
        return error.retry_after_seconds or 0.0
    return 0.0


def test_one_caller_of_a_gateway_waits_and_its_other_callers_do_not() -> None:
    health, now = Health(LIMITS), 0.0
    bad, good = passed_on(B, A), passed_on(C, A)
    for _ in range(LIMITS.crashes_max - 1):
        assert not health.crashed(now, CRASH, {bad})
        now += pause(health, bad, now)
        assert pause(health, good, now) == pause(health, A, now) == 0.0
    assert health.crashed(now, CRASH, {bad})
    assert health.quarantined_until(now) == now + LIMITS.quarantine_one_seconds


def test_new_keys_behind_one_gateway_make_all_of_it_wait_and_quarantine_it_as_one() -> None:
    health, now, waits = Health(LIMITS), 0.0, []
    for n in range(LIMITS.crashes_max):
        fresh = passed_on(f"did:key:fresh{n}", A)
        wait = pause(health, fresh, now)
        waits.append(wait)
        assert pause(health, passed_on(B, C), now) == 0.0
        now += wait
        assert health.crashed(now, CRASH, {fresh}) is (n == LIMITS.crashes_max - 1)
    assert waits == [0.0, 0.0, 2.0, 4.0, 8.0]
    assert health.quarantined_until(now) == now + LIMITS.quarantine_one_seconds


def test_an_actor_that_comes_by_way_of_many_gateways_is_one_asker() -> None:
    health = Health(LIMITS)
    for n in range(LIMITS.crashes_max):
        health.crashed(float(n), CRASH, {passed_on(A, f"did:key:gateway{n}")})
    now = float(LIMITS.crashes_max - 1)
    assert health.quarantined_until(now) == now + LIMITS.quarantine_one_seconds


def test_several_actors_by_several_gateways_are_the_models_fault() -> None:
    health = Health(LIMITS)
    for n in range(LIMITS.crashes_max):
        health.crashed(float(n), CRASH, {passed_on(f"did:key:actor{n}", f"did:key:gateway{n}")})
    now = float(LIMITS.crashes_max - 1)
    assert health.quarantined_until(now) == now + LIMITS.quarantine_seconds
