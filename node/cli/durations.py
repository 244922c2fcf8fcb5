"""Durations as people write them: 90s, 10m, 24h, 30d."""

import re

from aigrid.node.settings.keep_alive import keep_alive_seconds
from aigrid.protocol.errors import InvalidRequestError, UsageError

_FORM = re.compile(r"([1-9][0-9]{0,9})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds_of(text: str | None, option: str) -> int | None:
    """Whole seconds; None for None. Raises UsageError that names the option."""
    if text is None:
        return None
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{option} {text[:32]!r} is no duration such as 90s, 10m, 24h or 30d")
    return int(match[1]) * _SECONDS[match[2]]


def check_keep_alive(text: str, option: str) -> None:
    """Raises UsageError that names the option, for what the node would not take."""
    try:
        keep_alive_seconds(text)
    except InvalidRequestError:
        problem = f"{option} {text[:32]!r} is no time such as 5m, 300 (seconds), 0 or -1"
        raise UsageError(problem) from None
