"""A pool in virtual time, and what it told of its changes."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio
from tests.node.mesh.shelf.shelf import echo_model, empty_shelf

from aigrid.engines.base import Estimate, ModelSource
from aigrid.engines.echo import EchoEngine
from aigrid.node.mesh.pool.pool import ModelPool, PoolConfig
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.node.workers.inline import InlineSpawner, InlineWorker
from aigrid.node.workers.spawning import Admit
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS

IDLE_SECONDS = 30.0


class Spawner(InlineSpawner):
    """Fails as often as it is told to; `estimated` counts what it was asked to load."""

    failures = 0
    estimated = 0

    async def spawn(
        self,
        source: ModelSource,
        *,
        engine: str,
        threads: int,
        admit: Admit | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> InlineWorker:
        if self.failures:
            self.failures -= 1
            await trio.sleep(self.start_seconds)
            raise EngineError("engine echo died with SIGSEGV", Code.ENGINE_CRASHED)
        progress("half done")
        self.estimated += 1
        return await super().spawn(
            source, engine=engine, threads=threads, admit=admit, progress=progress
        )


class Picky(EchoEngine):
    """Finds out only while it loads that the model is not for it."""

    def load(self, source: ModelSource, *, threads: int) -> Estimate:
        raise EngineError("this engine has no such architecture", Code.UNSUPPORTED_MODEL)


class Boaster(EchoEngine):
    """Says of itself, once it is loaded, that it took more than any machine has."""

    def load(self, source: ModelSource, *, threads: int) -> Estimate:
        return replace(super().load(source, threads=threads), memory_bytes=2**52)


class Placed(EchoEngine):
    """Puts a model on the device that its options name, unless that has no room for it.

    With `found` it finds out while it loads that it is on that device instead.
    """

    def estimate(self, source: ModelSource) -> Estimate:
        own = ("device", "host_bytes", "found")
        kept = {name: value for name, value in source.options.items() if name not in own}
        estimate = super().estimate(replace(source, options=kept))
        place = str(source.options.get("device", "cpu"))
        if estimate.memory_bytes > source.room.get(place, 0):
            return estimate
        host_bytes = int(source.options.get("host_bytes", 0))
        return replace(estimate, device=place, host_bytes=host_bytes)

    def load(self, source: ModelSource, *, threads: int) -> Estimate:
        super().load(source, threads=threads)
        found = source.options.get("found")
        estimate = self.estimate(source)
        return replace(estimate, device=str(found), host_bytes=0) if found else estimate


@dataclass
class World:
    pool: ModelPool
    models: LocalModels
    spawner: Spawner
    changes: list[dict[str, str]]

    async def add(self, **options: str | float) -> str:
        return await self.models.add(echo_model(**options), {})

    def state(self, model: str) -> str:
        return self.pool.states()[model]


@asynccontextmanager
async def running(
    directory: Path,
    *,
    engines: tuple[str, ...] = ("echo",),
    memory_bytes: int = 100,
    spawner: Spawner | None = None,
    **config: Any,
) -> AsyncIterator[World]:
    models = await empty_shelf(directory / "models")
    spawner = spawner or Spawner(start_seconds=1.0)
    changes: list[dict[str, str]] = []
    pool = ModelPool(
        spawner,
        models,
        engines_for=lambda _: engines,
        config=PoolConfig(**{"memory": {"cpu": memory_bytes}, **config}),
        limits=replace(LIMITS, model_idle_seconds=IDLE_SECONDS),
        on_change=lambda: changes.append(dict(pool.states())),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(spawner.run)
        await nursery.start(pool.run)
        yield World(pool, models, spawner, changes)
        nursery.cancel_scope.cancel()
