"""The data directory's secrets and its lock: key files, atomic private files, one node at a time.

What is in a key file: `key_file.py`. Files are 0600, written whole and then linked into place:
nobody ever reads half of one.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aigrid.node.key_store.key_file import (
    KeyFile,
    Passphrase,
    encode_key,
    encode_protected,
    read_key_file,
)
from aigrid.protocol.errors import Code, UsageError
from aigrid.protocol.identity import SEED_BYTES, Identity
from aigrid.protocol.limits import LIMITS

NODE_KEY_FILE = "node.key"
AUTHORITY_KEY_FILE = "authority.key"
LOCK_FILE = "lock"
PENDING_INVITATION_FILE = "pending-invitation"
ROTATION_FILE = "pending-rotation"


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
        raise unusable(data_dir, error) from None


def no_passphrase() -> str:
    """For whoever has no way to get one. Raises UsageError (`passphrase_required`)."""
    raise UsageError("a passphrase protects this node's keys", Code.PASSPHRASE_REQUIRED)


def load_or_create_identity(data_dir: Path, passphrase: Passphrase = no_passphrase) -> Identity:
    """The node's key; made on first use, so callers that race get the same one.

    Raises:
        UsageError: `data_directory_unusable`, `key_file_corrupt` or `environment`; where it is
            protected, `passphrase_wrong`, or what `passphrase` raises.
    """
    return _load(data_dir / NODE_KEY_FILE, passphrase) or create_identity(data_dir, None)


def create_identity(data_dir: Path, passphrase: str | None) -> Identity:
    """Make the node's key, protected unless `passphrase` is None. Raises as above."""
    return _create(data_dir, NODE_KEY_FILE, passphrase)


def own_did(data_dir: Path) -> str:
    """The DID of the node's key, without its passphrase; the key is made on first use.

    Raises:
        UsageError: `data_directory_unusable`, `key_file_corrupt` or `environment`.
    """
    found = read_key(data_dir / NODE_KEY_FILE)
    return found.did if found is not None else load_or_create_identity(data_dir).did


def load_authority(data_dir: Path, passphrase: Passphrase = no_passphrase) -> Identity | None:
    """The key that admits to the grid, where this node holds it.

    Raises:
        UsageError: as `load_or_create_identity`.
    """
    return _load(data_dir / AUTHORITY_KEY_FILE, passphrase)


def create_authority(data_dir: Path, passphrase: Passphrase = no_passphrase) -> Identity:
    """Make the key of a new grid, or return the one that is there.

    It is protected as the node's key is, if that is.

    Raises:
        UsageError: as `load_or_create_identity`.
    """
    found = load_authority(data_dir, passphrase)
    if found is not None:
        return found
    node = read_key(data_dir / NODE_KEY_FILE)
    protection = passphrase() if node is not None and node.protected else None
    return _create(data_dir, AUTHORITY_KEY_FILE, protection)


def retire_authority(data_dir: Path) -> Path | None:
    """Put the authority key aside when the node leaves its grid of one; a key is never deleted.

    Returns:
        Where it went, or None if there was none.

    Raises:
        UsageError: `data_directory_unusable`, `key_file_corrupt` or `environment`.
    """
    authority = read_key(data_dir / AUTHORITY_KEY_FILE)
    if authority is None:
        return None
    retired = data_dir / retired_name(authority.did)
    try:
        (data_dir / AUTHORITY_KEY_FILE).rename(retired)
        sync(data_dir)
    except OSError as error:
        raise unusable(data_dir, error) from None
    return retired


def retired_name(did: str) -> str:
    """The file in which a key that is no longer used is kept."""
    return f"retired-{did.removeprefix('did:key:')}.key"


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
        raise unusable(data_dir, error) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"a node is already running on {data_dir}", Code.ALREADY_RUNNING
            ) from None
        except OSError as error:
            raise unusable(data_dir, error) from None
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
    sync(path.parent)


def store_pending_invitation(data_dir: Path, text: str) -> None:
    """Keep an invitation for `up` to redeem. Raises UsageError(`data_directory_unusable`)."""
    try:
        write_private(data_dir / PENDING_INVITATION_FILE, text.encode("utf-8"))
    except OSError as error:
        raise unusable(data_dir, error) from None


def load_pending_invitation(data_dir: Path) -> str | None:
    """The invitation that waits, as text that may be anything. None where there is none."""
    try:
        with (data_dir / PENDING_INVITATION_FILE).open("rb") as file:
            return file.read(4 * LIMITS.join_max_bytes).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unusable(data_dir, error) from None


def clear_pending_invitation(data_dir: Path) -> None:
    (data_dir / PENDING_INVITATION_FILE).unlink(missing_ok=True)


def load_pending_rotation(data_dir: Path) -> bytes | None:
    """The KeyRotation that waits to be presented: bytes that may be anything, or None."""
    try:
        with (data_dir / ROTATION_FILE).open("rb") as file:
            return file.read(LIMITS.join_max_bytes)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unusable(data_dir, error) from None


def clear_pending_rotation(data_dir: Path) -> None:
    """Raises UsageError(`data_directory_unusable`)."""
    try:
        (data_dir / ROTATION_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise unusable(data_dir, error) from None


def read_key(path: Path) -> KeyFile | None:
    """A key file, still closed where it is protected. None where there is none.

    Raises:
        UsageError: `data_directory_unusable`, `key_file_corrupt` or `environment`.
    """
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
    found = read_key_file(raw)
    if found is None:
        raise UsageError(f"the key file {path} is damaged", Code.KEY_FILE_CORRUPT)
    return found


def open_key(path: Path, found: KeyFile, passphrase: Passphrase) -> Identity:
    """Raises UsageError (`passphrase_wrong`, naming the file; or what `passphrase` raises)."""
    try:
        return found.open(passphrase() if found.protected else "")
    except UsageError as error:
        if error.code is not Code.PASSPHRASE_WRONG:
            raise
        raise UsageError(f"{error.message}: {path}", error.code) from None


def encoded(identity: Identity, passphrase: str | None) -> bytes:
    """The content of a key file, protected unless `passphrase` is None."""
    if passphrase is None:
        return encode_key(identity)
    return encode_protected(identity, passphrase, secrets.token_bytes)


def _load(path: Path, passphrase: Passphrase) -> Identity | None:
    found = read_key(path)
    return None if found is None else open_key(path, found, passphrase)


def _create(data_dir: Path, name: str, passphrase: str | None) -> Identity:
    open_data_directory(data_dir)
    identity = Identity(secrets.token_bytes(SEED_BYTES))
    path = data_dir / name
    try:
        temporary = _write_temporary(path, encoded(identity, passphrase))
        try:
            os.link(temporary, path)  # fails where a file of this name exists: first one wins
        except FileExistsError:
            identity = _load(path, lambda: passphrase or no_passphrase()) or identity
        finally:
            temporary.unlink()
        sync(data_dir)
    except OSError as error:
        raise unusable(data_dir, error) from None
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


def sync(directory: Path) -> None:
    """Have the names in a directory on the disk. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unusable(data_dir: Path, error: OSError) -> UsageError:
    """One sentence for a directory that cannot be read or written."""
    return UsageError(
        f"cannot use the data directory {data_dir}: {error.strerror}",
        Code.DATA_DIRECTORY_UNUSABLE,
    )
