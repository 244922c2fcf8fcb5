"""What lies in the folder of one model on the disk, and how it is read and written.

model.json     what the model is: `ModelDescription` as JSON
endpoint.json  of a model behind a server: see `endpoint_file`
files/<name>   its files: copies, never links, hash-checked on the way in
chunks/<name>  the chunk list of a file (see `chunks`): made once, and again where it is missing
obtained       the manifest by which the model was fetched from other nodes: its policy binds
brought        empty: somebody else made it, whoever publishes it here
"""

import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from aigrid.node.mesh.shelf.copying import can_move, disk_error, sync
from aigrid.protocol.chunks import DIGEST_BYTES, chunk_count
from aigrid.protocol.errors import AigridError, Code, LocalError
from aigrid.protocol.limits import LIMITS, MIB
from aigrid.protocol.model import ModelDescription, ModelFile, model_id
from aigrid.protocol.record import Record, verify_form_and_signature

DESCRIPTION_FILE, FILES_FOLDER, CHUNKS_FOLDER = "model.json", "files", "chunks"
BROUGHT_FILE, OBTAINED_FILE = "brought", "obtained"
DESCRIPTION_MAX_BYTES: Final = MIB

Marks = dict[str, tuple[int, int, int, int]]
"""What changes when somebody writes to a file, by name."""


def checked(description: ModelDescription, files: Mapping[str, Path]) -> ModelDescription:
    """The description, as strictly as if it had come over the wire.

    Raises:
        LocalError: `malformed`.
    """
    try:
        found = msgspec.convert(msgspec.to_builtins(description), ModelDescription)
    except msgspec.ValidationError as error:
        raise LocalError(f"the model's description: {error}", Code.MALFORMED) from None
    names = [file.name for file in found.files]
    if len(set(names)) != len(names) or set(names) != set(files):
        raise LocalError("the files given are not those described", Code.MALFORMED)
    return found


def copied_bytes(
    description: ModelDescription, files: Mapping[str, Path], directory: Path, *, take: bool
) -> int:
    """What adding a model to `directory` takes of the disk: what is moved takes nothing.

    Raises:
        UsageError: `model_file_missing`.
    """
    return sum(
        file.bytes
        for file in description.files
        if not (take and can_move(files[file.name], directory))
    )


def read_description(folder: Path) -> ModelDescription | None:
    """The description in a folder, if all of it is as it was written."""
    path = folder / DESCRIPTION_FILE
    try:
        if path.stat().st_size > DESCRIPTION_MAX_BYTES:
            return None
        description = msgspec.json.decode(path.read_bytes(), type=ModelDescription)
    except (OSError, ValueError):
        return None
    files = folder / FILES_FOLDER
    whole = all(is_whole(files / file.name, file.bytes) for file in description.files)
    return description if whole and model_id(description) == folder.name else None


def write_description(folder: Path, description: ModelDescription) -> None:
    """Raises OSError."""
    with (folder / DESCRIPTION_FILE).open("xb") as stream:
        stream.write(msgspec.json.format(msgspec.json.encode(description)))
        sync(stream)


def read_obtained(folder: Path) -> Record | None:
    """The manifest by which the model was fetched; None where it was not, or cannot be read."""
    try:
        path = folder / OBTAINED_FILE
        if path.stat().st_size > LIMITS.record_max_bytes:
            return None
        return verify_form_and_signature(path.read_bytes())
    except (OSError, AigridError):
        return None


def write_obtained(folder: Path, manifest: Record) -> None:
    """Raises OSError."""
    with (folder / OBTAINED_FILE).open("xb") as stream:
        stream.write(manifest.raw)
        sync(stream)


def read_chunk_list(folder: Path, file: ModelFile) -> bytes | None:
    """The chunk list of a file, if it is there and as long as it has to be."""
    with suppress(OSError):
        raw = (folder / CHUNKS_FOLDER / file.name).read_bytes()
        if len(raw) == chunk_count(file.bytes) * DIGEST_BYTES:
            return raw
    return None


def write_chunk_list(folder: Path, name: str, raw: bytes) -> None:
    """At once, or not at all.

    Raises:
        LocalError: `data_directory_unusable`.
    """
    try:
        place = folder / CHUNKS_FOLDER
        place.mkdir(mode=0o700, exist_ok=True)
        written = place / f".{name}"
        with written.open("wb") as stream:
            stream.write(raw)
        written.replace(place / name)
    except OSError as error:
        raise disk_error(error) from None


def note_brought(folder: Path, *, brought: bool) -> None:
    """Raises LocalError (`data_directory_unusable`)."""
    try:
        if brought:
            (folder / BROUGHT_FILE).touch(mode=0o600)
        else:
            (folder / BROUGHT_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error) from None


def marks_of(files: Mapping[str, Path]) -> Marks:
    """Raises OSError."""
    found = {name: path.stat() for name, path in files.items()}
    return {name: (s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in found.items()}


def is_whole(path: Path, size_bytes: int) -> bool:
    """A file of that size and no link: not of another name, not of another file elsewhere."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_size == size_bytes
