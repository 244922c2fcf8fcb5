"""What a node has spent today on models that nobody asked it for by hand, kept over a restart.

One member alone cannot have all of it: where nobody else waits for a model, what is spent on it is
also charged to that member, who has a share.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from aigrid.metagraph.local import LocalState
from aigrid.protocol.limit import DAY
from aigrid.protocol.limits import LIMITS

_SETTING: Final = "placement"
_ASKERS_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes fetched, and loads."""

    fetched: int = 0
    loads: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.fetched + other.fetched, self.loads + other.loads)

    def within(self, most: "Cost") -> bool:
        return self.fetched <= most.fetched and self.loads <= most.loads

    def share(self, part: float) -> "Cost":
        """At least one load, or a small allowance would be none."""
        return Cost(int(self.fetched * part), max(1, int(self.loads * part)) if self.loads else 0)


@dataclass(frozen=True, slots=True)
class Spent:
    """On one day (days since 1970, UTC): in all, and for whom where it was one member alone."""

    day: int = 0
    total: Cost = Cost()
    alone: Mapping[str, Cost] = field(default_factory=dict)

    def on(self, day: int) -> "Spent":
        """A clock that was set back brings no new budget."""
        return self if day <= self.day else Spent(day)

    def problem(self, cost: Cost, askers: Collection[str], most: Cost) -> str:
        """Why `cost` may not be spent for `askers`, or "". Nobody asks: it is to keep files."""
        if not (self.total + cost).within(most):
            return "this node's daily budget for models it was not told to host is spent"
        if len(askers) == 1:
            (one,) = askers
            had = self.alone.get(one, Cost())
            full = one not in self.alone and len(self.alone) >= _ASKERS_MAX
            if full or not (had + cost).within(most.share(LIMITS.placement_one_share)):
                return "the share of the daily budget that one member can have is spent"
        return ""

    def plus(self, cost: Cost, askers: Collection[str]) -> "Spent":
        """After spending `cost`, which was no `problem`."""
        alone = dict(self.alone)
        if len(askers) == 1:
            (one,) = askers
            alone[one] = alone.get(one, Cost()) + cost
        return replace(self, total=self.total + cost, alone=alone)


class PlacementBudget:
    """The budget of one node; `own` is its DID, for which there is no share."""

    def __init__(self, local: LocalState, own: str, *, most: Cost) -> None:
        self._local = local
        self._own = own
        self._most = most
        said = local.get(_SETTING)
        try:
            self._spent = Spent() if said is None else msgspec.json.decode(said, type=Spent)
        except msgspec.MsgspecError:
            self._spent = Spent()

    def problem(self, cost: Cost, askers: Collection[str], now_ms: int) -> str:
        """Why this may not be spent, or ""."""
        return self._today(now_ms).problem(cost, self._others(askers), self._most)

    def spend(self, cost: Cost, askers: Collection[str], now_ms: int) -> None:
        """Take note before it is spent: what dies half-way has cost all the same."""
        self._spent = self._today(now_ms).plus(cost, self._others(askers))
        self._local.set(_SETTING, msgspec.json.encode(self._spent).decode())

    def spent(self, now_ms: int) -> Cost:
        return self._today(now_ms).total

    def _today(self, now_ms: int) -> Spent:
        return self._spent.on(now_ms // (DAY * 1000))

    def _others(self, askers: Collection[str]) -> Collection[str]:
        return () if self._own in askers else askers
