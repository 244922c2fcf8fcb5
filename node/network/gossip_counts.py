"""How many parts a gossip frame has, counted in its bytes before anything is made of them. Pure.

A part needs two bytes on the wire and an object in memory: a frame of 1 MiB holds half a million,
which takes a tenth of a second to parse alone. Counting stops at the first that is too many.

The format is that of https://protobuf.dev/programming-guides/encoding/, the fields are those of
https://github.com/libp2p/specs/blob/master/pubsub/gossipsub/gossipsub-v1.1.md#protobuf.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from aigrid.protocol.limits import LIMITS

_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
_PAYLOAD_BYTES: Final = {_FIXED64: 8, _FIXED32: 4, _GROUP: 0, _GROUP_END: 0}
_TAG_MOST: Final = (1 << 32) - 1  # the rest of a longer one is cut off by some parsers
_VARINT_BYTES_MAX: Final = 10


class TooManyPartsError(Exception):
    """Of one kind of part there are more than a frame may have, or the frame is malformed.

    An id of a message that is empty or longer than any counts as malformed.
    """


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of message, and which of its fields are messages too, or ids of messages."""

    most: int  # fields that all of the kind in a frame may have
    each: int  # fields that one may have
    parts: "Mapping[int, _Kind]" = field(default_factory=dict)
    strange: int = 0  # fields that one may have beside its parts or ids
    ids: int = 0


_CONTROLS: Final = LIMITS.gossip_control_max
_STRANGE: Final = 16  # what versions to come may add
_PRUNE = _Kind(16 * _CONTROLS, 48)
_GRAFT = _Kind(2 * _CONTROLS, 8)
_NAMED: Final = LIMITS.gossip_ids_max + _CONTROLS  # the ids, and a topic for each
_HAVE, _WANT = (_Kind(_NAMED, _NAMED, strange=_STRANGE, ids=number) for number in (2, 1))
_CONTROL = _Kind(
    _CONTROLS, _CONTROLS, {1: _HAVE, 2: _WANT, 3: _GRAFT, 4: _PRUNE, 5: _WANT}, _STRANGE
)
_MESSAGE = _Kind(8 * LIMITS.gossip_parts_max, 16)
_SUBSCRIPTION = _Kind(4 * LIMITS.gossip_parts_max, 8)
_FRAME = _Kind(
    LIMITS.gossip_parts_max,
    LIMITS.gossip_parts_max,
    {1: _SUBSCRIPTION, 2: _MESSAGE, 3: _CONTROL},
    _STRANGE,
)


def check(frame: bytes) -> int:
    """How many fields the frame has, with those of its parts.

    Raises:
        TooManyPartsError: parsing it could make more of it than it may.
    """
    counts: dict[int, int] = {}
    waiting = [(_FRAME, 0, len(frame))]
    while waiting:
        kind, start, end = waiting.pop()
        most = min(kind.each, kind.most - counts.get(id(kind), 0))
        if kind.parts:
            count, parts = _inner(frame, start, end, kind, most)
            waiting += parts
        else:
            count = _leaf(frame, start, end, kind, most)
        counts[id(kind)] = counts.get(id(kind), 0) + count
    return sum(counts.values())


def _inner(
    data: bytes, at: int, end: int, kind: _Kind, most: int
) -> tuple[int, list[tuple[_Kind, int, int]]]:
    """How many fields there are, and the parts among them with their beginnings and ends."""
    count, strange = 0, 0
    parts: list[tuple[_Kind, int, int]] = []
    while at < end:
        number, start, at = _field(data, at, end)
        part = kind.parts.get(number) if start else None
        count += 1
        if part is None:
            strange += 1
        elif start < at:
            parts.append((part, start, at))
        if count > most or strange > kind.strange:
            raise TooManyPartsError
    return count, parts


def _leaf(data: bytes, at: int, end: int, kind: _Kind, most: int) -> int:
    """How many fields there are; the lengths of ids are looked at. Most are told by two bytes."""
    count = ids = 0
    ids_tag = kind.ids << 3 | _BYTES if kind.ids else -1
    while at < end:
        count += 1
        if count > most or (kind.ids and count - ids > kind.strange):
            raise TooManyPartsError
        tag = data[at]
        if tag & 0x87 == _BYTES and at + 1 < end and (length := data[at + 1]) < 0x80:
            at += 2 + length
            if at > end or tag < 8:
                raise TooManyPartsError
        else:
            number, start, at = _field(data, at, end)
            tag = number << 3 | _BYTES if start else -2
            length = at - start
        if tag == ids_tag:
            ids += 1
            if not 0 < length <= LIMITS.gossip_id_bytes:
                raise TooManyPartsError
    return count


def _field(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Its number, where its bytes begin and the next field does; begins at 0 if it has none."""
    tag, at = _varint(data, at, end)
    number, wire_type = tag >> 3, tag & 7
    if tag > _TAG_MOST or wire_type > _FIXED32 or not number:
        raise TooManyPartsError
    if wire_type == _BYTES:
        length, start = _varint(data, at, end)
        at = start + length
        if at > end:
            raise TooManyPartsError
        return number, start, at
    if wire_type == _VARINT:
        return number, 0, _varint(data, at, end)[1]
    return number, 0, at + _PAYLOAD_BYTES[wire_type]


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number that begins there, and where the next thing does."""
    if at < end and (byte := data[at]) < 0x80:
        return byte, at + 1
    number = 0
    for place in range(min(_VARINT_BYTES_MAX, end - at)):
        byte = data[at + place]
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return number, at + place + 1
    raise TooManyPartsError
