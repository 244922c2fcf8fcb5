"""Usage while requests run: kept, released, and not lost."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from aigrid.metagraph.database import Database
from aigrid.node.policy.access import Access
from aigrid.node.policy.caller import LOOPBACK, Caller
from aigrid.node.policy.limits import DAY_MS, ActorLimits
from aigrid.node.policy.nonces import Nonces
from aigrid.protocol.errors import AigridError, Code

DAY = 20_000 * DAY_MS
CALLER = Caller("a", "key")


class Clock:
    now_ms = DAY

    def __call__(self) -> int:
        return self.now_ms


def access_of(path: Path | None, clock: Clock) -> Access:
    database = Database(path)
    return Access(database, Nonces(database), random_bytes=os.urandom, now_ms=clock)


async def test_the_budget_of_the_day_outlives_the_process_and_ends_with_the_day(
    tmp_path: Path, autojump_clock: object
) -> None:
    clock = Clock()
    first = access_of(tmp_path / "db", clock)
    actor, _ = first.keys.create("a", ActorLimits(tokens_per_day=10), now_ms=DAY)
    with first.meter.visit(CALLER, actor) as visit:
        visit.may_begin("m", (), "c", ())
        visit.spend(6)
        visit.spend(6)
    again = access_of(tmp_path / "db", clock)
    assert again.meter.day_tokens(actor) == 12
    with again.meter.visit(CALLER, actor) as visit, pytest.raises(AigridError) as caught:
        visit.may_begin("m", (), "c", ())
    assert caught.value.code is Code.OVER_BUDGET
    clock.now_ms += DAY_MS
    assert again.meter.day_tokens(actor) == 0
    with again.meter.visit(CALLER, actor) as visit:
        visit.may_begin("m", (), "c", ())


async def test_a_request_that_fails_runs_no_longer(autojump_clock: object) -> None:
    access = access_of(None, Clock())
    actor, _ = access.keys.create("a", ActorLimits(concurrency=1), now_ms=DAY)
    for _ in range(3):
        with suppress(ZeroDivisionError), access.meter.visit(CALLER, actor):
            assert access.meter.counts() == {actor.id: 1}
            raise ZeroDivisionError
    assert access.meter.counts() == {}


async def test_who_is_revoked_meanwhile_leaves_nothing(autojump_clock: object) -> None:
    access = access_of(None, Clock())
    actor, _ = access.keys.create("a", ActorLimits(), now_ms=DAY)
    with access.meter.visit(CALLER, actor) as visit:
        access.keys.revoke(actor.id)
        visit.spend(3)
    assert access.meter._usage == {}


async def test_callers_without_an_actor_are_not_held_to_anything() -> None:
    with access_of(None, Clock()).meter.visit(LOOPBACK, None) as visit:
        visit.may_begin("", (), "", ())
        visit.spend(10**9)
    assert visit.caller is LOOPBACK
