"""Talks to the Hugging Face Hub, in a process of its own that can be stopped at any time.

    python -P -m aigrid.node.mesh.shelf.hub_child

Standard input holds one JSON object, an `Order`; standard output gets `Word`s, a line each. The
files that the order names come into its folder; what is there already is kept, and what was begun
goes on where it stopped. It writes not a byte more than the order says of each file, whatever the
hub sends, and ends with the node.
"""

import errno
import io
import os
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.parse import urlsplit

import msgspec

from aigrid.engines.sandbox import die_with_parent
from aigrid.node.mesh.shelf.hub_choice import is_plain
from aigrid.protocol.errors import AigridError, Code, LocalError
from aigrid.protocol.limits import LIMITS

PART = ".part"
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_INTERVAL_SECONDS = 1.0
_CHUNK_BYTES = 1 << 20
_ORDER_MAX_BYTES = 1 << 20


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """List a repository's files, or bring some of them; `files` are their sizes in bytes."""

    do: Literal["list", "fetch"]
    repo: str
    revision: str = ""
    token: str = ""
    folder: str = ""
    files: dict[str, int] = {}


class Listed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file: its size in bytes, and its SHA-256 where the hub knows it."""

    name: str
    bytes: int
    sha256: str = ""


class Word(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the child says: how much is there, a list, an error, or that it is done."""

    bytes: int = -1
    revision: str = ""
    files: tuple[Listed, ...] = ()
    code: str = ""
    message: str = ""
    done: bool = False


class _Words:
    """Where `Word`s go: standard output as it was at first. What libraries print goes elsewhere."""

    def __init__(self) -> None:
        self._stream: BinaryIO = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)

    def say(self, word: Word) -> None:
        self._stream.write(msgspec.json.encode(word) + b"\n")
        self._stream.flush()


class _Bounded(io.BufferedRandom):
    """A file that takes no byte beyond `most_bytes`, also of what comes in chunks or packed."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        super().__init__(path.open("r+b", buffering=0))
        self._most_bytes = most_bytes

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._most_bytes:
            raise LocalError("the hub sends more of a file than it listed", Code.HASH_MISMATCH)
        return super().write(data)


def main() -> None:
    """Carry out one order."""
    die_with_parent()
    words = _Words()
    order = msgspec.json.decode(sys.stdin.buffer.read(_ORDER_MAX_BYTES), type=Order)
    try:
        if order.do == "list":
            _list(order, words)
        else:
            _fetch(order, words)
    except Exception as error:  # noqa: BLE001 -- boundary: a library call; it may quote a token
        code, message = verdict(error, order)
        words.say(Word(code=code.value, message=message))
        sys.exit(1)


def _list(order: Order, words: _Words) -> None:
    from huggingface_hub import HfApi

    revision = order.revision or None
    found = HfApi().model_info(
        order.repo, revision=revision, files_metadata=True, token=order.token or None
    )
    listed = tuple(
        Listed(one.rfilename, one.size or 0, one.lfs.sha256[:64] if one.lfs is not None else "")
        for one in found.siblings or ()
        if is_plain(one.rfilename)
    )
    if len(listed) > LIMITS.hub_files_max:
        raise LocalError(
            f"{order.repo} has {len(listed)} files; at most {LIMITS.hub_files_max} are looked at",
            Code.UNSUPPORTED_MODEL,
        )
    words.say(Word(revision=found.sha or "", files=listed, done=True))


def _fetch(order: Order, words: _Words) -> None:
    bound_files(max(order.files.values(), default=0))
    over = threading.Event()
    counting = threading.Thread(target=_count, args=(Path(order.folder), words, over), daemon=True)
    counting.start()
    for name, wanted_bytes in order.files.items():
        _bring(order, name, wanted_bytes)
    over.set()
    counting.join()
    words.say(Word(done=True))


def bound_files(largest_bytes: int) -> None:
    """Have the system refuse larger files, should the library write elsewhere than it is told."""
    import resource

    most = max(largest_bytes, _CHUNK_BYTES)  # what it keeps for itself is small
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def _bring(order: Order, name: str, wanted_bytes: int) -> None:
    """One file, from where an earlier attempt stopped.

    The library's own `hf_hub_download` starts anew each time (2.4), so of it only the parts are
    used. What a revision holds does not change, so the beginning still fits.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    folder = Path(order.folder)
    target, part = folder / name, folder / f"{name}{PART}"
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if target.is_file() and target.stat().st_size == wanted_bytes:
        return
    url = hf_hub_url(order.repo, name, revision=order.revision)
    headers = build_hf_headers(token=order.token or None)
    found = get_hf_file_metadata(url, token=order.token or None, headers=dict(headers))
    if found.size is not None and found.size != wanted_bytes:
        raise LocalError(
            f"{name[:96]} has {found.size} bytes on the hub, which listed {wanted_bytes}",
            Code.HASH_MISMATCH,
        )
    if urlsplit(found.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # a store of files, which needs and gets no token
    headers["Accept-Encoding"] = "identity"  # or a part could not go on where it stopped
    constants.DOWNLOAD_CHUNK_SIZE = _CHUNK_BYTES  # what is lost when the connection breaks
    with part.open("ab") as created:
        created.flush()
    try:
        with _Bounded(part, wanted_bytes) as stream:
            begun = stream.seek(0, 2)
            if begun > wanted_bytes:
                begun = stream.seek(0)
                stream.truncate()
            http_get(
                found.location,
                stream,
                resume_size=begun,
                headers=headers,
                expected_size=wanted_bytes,
            )
    except LocalError:
        part.unlink(missing_ok=True)
        raise
    part.rename(target)


def _count(folder: Path, words: _Words, over: threading.Event) -> None:
    """Tell how many bytes there are, begun files included, whenever there are more."""
    last = -1
    while not over.wait(_INTERVAL_SECONDS):
        total = sum(_size(path) for path in folder.rglob("*"))
        if total != last:
            last = total
            try:
                words.say(Word(bytes=total))
            except OSError:  # the node is gone, on a system that does not end us with it
                os._exit(1)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # it was renamed meanwhile
        return 0


def verdict(error: Exception, order: Order) -> tuple[Code, str]:
    """What went wrong, in a sentence that names the next step."""
    from huggingface_hub import errors

    repo = order.repo
    if isinstance(error, AigridError):
        return error.code, error.message
    if isinstance(error, errors.GatedRepoError):
        return Code.DENIED, (
            f"{repo} is gated: accept its terms on the hub, then give your token with --key-file "
            "or as HF_TOKEN in the node's environment"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return Code.MODEL_NOT_FOUND, (
            f"the hub has no model {repo}, or it is private: then give a token with --key-file"
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return Code.ENVIRONMENT, "HF_HUB_OFFLINE is set in the node's environment"
    if isinstance(error, errors.RevisionNotFoundError):
        return Code.MODEL_NOT_FOUND, f"{repo} has no revision {order.revision}"
    if isinstance(error, errors.EntryNotFoundError):
        return Code.MODEL_FILE_MISSING, f"a file of {repo} is not there any more"
    if isinstance(error, errors.HFValidationError):
        return Code.USAGE, f"{repo} is no name of a model on the hub"
    if isinstance(error, OSError) and (error.filename is not None or error.errno in _DISK):
        return Code.DATA_DIRECTORY_UNUSABLE, f"cannot write the download: {error.strerror}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    why = f"it answers with status {status}" if status else type(error).__name__
    return Code.UNREACHABLE, f"the hub does not give {repo}: {why}; what came is kept for next time"


if __name__ == "__main__":
    main()
