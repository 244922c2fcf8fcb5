"""What is wrong with the value of a setting, and what several settings have in them."""

import re
from pathlib import Path
from typing import Any

from aigrid.protocol.errors import Code, UsageError

_REGION = re.compile(r"[A-Za-z0-9]+([._-][A-Za-z0-9]+)*")
_PORT_MAX = 65535
_PORT_MAX_CHARS = 5


class BadValueError(Exception):
    """What is wrong with one value: the end of a sentence that starts with the key."""

    def __init__(self, message: str, code: Code = Code.USAGE) -> None:
        super().__init__(message)
        self.code = code


def texts(value: Any, what: str) -> tuple[str, ...]:
    """A list, or what stands between commas, each item once. Raises BadValueError."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise BadValueError(f"must be {what}")
    return tuple(dict.fromkeys(item.strip() for item in items if item.strip()))


def is_region(text: str) -> bool:
    """Whether it is a name that can be told from a slip of the hand: eu, us-west, EU.west."""
    return _REGION.fullmatch(text) is not None


def port_of(text: str) -> int | None:
    """A TCP port, 0 included; None for anything else."""
    # `int` refuses thousands of digits with an error of its own.
    if not (text.isascii() and text.isdecimal()) or len(text) > _PORT_MAX_CHARS:
        return None
    return int(text) if int(text) <= _PORT_MAX else None


def of_user(path: str | Path) -> Path:
    """A path that may begin with `~` or `~somebody`.

    Raises:
        UsageError: nobody knows that home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        shown = str(path)[:80]
        raise UsageError(f"{shown!r} is in no known home directory; write it in full") from None


def known_home() -> Path | None:
    """The home directory of whoever runs this, if there is one."""
    try:
        return Path.home()
    except RuntimeError:
        return None
