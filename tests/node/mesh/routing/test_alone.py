"""The only node that may be asked: it is waited for, and somebody else is sought beside it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from aigrid.node.mesh.routing.alone import unless_another
from aigrid.node.mesh.routing.beginning import Allowed, Beginning
from aigrid.node.mesh.routing.waiting import IN_LINE, Said
from aigrid.protocol.errors import RemoteError


@dataclass
class Opening:
    """What begins after so long; `closed` says with what."""

    closed: list[BaseException | None] = field(default_factory=list)

    def after(self, seconds: float) -> Callable[[], Awaitable["Opening"]]:
        async def work() -> Opening:
            await trio.sleep(seconds)
            return self

        return work

    async def close(self, error: BaseException | None = None) -> None:
        self.closed.append(error)
        await trio.lowlevel.checkpoint()


def beginning() -> Beginning:
    return Beginning(Allowed(10.0, 100.0), trio.current_time())


def seeking(
    *answers: bool, seconds: float = 0.0
) -> tuple[Callable[[], Awaitable[bool]], list[float]]:
    """It answers so, one after the other, and notes when it was called."""
    asked: list[float] = []

    async def seek() -> bool:
        asked.append(trio.current_time())
        await trio.sleep(seconds)
        return answers[min(len(asked), len(answers)) - 1]

    return seek, asked


async def test_in_time_nobody_is_sought(autojump_clock: MockClock) -> None:
    seek, asked = seeking(True)
    opening = Opening()
    assert await unless_another(opening.after(9), beginning(), "n", seek) is opening
    assert not asked
    assert not opening.closed


async def test_late_and_nobody_comes_it_is_waited_for(autojump_clock: MockClock) -> None:
    seek, asked = seeking(False)
    opening = Opening()
    assert await unless_another(opening.after(60), beginning(), "n", seek) is opening
    assert len(asked) > 1
    assert not opening.closed


async def test_late_and_somebody_comes_it_is_given_up(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    seek, _ = seeking(False, True)
    assert await unless_another(Opening().after(500), beginning(), "n", seek) is None
    assert trio.current_time() - began < 20


async def test_what_begins_while_somebody_is_sought_is_kept(autojump_clock: MockClock) -> None:
    seek, _ = seeking(True, seconds=5)
    opening = Opening()
    assert await unless_another(opening.after(12), beginning(), "n", seek) is opening


async def test_what_begins_as_somebody_comes_is_kept_and_open(autojump_clock: MockClock) -> None:
    for _ in range(20):  # the order of the two is random
        seek, _asked = seeking(True, seconds=5)
        opening = Opening()
        found = await unless_another(opening.after(15), beginning(), "n", seek)
        assert found in (opening, None)
        assert not opening.closed


async def test_figures_that_rise_give_it_more_time(autojump_clock: MockClock) -> None:
    until, opening = beginning(), Opening()
    seek, asked = seeking(True)

    async def work() -> Opening:
        for percent in range(1, 6):
            await trio.sleep(9)
            until.hear(Said("n", f"loading: {percent} %", trio.current_time()))
        return opening

    assert await unless_another(work, until, "n", seek) is opening
    assert not asked


async def test_one_that_has_no_slot_free_is_waited_for(autojump_clock: MockClock) -> None:
    until, opening = beginning(), Opening()
    until.hear(Said("n", IN_LINE, trio.current_time()))
    seek, asked = seeking(True)
    assert await unless_another(opening.after(50), until, "n", seek) is opening
    assert not asked


async def test_its_failure_is_raised_and_ends_the_seeking(autojump_clock: MockClock) -> None:
    async def work() -> Opening:
        await trio.sleep(12)
        raise RemoteError("gone", peer="n")

    seek, _ = seeking(True, seconds=100)
    with pytest.raises(RemoteError, match="gone"):
        await unless_another(work, beginning(), "n", seek)


async def test_who_is_cancelled_as_it_begins_leaves_nothing_open(autojump_clock: MockClock) -> None:
    for _ in range(20):
        seek, _asked = seeking(False)
        opening = Opening()
        found: list[Opening | None] = []
        with trio.move_on_after(5):
            found.append(await unless_another(opening.after(5), beginning(), "n", seek))
        assert found or not opening.closed or isinstance(opening.closed[0], trio.Cancelled)
