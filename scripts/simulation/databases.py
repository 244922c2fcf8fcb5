"""Where the databases of a run lie: in memory, if there is room, and nowhere once it has ended."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.folders import MEMORY, temporary

PREFIX = "aigrid-simulated-"
ROOM_BYTES, ROOM_BYTES_PER_NODE = 256 << 20, 8 << 20  # of databases, with what nodes leave free
ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def databases(nodes: int) -> Iterator[Path]:
    """A folder. No signal leaves it there but SIGKILL; what that left goes with the next run."""
    with temporary(PREFIX, _place(nodes)) as folder:

        def leave(number: int, _frame: object) -> None:  # not unwound: anything may run just now
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(128 + number)

        before = {number: signal.signal(number, leave) for number in ENDING}
        try:
            yield folder
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _place(nodes: int) -> str | None:
    """None for where files that are temporary lie. Some containers have 64 MiB of shared memory."""
    try:
        room = shutil.disk_usage(MEMORY).free
    except OSError:
        return None
    return MEMORY if room >= ROOM_BYTES + ROOM_BYTES_PER_NODE * nodes else None
