"""What an operator lets other members know beyond what records say: `[share]` in `config.toml`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aigrid.node.settings.setting import BadValueError


@dataclass(frozen=True, slots=True)
class ShareConfig:
    """What is shared.

    Attributes:
        vitals: load, speed and memory, as `aigrid top --grid` shows them.
    """

    vitals: bool = True


def share(value: Any, boolean: Callable[[Any], bool]) -> ShareConfig:
    """A table, or `vitals=false`. Raises BadValueError.

    Args:
        value: as it was configured.
        boolean: reads yes or no; raises BadValueError.
    """
    if isinstance(value, str):
        parts = [part.partition("=") for part in value.split(",")]
        value = {key.strip(): said.strip() for key, _, said in parts}
    if not isinstance(value, Mapping) or not set(value) <= {"vitals"}:
        raise BadValueError("holds nothing but vitals")
    try:
        return ShareConfig(**{key: boolean(said) for key, said in value.items()})
    except BadValueError as error:
        raise BadValueError(f"vitals {error}", error.code) from None
