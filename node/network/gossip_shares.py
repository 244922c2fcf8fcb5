"""What each author gets of a link while more is written than links take. Pure.

Shares are max-min fair (Bertsekas and Gallager, Data Networks, 6.5.2): whoever writes less than an
equal part has all of it passed on, and the others divide the rest evenly. So members that fill what
a node passes on take it from each other, and not from those who say little.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from aigrid.protocol.limits import LIMITS

WINDOW_SECONDS: Final = 1.0
_LOOKS: Final = 8  # at a window that is too much, for each time that it could have been filled


def fair_share(wanted: Iterable[float], capacity: float) -> float:
    """How much each gets of `capacity`, unless it wants less; infinite if all can have all."""
    amounts = sorted(wanted)
    for place, amount in enumerate(amounts):
        share = capacity / (len(amounts) - place)
        if amount > share:
            return share
        capacity -= amount
    return math.inf


class Shares:
    """Counts what each author wrote; its share follows from what all wrote the window before.

    And from this one as far as it has come, if that is too much by itself: else those who write in
    every other window would never have shares.

    Authors are told apart by the bytes of their PeerId, `now` is in seconds of any one clock. What
    is counted is up to the caller, as long as it is that of `per_second`.
    """

    def __init__(self, per_second: float, authors_max: int = LIMITS.rate_keys_max) -> None:
        self._capacity = per_second * WINDOW_SECONDS
        self._authors_max = authors_max
        self._window = 0
        self._counts: defaultdict[bytes, float] = defaultdict(float)
        self._share = math.inf
        self._total = 0.0
        self._look_at = self._capacity

    def wrote(self, author: bytes, cost: float, now: float) -> None:
        """Count a message. More authors than `authors_max` in one window are not told apart."""
        self._turn(now)
        if author in self._counts or len(self._counts) < self._authors_max:
            self._counts[author] += cost
            self._total += cost
            if self._total >= self._look_at:  # this window alone is too much already
                self._look_at = self._total + self._capacity / _LOOKS
                found = fair_share(self._counts.values(), self._capacity)
                self._share = min(self._share, found)

    def allow(self, author: bytes, cost: float, now: float) -> bool:
        """Whether the author of this, which is counted already, was within its share before.

        The first of a window always was: else nobody would pass once the authors are very many.
        """
        self._turn(now)
        return self._counts.get(author, 0.0) - cost < self._share

    def _turn(self, now: float) -> None:
        window = int(now // WINDOW_SECONDS)
        if window == self._window:
            return
        followed = window == self._window + 1
        self._share = fair_share(self._counts.values(), self._capacity) if followed else math.inf
        self._window = window
        self._counts.clear()
        self._total = 0.0
        self._look_at = self._capacity
