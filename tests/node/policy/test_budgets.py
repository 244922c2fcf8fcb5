"""What decisions oblige this node to hold: by day, and at once."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from aigrid.metagraph.database import Database
from aigrid.node.policy.budgets import DAY_MS, Budgets
from aigrid.protocol.errors import Code, PolicyDeniedError
from aigrid.protocol.policy import Obligation

NOON = 20_000 * DAY_MS + DAY_MS // 2


class Clock:
    now_ms = NOON

    def __call__(self) -> int:
        return self.now_ms


def refused(budgets: Budgets, *limits: Obligation) -> PolicyDeniedError:
    with pytest.raises(PolicyDeniedError) as caught, budgets.charge(limits):
        pass
    assert caught.value.code is Code.OVER_BUDGET
    return caught.value


def test_requests_of_a_day() -> None:
    clock = Clock()
    budgets = Budgets(Database(None), now_ms=clock)
    limit = Obligation("grant", 2, 0, 0)
    for _ in range(2):
        with budgets.charge([limit]):
            pass
    assert refused(budgets, limit).retry_after_seconds == DAY_MS / 2000
    clock.now_ms += DAY_MS // 2
    with budgets.charge([limit]):
        assert budgets.used("grant") == (1, 0)


def test_a_request_for_which_there_was_no_room_does_not_count() -> None:
    budgets = Budgets(Database(None), now_ms=Clock())
    limits = [Obligation(key, 1, 0, 0) for key in ("grant", "delegation")]
    with budgets.charge(limits) as charge:
        charge.take_back()
    with budgets.charge(limits):
        assert budgets.used("grant") == budgets.used("delegation") == (1, 0)


def test_tokens_of_a_day_outlive_the_process(tmp_path: Path) -> None:
    database = Database(tmp_path / "records.db")
    budgets = Budgets(database, now_ms=Clock())
    limit = Obligation("grant", 0, 10, 0)
    with budgets.charge([limit]) as charge:
        charge.spend(7)
        charge.spend(5)
    database.close()
    again = Budgets(Database(tmp_path / "records.db"), now_ms=Clock())
    assert again.used("grant") == (1, 12)
    refused(again, limit)


def test_requests_at_once() -> None:
    budgets = Budgets(Database(None), now_ms=Clock())
    limit = Obligation("grant", 0, 0, 2)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(budgets.charge([limit]))
        refused(budgets, limit)
    with budgets.charge([limit]):
        pass


def test_every_link_of_a_chain_is_charged_and_one_that_is_full_charges_none() -> None:
    budgets = Budgets(Database(None), now_ms=Clock())
    wide, narrow = Obligation("grant", 5, 0, 0), Obligation("delegation", 1, 0, 0)
    with budgets.charge([wide, narrow]) as charge:
        charge.spend(3)
    assert budgets.used("grant") == budgets.used("delegation") == (1, 3)
    refused(budgets, wide, narrow)
    assert budgets.used("grant") == (1, 3)
    with budgets.charge([wide]):
        pass


def test_an_answer_that_began_before_midnight_counts_for_that_day() -> None:
    clock = Clock()
    budgets = Budgets(Database(None), now_ms=clock)
    limit = Obligation("grant", 0, 5, 0)
    with budgets.charge([limit]) as charge:
        clock.now_ms += DAY_MS
        charge.spend(100)
    assert budgets.used("grant") == (0, 0)


def test_what_running_requests_may_use_is_spoken_for() -> None:
    """Else any number of them would begin while one token is left."""
    budgets = Budgets(Database(None), now_ms=Clock())
    limit = Obligation("grant", 0, 100, 0)
    with budgets.charge([limit], most=60) as first, budgets.charge([limit], most=60):
        wait_seconds = refused(budgets, limit).retry_after_seconds
        assert wait_seconds is not None
        assert wait_seconds < 10
        first.spend(30)
    with budgets.charge([limit], most=1000) as charge:
        charge.spend(70)
    assert refused(budgets, limit).retry_after_seconds == DAY_MS / 2000
