"""Turn tokens into text as they come: whole characters only, stop strings held back."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """What may be said now; `stopped` once a stop string is complete."""

    text: str
    stopped: bool = False


class TextStream:
    """One answer's text; feed it the bytes of each token.

    The text ends before the stop string that is complete first (of those complete at once, before
    the one that began first). Bytes that are no UTF-8 become U+FFFD, as in decoding all at once.
    """

    __slots__ = ("_decoder", "_held", "_stopped", "_stops")

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self._stopped = False

    def feed(self, data: bytes) -> Piece:
        """Take the bytes of the next token."""
        return self._take(self._decoder.decode(data))

    def end(self) -> Piece:
        """Let go of what is still held back; a cut-off character becomes U+FFFD."""
        piece = self._take(self._decoder.decode(b"", final=True))
        rest, self._held = self._held, ""
        return Piece(piece.text + rest, piece.stopped)

    def _take(self, fresh: str) -> Piece:
        if self._stopped:
            return Piece("", stopped=True)
        if not self._stops:
            return Piece(fresh)
        text = self._held + fresh
        start = _first_stop(text, self._stops)
        if start is not None:
            self._held, self._stopped = "", True
            return Piece(text[:start], stopped=True)
        keep = _held_back(text, self._stops)
        self._held = text[len(text) - keep :]
        return Piece(text[: len(text) - keep])


def _first_stop(text: str, stops: tuple[str, ...]) -> int | None:
    """Where the text ends, or None if no stop string is complete."""
    found = [(start + len(stop), start) for stop in stops if (start := text.find(stop)) >= 0]
    return min(found)[1] if found else None


def _held_back(text: str, stops: tuple[str, ...]) -> int:
    """Length of the longest end of the text that may be the beginning of a stop string."""
    longest = min(len(text), max(map(len, stops)) - 1)
    for size in range(longest, 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops if len(stop) > size):
            return size
    return 0
