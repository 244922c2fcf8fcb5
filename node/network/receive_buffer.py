"""Received pieces of one stream until they are read, without copying large ones."""

from collections import deque
from typing import Final

# A piece costs some fifty bytes beside its own: small ones are joined, so that what a window
# allows is also about what it costs.
_JOINED_MAX_BYTES: Final = 4096


class ReceiveBuffer:
    """Bytes in order; `len` says how many."""

    __slots__ = ("_pieces", "_size", "_start")

    def __init__(self) -> None:
        self._pieces: deque[bytes | bytearray] = deque()
        self._start = 0  # of the first piece, that many bytes were taken
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, piece: bytes) -> None:
        self._size += len(piece)
        pieces = self._pieces
        if not pieces or len(piece) > _JOINED_MAX_BYTES or len(pieces[-1]) > _JOINED_MAX_BYTES:
            pieces.append(piece)
            return
        last = pieces[-1]
        if not isinstance(last, bytearray):
            last = pieces[-1] = bytearray(last)
        last += piece

    def take(self, count: int) -> bytes:
        """The next bytes, at most `count`."""
        pieces, start = self._pieces, self._start
        count = min(count, self._size)
        self._size -= count
        if not count:
            return b""
        if not start and len(pieces[0]) == count:
            return bytes(pieces.popleft())
        parts: list[bytes | bytearray] = []
        while count:
            first = pieces[0]
            part = first[start : start + count]
            parts.append(part)
            count -= len(part)
            start += len(part)
            if start == len(first):
                pieces.popleft()
                start = 0
        self._start = start
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def clear(self) -> None:
        self._pieces.clear()
        self._start = self._size = 0
