"""Records go when they end: no scan, no poll, and a waker where a new one ends sooner."""

import math

import structlog
import trio

from aigrid.metagraph.graph import Metagraph
from aigrid.node.discovery.grid import NowMs
from aigrid.protocol.errors import AigridError
from aigrid.protocol.record import Record

log = structlog.get_logger()
# The clock may be moved, by its owner or a suspend, so it is looked at again after this long.
_CLOCK_SECONDS = 1.0


class Expiry:
    """A service. What is due goes in bounded portions, so that others get their turn between."""

    def __init__(self, graph: Metagraph, *, now_ms: NowMs) -> None:
        self._graph = graph
        self._now_ms = now_ms
        self._due_ms: float = math.inf
        self._sooner = trio.Event()
        graph.listeners.append(self._on_record)

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            self._sooner = trio.Event()
            try:
                wait_seconds = self._expire()
            except AigridError as error:  # a full disk: the index looks at the time by itself
                log.warning("records_not_expired", code=error.code.value, reason=error.message)
                wait_seconds = _CLOCK_SECONDS
            with trio.move_on_after(wait_seconds):
                await self._sooner.wait()

    def _expire(self) -> float:
        """Seconds until this is to be called again."""
        self._due_ms = _or_never(self._graph.store.next_due_ms())
        if self._due_ms <= self._now_ms():
            self._graph.expire(self._now_ms())
            self._due_ms = _or_never(self._graph.store.next_due_ms())
        left_seconds = (self._due_ms - self._now_ms()) / 1000
        return min(max(0.0, left_seconds), _CLOCK_SECONDS)

    def _on_record(self, record: Record) -> None:
        if record.valid_until_ms < self._due_ms:
            self._sooner.set()


def _or_never(due_ms: int | None) -> float:
    return math.inf if due_ms is None else due_ms
