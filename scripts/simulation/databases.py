"""Where the databases of a run lie: in memory, if there is room, and nowhere once it has ended."""

import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MEMORY = "/dev/shm"
PREFIX = "aigrid-simulated-"
ROOM_BYTES, ROOM_BYTES_PER_NODE = 256 << 20, 8 << 20  # of databases, with what nodes leave free
ENDING = (signal.SIGTERM, signal.SIGHUP)
YOUNG_SECONDS = 60.0  # its run may be about to lock it


@contextmanager
def databases(nodes: int) -> Iterator[Path]:
    """A folder. No signal leaves it there but SIGKILL; what that left goes with the next run."""
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=_place(nodes)) as folder, _locked(folder):
        _sweep_beside(Path(folder))

        def leave(number: int, _frame: object) -> None:  # not unwound: anything may run just now
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(128 + number)

        before = {number: signal.signal(number, leave) for number in ENDING}
        try:
            yield Path(folder)
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


@contextmanager
def _locked(folder: str | Path) -> Iterator[None]:
    """Nobody else's meanwhile. The lock ends with the process. Raises OSError where another has it.

    A number of a process in its name would say less: another container may see the folder.
    """
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(held)


def _sweep_beside(own: Path) -> None:
    """Remove what runs that were killed left."""
    begun = own.stat().st_mtime
    for folder in own.parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # in use, somebody else's, or gone
            if begun - folder.stat().st_mtime > YOUNG_SECONDS:
                with _locked(folder):
                    shutil.rmtree(folder, ignore_errors=True)
