"""Changes to the keys of a data directory while no node runs on it: protection and rotation.

Each step leaves a readable key in place, whenever the power fails; running a command again goes on
where it was broken off. The caller holds `keys.data_directory_lock`.
"""

import os
import secrets
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from aigrid.node.key_store import keys
from aigrid.node.key_store.former_keys import delegated_to, hand_on
from aigrid.node.key_store.key_file import KeyFile, Passphrase, check_passphrase
from aigrid.protocol.errors import Code, UsageError, VerificationError
from aigrid.protocol.identity import SEED_BYTES, Identity
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record, build, verify_form_and_signature
from aigrid.protocol.rotation import RotationBody, agreed
from aigrid.protocol.timestamp import format_ms

NEXT_KEY_FILE = "next.key"


class Changed(NamedTuple):
    """What a change of the protection came to, as names of files."""

    written: list[str]
    left: list[str]  # retired keys that stay under a passphrase that was not given


class Rotated(NamedTuple):
    """The old DID, the new one, and earlier ones whose keys did not open to name it as theirs."""

    old: str
    new: str
    left: list[str]


def protect(data_dir: Path, new: str, old: Passphrase) -> Changed:
    """Have `new` protect every key here; `old` is asked for where another passphrase does already.

    Retired keys that neither opens stay as they are: theirs may be one that nobody remembers.

    Raises:
        UsageError: `passphrase_wrong`, `usage`, `key_file_corrupt`, `data_directory_unusable`.
    """
    check_passphrase(new)
    if keys.read_key(data_dir / keys.NODE_KEY_FILE) is None:
        keys.create_identity(data_dir, new)
    opened: list[tuple[Path, Identity]] = []
    left = []
    for path in _key_files(data_dir):
        found = keys.read_key(path)
        if found is None:
            continue
        if found.protected:
            try:
                found.open(new)
            except UsageError as error:
                if error.code is not Code.PASSPHRASE_WRONG:
                    raise
            else:
                continue  # done already: by a command that was broken off, perhaps
        identity = _open(path, found, old)
        if identity is None:
            left.append(path.name)
        else:
            opened.append((path, identity))
    return Changed(_rewrite(data_dir, opened, new), left)


def unprotect(data_dir: Path, old: Passphrase) -> Changed:
    """Take the passphrase off every key; retired ones that have another keep it.

    Raises:
        UsageError: as `protect`.
    """
    opened: list[tuple[Path, Identity]] = []
    left = []
    for path in _key_files(data_dir):
        found = keys.read_key(path)
        if found is None or not found.protected:
            continue
        identity = _open(path, found, old)
        if identity is None:
            left.append(path.name)
        else:
            opened.append((path, identity))
    return Changed(_rewrite(data_dir, opened, None), left)


def _open(path: Path, found: KeyFile, old: Passphrase) -> Identity | None:
    """The key in a file; None for a retired one whose passphrase nobody gives."""
    try:
        return keys.open_key(path, found, old)
    except UsageError as error:
        unknown = error.code in {Code.PASSPHRASE_WRONG, Code.PASSPHRASE_REQUIRED}
        if unknown and path.name.startswith("retired-"):
            return None
        raise


