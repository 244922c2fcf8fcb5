"""Clocks and the numbers of gossip messages, over real GossipSub in virtual time."""

import itertools
import time
from typing import Any

import pytest
import trio
from scripts.simulation.network.libp2p_net import virtual_ms
from tests.simulation.test_hints import linked
from trio.testing import MockClock

from aigrid.metagraph.branches import TOPICS
from aigrid.node.network.gossip_rates import GossipRates, Said
from aigrid.node.network.gossip_wire import said
from aigrid.protocol.limits import LIMITS

TOPIC = min(TOPICS)
OLD = 2 * LIMITS.gossip_author_burst


async def repeat(messages: list[Said], rates: GossipRates) -> None:
    """Without end, as often as they are taken."""
    for message in itertools.cycle(messages):
        if not rates.may_write(message, trio.current_time()):
            await trio.sleep(0.001)


@pytest.mark.parametrize(
    ("ahead_seconds", "is_heard"), [(-288, False), (-60, True), (0, True), (60, True), (288, False)]
)
async def test_old_messages_take_nothing_from_an_author_whose_clock_is_nearly_right(
    autojump_clock: MockClock, ahead_seconds: int, is_heard: bool
) -> None:
    """What it says is numbered by when it says it, by its own clock, however long it has run."""
    async with (
        linked(2, lambda: virtual_ms() + 1000 * ahead_seconds) as (author, hearer),
        author.subscribe(TOPIC),
        hearer.subscribe(TOPIC) as messages,
    ):
        gossip: Any = hearer._gossip
        old: list[Said] = []
        deliver = gossip._deliver

        def keep(publisher: str, message: Any) -> None:
            old.append(said(message))
            deliver(publisher, message)

        gossip._deliver = keep
        await trio.sleep(5)
        for number in range(OLD):
            await author.publish(TOPIC, b"old %d" % number)
            await trio.sleep(1800 / OLD)
        heard = [(await anext(messages))[1] for _ in range(OLD)]
        assert heard == [b"old %d" % number for number in range(OLD)]
        await trio.sleep(200)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(repeat, old.copy(), gossip._rates)
            await trio.sleep(1)
            await author.publish(TOPIC, b"new")
            with trio.move_on_after(2) as scope:
                assert (await anext(messages))[1] == b"new"
            nursery.cancel_scope.cancel()
        assert scope.cancelled_caught is not is_heard


async def test_who_came_back_is_heard_by_a_node_whose_clock_was_set_back_meanwhile(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who leaves a topic is not let in again for some seconds, not for as long as the step."""
    ahead_seconds = 3600

    def wall_ms() -> int:
        return virtual_ms() + 1000 * ahead_seconds

    async with linked(2, wall_ms) as (one, two), one.subscribe(TOPIC):
        with monkeypatch.context() as patched:
            patched.setattr(time, "time", lambda: wall_ms() / 1000)
            async with two.subscribe(TOPIC):
                await trio.sleep(5)
            ahead_seconds = 0
            async with two.subscribe(TOPIC) as messages:
                await trio.sleep(15)
                await one.publish(TOPIC, b"heard")
                with trio.fail_after(3):
                    assert await anext(messages) == (one.peer_id, b"heard")
