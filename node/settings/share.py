"""What an operator lets other members know beyond what records say: `[share]` in `config.toml`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aigrid.node.settings.setting import BadValueError, read, table

_NAMES = frozenset({"vitals", "experience"})


@dataclass(frozen=True, slots=True)
class ShareConfig:
    """What is shared.

    Attributes:
        vitals: load, speed and memory, as `aigrid top --grid` shows them.
        experience: how requests to other nodes went, in AuditRecords that everybody can read.
    """

    vitals: bool = True
    experience: bool = False


def share(value: Any, boolean: Callable[[Any], bool]) -> ShareConfig:
    """A table, or `vitals=false,experience=true`. Raises BadValueError.

    Args:
        value: as it was configured.
        boolean: reads yes or no; raises BadValueError.
    """
    value = table(value, "[share] with vitals = false")
    if not set(value) <= _NAMES:
        raise BadValueError(f"holds nothing but {' and '.join(sorted(_NAMES))}")
    return ShareConfig(**{key: read(key, boolean, said) for key, said in value.items()})
