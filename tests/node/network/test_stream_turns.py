"""Who is woken when a stream becomes free: nobody whose wake-up another could have used."""

from dataclasses import replace
from functools import partial

import trio
from tests.node.network.pairs import Pair, pair
from trio.testing import MockClock

from aigrid.node.network.streams import Send
from aigrid.protocol.limits import LIMITS

# Three streams, of which one is kept for urgent calls.
THREE = replace(LIMITS, streams_per_peer_max=3, streams_urgent=1)


async def sleepy(_peer_id: str, request: bytes, send: Send) -> None:
    await trio.sleep(float(request))
    await send(request)


class Calls:
    """Calls that take as long as they say; `ended` has their names in order, with the time."""

    def __init__(self, two: Pair, nursery: trio.Nursery) -> None:
        self._two, self._nursery = two, nursery
        self._began = trio.current_time()
        self.ended: list[tuple[str, int]] = []

    async def begin(self, name: str, seconds: int, *, urgent: bool = False) -> None:
        self._nursery.start_soon(partial(self._ask, name, seconds, urgent=urgent))
        await trio.sleep(0.5)  # the next one stands behind it

    async def _ask(self, name: str, seconds: int, *, urgent: bool) -> None:
        ask = partial(self._two.client.ask, "b", b"%d" % seconds, silence_seconds=600)
        await ask(urgent=urgent)
        self.ended.append((name, round(trio.current_time() - self._began)))


async def test_an_urgent_call_is_woken_though_others_wait_before_it(
    autojump_clock: MockClock,
) -> None:
    async with pair(sleepy, limits=THREE) as two, trio.open_nursery() as nursery:
        calls = Calls(two, nursery)
        for name in ("first", "second"):
            await calls.begin(name, 100)
        await calls.begin("ping", 10, urgent=True)
        await calls.begin("third", 1)
        await calls.begin("another ping", 1, urgent=True)
    assert calls.ended == [
        ("ping", 11),
        ("another ping", 12),
        ("first", 100),
        ("second", 101),
        ("third", 101),
    ]


async def test_a_stream_that_is_kept_for_the_urgent_upsets_no_order(
    autojump_clock: MockClock,
) -> None:
    async with pair(sleepy, limits=THREE) as two, trio.open_nursery() as nursery:
        calls = Calls(two, nursery)
        for name in ("first", "second"):
            await calls.begin(name, 100)
        await calls.begin("ping", 10, urgent=True)
        for name in ("third", "fourth", "fifth"):
            await calls.begin(name, 50)
    assert [name for name, _ in calls.ended] == [
        "ping",
        "first",
        "second",
        "third",
        "fourth",
        "fifth",
    ]


async def test_waiting_calls_of_both_kinds_are_all_answered(autojump_clock: MockClock) -> None:
    async with pair(sleepy, limits=THREE) as two, trio.open_nursery() as nursery:
        calls = Calls(two, nursery)
        for number in range(10):
            await calls.begin(f"other {number}", 3 + number % 2)
            await calls.begin(f"urgent {number}", 3 + number % 3, urgent=True)
    assert len(calls.ended) == 20
