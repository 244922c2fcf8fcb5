"""How a bound is declared: a field with its default, and what the table in SPEC.md says of it."""

from dataclasses import field
from typing import Any

KIB, MIB, GIB = 1024, 1024**2, 1024**3
MINUTE, HOUR, DAY = 60, 3600, 86400


def limit(default: Any, doc: str) -> Any:
    """A field of a table of limits."""
    return field(default=default, metadata={"doc": doc})
