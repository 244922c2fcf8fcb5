"""Everything that a node gets from outside: the real world, or that of a simulation."""

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aigrid.node.discovery.grid import NowMs, RandomBytes
from aigrid.node.discovery.grid_needs import GridKeys
from aigrid.node.network.transport import Transport
from aigrid.node.observing.trace import NO_TRACER, Tracer
from aigrid.node.query_process import StartDataset
from aigrid.node.workers.spawning import WorkerSpawner

RunBlocking = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class World:
    """Everything that touches the outside."""

    transport: Transport
    spawner: WorkerSpawner
    now_ms: NowMs
    rng: random.Random
    random_bytes: RandomBytes
    run_blocking: RunBlocking
    keys: GridKeys
    database: Path | None
    memory: Mapping[str, int] = field(default_factory=dict)
    cores: int = 1
    start_dataset: StartDataset | None = None
    tracer: Tracer = NO_TRACER
