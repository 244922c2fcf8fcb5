"""How many parts a gossip frame has, counted in its bytes before anything is made of them. Pure.

A part needs two bytes on the wire and an object in memory: a frame of 1 MiB holds half a million,
which takes a tenth of a second to parse alone. Counting stops at the first that is too many.

The format is that of https://protobuf.dev/programming-guides/encoding/, the fields are those of
https://github.com/libp2p/specs/blob/master/pubsub/gossipsub/gossipsub-v1.1.md#protobuf.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from aigrid.protocol.limits import LIMITS

_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
_PAYLOAD_BYTES: Final = {_FIXED64: 8, _FIXED32: 4, _GROUP: 0, _GROUP_END: 0}
_TAG_MOST: Final = (1 << 32) - 1  # the rest of a longer one is cut off by some parsers
_VARINT_BYTES_MAX: Final = 10


class TooManyPartsError(Exception):
    """Of one kind of part there are more than a frame may have, or the frame is malformed."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of message: how many fields all of it in a frame have, and which are messages too."""

    most: int
    parts: "Mapping[int, _Kind]" = field(default_factory=dict)


_PRUNE = _Kind(16 * LIMITS.gossip_control_max)
_NAMED = _Kind(LIMITS.gossip_ids_max + LIMITS.gossip_control_max)  # the ids, and a topic for each
_CONTROL = _Kind(
    LIMITS.gossip_control_max,
    {1: _NAMED, 2: _NAMED, 3: _Kind(2 * LIMITS.gossip_control_max), 4: _PRUNE, 5: _NAMED},
)
_MESSAGE = _Kind(8 * LIMITS.gossip_parts_max)
_SUBSCRIPTION = _Kind(4 * LIMITS.gossip_parts_max)
_FRAME = _Kind(LIMITS.gossip_parts_max, {1: _SUBSCRIPTION, 2: _MESSAGE, 3: _CONTROL})


def check(frame: bytes) -> None:
    """Raises TooManyPartsError if parsing the frame could make more of it than it may."""
    counts: dict[int, int] = {}
    waiting = [(_FRAME, 0, len(frame))]
    while waiting:
        kind, start, end = waiting.pop()
        count = counts.get(id(kind), 0)
        for number, at, behind in _fields(frame, start, end):
            count += 1
            if count > kind.most:
                raise TooManyPartsError
            if behind and (part := kind.parts.get(number)) is not None:
                waiting.append((part, at, behind))
        counts[id(kind)] = count


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The number of each field, where its bytes begin and end; 0 as the end if it has none."""
    while at < end:
        tag, at = _varint(data, at, end)
        number, wire_type = tag >> 3, tag & 7
        if tag > _TAG_MOST or wire_type > _FIXED32:
            raise TooManyPartsError
        if wire_type == _BYTES:
            length, start = _varint(data, at, end)
            at = start + length
            if at > end:
                raise TooManyPartsError
            yield number, start, at
        elif wire_type == _VARINT:
            _, at = _varint(data, at, end)
            yield number, 0, 0
        else:
            at += _PAYLOAD_BYTES[wire_type]
            yield number, 0, 0


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
