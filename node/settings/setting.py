"""What is wrong with the value of a setting, and what several settings have in them."""

import datetime as dt
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from aigrid.protocol.errors import Code, UsageError

_T = TypeVar("_T")
_REGION = re.compile(r"[A-Za-z0-9]+([._-][A-Za-z0-9]+)*")
_PORT_MAX = 65535
_PORT_MAX_CHARS = 5
_KINDS: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (str, "a string"),
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a float"),
    ((list, tuple), "an array"),
    (Mapping, "a table"),
    ((dt.date, dt.time), "a date or time"),
)


class BadValueError(Exception):
    """What is wrong with one value: the end of a sentence that starts with the key."""

    def __init__(self, message: str, code: Code = Code.USAGE) -> None:
        super().__init__(message)
        self.code = code


class Spelled(str):
    """A value where everything is text: in the environment, and on the command line.

    In `config.toml` numbers and booleans have types of their own, and a string stands for neither.
    """

    __slots__ = ()


def kind_of(value: Any) -> str:
    """What TOML calls the type of a value."""
    return next((name for kind, name in _KINDS if isinstance(value, kind)), "something else")


def table(value: Any, form: str) -> Mapping[str, Any]:
    """A table, or `name=value,...` where everything is text. `form` shows how it is written.

    Raises:
        BadValueError: it is neither.
    """
    if isinstance(value, Spelled):
        parts = [part.rpartition("=") for part in value.split(",")]
        return {key.strip(): Spelled(said.strip()) for key, _, said in parts}
    if not isinstance(value, Mapping):
        raise BadValueError(f"must be a table such as {form}, and is {kind_of(value)}")
    return value


def read(key: str, reader: Callable[[Any], _T], said: Any) -> _T:
    """What a member of a table says. Raises BadValueError, which names `key`."""
    try:
        return reader(said)
    except BadValueError as error:
        raise BadValueError(f"{key} {error}", error.code) from None


def number_of(value: Any, most: int, form: str) -> int:
    """A whole number from 0 to `most`; `form` says which there are. Raises BadValueError."""
    if isinstance(value, Spelled) and value.isascii() and value.isdecimal():
        value = int(value[:20])  # of more digits `int` may want to know nothing
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadValueError(f"must be a number {form}, and is {kind_of(value)}")
    if not 0 <= value <= most:
        raise BadValueError(f"must be a number {form}")
    return value


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
