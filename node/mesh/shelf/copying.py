"""Hashing and copying model files in steps: neither blocks the node nor outlives a cancel."""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Final, Protocol, TypeVar

import trio

from aigrid.protocol.chunks import ChunkHasher
from aigrid.protocol.errors import Code, LocalError, UsageError, VerificationError
from aigrid.protocol.limits import LIMITS, MIB

STEP_BYTES: Final = 8 * MIB

T = TypeVar("T")
Progress = Callable[[str], Awaitable[None]]
"""Told in a few words what is being done, now and then."""


class RunBlocking(Protocol):
    """Runs a function that blocks: in a thread, or in a simulation directly."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]: ...


async def in_thread(function: Callable[[], T]) -> T:
    """The `RunBlocking` of a real node."""
    return await trio.to_thread.run_sync(function)


async def inline(function: Callable[[], T]) -> T:
    """The `RunBlocking` of a simulation."""
    await trio.lowlevel.checkpoint()
    return function()


async def no_progress(_what: str) -> None:
    """The `Progress` of whoever does not care."""
    await trio.lowlevel.checkpoint()


class Milestones:
    """Tells `progress` of every step of some work; there are `steps` of them."""

    def __init__(self, progress: Progress, what: str, all_bytes: int, *, steps: int = 10) -> None:
        self._progress = progress
        self._what = what
        self._all_bytes = all_bytes
        self._steps = steps
        self._reached = 0

    async def reach(self, done_bytes: int) -> None:
        reached = self._steps * done_bytes // self._all_bytes if self._all_bytes else 0
        if reached > self._reached:
            self._reached = reached
            await self._progress(f"{self._what}: {reached * 100 // self._steps} %")


class FileReader:
    """Reads a regular file once, hashing it, and writes what it read to `target` if there is one.

    With `chunked` there is a `chunk_list` at the end; b"" of a file too large to be given away.

    Raises:
        UsageError: `model_file_missing` where the file cannot be read.
        LocalError: `hash_mismatch` for more bytes than `max_bytes`, and what `disk_error` says.
    """

    def __init__(
        self,
        path: Path,
        *,
        target: Path | None = None,
        max_bytes: int = 2**62,
        chunked: bool = False,
    ) -> None:
        self.path = path
        self.done_bytes = 0
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._source = open_regular(path)
        self.all_bytes = os.fstat(self._source.fileno()).st_size
        self._chunks: ChunkHasher | None = None
        if chunked:
            with contextlib.suppress(VerificationError):
                self._chunks = ChunkHasher(self.all_bytes)
        try:
            self._target: BinaryIO | None = target.open("xb") if target is not None else None
        except OSError as error:
            self._source.close()
            raise disk_error(error) from None

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    @property
    def chunk_list(self) -> bytes:
        return b"" if self._chunks is None else self._chunks.end()

    def step(self) -> bool:
        """Handle the next piece; False once all is done and written."""
        try:
            data = self._source.read(STEP_BYTES)
        except OSError as error:
            raise _unreadable(self.path, error) from None
        self.done_bytes += len(data)
        if self.done_bytes > self._max_bytes:
            raise LocalError(
                f"{self.path.name} is larger than the {self._max_bytes} bytes declared",
                Code.HASH_MISMATCH,
            )
        self._hash.update(data)
        if self._chunks is not None:
            self._chunks.add(data)
        if self._target is not None:
            try:
                self._target.write(data)
                if not data:
                    sync(self._target)
            except OSError as error:
                raise disk_error(error) from None
        return bool(data)

    def close(self) -> None:
        self._source.close()
        if self._target is not None:
            self._target.close()


async def read_all(
    reader: FileReader, run_blocking: RunBlocking, progress: Progress, what: str
) -> str:
    """Read to the end, step by step; the SHA-256 in hex."""
    milestones = Milestones(progress, what, reader.all_bytes)
    try:
        while await run_blocking(reader.step):
            await milestones.reach(reader.done_bytes)
    finally:
        reader.close()
    return reader.sha256


def open_regular(path: Path) -> BinaryIO:
    """Open for reading, but no folder, device or pipe.

    Raises:
        UsageError: `model_file_missing`.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path} is not a regular file", Code.MODEL_FILE_MISSING)
        return path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from None


def can_move(path: Path, folder: Path) -> bool:
    """Whether a file can become one of `folder` by a rename: on its disk, no link of either kind.

    Raises:
        UsageError: `model_file_missing`.
    """
    try:
        found = path.lstat()
        alone = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        return alone and found.st_dev == folder.stat().st_dev
    except OSError as error:
        raise _unreadable(path, error) from None


def state_of(path: Path) -> tuple[int, int, int]:
    """What stays when a file is renamed, and changes when somebody writes to it.

    Raises:
        UsageError: `model_file_missing`.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    return found.st_ino, found.st_size, found.st_mtime_ns


def put_back(folder: Path, files: Mapping[str, Path]) -> None:
    """Move files (name in `folder` -> where it was) back to where nothing is now."""
    for name, path in files.items():
        with contextlib.suppress(OSError):
            if not path.exists():
                (folder / name).rename(path)


def sync(stream: BinaryIO) -> None:
    """Make what was written survive a power cut."""
    stream.flush()
    os.fsync(stream.fileno())


def check_room(directory: Path, needed_bytes: int) -> None:
    """Raise LocalError (`data_directory_unusable`) unless so much fits on the disk."""
    free = shutil.disk_usage(directory).free
    if needed_bytes + LIMITS.disk_spare_bytes > free:
        spare = f"{LIMITS.disk_spare_bytes // MIB} MiB"
        wanted = f"{-(-needed_bytes // MIB)} MiB and {spare} to spare are needed"
        raise LocalError(
            f"{wanted if needed_bytes else f'{spare} have to stay free'} in {directory}, "
            f"{free // MIB} MiB are free",
            Code.DATA_DIRECTORY_UNUSABLE,
        )


def disk_error(error: OSError) -> LocalError:
    """What went wrong on this node's own disk, in one sentence."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return LocalError("the disk is full", Code.DATA_DIRECTORY_UNUSABLE)
    where = f" {error.filename}" if error.filename else ""
    return LocalError(f"cannot write{where}: {error.strerror}", Code.DATA_DIRECTORY_UNUSABLE)


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"cannot read {path}: {error.strerror}", Code.MODEL_FILE_MISSING)
