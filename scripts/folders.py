"""Folders that commands write to."""

import tempfile
from pathlib import Path


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
