"""Those who wait for the same, in the order in which they came; who of them goes on is pure."""

from bisect import bisect_right
from collections.abc import Collection, Sequence

import trio

from aigrid.node.mesh.routing.summoning import Place
from aigrid.protocol.limits import Limits


def who_goes(
    waiting: Sequence[Place],
    out: Collection[Place],
    *,
    room: int,
    returned_at: float,
    now: float,
    limits: Limits,
) -> list[Place]:
    """Who goes on now, of those who wait, given in order of arrival.

    As many as there is room for, and of those that rest, none. Where all seems full, one who waits
    for the busy goes all the same, for what is known of others' load may be wrong: the next one
    goes once that one has begun, or a while after it came back.

    Args:
        waiting: earliest first.
        out: those that were let go, and have neither begun nor come back.
        room: how many requests more would be taken, as far as is known.
        returned_at: when the last one came back.
        now: by the same clock.
        limits: bounds.
    """
    ready = [place for place in waiting if place.rests_until <= now]
    room -= sum(not place.asks for place in out)  # the others are counted as running
    if room > 0:
        return ready[:room]
    may_try = not out and now - returned_at >= limits.summon_retry_seconds
    return [place for place in ready if place.busy][:1] if may_try else []


class Line:
    """Of one model or capability. Who was let go in vain comes back to the place that it had."""

    def __init__(self, limits: Limits, *, now: float) -> None:
        self.waiting: list[Place] = []
        self.out: set[Place] = set()
        self._returned_at = now  # who stands in it first has just been refused
        self._limits = limits

    @property
    def crowded(self) -> bool:
        """Whether who comes now would overtake somebody."""
        return bool(self.waiting) and (bool(self.out) or any(one.busy for one in self.waiting))

    def enter(self, place: Place, *, busy: bool, now: float) -> trio.Event:
        """Stand in line; the event is set when it may go on."""
        if place in self.out:
            self.out.discard(place)
            self._returned_at = now
            # Often it was but overtaken; where it was not, what is known of the load is wrong.
            rest = self._limits.summon_poll_seconds * 2**place.vain
            place.rests_until = now + min(rest, self._limits.summon_retry_seconds)
            place.vain += 1
        place.busy, place.asks, place.turn = busy, False, trio.Event()
        self.waiting.insert(bisect_right(self.waiting, place.since, key=lambda p: p.since), place)
        return place.turn

    def leave(self, place: Place) -> None:
        """It waits no more, whether or not it was let go."""
        if place in self.waiting:
            self.waiting.remove(place)

    def advance(self, room: int, now: float) -> None:
        """Let those go on whose turn it is."""
        going = who_goes(
            self.waiting,
            self.out,
            room=room,
            returned_at=self._returned_at,
            now=now,
            limits=self._limits,
        )
        for place in going:
            self.waiting.remove(place)
            self.out.add(place)
            place.went = True
            if place.turn is not None:
                place.turn.set()
