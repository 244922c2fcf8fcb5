"""Requests that nobody serves now, in line: each is a demand while it waits, and goes on in turn.

When there is room somewhere, as many go on as it has room for, and the others keep their places:
if all of them went they would only find it taken. See `line`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog
import trio
from msgspec import UNSET

from aigrid.metagraph.graph import Metagraph
from aigrid.node.discovery.grid import NowMs
from aigrid.node.mesh.placement.demands import Demands
from aigrid.node.mesh.placement.line import Line
from aigrid.node.mesh.placement.sight import Sight
from aigrid.node.mesh.routing.summoning import Place, Summon, Unmet
from aigrid.protocol.kinds import ModelBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.record import Record

log = structlog.get_logger(__name__)
_Key = tuple[str, str]  # model id or "", capability or ""


class Acting(Protocol):
    """See `Placing`."""

    def acting(self, model: str) -> bool: ...


class Summoner(Summon):
    """See `Summon`; `run` is a service."""

    def __init__(
        self,
        graph: Metagraph,
        sight: Sight,
        demands: Demands,
        *,
        placing: Callable[[], Acting],
        now_ms: NowMs,
    ) -> None:
        self._graph = graph
        self._sight = sight
        self._demands = demands
        self._placing = placing
        self._now_ms = now_ms
        self._lines: dict[_Key, Line] = {}
        self._filled = trio.Event()
        self._poked = trio.Event()
        self._chosen: dict[str, tuple[float, Record | None]] = {}

    @property
    def waiting(self) -> int:
        """Requests that wait now."""
        return sum(len(line.waiting) for line in self._lines.values())

    async def __call__(self, unmet: Unmet, place: Place, *, deadline: float) -> bool:
        """See `Summon`."""
        await trio.lowlevel.checkpoint()
        manifest = self._manifest(unmet)
        full = self.waiting >= LIMITS.summon_waiting_max
        if manifest is None or full or deadline <= trio.current_time():
            return False
        # Who has just found out that it never fits there is not busy: nobody waits for that.
        gone = unmet.model and not self._sight.offered(unmet.model)
        busy = unmet.reason == "busy" and not gone
        if not busy and not self._may_come(manifest):
            return False
        model = manifest.subject.removeprefix(MODEL_URN)
        with self._in_line((unmet.model, unmet.capability), place, busy=busy) as turn:
            if busy:
                return await self._wait_for_busy(turn, place, model, manifest, deadline)
            with self._demands.waiting(model, manifest.content_id):
                return await self._wait_for_anybody(turn, model, deadline)

    def crowded(self, model: str, capability: str) -> bool:
        """See `Summon`."""
        line = self._lines.get((model, capability))
        return line is not None and line.crowded

    def left(self, place: Place) -> None:
        """See `Summon`."""
        for key, line in list(self._lines.items()):
            if place in line.out:
                line.out.discard(place)
                self._prune(key)
        self._poked.set()

    def freed(self) -> None:
        """See `Summon`."""
        self._poked.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Let those go on for whom there is room, until cancelled."""
        task_status.started()
        while True:
            if not self._lines:
                self._filled = trio.Event()
                await self._filled.wait()
            # Of what ends at this node it hears at once, for what ends elsewhere it has to look.
            with trio.move_on_after(LIMITS.summon_poll_seconds):
                await self._poked.wait()
            self._poked = trio.Event()
            for key, line in self._lines.items():
                if line.waiting:
                    line.advance(self._sight.room(*key), trio.current_time())

    async def _wait_for_busy(
        self, turn: trio.Event, place: Place, model: str, manifest: Record, deadline: float
    ) -> bool:
        """Who offers it has no room: whoever waits for long is a demand that others may meet."""
        with trio.move_on_at(min(deadline, place.since + LIMITS.saturation_seconds)):
            await turn.wait()
        if not turn.is_set():
            with self._demands.waiting(model, manifest.content_id), trio.move_on_at(deadline):
                await turn.wait()
        return turn.is_set()

    async def _wait_for_anybody(self, turn: trio.Event, model: str, deadline: float) -> bool:
        """Nobody offers it: until the deadline if somebody brings it, else not for long."""
        hope = trio.current_time() + LIMITS.summon_hope_seconds
        with trio.move_on_at(min(hope, deadline)):
            await turn.wait()
        coming = self._sight.replicas(model) or self._placing().acting(model)
        if coming and not turn.is_set():
            with trio.move_on_at(deadline):
                await turn.wait()
        return turn.is_set()

    @contextmanager
    def _in_line(self, key: _Key, place: Place, *, busy: bool) -> Iterator[trio.Event]:
        line = self._lines.setdefault(key, Line(LIMITS, now=trio.current_time()))
        turn = line.enter(place, busy=busy, now=trio.current_time())
        self._filled.set()
        try:
            yield turn
        finally:
            line.leave(place)
            self._prune(key)

    def _prune(self, key: _Key) -> None:
        """Forget a line that nobody stands in."""
        line = self._lines.get(key)
        if line is not None and not (line.waiting or line.out):
            del self._lines[key]

    def _manifest(self, unmet: Unmet) -> Record | None:
        """Of what is to be wanted: of a capability, a model that somebody has.

        That is looked up anew after a while only, for it takes all models that there are.
        """
        if unmet.model:
            found = self._sight.manifests(unmet.model)
            return max(found, key=lambda manifest: manifest.rank, default=None)
        now = trio.current_time()
        since, chosen = self._chosen.get(unmet.capability, (float("-inf"), None))
        if now - since >= LIMITS.placement_look_seconds:
            chosen = self._choose(unmet.capability)
            self._chosen[unmet.capability] = now, chosen
            while len(self._chosen) > LIMITS.placement_models_max:
                del self._chosen[next(iter(self._chosen))]
        return chosen

    def _choose(self, capability: str) -> Record | None:
        now_ms, index = self._now_ms(), self._graph.index
        found = [
            (len(self._sight.holders(one.model)), one.model, manifest)
            for one in index.models(now_ms)
            for manifest in one.manifests
            if isinstance(manifest.body, ModelBody)
            and capability in index.concepts.satisfied(manifest.body.capabilities)
        ]
        able = [one for one in found if self._may_come(one[2])]
        wanted = self._demands.counts()  # what others wait for already comes sooner
        best = max(able, key=lambda one: (one[1] in wanted, *one[:2], one[2].rank), default=None)
        return None if best is None else best[2]

    def _may_come(self, manifest: Record) -> bool:
        """Whether anybody could serve a model: its files are to be had from somebody alive."""
        body = manifest.body
        if not isinstance(body, ModelBody) or body.model.upstream is not UNSET:
            return False
        model = manifest.subject.removeprefix(MODEL_URN)
        if self._sight.alone() and not self._sight.serves(model):
            return False
        held = self._sight.holders(model)
        return bool(held) or not body.model.files
