"""The data directory's secrets and its lock: key files, atomic private files, one node at a time.

A key file is a W3C Multikey in JSON (`secretKeyMultibase`: multicodec ed25519-priv 0x1300 and the
seed). The public key beside it is the check that a damaged file does not silently become another
identity. Files are 0600, written whole and then linked into place: nobody ever reads half of one.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aigrid.protocol.errors import Code, UsageError
from aigrid.protocol.identity import SEED_BYTES, Identity, multibase, multibase_decode
from aigrid.protocol.limits import LIMITS

NODE_KEY_FILE = "node.key"
AUTHORITY_KEY_FILE = "authority.key"
LOCK_FILE = "lock"
PENDING_INVITATION_FILE = "pending-invitation"

_SECRET_MULTICODEC = b"\x80\x26"
_SECRET_CHARS_MAX = 64


def open_data_directory(data_dir: Path) -> None:
    """Create `data_dir` with mode 0700 where it does not exist, and check that it can be used.

    An existing directory keeps its mode: it may be somebody's choice, and every secret in it is
    protected by a mode of its own.

    Raises:
        UsageError: `data_directory_unusable`.
    """
    try:
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        try:
            data_dir.mkdir(mode=0o700)
        except FileExistsError:
            if not data_dir.is_dir():
                raise NotADirectoryError(0, "it is not a directory") from None
        probe = data_dir / f".probe-{secrets.token_hex(8)}"
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        probe.unlink()
    except OSError as error:
        raise _unusable(data_dir, error) from None


def load_or_create_identity(data_dir: Path) -> Identity:
    """The node's key; made on first use, so callers that race get the same one.

    Raises:
        UsageError: `data_directory_unusable`, `key_file_corrupt` or `environment`.
    """
    return _load(data_dir / NODE_KEY_FILE) or _create(data_dir, NODE_KEY_FILE)


def load_authority(data_dir: Path) -> Identity | None:
    """The key that admits to the grid, where this node holds it.

    Raises:
        UsageError: `key_file_corrupt` or `environment`.
    """
    return _load(data_dir / AUTHORITY_KEY_FILE)


def create_authority(data_dir: Path) -> Identity:
    """Make the key of a new grid, or return the one that is there.

    Raises:
        UsageError: `data_directory_unusable`, `key_file_corrupt` or `environment`.
    """
    return load_authority(data_dir) or _create(data_dir, AUTHORITY_KEY_FILE)


def retire_authority(data_dir: Path) -> Path | None:
    """Put the authority key aside when the node leaves its grid of one; a key is never deleted.

    Returns:
        Where it went, or None if there was none.

    Raises:
        UsageError: `data_directory_unusable`, `key_file_corrupt` or `environment`.
    """
    authority = load_authority(data_dir)
    if authority is None:
        return None
    retired = data_dir / f"retired-{authority.did.removeprefix('did:key:')}.key"
    try:
        (data_dir / AUTHORITY_KEY_FILE).rename(retired)
        _sync(data_dir)
    except OSError as error:
        raise _unusable(data_dir, error) from None
    return retired


@contextmanager
def data_directory_lock(data_dir: Path) -> Iterator[None]:
    """Hold the data directory: one node at a time. The kernel lets go when the process dies.

    Raises:
        UsageError: `already_running` or `data_directory_unusable`.
    """
    open_data_directory(data_dir)
    try:
        descriptor = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _unusable(data_dir, error) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"a node is already running on {data_dir}", Code.ALREADY_RUNNING
            ) from None
        except OSError as error:
            raise _unusable(data_dir, error) from None
        yield
    finally:
        os.close(descriptor)


def write_private(path: Path, content: bytes) -> None:
    """Replace `path` with `content` at once, mode 0600. Raises OSError."""
    temporary = _write_temporary(path, content)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def store_pending_invitation(data_dir: Path, text: str) -> None:
    """Keep an invitation for `up` to redeem. Raises UsageError(`data_directory_unusable`)."""
    try:
        write_private(data_dir / PENDING_INVITATION_FILE, text.encode("utf-8"))
    except OSError as error:
        raise _unusable(data_dir, error) from None


def load_pending_invitation(data_dir: Path) -> str | None:
    """The invitation that waits, as text that may be anything. None where there is none."""
    try:
        with (data_dir / PENDING_INVITATION_FILE).open("rb") as file:
            return file.read(4 * LIMITS.join_max_bytes).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(data_dir, error) from None


def clear_pending_invitation(data_dir: Path) -> None:
    (data_dir / PENDING_INVITATION_FILE).unlink(missing_ok=True)


def encode_key(identity: Identity) -> bytes:
    """The content of a key file."""
    document = {
        "type": "Multikey",
        "controller": identity.did,
        "publicKeyMultibase": identity.did.removeprefix("did:key:"),
        "secretKeyMultibase": multibase(_SECRET_MULTICODEC + identity.seed),
    }
    return (json.dumps(document, indent=2) + "\n").encode("ascii")


def decode_key(raw: bytes) -> Identity | None:
    """The key in a key file, or None for whatever is not exactly one."""
    try:
        document: Any = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or document.get("type") != "Multikey":
        return None
    encoded = document.get("secretKeyMultibase")
    if not isinstance(encoded, str):
        return None
    secret = multibase_decode(encoded, max_chars=_SECRET_CHARS_MAX)
    prefix = len(_SECRET_MULTICODEC)
    if secret is None or secret[:prefix] != _SECRET_MULTICODEC:
        return None
    if len(secret) != prefix + SEED_BYTES:
        return None
    identity = Identity(secret[prefix:])
    matches = document.get("publicKeyMultibase") == identity.did.removeprefix("did:key:")
    return identity if matches else None


def _load(path: Path) -> Identity | None:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(LIMITS.key_file_max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(
            f"cannot read the key file {path}: {error.strerror}", Code.DATA_DIRECTORY_UNUSABLE
        ) from None
    if mode & 0o077:
        raise UsageError(
            f"other users may read or change the key file {path}: run `chmod 600 {path}`",
            Code.ENVIRONMENT,
        )
    identity = decode_key(raw)
    if identity is None:
        raise UsageError(f"the key file {path} is damaged", Code.KEY_FILE_CORRUPT)
    return identity


def _create(data_dir: Path, name: str) -> Identity:
    open_data_directory(data_dir)
    identity = Identity(secrets.token_bytes(SEED_BYTES))
    path = data_dir / name
    try:
        temporary = _write_temporary(path, encode_key(identity))
        try:
            os.link(temporary, path)  # fails where a file of this name exists: first one wins
        except FileExistsError:
            identity = _load(path) or identity
        finally:
            temporary.unlink()
        _sync(data_dir)
    except OSError as error:
        raise _unusable(data_dir, error) from None
    return identity


def _write_temporary(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(data_dir: Path, error: OSError) -> UsageError:
    return UsageError(
        f"cannot use the data directory {data_dir}: {error.strerror}",
        Code.DATA_DIRECTORY_UNUSABLE,
    )
