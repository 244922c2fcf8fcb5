"""When a model gets another worker on this node, and how long it stays: decisions."""

import math

from aigrid.node.mesh.pool.budget import HOST
from aigrid.node.mesh.pool.entry import Entry
from aigrid.protocol.limits import Limits


def workers_max(
    configured: int, *, device: str, cores: int, threads: int, accelerators: int, limits: Limits
) -> int:
    """Workers of one model that make sense here; `configured` 0 leaves it to what there is.

    On the processor as many as can have their threads to themselves, else one per accelerator.
    """
    usual = accelerators if device != HOST else cores // max(1, threads)
    return min(max(1, configured or usual), limits.workers_per_model_max)


def wants_more(entry: Entry, most: int, now: float) -> bool:
    """Whether a model whose waiters wait already should get a worker more."""
    loaded = entry.loaded
    if not (loaded and entry.waiters and entry.several) or len(entry.replicas) >= most:
        return False
    if now < entry.grow_at or entry.health.alone(now) or any(one.yielding for one in loaded):
        return False
    coming = len(entry.replicas) - len(loaded)
    return len(entry.waiters) > coming * loaded[0].slots


def kept_seconds(wish: float, most: float) -> float:
    """A request's wish within the operator's bound; below 0 it means as long as may be."""
    if math.isnan(wish):
        return 0.0
    return most if wish < 0 else min(wish, most)
