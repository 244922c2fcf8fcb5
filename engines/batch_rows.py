"""The rows of a batch: what lies in them, and how much memory that takes. No threads in here."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from aigrid.engines.batch_plan import Held, best_row, side_by_side

S = TypeVar("S")
R_contra = TypeVar("R_contra", contravariant=True)


class Computer(Protocol[R_contra]):
    """Keys and values in rows. For one thread at a time; see `onnx_decoder.Rows`."""

    @property
    def logits(self) -> npt.NDArray[np.float32]: ...

    def compute(
        self, first: int, starts: Sequence[int], tokens: Sequence[int], run: R_contra
    ) -> bool: ...

    def swap(self, one: int, other: int, positions: int) -> None: ...
    def drop(self, row: int, start: int) -> None: ...


@dataclass(slots=True, eq=False)
class Row(Generic[S]):
    """What lies in a row: tokens, of which the first `whole` were computed in whole chunks.

    Attributes:
        written: positions that have taken memory since it was last given back.
        used: when it was last given to a sequence; larger is later.
        sequence: whose it is, or None for what others may go on with.
    """

    tokens: list[int] = field(default_factory=list)
    whole: int = 0
    written: int = 0
    used: int = 0
    sequence: S | None = None

    def clear(self) -> None:
        """Forget what lies there, though its memory is still taken."""
        self.tokens, self.whole = [], 0


class BatchRows(Generic[S]):
    """All rows, of which `room` positions together may take memory."""

    def __init__(
        self, computer: Computer[Any], count: int, *, chunk: int, room: int, reuse: bool
    ) -> None:
        self.room = room
        self._computer = computer
        self._rows = [Row[S]() for _ in range(count)]
        self._chunk = chunk
        self._reuse = reuse
        self._given = 0

    def __iter__(self) -> Iterator[Row[S]]:
        return iter(self._rows)

    def number(self, row: Row[S]) -> int:
        """Where a row lies now."""
        return self._rows.index(row)

    def give(self, sequence: S, tokens: Sequence[int]) -> Row[S] | None:
        """A row for a new sequence, with what it need not compute; None if all are taken."""
        held = [
            Held(row.tokens[: row.whole] if self._reuse else (), row.sequence is None, row.used)
            for row in self._rows
        ]
        found = best_row(held, tokens, self._chunk)
        if found is None:
            return None
        number, known = found
        row = self._rows[number]
        row.tokens = row.tokens[:known]
        self._given += 1
        row.whole, row.used, row.sequence = known, self._given, sequence
        return row

    def append(self, row: Row[S], tokens: Sequence[int], *, is_chunk: bool) -> None:
        """Note tokens that were computed, and whether as a chunk of a prompt."""
        if is_chunk and len(tokens) == self._chunk and row.whole == len(row.tokens):
            row.whole += self._chunk
        row.tokens.extend(tokens)

    def fits(self, more: Mapping[Row[S], int]) -> bool:
        """Whether there is memory for so many more tokens in rows."""
        counted = (max(row.written, len(row.tokens) + more.get(row, 0)) for row in self._rows)
        return sum(counted) <= self.room

    def let_go(self, more: Mapping[Row[S], int]) -> None:
        """Give back what nobody needs, then what idle rows keep, oldest first, until it fits."""
        for row in self._rows:
            self.trim(row)
        for row in sorted(self._rows, key=lambda row: row.used):
            if row.sequence is None and not self.fits(more):
                row.clear()
                self.trim(row)

    def trim(self, row: Row[S]) -> None:
        """Give memory back that a row has no tokens in."""
        if row.written > len(row.tokens):
            self._computer.drop(self.number(row), len(row.tokens))
            row.written = len(row.tokens)

    def arrange(
        self, wanted: Collection[Row[S]], fixed: Iterable[Row[S]]
    ) -> list[tuple[int, list[Row[S]]]]:
        """Bring rows together, as far as `fixed` ones allow; each span: its first, its rows.

        Without memory to exchange them they are computed where they lie.
        """
        rows = self._rows
        at = [self.number(row) for row in wanted]
        layout = side_by_side(at, [self.number(row) for row in fixed], len(rows))
        for one, other in layout.swaps:
            positions = max(len(rows[one].tokens), len(rows[other].tokens))
            try:
                self._computer.swap(one, other, positions)
            except MemoryError:
                at = [self.number(row) for row in wanted]
                layout = side_by_side(at, range(len(rows)), len(rows))
                break
            written = [max(rows[n].written, positions) for n in (one, other)]
            rows[one], rows[other] = rows[other], rows[one]
            rows[one].written, rows[other].written = written
            self.trim(rows[one])
            self.trim(rows[other])
        return [(first, rows[first : first + count]) for first, count in layout.spans]
