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
    """One model that is loading or loaded. Leases wait in order of arrival."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.device = ""
        self.worker: Worker | None = None
        self.error: AigridError | None = None
        self.settled = trio.Event()
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
