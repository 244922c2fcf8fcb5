"""Walks protobuf messages without building them, for checks before a runtime parses a file.

Source of the format: protobuf.dev, "Encoding". Groups, which no format here uses, are refused.
Nothing is copied but what is asked for; the work is bounded by `LIMITS.protobuf_fields_max`.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from aigrid.protocol.limits import LIMITS

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_MASK64: Final = 2**64 - 1


class Field(NamedTuple):
    """One field of a message; `end` - `start` is the extent of a BYTES field's content."""

    number: int
    wire: int
    value: int
    start: int
    end: int


class Walker:
    """Reads the fields of messages in one buffer.

    Raises:
        ValueError: for what is no protobuf, or for too much of it.
    """

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer
        self._left = LIMITS.protobuf_fields_max

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """The fields of the message in [start, end), in order."""
        buffer = self._buffer
        at = start
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise ValueError("too many fields")
            key, at = self.varint(at, end)
            number, wire = key >> 3, key & 7
            if wire == VARINT:
                value, at = self.varint(at, end)
                yield Field(number, wire, value, at, at)
                continue
            if wire == BYTES:
                size, at = self.varint(at, end)
                value = 0
            elif wire == FIXED32:
                size = 4
                value = _U32.unpack_from(buffer, at)[0] if at + 4 <= end else 0
            elif wire == FIXED64:
                size = 8
                value = _U64.unpack_from(buffer, at)[0] if at + 8 <= end else 0
            else:
                raise ValueError(f"wire type {wire}")
            if number == 0 or size > end - at:
                raise ValueError("a field reaches beyond its message")
            yield Field(number, wire, value, at, at + size)
            at += size

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """The number at `at` and where it ends."""
        buffer = self._buffer
        result = shift = 0
        while at < end and shift < 70:
            byte = buffer[at]
            at += 1
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result & _MASK64, at
            shift += 7
        raise ValueError("a number without end")

    def integers(self, field: Field) -> list[int]:
        """The signed values of a repeated int64 field, packed or not."""
        if field.wire == VARINT:
            return [_signed(field.value)]
        if field.wire != BYTES:
            raise ValueError("not an integer")
        values, at = [], field.start
        while at < field.end:
            self._left -= 1
            if self._left < 0:
                raise ValueError("too many fields")
            value, at = self.varint(at, field.end)
            values.append(_signed(value))
        return values

    def text(self, field: Field, max_bytes: int = 4096) -> str:
        """A string field."""
        if field.wire != BYTES or field.end - field.start > max_bytes:
            raise ValueError("not a text, or too long")
        return str(self._buffer[field.start : field.end], "utf-8", "replace")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
