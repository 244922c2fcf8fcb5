"""Times on the wire: exactly `YYYY-MM-DDThh:mm:ss.sssZ`, a subset of RFC 3339.

Inside the program a time is an integer: milliseconds since 1970-01-01T00:00:00Z.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from aigrid.protocol.errors import VerificationError

# Hour 24, which newer versions of Python accept, would be a second spelling of midnight.
_FORM = re.compile(r"\d{4}-\d{2}-\d{2}T([01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{3}Z", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_SECONDS_KEPT = 64  # a request writes down several times that are all about now


def format_ms(time_ms: int) -> str:
    """The one spelling of a time. Raises VerificationError outside the years 1 to 9999."""
    seconds, ms = divmod(time_ms, 1000)
    return f"{_second(seconds)}.{ms:03}Z"


@lru_cache(_SECONDS_KEPT)
def _second(seconds: int) -> str:
    try:
        text = (_EPOCH + timedelta(seconds=seconds)).isoformat(timespec="seconds")
    except OverflowError:
        raise VerificationError("a time outside the years 1 to 9999") from None
    return text.removesuffix("+00:00")


def parse_ms(text: Any) -> int:
    """Milliseconds since the epoch. Raises VerificationError for any other spelling."""
    if not isinstance(text, str) or not _FORM.fullmatch(text):
        raise VerificationError("a time is not YYYY-MM-DDThh:mm:ss.sssZ")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise VerificationError(f"there is no time {text}") from None
    return (moment - _EPOCH) // _MS
