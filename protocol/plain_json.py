"""Canonical JSON (RFC 8785) for the values where it takes no care, at the speed of a C encoder.

A sorted, compact encoding by msgspec and the canonical form differ in three places only:

- numbers: msgspec keeps `1.0` and `1e3`, and writes integers of any size. Text with a number that
  is not an integer, or one of 16 digits or more (2**53 has 16), is not plain.
- the order of members: UTF-16 units there, code points here. They agree as long as no character
  lies beyond U+FFFF, which in UTF-8 is one that begins with 0xF0 or more.
- values which JSON does not have: these never come back from text as what they were.

Strings are written alike: both escape the quotation mark, the backslash and what is below U+0020,
with the same short forms and lower-case hex digits. Text that decodes to a value and is written
back to the same bytes therefore is that value's canonical form, and holds no member twice.
"""

import re
from typing import Any, NoReturn

import msgspec

_ENCODER = msgspec.json.Encoder(order="sorted")
_LONG_NUMBER = re.compile(rb"[\[:,]-?[0-9]{16}")  # or what looks like one within a string
_BEYOND_FFFF = re.compile(rb"[\xf0-\xff]")


def read(raw: bytes) -> Any:
    """The object or array whose canonical form `raw` is shown to be; None if it takes more care."""
    try:
        value = _DECODER.decode(raw)
        return value if _ENCODER.encode(value) == raw and _is_plain(raw) else None
    except (ValueError, RecursionError):  # those of msgspec are ValueErrors
        return None


def write(value: Any) -> bytes | None:
    """The canonical form of an object or array; None if it takes more care."""
    try:
        raw = _ENCODER.encode(value)
        return raw if _is_plain(raw) and _DECODER.decode(raw) == value else None
    except (ValueError, TypeError, RecursionError):
        return None


def write_part(value: Any) -> bytes:
    """The canonical form of what `read` returned, or of anything made of parts of it."""
    return _ENCODER.encode(value)


def _is_plain(raw: bytes) -> bool:
    return (
        raw[:1] in (b"{", b"[")
        and not _LONG_NUMBER.search(raw)
        and (raw.isascii() or not _BEYOND_FFFF.search(raw))
    )


def _not_an_integer(_digits: str) -> NoReturn:
    raise ValueError


_DECODER = msgspec.json.Decoder(float_hook=_not_an_integer)
