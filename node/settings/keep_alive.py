"""How long a model should stay loaded, as clients write it: Ollama's `keep_alive`."""

import math
import re

from aigrid.protocol.errors import InvalidRequestError
from aigrid.protocol.limits import DAY

_MAX_CHARS = 32
_LONGEST_SECONDS = 366.0 * DAY
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:h|ms|m|s))+")
_PART = re.compile(r"([0-9.]+)(h|ms|m|s)")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")


def keep_alive_seconds(value: str | float, *, called: str = "keep_alive") -> float:
    """Seconds from a number of them, or from "5m", "1h30m", "90s"; negative: for good.

    Raises:
        InvalidRequestError: it is neither; `called` is what it is called there.
    """
    if not isinstance(value, str):
        if value < 0 or 0 <= value <= _LONGEST_SECONDS:
            return math.inf if value < 0 else float(value)
        value = "-"
    text = value.strip()[: _MAX_CHARS + 1]
    size = text.removeprefix("-")
    if len(text) <= _MAX_CHARS and text.isascii():
        if _NUMBER.fullmatch(size):
            seconds = float(size)
        elif _DURATION.fullmatch(size):
            seconds = sum(float(count) * _UNITS[unit] for count, unit in _PART.findall(size))
        else:
            seconds = math.inf
        if seconds <= _LONGEST_SECONDS:
            return math.inf if size != text and seconds else seconds
    raise InvalidRequestError(
        f'{called} is no time such as "5m", 300 (seconds), 0 or -1 (for good).',
        param=called,
    )
