"""Sizes as an operator writes them, and how much memory models may take of which device."""

import re
from typing import Any

from aigrid.node.settings.setting import BadValueError
from aigrid.protocol.limits import LIMITS

_SIZE_MAX_BYTES = 2**53 - 1
_PLACE = re.compile(r"cpu|[a-z][a-z0-9_]{0,31}:[0-9]{1,2}")
_SIZE = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,6})?) ?(?:([KMGT])(i?)B|B)?")


def memory(value: Any) -> dict[str, int]:
    """Place of a device -> bytes, of a table or `cpu=8GiB,cuda:0=20GiB`. Raises BadValueError."""
    if isinstance(value, str):
        parts = [part.partition("=") for part in value.split(",")]
        entries: list[tuple[Any, Any]] = [(place.strip(), size.strip()) for place, _, size in parts]
    else:
        entries = list(value.items()) if isinstance(value, dict) else []
    if not 1 <= len(entries) <= LIMITS.devices_max:
        raise BadValueError("is not of the form cpu=8GiB,cuda:0=20GiB")
    found: dict[str, int] = {}
    for place, size in entries:
        bytes_ = size_bytes(size)
        if not isinstance(place, str) or not _PLACE.fullmatch(place) or bytes_ is None:
            raise BadValueError("is not of the form cpu=8GiB,cuda:0=20GiB")
        if found.setdefault(place, bytes_) != bytes_:
            raise BadValueError(f"names {place} twice")
    return found


def size_bytes(value: Any) -> int | None:
    """A size such as 20GiB, 1.5GB or a number of bytes; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if 0 <= value <= _SIZE_MAX_BYTES else None
    match = _SIZE.fullmatch(value) if isinstance(value, str) and value.isascii() else None
    if match is None:
        return None
    number, prefix, binary = match.groups()
    unit = (1024 if binary else 1000) ** ("KMGT".index(prefix) + 1) if prefix else 1
    size = int(float(number) * unit) if "." in number else int(number) * unit
    return size if size <= _SIZE_MAX_BYTES else None
