"""Records go when they end, in portions, whatever the clock does."""

import pytest
import trio
from tests.metagraph.test_store import put, versions
from tests.metagraph.world import MINUTE_MS, NOW, OWN, graph, node_record
from trio.testing import MockClock

from aigrid.metagraph.graph import Metagraph
from aigrid.node.expiry import Expiry
from aigrid.protocol.errors import Code, UsageError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record


class Clock:
    """The wall clock, which somebody may move."""

    def __init__(self) -> None:
        self.moved_ms = 0

    def now_ms(self) -> int:
        return NOW + round(trio.current_time() * 1000) + self.moved_ms


async def started(nursery: trio.Nursery) -> tuple[Metagraph, Clock]:
    made, clock = graph(), Clock()
    await nursery.start(Expiry(made, now_ms=clock.now_ms).run)
    return made, clock


async def test_a_record_goes_the_moment_it_ends_even_if_it_came_after_one_that_lasts(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        made, clock = await started(nursery)
        for record in (node_record(OWN), node_record(OWN, NOW + 1, 700)):
            made.ingest(record.raw, now_ms=clock.now_ms(), received_from=None)
            await trio.sleep(0.1)
        await trio.sleep(0.5)
        assert made.store.next_expiry_ms() == NOW + 701
        await trio.sleep(0.002)
        assert made.store.next_expiry_ms() is None
        nursery.cancel_scope.cancel()


async def test_many_go_in_portions_and_a_clock_set_forward_is_noticed(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trio.open_nursery() as nursery:
        made, clock = await started(nursery)
        count = LIMITS.expired_at_once_max * 2 + 1
        with made.store.transaction():
            for record in versions(count):
                put(made.store, record, account=None)
        portions: list[int] = []
        expire = made.expire

        def noting(now_ms: int) -> list[Record]:
            gone = expire(now_ms)
            portions.append(len(gone))
            return gone

        monkeypatch.setattr(made, "expire", noting)
        await trio.sleep(5)
        assert portions == []  # not once while nothing was due
        clock.moved_ms = MINUTE_MS
        await trio.sleep(1.1)
        assert portions == [LIMITS.expired_at_once_max] * 2 + [1]
        nursery.cancel_scope.cancel()


async def test_a_full_disk_is_survived_without_a_rush(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trio.open_nursery() as nursery:
        made, clock = await started(nursery)
        made.ingest(node_record(OWN, NOW, 100).raw, now_ms=clock.now_ms(), received_from=None)
        tried: list[int] = []

        def full(now_ms: int) -> list[Record]:
            tried.append(now_ms)
            raise UsageError("disk full", Code.DATA_DIRECTORY_UNUSABLE)

        with monkeypatch.context() as broken:
            broken.setattr(made, "expire", full)
            await trio.sleep(3)
        assert 2 <= len(tried) <= 5
        await trio.sleep(1.1)
        assert made.store.next_expiry_ms() is None
        nursery.cancel_scope.cancel()
