"""One model of the pool: its worker, its leases, and who waits for it."""

from collections import deque
from dataclasses import dataclass

import trio

from aigrid.node.workers import Worker
from aigrid.protocol.errors import AigridError


@dataclass(slots=True, eq=False)
class Turn:
    """Somebody who waits for a slot: `admitted` once he holds one, else the model went away."""

    come: trio.Event
    admitted: bool = False


class Entry:
    """One model that is loading or loaded. Leases wait in order of arrival.

    Attributes:
        scope: around its loading, which `ModelPool.unload` breaks off.
        settled: set once it is loaded, or never will be: with an `error`, or because it was
            unloaded meanwhile, when those who waited look again.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.device = ""
        self.worker: Worker | None = None
        self.error: AigridError | None = None
        self.settled = trio.Event()
        self.scope = trio.CancelScope()
        self.closing = False
        self.leases = 0
        self.idle_since = 0.0
        self.waiters: deque[Turn] = deque()
        self.waiting = 0
        self.resident = False

    @property
    def idle(self) -> bool:
        taken = self.leases or self.waiting or self.closing or self.resident
        return self.worker is not None and not taken

    @property
    def slots(self) -> int:
        return max(1, self.worker.estimate.slots) if self.worker is not None else 0

    def admit_next(self) -> None:
        """Let those who wait have what slots are free."""
        while self.waiters and self.leases < self.slots and not self.closing:
            self.leases += 1
            turn = self.waiters.popleft()
            turn.admitted = True
            turn.come.set()


async def end(worker: Worker) -> None:
    """Kill a worker, whoever is cancelled: it is in no book any more."""
    with trio.CancelScope(shield=True):
        await worker.kill()
