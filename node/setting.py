"""What is wrong with the value of a setting, and lists in one."""

from typing import Any

from aigrid.protocol.errors import Code


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
