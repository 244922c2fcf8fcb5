"""Memory for keys and values, which takes no more than what is written there.

It is mapped in one piece, in small pages: a row of which few positions are written takes memory for
those, and what is dropped goes back to the system.
"""

import contextlib
import mmap
from collections.abc import Sequence
from math import prod
from typing import Final

import numpy as np

from aigrid.engines.gguf_quant import Floats
from aigrid.protocol.limits import LIMITS

_SPARE_BYTES: Final = LIMITS.worker_headroom_bytes // 4


class Past:
    """Arrays of the same shape (rows, heads, positions, size), float32, zero at first.

    Attributes:
        named: the arrays, by their names.
    """

    def __init__(self, names: Sequence[str], shape: tuple[int, int, int, int]) -> None:
        """Reserve the address space of all.

        Raises:
            OSError: there is none.
        """
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        with mmap.mmap(-1, _SPARE_BYTES, flags=private):  # so much has to be left for computing
            self._memory = mmap.mmap(-1, 4 * len(names) * prod(shape), flags=private)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):  # which would take megabytes for the first position
            with contextlib.suppress(OSError):
                self._memory.madvise(mmap.MADV_NOHUGEPAGE)
        whole = np.frombuffer(self._memory, np.float32).reshape(len(names), *shape)
        self.named: dict[str, Floats] = dict(zip(names, whole, strict=True))
        self._shape = shape

    def swap(self, one: int, other: int, positions: int) -> None:
        """Exchange the first positions of two rows; what comes after them is lost.

        Raises:
            MemoryError: there is none for one array's part of a row; nothing was exchanged.
        """
        _, heads, _, size = self._shape
        held = np.empty((heads, positions, size), np.float32)
        for values in self.named.values():
            held[...] = values[one, :, :positions]
            values[one, :, :positions] = values[other, :, :positions]
            values[other, :, :positions] = held

    def drop(self, row: int, start: int) -> None:
        """Give a row's memory from a position on back to the system, in whole pages."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        page, (rows, heads, positions, size) = mmap.PAGESIZE, self._shape
        for part in range(len(self.named) * heads):
            array, head = divmod(part, heads)
            begin = 4 * size * positions * ((array * rows + row) * heads + head)
            first = -(-(begin + 4 * size * start) // page) * page
            last = (begin + 4 * size * positions) // page * page
            if last > first:
                self._memory.madvise(mmap.MADV_DONTNEED, first, last - first)
