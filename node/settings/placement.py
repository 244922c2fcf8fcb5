"""What an operator configures of hosting that nobody asked for by hand: `[placement]`."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final

from aigrid.node.settings.setting import BadValueError, read, table
from aigrid.protocol.limits import LIMITS

TRUSTED: Final = "trusted"
_WORDS: Final = frozenset({"nothing", "own", TRUSTED, "members"})
_COUNT_MAX: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class PlacementConfig:
    """See `limits` for the defaults.

    Attributes:
        host: whose models this node brings here by itself when they are wanted: `nothing`; `own`:
            its own and those of the grid's authority; `trusted`: those of `trusted_publishers`
            besides; `members`: any member's. Or model ids and capabilities, then any member's.
        fetch_bytes_per_day, loads_per_day: for all of this; days are those of UTC.
        replicas_min: nodes that are to have the files of such a model; 0: nothing is fetched only
            to be kept.
        keep_after_seconds: for how long too few have to have them before this node fetches them.
        replica_idle_seconds: after how long without use a model is unloaded that is loaded
            elsewhere too.
    """

    host: str | frozenset[str] = TRUSTED
    fetch_bytes_per_day: int = LIMITS.placement_bytes_per_day
    loads_per_day: int = LIMITS.placement_loads_per_day
    replicas_min: int = LIMITS.placement_seeds_min
    keep_after_seconds: int = LIMITS.seeds_patience_seconds
    replica_idle_seconds: int = LIMITS.replica_idle_seconds


def placement(
    value: Any,
    *,
    targets: Callable[[Any], frozenset[str]],
    size: Callable[[Any], int | None],
    amount: Callable[[Any], int],
) -> PlacementConfig:
    """A table, or `host=members,loads_per_day=50`, several of a kind joined by `+`.

    Args:
        value: as it was configured.
        targets: reads model ids and capabilities; raises BadValueError.
        size: reads a number of bytes; None where it is none.
        amount: reads a number; raises BadValueError.

    Raises:
        BadValueError: what of it cannot be.
    """
    value = table(value, "[placement] with loads_per_day = 50")
    names = [field.name for field in fields(PlacementConfig)]
    if not set(value) <= set(names):
        raise BadValueError(f"holds nothing but {', '.join(names)}")
    found: dict[str, Any] = {}
    for name, given in value.items():
        if name == "host":
            found[name] = read(name, lambda said: _host(said, targets), given)
        elif "bytes" in name:
            found[name] = size(given)
            if found[name] is None:
                raise BadValueError(f"{name} must be a size such as 50GiB")
        else:
            found[name] = read(name, amount, given)
            if found[name] > _COUNT_MAX:
                raise BadValueError(f"{name} must be a number up to {_COUNT_MAX}")
    return PlacementConfig(**found)


def _host(given: Any, targets: Callable[[Any], frozenset[str]]) -> str | frozenset[str]:
    if isinstance(given, str) and given in _WORDS:
        return str(given)
    return targets(given.split("+") if isinstance(given, str) else given)
