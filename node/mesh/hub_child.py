"""Talks to the Hugging Face Hub, in a process of its own that can be stopped at any time.

    python -P -m aigrid.node.mesh.hub_child

Standard input holds one JSON object, an `Order`; standard output gets `Word`s, a line each. The
files that the order names come into its folder; what is there already is kept, and what was begun
goes on where it stopped.
"""

import sys
import threading
from pathlib import Path
from typing import Any, Literal

import msgspec

from aigrid.protocol.errors import Code

_INTERVAL_SECONDS = 1.0
_ORDER_MAX_BYTES = 1 << 20


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """List a repository's files, or bring some of them."""

    do: Literal["list", "fetch"]
    repo: str
    revision: str = ""
    token: str = ""
    folder: str = ""
    files: tuple[str, ...] = ()


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


def main() -> None:
    """Carry out one order."""
    order = msgspec.json.decode(sys.stdin.buffer.read(_ORDER_MAX_BYTES), type=Order)
    try:
        if order.do == "list":
            _list(order)
        else:
            _fetch(order)
    except Exception as error:  # noqa: BLE001 -- boundary: a library call; it may quote a token
        code, message = verdict(error, order)
        _say(Word(code=code.value, message=message))
        sys.exit(1)


def _list(order: Order) -> None:
    from huggingface_hub import HfApi

    revision = order.revision or None
    found = HfApi().model_info(
        order.repo, revision=revision, files_metadata=True, token=order.token or None
    )
    listed = tuple(
        Listed(one.rfilename, one.size or 0, one.lfs.sha256 if one.lfs is not None else "")
        for one in found.siblings or ()
    )
    _say(Word(revision=found.sha or "", files=listed, done=True))


def _fetch(order: Order) -> None:
    from huggingface_hub import hf_hub_download

    over = threading.Event()
    counting = threading.Thread(target=_count, args=(Path(order.folder), over), daemon=True)
    counting.start()
    for name in order.files:
        hf_hub_download(
            order.repo,
            name,
            revision=order.revision,
            local_dir=order.folder,
            token=order.token or None,
        )
    over.set()
    counting.join()
    _say(Word(done=True))


def _count(folder: Path, over: threading.Event) -> None:
    """Tell how many bytes there are, begun files included, whenever there are more."""
    last = -1
    while not over.wait(_INTERVAL_SECONDS):
        total = sum(_size(path) for path in folder.rglob("*"))
        if total != last:
            last = total
            _say(Word(bytes=total))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # it was renamed meanwhile
        return 0


def verdict(error: Exception, order: Order) -> tuple[Code, str]:
    """What went wrong, in a sentence that names the next step."""
    from huggingface_hub import errors

    repo = order.repo
    if isinstance(error, errors.GatedRepoError):
        return Code.DENIED, (
            f"{repo} is gated: accept its terms on the hub, then give your token with --key-file "
            "or as HF_TOKEN in the node's environment"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return Code.MODEL_NOT_FOUND, (
            f"the hub has no model {repo}, or it is private: then give a token with --key-file"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return Code.MODEL_NOT_FOUND, f"{repo} has no revision {order.revision}"
    if isinstance(error, errors.EntryNotFoundError):
        return Code.MODEL_FILE_MISSING, f"a file of {repo} is not there any more"
    if isinstance(error, errors.HFValidationError):
        return Code.USAGE, f"{repo} is no name of a model on the hub"
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return Code.DATA_DIRECTORY_UNUSABLE, f"cannot write the download: {error.strerror}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    why = f"it answers with status {status}" if status else type(error).__name__
    return Code.UNREACHABLE, f"the hub does not give {repo}: {why}; what came is kept for next time"


def _say(word: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(word) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
