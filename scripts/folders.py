"""Folders that commands write to: those they are given, and those of their own until they end."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MEMORY = "/dev/shm"
YOUNG_SECONDS = 60.0  # who made it may be about to lock it


def make(folder: Path, option: str) -> None:
    """Before a run: nobody wants to hear after an hour that it cannot be written.

    Raises ValueError, which names the option.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{option} {folder} cannot be written: {error.strerror}") from error


@contextmanager
def temporary(prefix: str, parent: str | None) -> Iterator[Path]:
    """One in `parent` (None: where files that are temporary lie), gone at the end.

    What a process that was killed left there, of that prefix, goes with the next that begins.
    """
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as made, locked(made):
        folder = Path(made)
        _sweep_beside(folder, prefix)
        yield folder


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Nobody else's meanwhile. The lock ends with the process. Raises OSError where another has it.

    A number of a process in its name would say less: another container may see the folder.
    """
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(held)


def _sweep_beside(own: Path, prefix: str) -> None:
    begun = own.stat().st_mtime
    for folder in own.parent.glob(f"{prefix}*"):
        with suppress(OSError):  # in use, somebody else's, or gone
            if begun - folder.stat().st_mtime > YOUNG_SECONDS:
                with locked(folder):
                    shutil.rmtree(folder, ignore_errors=True)
