"""The pool of models as a node's configuration and its machine would have it."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aigrid.engines.base import Estimate, ModelSource
from aigrid.node.mesh.pool.budget import Charge
from aigrid.node.mesh.pool.pinning import Pins
from aigrid.node.mesh.pool.pool import ModelPool, PoolConfig
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.node.settings.config import NodeConfig
from aigrid.node.workers.spares import SpareSettings
from aigrid.node.world import World

if TYPE_CHECKING:
    from aigrid.node.app import Node


def pool_of(config: NodeConfig, world: World, models: LocalModels, **more: Any) -> ModelPool:
    """`more` goes to the pool. Threads and memory that are not configured are the machine's."""
    said = config.pool
    chosen = PoolConfig(
        threads=config.threads or world.cores,
        memory={**world.memory, **config.memory},
        cores=world.cores,
        workers_per_model=said.workers_per_model,
        keep_alive_seconds=said.keep_alive_seconds,
        keep_alive_max_seconds=said.keep_alive_max_seconds,
        keep_alive=said.keep_alive,
    )
    return ModelPool(world.spawner, models, config=chosen, **more)


def spare_settings(config: NodeConfig) -> SpareSettings:
    """How many processes wait for a model."""
    return SpareSettings(config.pool.spares, config.pool.spare_idle_seconds)


def pins_of(
    config: NodeConfig, node: "Node", estimate: Callable[[ModelSource], Awaitable[Estimate]]
) -> Pins:
    """What the configuration pins, and what was pinned by command."""

    async def charge(model: str) -> Charge:
        return node.pool.budget.charge(await estimate(node.models.source(model)))

    return Pins(
        node.pool,
        node.models,
        node.local,
        configured=config.pool.pin,
        name_of=node.hosting.name,
        charge=charge,
    )
