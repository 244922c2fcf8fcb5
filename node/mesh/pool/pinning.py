"""Models that stay loaded: pinned in the configuration, or by command until that is undone.

A pinned model that cannot be loaded is tried again, later and later, and does nobody else any harm.
"""

import json
from collections.abc import Callable, Collection

import structlog
import trio

from aigrid.metagraph.local import LocalState
from aigrid.node.mesh.pool.pool import ModelPool
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.protocol.errors import AigridError, Code, LocalError, UsageError
from aigrid.protocol.limits import LIMITS, Limits

log = structlog.get_logger(__name__)
_SETTING = "pins"
_LOOK_SECONDS = 10.0  # between two looks for a model that is pinned and not here yet


class Pins:
    """`run` is a service. `name_of` says what a model, by its id, is called here."""

    def __init__(
        self,
        pool: ModelPool,
        models: LocalModels,
        local: LocalState,
        *,
        configured: Collection[str],
        name_of: Callable[[str], str],
        limits: Limits = LIMITS,
    ) -> None:
        self._pool = pool
        self._models = models
        self._local = local
        self._configured = frozenset(configured)
        self._name_of = name_of
        self._limits = limits
        self._scopes: dict[str, trio.CancelScope] = {}
        self._poked = trio.Event()

    def pin(self, model: str) -> None:
        """Keep a model loaded from now on, over restarts. Raises LocalError (`over_quota`)."""
        pinned = {*self._remembered(), model}
        if len(pinned) > self._limits.pins_max:
            raise LocalError(f"at most {self._limits.pins_max} models are pinned", Code.OVER_QUOTA)
        self._remember(pinned)

    def unpin(self, model: str) -> None:
        """Let a model go when it is idle. Raises UsageError where the configuration pins it."""
        if self._configured & {model, self._name_of(model)}:
            raise UsageError("it is pinned in config.toml: take it out of `pin` there")
        self._remember({*self._remembered()} - {model})

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                self._poked = trio.Event()
                wanted = self.wanted()
                for model, scope in self._scopes.items():
                    if model not in wanted:
                        scope.cancel()
                for model in wanted - self._scopes.keys():
                    self._scopes[model] = trio.CancelScope()
                    nursery.start_soon(self._keep, model, self._scopes[model])
                with trio.move_on_after(_LOOK_SECONDS if self._awaited(wanted) else float("inf")):
                    await self._poked.wait()

    def poke(self) -> None:
        """The models on the disk, or their names, may have changed."""
        self._poked.set()

    async def _keep(self, model: str, scope: trio.CancelScope) -> None:
        pause = self._limits.pin_retry_seconds
        with scope:
            while model in self._models.list():
                try:
                    worker = await self._pool.hold(model)
                except AigridError as error:
                    log.warning("pinned_not_loaded", model=model, code=error.code.value)
                    await trio.sleep(max(pause, error.retry_after_seconds or 0.0))
                    pause = min(2 * pause, self._limits.pin_retry_max_seconds)
                    continue
                pause = self._limits.pin_retry_seconds
                await worker.died.wait()
        self._pool.let_go(model)
        del self._scopes[model]
        self.poke()

    def wanted(self) -> frozenset[str]:
        """Ids of the models here that shall stay loaded."""
        here = self._models.list()
        found = set(self._remembered()) & here.keys()
        if self._configured:
            found |= {m for m in here if self._configured & {m, self._name_of(m)}}
        return frozenset(found)

    def _awaited(self, wanted: frozenset[str]) -> bool:
        """Whether something is pinned that is not here, or not by that name."""
        names = {name for model in wanted for name in (model, self._name_of(model))}
        return not (self._configured | set(self._remembered())) <= names

    def _remembered(self) -> list[str]:
        found: list[str] = json.loads(self._local.get(_SETTING) or "[]")
        return found

    def _remember(self, pinned: set[str]) -> None:
        self._local.set(_SETTING, json.dumps(sorted(pinned)))
        self.poke()
