"""Yamux frames (https://github.com/hashicorp/yamux/blob/master/spec.md), version 0."""

import struct
from typing import Final

PROTOCOL_ID: Final = "/yamux/1.0.0"
HEADER: Final = struct.Struct("!BBHII")  # version, type, flags, stream id, length
HEADER_BYTES: Final = HEADER.size
DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
FLAGS_ALL: Final = SYN | ACK | FIN | RST
INITIAL_WINDOW_BYTES: Final = 256 * 1024
WINDOW_MAX_BYTES: Final = 1 << 31
NOISE_MESSAGE_MAX_BYTES: Final = 65519  # plaintext of one Noise message
PAYLOAD_MAX_BYTES: Final = NOISE_MESSAGE_MAX_BYTES - HEADER_BYTES  # a frame fits one message
GO_AWAY_NORMAL, GO_AWAY_VIOLATION = 0, 1


def data(stream_id: int, payload: memoryview) -> bytes:
    return HEADER.pack(0, DATA, 0, stream_id, len(payload)) + payload


def window_update(stream_id: int, increment: int, flags: int = 0) -> bytes:
    return HEADER.pack(0, WINDOW_UPDATE, flags, stream_id, increment)


def ping(value: int, flags: int) -> bytes:
    return HEADER.pack(0, PING, flags, 0, value)


def go_away(reason: int) -> bytes:
    return HEADER.pack(0, GO_AWAY, 0, 0, reason)
