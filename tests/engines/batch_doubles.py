"""A computer of rows whose logits tell what is in a row, and requests that can be cancelled."""

import threading
from collections.abc import Callable, Sequence

import numpy as np

from aigrid.protocol.errors import Code, EngineError

VOCABULARY = 16
FAILS, NO_NUMBER = 14, 15  # tokens on which a run fails, or a row's logits are not finite
POSITIONS = 64


class Request:
    """What a batch has to know of a request."""

    def __init__(self) -> None:
        self.cancelled = False
        self._hooks: list[Callable[[], object]] = []

    def on_cancel(self, hook: Callable[[], object]) -> None:
        self._hooks.append(hook)

    def advance(self) -> None:
        """Nobody listens."""

    def cancel(self) -> None:
        self.cancelled = True
        for hook in self._hooks:
            hook()


def likeliest(history: Sequence[int]) -> int:
    """The token that follows: of those that do no harm, by all that came before."""
    value = 0
    for token in history:
        value = (value * 31 + int(token) + 1) % 1009
    return value % FAILS


class FakeRows:
    """Keys and values are the tokens themselves.

    Attributes:
        runs: of each run the new tokens of each row.
        between: called in the middle of each run, with its number.
    """

    def __init__(
        self, rows: int, between: Callable[[int], object] = lambda _: None, *, room: int = 0
    ) -> None:
        self.logits = np.zeros((rows, VOCABULARY), np.float32)
        self.runs: list[list[list[int]]] = []
        self._held = np.full((rows, POSITIONS), -1)
        self.room = room or rows * POSITIONS
        self._between = between
        self._busy = threading.Lock()

    def compute(
        self, first: int, starts: Sequence[int], tokens: Sequence[int], run: Request
    ) -> bool:
        assert self._busy.acquire(blocking=False), "two threads at once"
        try:
            new = len(tokens) // len(starts)
            parts = [list(tokens[n * new : n * new + new]) for n in range(len(starts))]
            self.runs.append(parts)
            self._between(len(self.runs))
            if run.cancelled:
                return False
            for n, (start, part) in enumerate(zip(starts, parts, strict=True)):
                self._append(first + n, start, part)
            assert self.written() <= self.room, "more memory than there is"
            if FAILS in tokens:
                raise EngineError("it fails", Code.OUT_OF_MEMORY)
            return True
        finally:
            self._busy.release()

    def written(self) -> int:
        """Positions that take memory."""
        return int((self._held >= 0).sum())

    def swap(self, one: int, other: int, positions: int) -> None:
        assert not self._busy.locked(), "rows are exchanged while they are computed"
        self._held[[one, other], :positions] = self._held[[other, one], :positions]
        self._held[[one, other], positions:] = -1
        self.logits[[one, other]] = np.nan

    def drop(self, row: int, start: int) -> None:
        assert not self._busy.locked(), "a row is dropped while it is computed"
        self._held[row, start:] = -1

    def _append(self, row: int, start: int, part: Sequence[int]) -> None:
        held = self._held[row]
        held[start : start + len(part)] = part
        history = held[: start + len(part)]
        assert (history >= 0).all(), "positions that nobody computed"
        self.logits[row] = 0
        self.logits[row, likeliest(history.tolist())] = 1
        if NO_NUMBER in history:
            self.logits[row] = np.nan
