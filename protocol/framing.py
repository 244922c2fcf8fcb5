"""Frames of an RPC stream.

    length  4 bytes, big-endian: how many bytes follow, kind included
    kind    1 byte, a `FrameKind`
    body    at most `limits.frame_max_bytes`

The body of an ERROR is a msgpack map {code, message, retry_after_seconds}, that of a CREDIT a
4-byte big-endian count of bytes; END and CANCEL have none.
"""

import math
import struct
import sys
from enum import IntEnum
from typing import NamedTuple

import msgspec

from aigrid.protocol.errors import AigridError, Code, RemoteError
from aigrid.protocol.limits import LIMITS

HEADER_BYTES = 5

_HEADER = struct.Struct(">IB")
_LENGTH = struct.Struct(">I")


class FrameKind(IntEnum):
    """What a frame is. REQUEST is the last or only part of a request; after a PART more follows."""

    REQUEST = 1
    REQUEST_PART = 2
    DATA = 3
    END = 4
    ERROR = 5
    CANCEL = 6
    CREDIT = 7


_KINDS = {int(kind): kind for kind in FrameKind}


class Frame(NamedTuple):
    """One frame, its length already checked."""

    kind: FrameKind
    body: bytes


class ErrorBody(msgspec.Struct, frozen=True):
    """What an ERROR frame says. `code` is one of `Code`, or unknown to an older node."""

    code: str
    message: str
    retry_after_seconds: float | None = None


_ERROR_ENCODER = msgspec.msgpack.Encoder()
_ERROR_DECODER = msgspec.msgpack.Decoder(ErrorBody)


def header(kind: FrameKind, body_bytes: int) -> bytes:
    """The bytes before a body of that size; lets a large body be sent without a copy."""
    return _HEADER.pack(body_bytes + 1, kind)


def encode(kind: FrameKind, body: bytes = b"") -> bytes:
    """One whole frame. The caller keeps the body within `limits.frame_max_bytes`."""
    return _HEADER.pack(len(body) + 1, kind) + body


class FrameDecoder:
    """Cuts a byte stream into frames; holds at most one unfinished frame.

    A length is checked when its four bytes are there, before anything of the body is kept. After an
    error every further `feed` raises the same error: there is no way to find the next frame.
    """

    def __init__(self, max_bytes: int = LIMITS.frame_max_bytes) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()
        self._needed_bytes = HEADER_BYTES
        self._broken: RemoteError | None = None
        self.left = b""

    @property
    def held_bytes(self) -> int:
        """Bytes of the unfinished frame."""
        return len(self._rest)

    def feed(self, data: bytes, frames_max: int = sys.maxsize) -> list[Frame]:
        """Frames that are complete now, in order.

        After `frames_max` of them no more is looked at; what is behind them is in `left`, to be
        fed next.

        Raises:
            RemoteError: `frame_too_large`, or `protocol_violation` for a kind that is not known.
        """
        if self._broken is not None:
            raise self._broken
        rest = self._rest
        self.left = b""
        if rest:
            rest += data
            if len(rest) < self._needed_bytes:
                return []
            data = bytes(rest)
            rest.clear()
        try:
            frames, end = self._cut(data, frames_max)
        except RemoteError as error:
            self._broken = error
            raise
        if end < len(data) and len(frames) == frames_max:
            self.left = data[end:]
        elif end < len(data):
            rest += data[end:] if end else data
        return frames

    def _cut(self, data: bytes, frames_max: int) -> tuple[list[Frame], int]:
        frames: list[Frame] = []
        start, size = 0, len(data)
        while size - start >= HEADER_BYTES and len(frames) < frames_max:
            length, code = _HEADER.unpack_from(data, start)
            kind = self._check(length, code)
            end = start + 4 + length
            if end > size:
                self._needed_bytes = end - start
                return frames, start
            frames.append(Frame(kind, data[start + HEADER_BYTES : end]))
            start = end
        self._needed_bytes = HEADER_BYTES
        return frames, start

    def _check(self, length: int, code: int) -> FrameKind:
        if length - 1 > self._max_bytes:
            raise RemoteError(f"a frame of {length} bytes", Code.FRAME_TOO_LARGE)
        kind = _KINDS.get(code)
        if kind is None or length == 0:
            raise RemoteError(f"a frame of kind {code} and length {length}")
        return kind


def encode_credit(count: int) -> bytes:
    """Body of a CREDIT."""
    return _LENGTH.pack(count)


def decode_credit(body: bytes) -> int:
    """Count of a CREDIT, at least 1.

    Raises:
        RemoteError: `protocol_violation`.
    """
    if len(body) != _LENGTH.size:
        raise RemoteError(f"a credit of {len(body)} bytes")
    count: int = _LENGTH.unpack(body)[0]
    if count == 0:
        raise RemoteError("an empty credit")
    return count


def encode_error(error: AigridError) -> bytes:
    """Body of an ERROR; the message is cut to `LIMITS.error_message_max_chars`."""
    text = error.message[: LIMITS.error_message_max_chars].encode("utf-8", "replace").decode()
    return _ERROR_ENCODER.encode(ErrorBody(error.code, text, error.retry_after_seconds))


def decode_error(body: bytes) -> RemoteError:
    """The error that an ERROR carries; a code that we do not know becomes `internal`.

    Raises:
        RemoteError: `protocol_violation` when the body is not one.
    """
    if len(body) > LIMITS.error_body_max_bytes:
        raise RemoteError(f"an error of {len(body)} bytes")
    try:
        said = _ERROR_DECODER.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise RemoteError("an error frame that cannot be read") from None
    try:
        code = Code(said.code)
    except ValueError:
        code = Code.INTERNAL
    after = said.retry_after_seconds
    if after is not None:
        after = (
            min(max(after, 0.0), LIMITS.retry_after_max_seconds) if math.isfinite(after) else None
        )
    return RemoteError(
        said.message[: LIMITS.error_message_max_chars], code, retry_after_seconds=after
    )
