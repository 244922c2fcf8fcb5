"""What each author gets of a link while more is written than links take. Pure.

Shares are max-min fair (Bertsekas and Gallager, Data Networks, 6.5.2): whoever writes less than an
equal part has all of it passed on, and the others divide the rest evenly. So members that fill what
a node passes on take it from each other, and not from those who say little.
"""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Final

from aigrid.protocol.limits import LIMITS

WINDOW_SECONDS: Final = 1.0


def fair_share(wanted: Iterable[int], capacity: float) -> float:
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

    That is one message at least: else nobody would pass once there are more authors than messages.
    Authors are told apart by the bytes of their PeerId, `now` is in seconds of any one clock.
    """

    def __init__(self, per_second: float, authors_max: int = LIMITS.rate_keys_max) -> None:
        self._capacity = per_second * WINDOW_SECONDS
        self._authors_max = authors_max
        self._window = 0
        self._counts: Counter[bytes] = Counter()
        self._share = math.inf

    def wrote(self, author: bytes, now: float) -> None:
        """Count one message. More authors than `authors_max` in one window are not told apart."""
        self._turn(now)
        if author in self._counts or len(self._counts) < self._authors_max:
            self._counts[author] += 1

    def within(self, author: bytes, now: float) -> bool:
        """Whether this author has said no more than its share by now."""
        self._turn(now)
        return self._counts[author] <= self._share

    def _turn(self, now: float) -> None:
        window = int(now // WINDOW_SECONDS)
        if window == self._window:
            return
        followed = window == self._window + 1
        wanted = self._counts.values() if followed else ()
        self._share = max(1.0, fair_share(wanted, self._capacity))
        self._window = window
        self._counts.clear()
