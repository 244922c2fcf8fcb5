"""What the process that reads a model may open, and whether what it names lies there.

It reads files that nobody vouches for, so it is confined to them, and what it says is not believed:
a file that it names becomes a part of the model, and is given to whoever asks for that.
"""

from itertools import islice
from pathlib import Path

from aigrid.engines.draft import Draft
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS


def home_of(path: Path) -> Path:
    """The folder of a model: itself, or that of its file; exported graphs lie one deeper.

    Raises:
        EngineError: `model_file_missing`, for what cannot be a path here.
    """
    try:
        if path.is_dir():
            return path
    except OSError as error:
        raise EngineError(
            f"cannot read the model: {error.strerror}", Code.MODEL_FILE_MISSING
        ) from None
    return path.parent.parent if path.parent.name == "onnx" else path.parent


def readable_in(home: Path) -> tuple[str, ...]:
    """A folder, and what links in it lead to: a cache of the hub's keeps files elsewhere."""
    found = [home]
    try:
        entries = [*islice(home.iterdir(), LIMITS.model_neighbours_max)]
        for folder in (entry for entry in entries if entry.is_dir()):
            entries += islice(folder.iterdir(), LIMITS.files_max)
        found += [entry.resolve() for entry in entries if entry.is_symlink()]
    except OSError as error:
        raise EngineError(
            f"cannot read {home}: {error.strerror}", Code.MODEL_FILE_MISSING
        ) from None
    return tuple(map(str, found))


def checked(draft: Draft, home: Path) -> Draft:
    """Raises EngineError (`unsafe_file`) for a file that is not in the model's folder."""
    for name, path in draft.files.items():
        if ".." in path.parts or not path.is_relative_to(home):
            raise EngineError(f"{name!r} lies outside the model's folder", Code.UNSAFE_FILE)
    return draft
