"""The body of an answer out of what comes of it, as RFC 9112 (6, 7) frames it. Pure."""

import re
from typing import Final

_SIZE: Final = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;.*)?", re.DOTALL)
_LINE_MAX_BYTES: Final = 4096


class Body:
    """`length` in bytes: of one that is not `chunked`; None where the connection's end is its end.

    http.client would hand out one chunk at a time, though many came together.

    Attributes:
        over: whether all of it has come.
    """

    def __init__(self, length: int | None, *, chunked: bool) -> None:
        self._chunked = chunked
        self._left = 0 if chunked else length  # of the body, or of the chunk that has begun
        self._rest = b""
        self._closes_chunk = self._trails = False
        self.over = not chunked and length == 0

    @property
    def ends_with_connection(self) -> bool:
        return self._left is None

    @property
    def is_clean(self) -> bool:
        """Whether it is over, and nothing has come behind it."""
        return self.over and not self._rest

    def feed(self, data: bytes) -> bytes:
        """What of the body `data` holds. Raises ValueError for what is no chunk."""
        if self._chunked:
            return self._chunks(self._rest + data)
        if self._left is None:
            return data
        piece, self._rest = data[: self._left], data[self._left :]
        self._left -= len(piece)
        self.over = not self._left
        return piece

    def _chunks(self, data: bytes) -> bytes:
        parts: list[bytes] = []
        at = 0
        while not self.over:
            if self._left:
                part = data[at : at + self._left]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                if self._left:
                    break
            end = data.find(b"\n", at)
            if (len(data) if end < 0 else end) - at > _LINE_MAX_BYTES:
                raise ValueError("a line without end")
            if end < 0:
                break
            self._line(data[at:end].removesuffix(b"\r"))
            at = end + 1
        self._rest = data[at:]
        return b"".join(parts)

    def _line(self, line: bytes) -> None:
        """Between two chunks, or behind the last."""
        if self._trails:
            self.over = not line
        elif self._closes_chunk:
            if line:
                raise ValueError("a chunk is longer than it says")
            self._closes_chunk = False
        else:
            size = _SIZE.fullmatch(line)
            if size is None:
                raise ValueError("the size of a chunk is no number")
            self._left = int(size[1], 16)
            self._trails = not self._left
            self._closes_chunk = not self._trails
