"""Looks after models behind somebody's server: they are offered while the server answers.

Each has a worker that stays loaded and goes on asking the server; the node asks the worker. A
server that is gone when the node starts, or goes later, costs its offer, and has it back as soon
as it answers again.
"""

from collections.abc import Callable

import structlog
import trio
from msgspec import UNSET

from aigrid.node.mesh.pool.pool import ModelPool
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.protocol.errors import AigridError
from aigrid.protocol.limits import LIMITS, Limits

log = structlog.get_logger(__name__)
_NOT_ASKED = "its server has not been asked yet"


class UpstreamWatch:
    """`run` is a service; `changed` is called when an offer may have come or gone."""

    def __init__(
        self,
        models: LocalModels,
        pool: ModelPool,
        *,
        changed: Callable[[], None],
        limits: Limits = LIMITS,
    ) -> None:
        self._models = models
        self._pool = pool
        self._changed = changed
        self._limits = limits
        self._problems: dict[str, str] = {}
        self._watched: set[str] = set()
        self._poke = trio.Event()

    def problem(self, model: str) -> str:
        """Why a model cannot be served now, or ""; models with files of their own have none."""
        description = self._models.list().get(model)
        if description is None or description.upstream is UNSET:
            return ""
        return self._problems.get(model, _NOT_ASKED)

    def poke(self) -> None:
        """The models on the shelf may have changed."""
        self._poke.set()

    def note(self, model: str, problem: str) -> None:
        """Take a verdict: "" for a server that answers."""
        if self._problems.get(model, _NOT_ASKED) == problem:
            return
        self._problems[model] = problem
        log.info("server_answers" if not problem else "server_does_not_answer", model=model)
        self._changed()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                self._poke = trio.Event()
                for model, description in self._models.list().items():
                    if description.upstream is not UNSET and model not in self._watched:
                        self._watched.add(model)
                        nursery.start_soon(self._watch, model)
                await self._poke.wait()

    async def _watch(self, model: str) -> None:
        pause = self._limits.upstream_retry_seconds
        while model in self._models.list():
            try:
                worker = await self._pool.resident(model)
                problem = (await worker.refresh()).problem
            except AigridError as error:
                self.note(model, error.message or error.code.value)
                await trio.sleep(pause)
                pause = min(2 * pause, self._limits.upstream_retry_max_seconds)
                continue
            pause = self._limits.upstream_retry_seconds
            self.note(model, problem)
            with trio.move_on_after(self._limits.upstream_watch_seconds):
                await worker.died.wait()
        await self._pool.unload(model)
        self._watched.discard(model)
        self._problems.pop(model, None)
