"""What requests at this node wait for, said in its one Demand while they do.

The record is small and rare: the first goes out at once, then at most one in
`demand_interval_seconds`, and numbers that change a little wait longer. It follows from what waits
here alone: nothing that others say leads to one.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import structlog
import trio

from aigrid.metagraph.branches import EVERYBODYS, branches_of, joined
from aigrid.metagraph.graph import Metagraph
from aigrid.node.discovery.grid import NowMs
from aigrid.protocol.errors import AigridError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import DemandBody, Kind, WantedModel
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record

log = structlog.get_logger(__name__)
_HALF_LIFE_MS = LIMITS.demand_ttl_seconds * 500


class Demands:
    """`run` is a service.

    `queued()` says how many requests wait in this node's own pool, by model; `manifest_of(model)`
    under which manifest. `audience()` says whether there is anybody to tell; `changed` is called
    when what waits here may have changed.
    """

    def __init__(
        self,
        graph: Metagraph,
        identity: Identity,
        *,
        queued: Callable[[], Mapping[str, int]],
        manifest_of: Callable[[str], Record | None],
        audience: Callable[[], bool],
        changed: Callable[[], None],
        now_ms: NowMs,
    ) -> None:
        self._graph = graph
        self._identity = identity
        self._queued = queued
        self._manifest_of = manifest_of
        self._audience = audience
        self._changed = changed
        self._now_ms = now_ms
        self._waiting: dict[str, tuple[str, int]] = {}
        self._queues: dict[str, tuple[str, int]] = {}
        self._poke = trio.Event()
        self._said: Record | None = None
        self._said_seconds = 0.0
        self._needed_seconds = 0.0
        self._stopped = False

    @contextmanager
    def waiting(self, model: str, manifest: str) -> Iterator[None]:
        """Count one request as waiting for `model` inside; it would be made under `manifest`."""
        self._count(model, manifest, 1)
        try:
            yield
        finally:
            self._count(model, manifest, -1)

    def counts(self) -> dict[str, int]:
        """Model id -> requests that wait here, at the gateway or for a slot."""
        both = (self._waiting, self._queues)
        models = {model for found in both for model in found}
        return {m: sum(found[m][1] for found in both if m in found) for m in sorted(models)}

    def manifest(self, model: str) -> str:
        """Content id of the manifest under which requests wait for a model, or ""."""
        return (self._waiting.get(model) or self._queues.get(model) or ("", 0))[0]

    def withdraw(self) -> None:
        """Nobody will wait here any more: this node is stopping."""
        self._stopped = True
        self._withdraw()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Say what waits, until cancelled."""
        self._withdraw()  # what this node said before it died
        task_status.started()
        while True:
            with trio.move_on_after(LIMITS.demand_interval_seconds):
                await self._poke.wait()
            self._poke = trio.Event()
            self._look_at_queues()
            if self._say():
                await trio.sleep(LIMITS.demand_interval_seconds)

    def _count(self, model: str, manifest: str, change: int) -> None:
        before = self._waiting.get(model, (manifest, 0))
        if before[1] + change:
            self._waiting[model] = (before[0], before[1] + change)
        else:
            del self._waiting[model]
        if not before[1] or not before[1] + change:
            self._poke.set()
            self._changed()

    def _look_at_queues(self) -> None:
        """Those that wait twice in a row count: a moment's queue is none."""
        before, self._queues = self._queues, {}
        for model, count in self._queued().items():
            manifest = self._manifest_of(model)
            if count > 0 and manifest is not None:
                self._queues[model] = (manifest.content_id, count if model in before else 0)
        if before != self._queues:
            self._changed()

    def _wanted(self) -> tuple[WantedModel, ...]:
        """The most wanted models, in order of id."""
        counts = {model: count for model, count in self.counts().items() if count > 0}
        most = sorted(counts, key=lambda model: (-counts[model], model))[: LIMITS.demands_max]
        return tuple(
            WantedModel(m, self.manifest(m), min(counts[m], LIMITS.demand_waiting_max))
            for m in sorted(most)
        )

    def _say(self) -> bool:
        """Issue or withdraw, if it is time; whether a record was signed."""
        now = trio.current_time()
        wanted = self._wanted()
        if not wanted:
            gone = now - self._needed_seconds >= LIMITS.demand_linger_seconds
            return self._said is not None and gone and self._withdraw()
        self._needed_seconds = now
        if self._stopped or not self._audience() or not self._worth_saying(wanted, now):
            return False
        body = DemandBody(id=self._identity.did, wanted=wanted, branches=self._branches(wanted))
        try:
            self._said = self._graph.issue(
                Kind.DEMAND,
                body,
                self._identity,
                now_ms=self._now_ms(),
                ttl_ms=LIMITS.demand_ttl_seconds * 1000,
            )
        except AigridError as error:
            log.warning("demand_not_announced", code=error.code.value, reason=error.message)
        self._said_seconds = now
        return True

    def _worth_saying(self, wanted: tuple[WantedModel, ...], now: float) -> bool:
        said = None if self._said is None else self._said.body
        if self._said is None or not isinstance(said, DemandBody):
            return True
        if self._said.valid_until_ms - self._now_ms() <= _HALF_LIFE_MS:
            return True
        before = {one.model: one.waiting for one in said.wanted}
        if before.keys() != {one.model for one in wanted}:
            return True
        pairs = [(before[one.model], one.waiting) for one in wanted]
        if any(max(pair) >= 2 * min(pair) for pair in pairs):
            return True
        changed = any(was != now_is for was, now_is in pairs)
        return changed and now - self._said_seconds >= LIMITS.demand_refresh_seconds

    def _branches(self, wanted: tuple[WantedModel, ...]) -> tuple[str, ...]:
        """Those of the manifests, and of what was said before: see `Announcer`."""
        now_ms = self._now_ms()
        manifests = [self._graph.index.manifest(one.manifest, now_ms) for one in wanted]
        parts = [EVERYBODYS if m is None else branches_of(m.body) for m in manifests]
        if self._said is not None and self._said.valid_until_ms > now_ms:
            parts.append(branches_of(self._said.body))
        return tuple(sorted(joined(parts)))

    def _withdraw(self) -> bool:
        self._said = None
        own = self._identity
        try:
            gone = self._graph.withdraw(Kind.DEMAND, own.did, own, now_ms=self._now_ms())
        except AigridError as error:
            log.warning("demand_not_withdrawn", code=error.code.value, reason=error.message)
            return False
        return gone is not None
