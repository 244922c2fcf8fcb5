"""Handshakes from where connections were ended for breaking the protocol come at a rate. Pure.

A handshake costs some milliseconds of computing before it is known who is there, so whoever is cut
off and at once comes back takes more from others than what it was cut off for. All that is known
so early is the address, which honest nodes may share: so it is no delay, which a stranger could
make longer for them, but a rate. Who comes too fast waits for a turn, and the newest goes first: a
queue of somebody who never stops coming stands before nobody, and costs an honest node another try.
A breach puts the next turn off by a second, each further one by two, and once for each turn taken:
many at once could else put it off without end.
When the next turn comes is left to chance, so that nobody can come just before each.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

MOST_PER_SECOND: Final = 8.0
LEAST_PER_SECOND: Final = 2.0
BREACH_SECONDS: Final = 1.0
BREACH_AGAIN_SECONDS: Final = 2.0
SPREAD: Final = 0.5  # a turn comes up to so much later than the rate allows
FORGOTTEN_SECONDS: Final = 60.0
_HOSTS_MAX: Final = 1024

Waiting = TypeVar("Waiting", bound=Hashable)


@dataclass(slots=True)
class _Host:
    breaches: int
    last: float
    turn: float  # when the next may go
    paid: bool = True  # for a breach since the last went


class Penance(Generic[Waiting]):
    """By host, as an address; of a bounded number, those whose last breach is oldest go first.

    Times are seconds of one clock. Who waits is whatever can be told from others; the caller
    bounds how many do.
    """

    def __init__(self, chance: Callable[[], float]) -> None:
        """`chance` draws evenly from 0 to 1."""
        self._chance = chance
        self._hosts: dict[str, _Host] = {}
        self._waiting: dict[str, list[Waiting]] = {}

    def broke(self, host: str, now: float) -> None:
        """A connection from there was ended for what was said on it."""
        known = self._known(host, now)
        turn = now + (BREACH_AGAIN_SECONDS if known else BREACH_SECONDS)
        if known is not None:
            turn = known.turn if known.paid else max(known.turn, turn)
        self._hosts.pop(host, None)
        self._hosts[host] = _Host(known.breaches + 1 if known else 1, now, turn)
        if len(self._hosts) > _HOSTS_MAX:
            del self._hosts[next(iter(self._hosts))]

    def per_second(self, host: str, now: float) -> float | None:
        """How many handshakes may begin: half as many with each breach, not below a bound.

        None: as many as come, there was no breach or it is forgotten.
        """
        known = self._known(host, now)
        if known is None:
            return None
        return float(max(LEAST_PER_SECOND, MOST_PER_SECOND / 2.0 ** min(known.breaches - 1, 16)))

    def ask(self, host: str, who: Waiting, now: float) -> float | None:
        """None: `who` goes now. Else when to ask again, infinite while somebody newer waits.

        Who asks for the first time is the newest; who was told to go waits no longer.
        """
        waiting = self._waiting.setdefault(host, [])
        if who not in waiting:
            waiting.append(who)
        known, per_second = self._known(host, now), self.per_second(host, now)
        if known is not None and per_second is not None:
            if waiting[-1] != who:
                return float("inf")
            if now < known.turn:
                return known.turn
            known.turn = now + (1.0 + SPREAD * self._chance()) / per_second
            known.paid = False
        self._remove(host, who)
        return None

    def leave(self, host: str, who: Waiting) -> Waiting | None:
        """It waits no longer, if it did; the newest of those that do, who shall ask now."""
        self._remove(host, who)
        waiting = self._waiting.get(host)
        return waiting[-1] if waiting else None

    def _known(self, host: str, now: float) -> _Host | None:
        known = self._hosts.get(host)
        return known if known and now - known.last <= FORGOTTEN_SECONDS else None

    def _remove(self, host: str, who: Waiting) -> None:
        waiting = self._waiting.get(host, [])
        if who in waiting:
            waiting.remove(who)
        if not waiting:
            self._waiting.pop(host, None)
