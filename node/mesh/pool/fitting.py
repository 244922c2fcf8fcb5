"""Which engine would run a model here, and what that would take."""

from collections.abc import Sequence

from aigrid.engines.base import ModelSource
from aigrid.node.mesh.pool.choice import first_able
from aigrid.node.mesh.shelf.bringing import Fit
from aigrid.node.workers.spawning import WorkerSpawner


async def fit(source: ModelSource, engines: Sequence[str], spawner: WorkerSpawner) -> Fit:
    """What the first engine says that takes it; best engine first. Raises as `first_able`."""

    async def attempt(engine: str) -> Fit:
        return Fit(engine, await spawner.estimate(source, engine=engine))

    return await first_able(engines, attempt)
