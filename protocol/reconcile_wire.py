"""The bytes of range-based set reconciliation: negentropy protocol, version 1.

Source: docs/negentropy-protocol-v1.md of github.com/hoytech/negentropy. A message is the version
byte and ranges in ascending order; a range is an upper bound, a mode and what the mode calls for.

Here an item is 40 bytes, its timestamp (8 bytes, big-endian) and its id, and a bound is the first 8
to 40 bytes of an item: comparing bytes then orders items and bounds as the protocol does.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from aigrid.protocol.errors import RemoteError

VERSION = 0x61
ID_BYTES = 32
FINGERPRINT_BYTES = 16
TIMESTAMP_BYTES = 8
TIMESTAMP_MAX = 2**64 - 2
ZERO = bytes(TIMESTAMP_BYTES)
INFINITY = b"\xff" * TIMESTAMP_BYTES

_ITEM_BYTES = TIMESTAMP_BYTES + ID_BYTES
_VARINT_BYTES_MAX = 10


class Mode(IntEnum):
    """What a range says of the items in it."""

    SKIP = 0
    FINGERPRINT = 1
    ID_LIST = 2


@dataclass(frozen=True, slots=True)
class Range:
    """The items from the bound before it up to, but not including, `upper`."""

    upper: bytes
    mode: Mode
    fingerprint: bytes = b""
    ids: tuple[bytes, ...] = ()


def decode_ranges(message: bytes, ranges_max: int) -> Iterator[Range]:
    """The ranges that follow the version byte, one at a time, at most `ranges_max`.

    Raises:
        RemoteError: `protocol_violation`, where the first mistake is met.
    """
    reader = _Reader(message)
    reader.take(1)
    lower = ZERO
    while reader.left:
        if not ranges_max:
            raise RemoteError("more ranges than there is reason for")
        ranges_max -= 1
        if lower == INFINITY:
            raise RemoteError("a range after infinity")
        upper = reader.bound()
        if upper.ljust(_ITEM_BYTES, b"\0") < lower.ljust(_ITEM_BYTES, b"\0"):
            raise RemoteError("a range that ends before it begins")
        yield reader.range(upper)
        lower = upper


def varint(number: int) -> bytes:
    """Base 128, most significant digit first, as few digits as possible."""
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(number & 0x7F | 0x80)
    return bytes(reversed(digits))


class Writer:
    """A message being written; `size` is its length so far."""

    def __init__(self) -> None:
        self._parts: list[bytes] = [bytes([VERSION])]
        self._timestamp = 0
        self.size = 1

    @property
    def empty(self) -> bool:
        """Whether there is no range in it."""
        return self.size == 1

    def skip(self, upper: bytes) -> None:
        self._add(self._bound(upper) + varint(Mode.SKIP))

    def fingerprint(self, upper: bytes, fingerprint: bytes) -> None:
        self._add(self._bound(upper) + varint(Mode.FINGERPRINT) + fingerprint)

    def id_list(self, upper: bytes, ids: list[bytes]) -> None:
        head = self._bound(upper) + varint(Mode.ID_LIST) + varint(len(ids))
        self._add(head + b"".join(ids))

    def mark(self) -> tuple[int, int, int]:
        """Where `rewind` can go back to."""
        return (len(self._parts), self._timestamp, self.size)

    def rewind(self, mark: tuple[int, int, int]) -> None:
        """Take back what was written since."""
        count, self._timestamp, self.size = mark
        del self._parts[count:]

    def message(self) -> bytes:
        return b"".join(self._parts)

    def _add(self, part: bytes) -> None:
        self._parts.append(part)
        self.size += len(part)

    def _bound(self, bound: bytes) -> bytes:
        prefix = bound[TIMESTAMP_BYTES:]
        if bound.startswith(INFINITY):
            return varint(0) + varint(0)
        timestamp = int.from_bytes(bound[:TIMESTAMP_BYTES], "big")
        offset, self._timestamp = timestamp - self._timestamp, timestamp
        return varint(1 + offset) + varint(len(prefix)) + prefix


class _Reader:
    """Takes a message apart; every method raises RemoteError where it does not hold."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._at = 0
        self._timestamp = 0

    @property
    def left(self) -> int:
        return len(self._message) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise RemoteError("a reconciliation message ends early")
        self._at += count
        return self._message[self._at - count : self._at]

    def varint(self) -> int:
        value = 0
        for place in range(_VARINT_BYTES_MAX):
            (digit,) = self.take(1)
            if place == 0 and digit == 0x80:
                break
            value = value << 7 | digit & 0x7F
            if not digit & 0x80:
                if value >= 2**64:
                    break
                return value
        raise RemoteError("not a varint of 64 bits in its shortest form")

    def bound(self) -> bytes:
        encoded = self.varint()
        length = self.varint()
        if length > ID_BYTES:
            raise RemoteError("a bound longer than an id")
        prefix = self.take(length)
        if encoded == 0:
            return INFINITY  # some implementations send a prefix with it, which says nothing
        self._timestamp += encoded - 1
        if self._timestamp > TIMESTAMP_MAX:
            raise RemoteError("a timestamp beyond 64 bits")
        return self._timestamp.to_bytes(TIMESTAMP_BYTES, "big") + prefix

    def range(self, upper: bytes) -> Range:
        mode = self.varint()
        if mode == Mode.SKIP:
            return Range(upper, Mode.SKIP)
        if mode == Mode.FINGERPRINT:
            return Range(upper, Mode.FINGERPRINT, fingerprint=self.take(FINGERPRINT_BYTES))
        if mode != Mode.ID_LIST:
            raise RemoteError("an unknown mode of a range")
        ids = self.take(self.varint() * ID_BYTES)
        return Range(
            upper,
            Mode.ID_LIST,
            ids=tuple(ids[i : i + ID_BYTES] for i in range(0, len(ids), ID_BYTES)),
        )
