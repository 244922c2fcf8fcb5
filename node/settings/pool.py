"""The settings of the pool of models: `[pool]` in `config.toml`, and what is wrong with a value."""

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aigrid.node.settings.setting import BadValueError, Spelled, kind_of, texts
from aigrid.protocol.limits import DAY, LIMITS

_MODEL_MAX_CHARS: Final = 256
_KEEP_MAX_SECONDS: Final = 366 * DAY


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How long models stay loaded, and with how many workers.

    Attributes:
        pin: names or ids of models that are loaded at the start and stay.
        keep_alive_seconds: an unused model stays loaded; infinite: until its memory is needed.
        keep_alive_max_seconds: the longest that a request may keep one.
        keep_alive: name or id -> the same for single models.
        workers_per_model: at most, on this node; 0 leaves it to what there is.
        spares: processes that are kept for each engine in use, so that a model is loaded sooner.
        spare_idle_seconds: they stay without use of their engine.
    """

    pin: tuple[str, ...] = ()
    keep_alive_seconds: float = LIMITS.model_idle_seconds
    keep_alive_max_seconds: float = LIMITS.keep_alive_max_seconds
    keep_alive: Mapping[str, float] = field(default_factory=dict)
    workers_per_model: int = 0
    spares: int = 1
    spare_idle_seconds: float = LIMITS.spare_idle_seconds


def pool_settings(value: Any) -> PoolSettings:
    """A table; in the environment `pin = ["smollm2"], spares = 0`. Raises BadValueError."""
    if isinstance(value, Spelled):
        try:
            value = tomllib.loads(f"pool = {{{value}}}")["pool"]
        except (ValueError, RecursionError):
            raise BadValueError('is not of the form pin = ["smollm2"], spares = 0') from None
    if not isinstance(value, dict):
        raise BadValueError(
            f"must be a table such as [pool] with spares = 0, and is {kind_of(value)}"
        )
    found: dict[str, Any] = {}
    for key, said in value.items():
        if key not in _READERS:
            raise BadValueError(f"has no {key[:80]!r}; it has {', '.join(_READERS)}")
        try:
            found[key] = _READERS[key](said)
        except BadValueError as error:
            raise BadValueError(f"{key} {error}") from None
    return PoolSettings(**found)


def _pin(value: Any) -> tuple[str, ...]:
    names = texts(value, "a list of names or ids of models")
    if len(names) > LIMITS.pins_max or any(len(name) > _MODEL_MAX_CHARS for name in names):
        raise BadValueError(f"must be at most {LIMITS.pins_max} names or ids of models")
    return names


def _keep(value: Any) -> float:
    """Seconds; -1 without end."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (value == -1 or 0 <= value <= _KEEP_MAX_SECONDS):
        raise BadValueError(
            f"must be seconds, from 0 to {_KEEP_MAX_SECONDS}, or -1 for as long as there is memory"
        )
    return math.inf if value < 0 else float(value)


def _seconds(value: Any) -> float:
    found = _keep(value)
    if math.isinf(found):
        raise BadValueError("must be seconds from 0 on")
    return found


def _keeps(value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or len(value) > LIMITS.offers_max:
        raise BadValueError("must be a table such as { smollm2 = 3600 }")
    return {name: _keep(seconds) for name, seconds in value.items()}


def _count(most: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise BadValueError(f"must be a number from 0 to {most}")
        return value

    return read


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "pin": _pin,
    "keep_alive_seconds": _keep,
    "keep_alive_max_seconds": _keep,
    "keep_alive": _keeps,
    "workers_per_model": _count(LIMITS.workers_per_model_max),
    "spares": _count(LIMITS.spares_max),
    "spare_idle_seconds": _seconds,
}
