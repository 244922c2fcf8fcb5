"""What an operator configures of the weights that this node gives away and fetches: `[weights]`."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from aigrid.node.settings.setting import BadValueError, read, table
from aigrid.protocol.limits import LIMITS


@dataclass(frozen=True, slots=True)
class WeightsConfig:
    """See `limits` for the defaults.

    Attributes:
        seed: whether this node gives files of its models to others.
        upload_bytes_per_second: to all of them together; 0: as fast as it goes.
        uploads, uploads_per_peer: requests of others answered at once.
        fetch_bytes_per_day: of weights; days are those of UTC.
        cache_bytes: what fetched models may take of the disk.
        replicas_min: how many nodes keep a fetched model although they want its room.
    """

    seed: bool = True
    upload_bytes_per_second: int = 0
    uploads: int = LIMITS.uploads_max
    uploads_per_peer: int = LIMITS.uploads_per_peer_max
    fetch_bytes_per_day: int = LIMITS.fetch_bytes_per_day
    cache_bytes: int = LIMITS.weights_cache_bytes
    replicas_min: int = LIMITS.weights_replicas_min


_COUNT_MAX = 1024


def weights(
    value: Any,
    size: Callable[[Any], int | None],
    boolean: Callable[[Any], bool],
    amount: Callable[[Any], int],
) -> WeightsConfig:
    """A table, or `seed=false,cache_bytes=50GiB`. Raises BadValueError.

    Args:
        value: as it was configured.
        size: reads a number of bytes; None where it is none.
        boolean: reads yes or no; raises BadValueError.
        amount: reads a number; raises BadValueError.
    """
    value = table(value, "[weights] with seed = false")
    names = [field.name for field in fields(WeightsConfig)]
    if not set(value) <= set(names):
        raise BadValueError(f"holds nothing but {', '.join(names)}")
    found: dict[str, Any] = {}
    for name, given in value.items():
        if name == "seed":
            found[name] = read(name, boolean, given)
        elif "bytes" in name:
            found[name] = size(given)
            if found[name] is None:
                raise BadValueError(f"{name} must be a size such as 50GiB")
        else:
            found[name] = read(name, amount, given)
            if not (0 if name == "replicas_min" else 1) <= found[name] <= _COUNT_MAX:
                raise BadValueError(f"{name} must be a number from 1 to {_COUNT_MAX}")
    return WeightsConfig(**found)
