"""A model on its way from other nodes, on the disk: what is there of it outlives the process.

    .fetching-<model id>/files/<name>   of their full size, with holes where chunks are missing
    .fetching-<model id>/chunks/<name>  their chunk lists, checked against the manifest
    .fetching-<model id>/journal        the chunks that were written, 8 bytes each: file, number

The journal may say more than the disk holds, after a power failure: what it says is hashed again
before it is believed. All methods block; see `RunBlocking`.
"""

import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from aigrid.node.mesh.shelf.copying import disk_error
from aigrid.node.mesh.shelf.folder import (
    CHUNKS_FOLDER,
    FILES_FOLDER,
    is_whole,
    read_chunk_list,
    write_chunk_list,
)
from aigrid.protocol.chunks import FileChunks
from aigrid.protocol.model import ModelFile

JOURNAL_FILE = "journal"
_ENTRY = struct.Struct(">II")


class Partial:
    """`files` in the order in which the journal counts them: by name."""

    def __init__(self, folder: Path, files: tuple[ModelFile, ...]) -> None:
        self.folder = folder
        self.files = files
        self._open: list[int] = []
        self._journal = -1
        self._chunks: tuple[FileChunks, ...] = ()

    def paths(self) -> dict[str, Path]:
        return {file.name: self.folder / FILES_FOLDER / file.name for file in self.files}

    def prepare(self) -> None:
        """Make the files, or take up those that are there. Raises LocalError."""
        try:
            for folder in (self.folder, self.folder / FILES_FOLDER, self.folder / CHUNKS_FOLDER):
                folder.mkdir(mode=0o700, exist_ok=True)
            self.folder.touch()
            for file, path in zip(self.files, self.paths().values(), strict=True):
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
                if not is_whole(path, file.bytes):
                    path.unlink(missing_ok=True)
                descriptor = os.open(path, flags, 0o600)
                self._open.append(descriptor)
                os.truncate(descriptor, file.bytes)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            self._journal = os.open(self.folder / JOURNAL_FILE, flags, 0o600)
        except OSError as error:
            self.close()
            raise disk_error(error) from None

    def chunk_list(self, file: ModelFile) -> bytes | None:
        """A list that came before."""
        return read_chunk_list(self.folder, file)

    def keep_chunk_list(self, file: ModelFile, raw: bytes) -> None:
        """Raises LocalError."""
        write_chunk_list(self.folder, file.name, raw)

    def use(self, chunks: tuple[FileChunks, ...]) -> list[bytearray]:
        """The chunk lists of the files; for each chunk a zero: none of them is believed yet."""
        self._chunks = chunks
        return [bytearray(len(one.digests)) for one in chunks]

    def claimed(self) -> Iterator[tuple[int, int]]:
        """The chunks that the journal names, each once."""
        seen = set()
        with suppress(OSError):
            raw = (self.folder / JOURNAL_FILE).read_bytes()
            for at in range(0, len(raw) - len(raw) % _ENTRY.size, _ENTRY.size):
                file, number = _ENTRY.unpack_from(raw, at)
                known = file < len(self._chunks) and number < len(self._chunks[file].digests)
                if known and (file, number) not in seen:
                    seen.add((file, number))
                    yield file, number

    def holds(self, file: int, number: int) -> bool:
        """Whether a chunk is on the disk as it should be."""
        chunks = self._chunks[file]
        try:
            data = os.pread(self._open[file], chunks.length(number), number * chunks.size)
        except OSError:
            return False
        return chunks.holds(number, data)

    def store(self, file: int, number: int, data: bytearray) -> bool:
        """Write a chunk if it is the right one; whether it is. Raises LocalError."""
        chunks = self._chunks[file]
        if not chunks.holds(number, data):
            return False
        view, at = memoryview(data), number * chunks.size
        try:
            while view:
                written = os.pwrite(self._open[file], view, at)
                view, at = view[written:], at + written
            os.write(self._journal, _ENTRY.pack(file, number))
        except OSError as error:
            raise disk_error(error) from None
        return True

    def sync(self) -> None:
        """Before the files are installed. Raises LocalError."""
        try:
            for descriptor in self._open:
                os.fsync(descriptor)
        except OSError as error:
            raise disk_error(error) from None

    def close(self) -> None:
        for descriptor in (*self._open, self._journal):
            with suppress(OSError):
                os.close(descriptor)
        self._open, self._journal = [], -1

    def remove_if_empty(self) -> None:
        """Leave nothing of a fetch that brought nothing."""
        if not occupied_bytes(self.folder) and any(file.bytes for file in self.files):
            remove(self.folder)


def remove(folder: Path) -> None:
    """What there is of it goes; nothing happens where there is nothing."""
    shutil.rmtree(folder, ignore_errors=True)


def occupied_bytes(folder: Path) -> int:
    """What the files in a folder take of the disk; holes take nothing."""
    found = 0
    with suppress(OSError):
        for path in (folder / FILES_FOLDER).iterdir():
            found += path.lstat().st_blocks * 512
    return found
