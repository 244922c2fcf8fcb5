"""Peer events: a slow subscriber misses nothing that still matters."""

import pytest
import trio
import trio.testing

from aigrid.node.network.peer_events import EventFeed
from aigrid.node.network.transport import PeerChange, PeerEvent

C, D = PeerChange.CONNECTED, PeerChange.DISCONNECTED


async def drained(feed: EventFeed, *later: PeerChange) -> list[PeerChange]:
    async with feed.subscribe() as events:
        await trio.testing.wait_all_tasks_blocked()
        for change in later:
            feed.put(PeerEvent(change, "peer"))
        seen = []
        with trio.move_on_after(1):
            while True:
                seen.append((await events.receive()).change)
    return seen


@pytest.mark.parametrize(
    ("happened", "seen"),
    [([C], [C]), ([C, D], []), ([D, C], [D, C]), ([D, C, D, C, D], [D]), ([C, D, C], [C])],
)
async def test_unseen_flapping_collapses(
    autojump_clock: object, happened: list[PeerChange], seen: list[PeerChange]
) -> None:
    assert await drained(EventFeed(), *happened) == seen


async def test_body_failure_is_not_wrapped(autojump_clock: object) -> None:
    with pytest.raises(KeyError):
        async with EventFeed().subscribe():
            raise KeyError
