"""Deadlines that are moved with every request."""

import math

import trio
from trio.testing import MockClock

from aigrid.node.network.lazy_deadline import READ_SECONDS, LazyDeadline


class Due:
    """When a deadline came due, in seconds since this was made."""

    def __init__(self, nursery: trio.Nursery, deadline: LazyDeadline) -> None:
        self.began = trio.current_time()
        self.at: list[float] = []
        self.deadline = deadline
        nursery.start_soon(deadline.run, self._on_due)

    def _on_due(self) -> None:
        self.at.append(round(trio.current_time() - self.began, 6))

    def move(self, seconds: float) -> None:
        self.deadline.move(self.began + seconds)


async def test_a_deadline_comes_due_once_where_it_was_moved_last(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        due = Due(nursery, LazyDeadline())
        due.move(5)
        await trio.sleep(4)
        due.move(9)  # later: it wakes at 5 and lies down again
        await trio.sleep(100)
        assert due.at == [9]
        nursery.cancel_scope.cancel()


async def test_an_earlier_deadline_wakes_it(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        due = Due(nursery, LazyDeadline())
        due.move(500)
        await trio.sleep(1)
        due.move(3)
        await trio.sleep(1)
        due.move(8)
        due.move(7)
        await trio.sleep(100)
        assert due.at == [7]
        nursery.cancel_scope.cancel()


async def test_none_is_never_due_and_the_next_one_is(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        due = Due(nursery, LazyDeadline())
        due.move(2)
        due.move(math.inf)
        await trio.sleep(50)
        assert due.at == []
        due.move(60)
        await trio.sleep(20)
        due.move(80)
        await trio.sleep(50)
        assert due.at == [60, 80]
        nursery.cancel_scope.cancel()


async def test_one_that_was_moved_before_it_runs_counts(autojump_clock: MockClock) -> None:
    deadline = LazyDeadline()
    deadline.move(trio.current_time() + 3)
    async with trio.open_nursery() as nursery:
        due = Due(nursery, deadline)
        await trio.sleep(10)
        assert due.at == [3]
        nursery.cancel_scope.cancel()


async def test_after_a_pause_there_is_time_to_read_once(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        due = Due(nursery, LazyDeadline())
        due.move(2)
        await trio.sleep(1)
        autojump_clock.jump(3)  # to 4, without anybody having run
        await trio.sleep(0.1)
        autojump_clock.jump(7)
        await trio.sleep(10)
        assert due.at == [11.1]
        nursery.cancel_scope.cancel()


async def test_what_came_in_a_pause_moves_the_deadline(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        due = Due(nursery, LazyDeadline())
        due.move(2)
        await trio.sleep(1)
        autojump_clock.jump(3)
        await trio.sleep(READ_SECONDS / 2)
        due.move(20)
        await trio.sleep(50)
        assert due.at == [20]
        nursery.cancel_scope.cancel()
