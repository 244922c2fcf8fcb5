"""Why bytes are no JSON that can be read, in words: what is wrong, and where. Pure."""

import re
from typing import Final

from aigrid.protocol.limits import LIMITS

DEEPEST: Final = 255
"""Arrays and objects inside each other that a contract can be checked against."""
_SAID_MAX_CHARS: Final = 200  # a decoder names each of those arrays and objects
_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{\]}]', re.DOTALL)
_HIGH, _LOW = range(0xD800, 0xDC00), range(0xDC00, 0xE000)


def no_json(raw: bytes, error: Exception) -> str:
    """What is wrong with `raw`, given the `error` that a decoder raised.

    Places are looked for in the first `duplicates_sought_max_bytes` alone: a mistake of a client
    is not worth more of this node's time.
    """
    head = raw[: LIMITS.duplicates_sought_max_bytes]
    if isinstance(error, RecursionError):
        at = _deeper(head)
        place = "" if at is None else f" at byte {at}"
        return f"it is nested more than {DEEPEST} deep{place}"
    try:
        raw.decode()
    except UnicodeDecodeError as wrong:
        return f"byte {wrong.start} is not UTF-8"
    half = _half_of_a_pair(head)
    if half is not None:
        at, said = half
        return f"{said} at byte {at} is half of a surrogate pair, and no character"
    said = str(error).removeprefix("JSON is malformed: ")
    if said.endswith("truncated"):
        return f"it ends too early, after {len(raw)} bytes"
    return said if len(said) <= _SAID_MAX_CHARS else f"{said[:_SAID_MAX_CHARS]}..."


def _deeper(raw: bytes) -> int | None:
    """Where the first array or object begins that is too deep; None where there is none."""
    depth = 0
    for found in _BRACKET.finditer(raw):
        if found[0] in b"[{":
            depth += 1
            if depth > DEEPEST:
                return found.start()
        elif found[0] in b"]}":
            depth -= 1
    return None


def _half_of_a_pair(raw: bytes) -> tuple[int, str] | None:
    """Where the first escape stands that is half of a character, and how it is written."""
    high: re.Match[bytes] | None = None
    for found in _ESCAPE.finditer(raw):
        unit = int(found[1], 16) if found[1] else 0
        if high is not None and not (unit in _LOW and found.start() == high.end()):
            break
        if high is None and unit in _LOW:
            high = found
            break
        high = found if unit in _HIGH else None
    return None if high is None else (high.start(), high[0].decode())
