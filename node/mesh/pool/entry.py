"""One model of the pool: its workers, who holds their slots, and who waits for one."""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import trio

from aigrid.node.mesh.pool.budget import Budget, Charge
from aigrid.node.mesh.pool.health import Health
from aigrid.node.workers.spawning import Worker
from aigrid.protocol.errors import AigridError
from aigrid.protocol.limits import Limits

INFINITE = float("inf")


class Replica:
    """One worker of a model, that is loading or loaded.

    Attributes:
        scope: around its loading, which `ModelPool.unload` breaks off.
        settled: set once it is loaded, or never will be: with an `error`, or because it was
            unloaded meanwhile.
        closing: it takes no new lease any more, and is killed after its last one.
        yielding: how many loads wait for its memory; it takes no new lease meanwhile.
        buried: its end is in the books.
        askers: who holds its leases, and how many.
    """

    def __init__(self, entry: "Entry") -> None:
        self.entry = entry
        self.model = entry.model
        self.device = ""
        self.worker: Worker | None = None
        self.error: AigridError | None = None
        self.settled = trio.Event()
        self.scope = trio.CancelScope()
        self.closing = False
        self.yielding = 0
        self.resident = False
        self.buried = False
        self.loaded_at = 0.0
        self.idle_since = 0.0
        self.askers: Counter[str] = Counter()
        self._last: dict[str, float] = {}
        self._struck: frozenset[str] = frozenset()

    @property
    def leases(self) -> int:
        return self.askers.total()

    @property
    def slots(self) -> int:
        return max(1, self.worker.estimate.slots) if self.worker is not None else 0

    @property
    def open(self) -> bool:
        """Whether it takes another lease."""
        usable = not (self.failing or self.closing or self.yielding)
        return usable and self.leases < self.slots

    @property
    def failing(self) -> bool:
        """Whether its worker is dead or about to be: who gets a lease now would be blamed."""
        worker = self.worker
        return worker is not None and (worker.failure is not None or worker.gone)

    @property
    def idle(self) -> bool:
        """Whether nobody would miss it now; see `Entry.may_go`."""
        return self.worker is not None and not (self.leases or self.closing or self.resident)

    def take(self, asker: str) -> None:
        self.askers[asker] += 1

    def give(self, asker: str, now: float) -> None:
        """A lease has ended; what it asked for may still run in the worker."""
        self.askers[asker] -= 1
        if self.askers[asker] <= 0:
            del self.askers[asker]
        if self.failing:
            self._struck |= {asker}
        self._last[asker] = now
        if len(self._last) > self.entry.limits.suspects_max:
            del self._last[min(self._last, key=lambda one: self._last[one])]
        if not self.leases:
            self.idle_since = now

    def suspects(self, now: float) -> frozenset[str]:
        """Whose requests may have run when it died: those with leases, or else who left last."""
        if self.askers or self._struck:
            return self._struck.union(self.askers)
        since = now - self.entry.limits.suspect_seconds
        return frozenset(asker for asker, at in self._last.items() if at >= since)


@dataclass(slots=True, eq=False)
class Turn:
    """Somebody who waits for a slot.

    Once `come` is set he holds one of `replica`, or has an `error`, or has to look again.
    """

    asker: str
    come: trio.Event = field(default_factory=trio.Event)
    replica: Replica | None = None
    error: AigridError | None = None


@dataclass(frozen=True, slots=True)
class Never:
    """With this budget and these engines a model cannot be loaded, whatever else is unloaded.

    With `beside_pinned`, what it needs, that is so while others are pinned that leave too little.
    """

    budget: Budget
    engines: tuple[str, ...]
    error: AigridError
    beside_pinned: Charge | None = None


class Entry:
    """A model, as long as it is on this node's disk. Leases wait in order of arrival.

    Attributes:
        replicas: its workers, oldest first, without those that are closing. The first is what the
            model lives by; the others came because it was not enough, and go first.
        closing: those that take no new lease any more, and are not gone yet.
        off_disk: to be forgotten with its last worker.
        wish_seconds: how long the operator's latest request wants it kept, or None.
        others_wish_seconds: how long that of others does, who cannot make it go sooner.
        cold: seconds that the last load of a first worker took and when it ended, or None.
        grow_at: when another worker may be added again.
        several: whether several workers of it make sense at all.
        trouble: why its last load failed, or "".
        never: why it can never fit, as far as that was found out.
    """

    def __init__(self, model: str, limits: Limits) -> None:
        self.model = model
        self.limits = limits
        self.replicas: list[Replica] = []
        self.closing: list[Replica] = []
        self.off_disk = False
        self.waiters: deque[Turn] = deque()
        self.health = Health(limits)
        self.pinned = False
        self.wish_seconds: float | None = None
        self.others_wish_seconds = 0.0
        self.keep_seconds = limits.model_idle_seconds
        self.cold: tuple[float, float] | None = None
        self.grow_at = 0.0
        self.several = True
        self.trouble = ""
        self.never: Never | None = None

    @property
    def loaded(self) -> list[Replica]:
        return [one for one in self.replicas if one.worker is not None]

    @property
    def leases(self) -> int:
        return sum(one.leases for one in (*self.replicas, *self.closing))

    def first(self, replica: Replica) -> bool:
        """Whether a loaded replica is the one that the model lives by."""
        return self.loaded[:1] == [replica]

    def may_go(self, replica: Replica) -> bool:
        """Whether a replica may be unloaded to make room."""
        return replica.idle and not (self.pinned and self.first(replica))

    def expires_at(self, replica: Replica) -> float:
        """When a replica goes if nobody asks; infinite while it is in use or stays."""
        if not self.may_go(replica):
            return INFINITE
        keep = self.keep_seconds if self.wish_seconds is None else self.wish_seconds
        keep = max(keep, self.others_wish_seconds)
        if not self.first(replica):
            keep = min(keep, self.limits.model_extra_idle_seconds)
        return replica.idle_since + keep

    def free(self, asker: str, now: float) -> Replica | None:
        """The least busy replica that takes a lease of `asker` now; of equals the oldest."""
        if self.health.alone(now) and any(set(one.askers) - {asker} for one in self.replicas):
            return None
        found = [one for one in self.replicas if one.open]
        return min(found, key=lambda one: one.leases / one.slots, default=None)

    def admit_next(self, now: float) -> None:
        """Let those who wait have what slots are free."""
        while self.waiters:
            replica = self.free(self.waiters[0].asker, now)
            if replica is None:
                return
            turn = self.waiters.popleft()
            replica.take(turn.asker)
            turn.replica = replica
            turn.come.set()

    def dismiss(self, errors: Iterable[AigridError] = ()) -> None:
        """Nothing is loading any more: those who wait get an error each, or look again."""
        remaining = iter(errors)
        while self.waiters:
            turn = self.waiters.popleft()
            turn.error = next(remaining, None)
            turn.come.set()


async def end(worker: Worker) -> None:
    """Kill a worker, whoever is cancelled: it is in no book any more."""
    with trio.CancelScope(shield=True):
        await worker.kill()
