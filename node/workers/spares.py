"""Spare workers: processes that have imported an engine's runtime, and opened no model yet.

Once an engine was used, some are kept for its next model, which is loaded sooner by the time that
starting a process and importing takes. They are made one at a time, when nothing is loading, and
end when their engine was not used for long. What confines a worker is entered when it gets its
model, as ever; that needs a process with one thread, so a runtime that starts others while it is
imported has no spares.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from aigrid.engines import ipc
from aigrid.node.workers.process import WorkerProcess
from aigrid.protocol.errors import EngineError
from aigrid.protocol.limits import LIMITS, Limits

log = structlog.get_logger(__name__)
Start = Callable[[str], Awaitable[WorkerProcess]]
"""Starts a process for an engine that may become a spare. Raises EngineError."""

ONE_THREAD: Final[Mapping[str, str]] = {"OPENBLAS_NUM_THREADS": "1"}
"""For the environment of spares: numpy starts no threads when it is imported."""


@dataclass(frozen=True, slots=True)
class SpareSettings:
    """How many of each engine, and how long without use of it."""

    count: int = 0
    idle_seconds: float = LIMITS.spare_idle_seconds


class Spares:
    """`run` is a service. `factories`: see `ProcessSpawner`."""

    def __init__(
        self,
        start: Start,
        factory_of: Callable[[str], str],
        settings: SpareSettings,
        limits: Limits,
    ) -> None:
        self._start = start
        self._factory_of = factory_of
        self._settings = settings
        self._limits = limits
        self._kept: dict[str, list[WorkerProcess]] = {}
        self._used_at: dict[str, float] = {}
        self._unfit: set[str] = set()
        self._loads = 0
        self._ready_at = 0.0
        self._poked = trio.Event()

    @property
    def kept(self) -> tuple[WorkerProcess, ...]:
        """Those that wait now."""
        return tuple(one for spares in self._kept.values() for one in spares)

    def take(self, engine: str) -> WorkerProcess | None:
        """A spare of an engine, which is nobody else's now."""
        spares = self._kept.get(engine, [])
        while spares:
            process = spares.pop(0)
            if not process.died.is_set() and process.failure is None:
                return process
        return None

    @contextmanager
    def loading(self, engine: str) -> Iterator[None]:
        """While a model is loaded no spare is made; afterwards the engine has been used."""
        self._loads += 1
        try:
            yield
        finally:
            self._loads -= 1
            now = trio.current_time()
            self._used_at[engine] = now
            self._ready_at = now + self._limits.spare_pause_seconds
            self._poked.set()

    async def run(self) -> None:
        """Make and end spares until cancelled; they end with the spawner's nursery."""
        if not self._settings.count:
            return
        while True:
            self._poked = trio.Event()
            await self._retire(trio.current_time())
            wanted = self._wanted()
            if wanted and not self._loads and self._ready_at <= trio.current_time():
                await self._make(wanted)
                continue
            with trio.move_on_at(self._next(wanted)):
                await self._poked.wait()

    def _wanted(self) -> str:
        """The engine that lacks spares and was used last, or ""."""
        lacking = [
            engine
            for engine in self._used_at
            if engine not in self._unfit and len(self._kept.get(engine, ())) < self._settings.count
        ]
        return max(lacking, key=lambda engine: self._used_at[engine], default="")

    def _next(self, wanted: str) -> float:
        ends = [at + self._settings.idle_seconds for at in self._used_at.values()]
        if wanted and not self._loads:
            ends.append(self._ready_at)
        return min(ends, default=float("inf"))

    async def _retire(self, now: float) -> None:
        for engine, at in list(self._used_at.items()):
            kept = self._kept.setdefault(engine, [])
            kept[:] = [one for one in kept if not one.died.is_set()]
            if at + self._settings.idle_seconds <= now:
                del self._used_at[engine]
                while kept:
                    await kept.pop().kill()

    async def _make(self, engine: str) -> None:
        try:
            process = await self._start(engine)
            order = ipc.Warm(engine, self._factory_of(engine))
            try:
                warmed = await process.order(
                    order, ipc.Warmed, timeout_seconds=self._limits.worker_start_seconds
                )
            except BaseException:
                await process.kill()
                raise
        except EngineError as error:
            log.warning("no_spare", engine=engine, code=error.code.value)
            self._used_at.pop(engine, None)  # until it is used again
            return
        if not warmed.fit:
            self._unfit.add(engine)
            await process.kill()
        elif self._used_at.get(engine) is None:
            await process.kill()
        else:
            self._kept.setdefault(engine, []).append(process)
