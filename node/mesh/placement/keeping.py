"""Keeps files that would otherwise be lost: who is ranked first fetches what too few have.

Nothing is loaded. It is slow on purpose: a look now and then, one model at a time, and only once
too few have had the files for a while, so that a node that restarts costs nothing.
"""

import random
from collections.abc import Callable

import structlog
import trio
from msgspec import UNSET

from aigrid.metagraph.graph import Metagraph
from aigrid.node.discovery.grid import NowMs
from aigrid.node.mesh.placement.bringable import Bring, Bringable
from aigrid.node.mesh.placement.decisions import Host, ranking, too_few, turn_seconds
from aigrid.node.mesh.placement.sight import Sight
from aigrid.protocol.errors import AigridError
from aigrid.protocol.kinds import ModelBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record

log = structlog.get_logger(__name__)


class Keeping:
    """`run` is a service; see `PlacementConfig` for `seeds_min` and `patience_seconds`."""

    def __init__(
        self,
        graph: Metagraph,
        sight: Sight,
        bringable: Bringable,
        *,
        seeds_min: int,
        patience_seconds: float,
        bring: Bring,
        held: Callable[[str], bool],
        room: Callable[[], int],
        now_ms: NowMs,
        rng: random.Random,
    ) -> None:
        """`bring(model, manifest, ())` gets the files here; `held(model)`: they are.

        `room()`: bytes that fetched models may still take; nothing goes to make room for others.
        """
        self._graph = graph
        self._sight = sight
        self._bringable = bringable
        self._seeds_min = seeds_min
        self._patience_seconds = patience_seconds
        self._check_seconds = min(LIMITS.seeds_check_seconds, max(1.0, patience_seconds))
        self._bring = bring
        self._held = held
        self._room = room
        self._now_ms = now_ms
        self._rng = rng
        self._short_since: dict[str, float] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look now and then, until cancelled."""
        task_status.started()
        while self._seeds_min:
            await trio.sleep(self._check_seconds * self._rng.uniform(0.8, 1.2))
            try:
                await self.look()
            except AigridError as error:  # the disk may be full: no reason to end the node
                log.warning("files_not_kept", code=error.code.value, reason=error.message)

    async def look(self) -> None:
        """Fetch the first model whose time has come, if any."""
        short = dict(self._short())
        self._short_since = {m: at for m, at in self._short_since.items() if m in short}
        for model, (manifest, turn) in short.items():
            since = self._short_since.setdefault(model, trio.current_time())
            due = since + self._patience_seconds + turn
            if trio.current_time() >= due and self._may(manifest):
                await self._keep(model, manifest)
                return

    def _may(self, manifest: Record) -> bool:
        if self._bringable.cost(manifest, load=False).fetched > self._room():
            return False
        return not self._bringable.problem(manifest, (), load=False)

    def _short(self) -> list[tuple[str, tuple[Record, float]]]:
        """Models on this node's list that too few have, and how long to leave them to others."""
        found = []
        for summary in self._graph.index.models(self._now_ms()):
            manifest = self._bringable.manifest(summary.model)
            body = None if manifest is None else manifest.body
            if manifest is None or not isinstance(body, ModelBody) or self._held(summary.model):
                continue
            if body.model.upstream is not UNSET or not body.model.files:
                continue
            holders = self._sight.holders(summary.model)
            needed = too_few(len(holders), self._seeds_min)
            if needed:
                turn = self._turn(summary.model, manifest, needed, holders)
                found.append((summary.model, (manifest, turn)))
        return found

    def _turn(self, model: str, manifest: Record, needed: int, holders: frozenset[str]) -> float:
        """Others get a look each: none of this is urgent."""
        able = self._sight.scene(model, {}, manifest).able
        ranked = ranking(model, [Host(one.node) for one in able if one.node not in holders])
        own = self._graph.own_did
        rank = ranked.index(own) if own in ranked else -1
        steps = turn_seconds(rank, needed) / LIMITS.placement_step_seconds
        return steps * 2 * self._check_seconds

    async def _keep(self, model: str, manifest: Record) -> None:
        failed = True
        try:
            await self._bring(model, manifest, ())
            failed = False
            log.info("files_kept", model=model)
        except AigridError as error:
            log.warning("files_not_kept", model=model, code=error.code.value, reason=error.message)
        self._bringable.note(model, failed=failed)
