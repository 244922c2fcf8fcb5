"""Yamux frames (https://github.com/hashicorp/yamux/blob/master/spec.md), version 0."""

import struct
from typing import Final

PROTOCOL_ID: Final = "/yamux/1.0.0"
HEADER: Final = struct.Struct("!BBHII")  # version, type, flags, stream id, length
DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
INITIAL_WINDOW_BYTES: Final = 256 * 1024
WINDOW_MAX_BYTES: Final = 1 << 31
NOISE_MESSAGE_MAX_BYTES: Final = 65519  # plaintext of one Noise message
PAYLOAD_MAX_BYTES: Final = NOISE_MESSAGE_MAX_BYTES - HEADER.size  # a frame fits one message
GO_AWAY_NORMAL, GO_AWAY_VIOLATION = 0, 1


class ViolationError(Exception):
    """The peer broke the protocol; the connection ends."""


def data(stream_id: int, payload: memoryview) -> bytes:
    return HEADER.pack(0, DATA, 0, stream_id, len(payload)) + payload


def window_update(stream_id: int, increment: int, flags: int = 0) -> bytes:
    return HEADER.pack(0, WINDOW_UPDATE, flags, stream_id, increment)


def ping(value: int, flags: int) -> bytes:
    return HEADER.pack(0, PING, flags, 0, value)


def go_away(reason: int) -> bytes:
    return HEADER.pack(0, GO_AWAY, 0, 0, reason)


class Parser:
    """Bytes to frames. `feed` yields (type, flags, stream id, length, payload).

    The payload of a DATA frame comes in as many pieces as it arrived in; the flags of a frame
    come with its last piece, SYN with its first.
    """

    def __init__(self, payload_max_bytes: int) -> None:
        self._payload_max_bytes = payload_max_bytes
        self._header = bytearray()
        self._left = 0
        self._stream_id = 0
        self._flags = 0

    def feed(self, received: bytes) -> list[tuple[int, int, int, int, bytes]]:
        """Raises ViolationError for what cannot be a frame."""
        frames: list[tuple[int, int, int, int, bytes]] = []
        position = 0
        while position < len(received):
            if self._left:
                piece = received[position : position + self._left]
                position += len(piece)
                self._left -= len(piece)
                flags = 0 if self._left else self._flags
                frames.append((DATA, flags, self._stream_id, len(piece), piece))
                continue
            part = received[position : position + HEADER.size - len(self._header)]
            position += len(part)
            self._header += part
            if len(self._header) == HEADER.size:
                self._on_header(frames)
        return frames

    def _on_header(self, frames: list[tuple[int, int, int, int, bytes]]) -> None:
        version, kind, flags, stream_id, length = HEADER.unpack(self._header)
        self._header.clear()
        if version != 0 or kind > GO_AWAY:
            raise ViolationError(f"frame of version {version}, type {kind}")
        if kind != DATA or length == 0:
            frames.append((kind, flags, stream_id, length, b""))
            return
        if length > self._payload_max_bytes:
            raise ViolationError(f"frame of {length} bytes")
        if flags & SYN:
            frames.append((DATA, SYN, stream_id, 0, b""))
        self._left, self._stream_id, self._flags = length, stream_id, flags & ~SYN
