"""What a node and its dataset process say to each other: one order, one report, in turns.

A frame is a length (4 bytes, big-endian) and a msgpack array whose first item is the tag.
"""

import struct
from typing import Final

import msgspec

from aigrid.metagraph.query import AnswerFormat
from aigrid.protocol.limits import LIMITS, MIB

HEADER: Final = struct.Struct(">I")
FRAME_MAX_BYTES: Final = LIMITS.query_answer_max_bytes + MIB
BATCH_MAX_BYTES: Final = MIB


class Update(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Node: forget and take in; records are (content id, canonical bytes). Answered with `Done`."""

    removed: tuple[str, ...]
    added: tuple[tuple[str, bytes], ...]


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Node: evaluate a query. Answered with `Answer` or `Failed`."""

    query: str
    answer_format: AnswerFormat


class Done(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """Process: it is done; also the first word of a process that has started."""


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Process: the answer, in the format that was asked for."""

    body: bytes


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """Process: there is none, and why."""

    code: str
    message: str


Order = Update | Ask
Report = Done | Answer | Failed

_encoder = msgspec.msgpack.Encoder()
_orders: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)
_reports: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def encode(message: Order | Report) -> bytes:
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body


def decode_order(body: bytes) -> Order:
    return _orders.decode(body)


def decode_report(body: bytes) -> Report:
    """Raises ValueError (msgspec's errors are) for anything else."""
    try:
        return _reports.decode(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def length(header: bytes) -> int:
    """How long the body of a frame is. Raises ValueError if it is too long."""
    size: int = HEADER.unpack(header)[0]
    if size > FRAME_MAX_BYTES:
        raise ValueError(f"a frame of {size} bytes")
    return size
