"""Clocks and the numbers of gossip messages, over real GossipSub in virtual time."""

import itertools
import random
import time
from typing import Any

import pytest
import trio
from scripts.simulation.network.libp2p_net import transport, virtual_ms
from scripts.simulation.network.spread import spread
from scripts.simulation.network.wires import Wires
from tests.simulation.test_hints import linked
from trio.testing import MockClock

from aigrid.metagraph.branches import TOPICS
from aigrid.node.network.gossip_rates import GossipRates, Said
from aigrid.node.network.gossip_wire import said
from aigrid.node.network.transport import PeerAddress
from aigrid.protocol.identity import Identity
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


async def test_restarted_publisher_is_heard_at_once(autojump_clock: MockClock) -> None:
    """The library would repeat its numbers, and peers would drop what it says as seen."""
    wires = Wires(random.Random(1), spread("10"), spread("0"))
    hearer, *lives = (
        transport(wires, Identity(bytes([n]) * 32), f"/ip4/10.0.0.{n}/tcp/4001", virtual_ms)
        for n in (1, 2, 2, 2)
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wires.run)
        async with hearer.running(), hearer.subscribe(TOPIC) as messages:
            for number, author in enumerate(lives):
                hearer.admit([author.peer_id])
                author.admit([hearer.peer_id])
                said = [b"%d %d" % (number, n) for n in range(8)]
                async with author.running():
                    await author.connect(PeerAddress(hearer.peer_id, hearer.listen_addresses))
                    await trio.sleep(2)  # a heartbeat
                    for data in said:
                        await author.publish(TOPIC, data)
                    with trio.fail_after(1):
                        assert [await anext(messages) for _ in said] == [
                            (author.peer_id, data) for data in said
                        ]
        nursery.cancel_scope.cancel()
