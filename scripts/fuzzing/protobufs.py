"""Mutations of protobuf messages field by field: lengths around a change stay right."""

from collections.abc import Sequence
from random import Random

from scripts.fuzzing.mutations import INTERESTING, Bytes, mutated

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DEPTH_MAX = 8
_GROWTH_MAX_BYTES = 1 << 15
_LEAF = 0.2  # how often a field is changed as a whole though it may hold others

Fields = list[tuple[int, int, bytes]]  # number, wire type, content


class Protobuf(Bytes):
    """Seeds that are messages; a field that is one is gone into."""

    def __init__(self, seeds: Sequence[bytes]) -> None:
        super().__init__(seeds)

    def make(self, rng: Random) -> bytes:
        if rng.getrandbits(2) == 0:
            return super().make(rng)
        data = rng.choice(self.seeds)
        for _ in range(1 + rng.getrandbits(1)):
            data = self._changed(rng, data, 0)
        return data

    def _changed(self, rng: Random, data: bytes, depth: int) -> bytes:
        fields = fields_of(data)
        if not fields or depth > _DEPTH_MAX:
            return mutated(rng, data, self.seeds) if data else rng.randbytes(rng.getrandbits(3))
        at = rng.randrange(len(fields))
        number, wire, content = fields[at]
        if wire == _BYTES and rng.random() > _LEAF:
            fields[at] = (number, wire, self._changed(rng, content, depth + 1))
            return written(fields)
        match rng.randrange(6):
            case 0:
                del fields[at]
            case 1:
                fields[at:at] = [fields[at]] * min(rng.choice((1, 2, 100, 2000)), _room(content))
            case 2:
                fields[at] = (
                    rng.choice((0, 1, 2, 3, 5, 7, 8, 13, 14, 20, 25, 2**29)),
                    wire,
                    content,
                )
            case 3:
                other = fields_of(rng.choice(self.seeds)) or fields
                fields.insert(rng.randrange(len(fields) + 1), rng.choice(other))
            case 4:
                fields[at] = (number, _VARINT, varint(rng.choice(INTERESTING) & (2**64 - 1)))
            case _:
                fields[at] = (
                    number,
                    _BYTES,
                    content * min(rng.choice((0, 1, 2, 300)), _room(content)),
                )
        return written(fields)


def _room(content: bytes) -> int:
    """How often a content may stand."""
    return 1 + _GROWTH_MAX_BYTES // (4 + len(content))


def varint(value: int) -> bytes:
    """Base 128, least significant digit first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def fields_of(data: bytes) -> Fields:
    """The fields of a message; none of what is no message."""
    found: Fields = []
    at = 0
    try:
        while at < len(data):
            key, at = _read(data, at)
            number, wire = key >> 3, key & 7
            begin = at
            if wire == _VARINT:
                _, at = _read(data, at)
                found.append((number, wire, data[begin:at]))
                continue
            if wire == _BYTES:
                size, begin = _read(data, at)
            else:
                size = {_FIXED32: 4, _FIXED64: 8}[wire]
            at = begin + size
            if at > len(data) or not number:
                return []
            found.append((number, wire, data[begin:at]))
    except (IndexError, KeyError):
        return []
    return found


def written(fields: Fields) -> bytes:
    """The message of these fields."""
    out = bytearray()
    for number, wire, content in fields:
        out += varint(number << 3 | wire)
        if wire == _BYTES:
            out += varint(len(content))
        out += content
    return bytes(out)


def _read(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
