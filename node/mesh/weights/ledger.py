"""What a node has spent today on models: bytes that came, and loads that nobody asked for by hand.

One book for all fetches. Bytes count as they come; what a fetch may still need is reserved until it
is over, so that several cannot count on the same bytes, and one that fails costs what came. Of what
the operator did not ask for there is a smaller budget within that of the day, and within this one a
share that one member alone can have.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec
import structlog

from aigrid.metagraph.local import LocalState
from aigrid.node.discovery.grid import NowMs
from aigrid.protocol.errors import AigridError, Code, LocalError
from aigrid.protocol.limit import DAY
from aigrid.protocol.limits import LIMITS, MIB

log = structlog.get_logger()
_SETTING: Final = "ledger"
_ASKERS_MAX: Final = 256
# Bytes fetched that a crash may forget.
_UNWRITTEN_BYTES: Final = 32 * MIB
_DAY_MS: Final = DAY * 1000

Askers = Collection[str] | None
"""DIDs of members for whom it is, none of them where it is to keep files; None: the operator."""


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
class Budget:
    """For a day: bytes in all, and of these what is spent unasked, with loads."""

    fetched: int
    unasked: Cost


@dataclass(frozen=True, slots=True)
class Spent:
    """On one day (days since 1970, UTC): bytes in all, unasked, and for one member alone."""

    day: int = 0
    fetched: int = 0
    unasked: Cost = Cost()
    alone: Mapping[str, Cost] = field(default_factory=dict)

    def on(self, day: int) -> "Spent":
        """A clock that was set back brings no new budget."""
        return self if day <= self.day else Spent(day)

    def plus(self, cost: Cost, askers: Askers) -> "Spent":
        """After spending `cost`."""
        found = replace(self, fetched=self.fetched + cost.fetched)
        if askers is None:
            return found
        alone = dict(self.alone)
        if len(askers) == 1:
            (one,) = askers
            alone[one] = alone.get(one, Cost()) + cost
        return replace(found, unasked=self.unasked + cost, alone=alone)

    def problem(self, cost: Cost, askers: Askers, most: Budget) -> str:
        """Why `cost` may not be spent for `askers` besides, or ""."""
        if self.fetched + cost.fetched > most.fetched:
            return (
                f"{-(-cost.fetched // MIB)} MiB are more than what is left of the "
                f"{most.fetched // MIB} MiB that this node fetches in a day"
            )
        if askers is None:
            return ""
        if not (self.unasked + cost).within(most.unasked):
            return "this node's daily budget for models it was not told to host is spent"
        if len(askers) == 1:
            (one,) = askers
            had = self.alone.get(one, Cost())
            full = one not in self.alone and len(self.alone) >= _ASKERS_MAX
            if full or not (had + cost).within(most.unasked.share(LIMITS.placement_one_share)):
                return "the share of the daily budget that one member can have is spent"
        return ""


class Reservation:
    """What one fetch, or one load, may still spend; `askers` as those of the ledger."""

    def __init__(self, ledger: "Ledger", cost: Cost, askers: Askers) -> None:
        self.left = cost
        self.askers = askers
        self._ledger = ledger

    def spend(self, count: int) -> None:
        """So many bytes have come, perhaps more than were reserved. Raises as `Ledger.reserve`."""
        self._spend(Cost(count))

    def spend_load(self) -> None:
        """A model is about to be loaded. Raises as `Ledger.reserve`."""
        self._spend(Cost(loads=1))
        self._ledger.write()

    def _spend(self, cost: Cost) -> None:
        reserved = Cost(min(cost.fetched, self.left.fetched), min(cost.loads, self.left.loads))
        beyond = Cost(cost.fetched - reserved.fetched, cost.loads - reserved.loads)
        if beyond != Cost():
            self._ledger.check(beyond, self.askers)
        rest = Cost(self.left.fetched - reserved.fetched, self.left.loads - reserved.loads)
        self.left = rest
        self._ledger.book(cost, self.askers)


class Ledger:
    """The ledger of one node; `own` is its DID, for which there is no share."""

    def __init__(self, local: LocalState, own: str, *, most: Budget, now_ms: NowMs) -> None:
        self._local = local
        self._own = own
        self._most = most
        self._now_ms = now_ms
        self._reserved: list[Reservation] = []
        self._unwritten, self._failed = 0, False
        said = local.get(_SETTING)
        try:
            self._spent = Spent() if said is None else msgspec.json.decode(said, type=Spent)
        except msgspec.MsgspecError:
            self._spent = Spent()

    @property
    def spent(self) -> Spent:
        """Today, without what is reserved."""
        return self._spent.on(self._now_ms() // _DAY_MS)

    def problem(self, cost: Cost, askers: Askers) -> str:
        """Why this may not be spent besides what is reserved, or ""."""
        spent = self.spent
        for one in self._reserved:
            spent = spent.plus(one.left, one.askers)
        return spent.problem(cost, self._others(askers), self._most)

    def check(self, cost: Cost, askers: Askers) -> None:
        """Raise LocalError (`over_budget`), with the time until tomorrow, where there is one."""
        if problem := self.problem(cost, askers):
            left_seconds = (_DAY_MS - self._now_ms() % _DAY_MS) / 1000
            wait = min(left_seconds, LIMITS.retry_after_max_seconds)
            raise LocalError(problem, Code.OVER_BUDGET, retry_after_seconds=wait)

    @contextmanager
    def reserve(self, cost: Cost, askers: Askers) -> Iterator[Reservation]:
        """Have so much to spend inside; what is not spent is free again afterwards.

        Raises:
            LocalError: `over_budget`, with the time until tomorrow.
        """
        self.check(cost, askers)
        reservation = Reservation(self, cost, self._others(askers))
        self._reserved.append(reservation)
        try:
            yield reservation
        finally:
            self._reserved.remove(reservation)

    def book(self, cost: Cost, askers: Askers) -> None:
        """For reservations: this is spent."""
        self._spent = self.spent.plus(cost, askers)
        self._unwritten += cost.fetched
        if self._unwritten >= _UNWRITTEN_BYTES:
            self.write()

    def write(self) -> None:
        """On a full disk it is written later, and said once."""
        self._unwritten = 0
        try:
            self._local.set(_SETTING, msgspec.json.encode(self._spent).decode())
        except AigridError as error:
            if not self._failed:
                log.warning("ledger_not_written", code=error.code.value, reason=error.message)
            self._failed = True
        else:
            self._failed = False

    def report(self) -> dict[str, Any]:
        """For `status`: bytes and loads of today, what is reserved, and of how much."""
        spent, most = self.spent, self._most
        return {
            "fetched_bytes": spent.fetched,
            "fetch_budget_bytes": most.fetched,
            "reserved_bytes": _bytes(self._reserved),
            "unasked_bytes": spent.unasked.fetched,
            "unasked_budget_bytes": most.unasked.fetched,
            "unasked_reserved_bytes": _bytes(r for r in self._reserved if r.askers is not None),
            "unasked_loads": spent.unasked.loads,
            "unasked_loads_budget": most.unasked.loads,
        }

    def _others(self, askers: Askers) -> Askers:
        return () if askers is not None and self._own in askers else askers


def _bytes(reserved: Iterable[Reservation]) -> int:
    return sum(one.left.fetched for one in reserved)