def rotate(data_dir: Path, passphrase: Passphrase, *, now_ms: int) -> Rotated:
    """Give the node a new key, and keep a KeyRotation for `up` to present.

    Raises:
        UsageError: `usage`, where an earlier rotation still waits; `rate_limited`, where it is so
            recent that the grid would not take another yet; and as `protect`.
    """
    path = data_dir / keys.NODE_KEY_FILE
    found = keys.read_key(path)
    if found is None:
        raise UsageError("this node has no key yet: `aigrid id` makes one")
    pending = pending_rotation(data_dir)
    if pending is not None and _successor(pending) == found.did:
        raise UsageError(
            "the last rotation has not reached the grid: run `aigrid up` until it has;"
            f" or, if the grid will never take it, remove {data_dir / keys.ROTATION_FILE}"
        )
    _check_not_too_soon(data_dir, found.did, now_ms)
    old = keys.open_key(path, found, passphrase)
    new = Identity(secrets.token_bytes(SEED_BYTES))
    content = keys.encoded(new, passphrase() if found.protected else None)
    rotation = sign_rotation(old, new, now_ms=now_ms)
    following = data_dir / NEXT_KEY_FILE
    try:
        # In this order: until the last step, the node is who it was, and this may be done again.
        keys.write_private(following, content)
        keys.write_private(data_dir / keys.ROTATION_FILE, rotation.raw)
        left = hand_on(data_dir, old, new, passphrase if found.protected else None, now_ms=now_ms)
        _keep_as(path, data_dir / keys.retired_name(old.did))
        following.replace(path)
        keys.sync(data_dir)
    except OSError as error:
        raise keys.unusable(data_dir, error) from None
    return Rotated(old.did, new.did, left)


def _check_not_too_soon(data_dir: Path, did: str, now_ms: int) -> None:
    """A key that has only just come by rotation would leave the node out of its grid for a while.

    On the founder's node nobody else is asked.
    """
    if keys.read_key(data_dir / keys.AUTHORITY_KEY_FILE) is not None:
        return
    came_ms = max((one.valid_from_ms for one in delegated_to(data_dir, did)), default=0)
    next_ms = came_ms + LIMITS.rotation_interval_seconds * 1000
    if came_ms <= now_ms < next_ms:
        raise UsageError(
            f"the key has only just been changed, and the grid takes no other before"
            f" {format_ms(next_ms)}: run `aigrid id rotate` then",
            Code.RATE_LIMITED,
        )


def sign_rotation(old: Identity, new: Identity, *, now_ms: int) -> Record:
    """`old` names `new` as its successor, from now on, for as long as the kind allows."""
    body = agreed(old.did, new, rotated_ms=now_ms)
    until_ms = now_ms + LIMITS.rotation_ttl_seconds * 1000
    return build(Kind.ROTATION, body, old, valid_from_ms=now_ms, valid_until_ms=until_ms)


def pending_rotation(data_dir: Path) -> Record | None:
    """The rotation that waits, if the file holds one; whatever else is in it is nothing.

    Raises:
        UsageError: `data_directory_unusable`.
    """
    raw = keys.load_pending_rotation(data_dir)
    return None if raw is None else read_rotation(raw)


def read_rotation(raw: bytes) -> Record | None:
    """A KeyRotation as it lay in a file, whether or not its time is over."""
    try:
        record = verify_form_and_signature(raw)
    except VerificationError:
        return None
    return record if isinstance(record.body, RotationBody) else None


def _successor(rotation: Record) -> str:
    return rotation.body.successor if isinstance(rotation.body, RotationBody) else ""


def _key_files(data_dir: Path) -> Iterator[Path]:
    """The keys in use first, then those that were retired.

    With them the key of a rotation that was broken off: together with the record that waits, it
    would make whoever has both the node's successor.
    """
    yield data_dir / keys.NODE_KEY_FILE
    yield data_dir / keys.AUTHORITY_KEY_FILE
    yield data_dir / NEXT_KEY_FILE
    yield from islice(sorted(data_dir.glob("retired-*.key")), LIMITS.keys_retired_max)


def _rewrite(
    data_dir: Path, opened: list[tuple[Path, Identity]], passphrase: str | None
) -> list[str]:
    try:
        for path, identity in opened:
            # Where a link leads, or else what it leads to would stay as it was.
            keys.write_private(path.resolve(), keys.encoded(identity, passphrase))
    except OSError as error:
        raise keys.unusable(data_dir, error) from None
    return [path.name for path, _ in opened]


def _keep_as(path: Path, retired: Path) -> None:
    """A second name for a file. One that is there is from a rotation that was broken off."""
    try:
        os.link(path, retired)
    except FileExistsError:
        keys.write_private(retired, path.read_bytes())
