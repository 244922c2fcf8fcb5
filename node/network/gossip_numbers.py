"""What the numbers of gossip messages tell: which of them are said anew. Pure.

A number is when its author wrote the message, by the author's clock, in nanoseconds since the
epoch. A node remembers a message for two minutes; then anybody can say it again, and its signature
holds. What is new was written about now, and after all that was taken of its author a while ago:
whatever is forgotten was taken before that. What was written long ago is told by our own clock, so
that it is also after a start, when nothing is remembered; and no number from further ahead than
clocks may be counts for anything.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aigrid.protocol.limits import LIMITS, Limits

# A message may come so much later than those that followed it, on another way. All that was taken
# twice as long ago counts as said: that has to be over before anything is forgotten.
LATE_SECONDS: Final = 50.0
_NS_PER_MS: Final = 1_000_000


@dataclass(slots=True)
class _Taken:
    """Of one author: the highest number of all, and what that was once."""

    since: float  # when a period began
    newest: int = -1
    before: int = -1  # at the beginning of this period
    floor: int = -1  # at the beginning of the last

    def turn(self, now: float) -> None:
        periods = (now - self.since) // LATE_SECONDS
        if periods < 1:
            return
        self.floor = self.before if periods < 2 else self.newest
        self.before = self.newest
        self.since += periods * LATE_SECONDS


class Numbers:
    """Authors are bytes of PeerIds, `now` is in seconds of any one clock, `now_ms` the wall's."""

    def __init__(self, now_ms: Callable[[], int], limits: Limits = LIMITS) -> None:
        self._now_ms = now_ms
        self._skew_ns = limits.clock_skew_seconds * 1000 * _NS_PER_MS
        self._authors_max = limits.rate_keys_max
        self._taken: OrderedDict[bytes, _Taken] = OrderedDict()

    def is_anew(self, author: bytes, number: int, now: float) -> bool:
        """Whether this can be nothing that was taken of its author and forgotten since."""
        if abs(number - self._now_ns()) > self._skew_ns:
            return False
        taken = self._of(author, now)
        return taken is None or number > taken.floor

    def take(self, author: bytes, number: int, now: float) -> bool:
        """It has been taken of its author. As `is_anew` of it, before and after."""
        if not self.is_anew(author, number, now):
            return False
        taken = self._taken.setdefault(author, _Taken(now))
        taken.newest = max(taken.newest, number)
        self._taken.move_to_end(author)
        if len(self._taken) > self._authors_max:
            self._taken.popitem(last=False)
        return True

    def following(self, last: int) -> int:
        """Our own next: the time, or one more than the last where that is the same or a bit later.

        A clock that has been set back by more leaves nothing behind that others take for wrong.
        """
        now_ns = self._now_ns()
        return last + 1 if now_ns <= last <= now_ns + self._skew_ns else now_ns

    def _of(self, author: bytes, now: float) -> _Taken | None:
        taken = self._taken.get(author)
        if taken is not None:
            taken.turn(now)
            if taken.newest > self._now_ns() + self._skew_ns:  # our own clock has been set back
                del self._taken[author]
                return None
        return taken

    def _now_ns(self) -> int:
        return self._now_ms() * _NS_PER_MS
