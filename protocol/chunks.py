"""Chunks: the pieces in which a model's files travel between nodes, each checked by itself. Pure.

A file is cut into chunks of one size, the last one shorter; the size follows from the size of the
file. Its *chunk list* is the SHA-256 of every chunk, 32 bytes each, one after the other. So a file
has one chunk list, whoever makes it, and a manifest names it by its SHA-256.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.names import FileName

DIGEST_BYTES = 32


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked for of one file: `count` chunks from number `first` on; 0: its chunk list."""

    file: FileName
    first: Annotated[int, Meta(ge=0, le=LIMITS.chunks_max)] = 0
    count: Annotated[int, Meta(ge=0, le=LIMITS.chunks_asked_max)] = 0


def part_hash(salt: bytes, part: Part) -> str:
    """SHA-256 (hex) of the salt and the part's msgpack: what a presentation is bound to."""
    return hashlib.sha256(salt + _ENCODER.encode(part)).hexdigest()


def chunk_bytes(file_bytes: int) -> int:
    """The size of a file's chunks.

    The smallest power of two, from `chunk_min_bytes` on, for which there are at most
    `chunks_wanted`; never more than `chunk_max_bytes`.

    Raises:
        VerificationError: `malformed` for a file that has more chunks than `chunks_max`.
    """
    size = LIMITS.chunk_min_bytes
    while size < LIMITS.chunk_max_bytes and -(-file_bytes // size) > LIMITS.chunks_wanted:
        size *= 2
    if -(-file_bytes // size) > LIMITS.chunks_max:
        raise VerificationError(f"a file of {file_bytes} bytes is too large to be given away")
    return size


def chunk_count(file_bytes: int) -> int:
    """How many chunks a file has; none where it is empty."""
    return -(-file_bytes // chunk_bytes(file_bytes))


@dataclass(frozen=True, slots=True)
class FileChunks:
    """The chunk list of one file, checked against what its manifest says.

    Attributes:
        file_bytes: size of the file.
        size: of a chunk, in bytes; the last one may be shorter.
        digests: SHA-256 of each chunk.
    """

    file_bytes: int
    size: int
    digests: tuple[bytes, ...]

    def length(self, number: int) -> int:
        """Bytes of one chunk."""
        return min(self.size, self.file_bytes - number * self.size)

    def holds(self, number: int, data: bytes | bytearray) -> bool:
        """Whether `data` is that chunk."""
        right = len(data) == self.length(number)
        return right and hashlib.sha256(data).digest() == self.digests[number]

    @property
    def raw(self) -> bytes:
        """The chunk list."""
        return b"".join(self.digests)


def read_chunk_list(raw: bytes, *, file_bytes: int, sha256: str) -> FileChunks:
    """A chunk list that somebody sent, for a file of so many bytes.

    Raises:
        VerificationError: `hash_mismatch` unless it is the one of that SHA-256 (hex).
    """
    if len(raw) != chunk_count(file_bytes) * DIGEST_BYTES:
        raise VerificationError("a chunk list of another length", Code.HASH_MISMATCH)
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise VerificationError("not the chunk list that the manifest names", Code.HASH_MISMATCH)
    digests = tuple(raw[at : at + DIGEST_BYTES] for at in range(0, len(raw), DIGEST_BYTES))
    return FileChunks(file_bytes, chunk_bytes(file_bytes), digests)


class ChunkHasher:
    """Makes the chunk list of a file from its bytes, in pieces of any size."""

    def __init__(self, file_bytes: int) -> None:
        self._size = chunk_bytes(file_bytes)
        self._digests = bytearray()
        self._chunk = hashlib.sha256()
        self._room = self._size

    def add(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            part, view = view[: self._room], view[self._room :]
            self._chunk.update(part)
            self._room -= len(part)
            if not self._room:
                self._close()

    def end(self) -> bytes:
        """The chunk list."""
        if self._room < self._size:
            self._close()
        return bytes(self._digests)

    def _close(self) -> None:
        self._digests += self._chunk.digest()
        self._chunk, self._room = hashlib.sha256(), self._size


_ENCODER = msgspec.msgpack.Encoder(order="deterministic")
