"""Whose DHT streams are served at once: nobody holds a place that others need. Pure.

The library serves twelve at once and refuses the rest, so three members that ask nothing could have
the DHT serve nobody. What a stream costs is its questions, which are paced (`dht_messages.Paced`);
one on which nothing is asked costs memory, which is what these bounds are for. Who has it ended, or
ends it, and opens another without end has asked nothing on most: those count as useless streams do,
and less where the peer has given up what it was about to ask (`Dht`).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Place:
    """One stream's."""

    peer: str
    asked: float  # when the last question on it had come, or it was opened
    end: Callable[[], None]
    used: bool = False  # a question came
    given_up: bool = False  # by the peer

    def question(self, now: float) -> None:
        """One has come."""
        self.asked, self.used = now, True


class Places:
    """At most `per_peer` of each peer and `in_all` together, both at least 1."""

    def __init__(self, per_peer: int, in_all: int) -> None:
        self._per_peer = per_peer
        self._in_all = in_all
        self._taken: dict[Place, None] = {}
        self._streams: Counter[str] = Counter()

    def enter(self, place: Place) -> Place | None:
        """Whose place it gets, if all were taken: that is out, and the caller ends it.

        The one on which nothing was asked for longest, of those of the peers with most.

        Raises:
            LookupError: its peer has as many as it may.
        """
        if self._streams[place.peer] >= self._per_peer:
            raise LookupError(place.peer)
        out = None
        if len(self._taken) >= self._in_all:
            out = min(self._taken, key=lambda one: (-self._streams[one.peer], one.asked))
            self.leave(out)
        self._taken[place] = None
        self._streams[place.peer] += 1
        return out

    def leave(self, place: Place) -> None:
        """Its stream is over; nothing to do if it is out already."""
        if place not in self._taken:
            return
        del self._taken[place]
        self._streams[place.peer] -= 1
        if not self._streams[place.peer]:
            del self._streams[place.peer]
