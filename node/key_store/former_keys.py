"""What the keys that a node has had leave behind: whoever relies on their credentials hears of it.

A key that is retired no longer signs which of its credentials are revoked. So it lets its successor
sign that, for as long as any of them can be valid.
"""

from collections.abc import Iterable
from pathlib import Path

from aigrid.node.key_store import keys
from aigrid.node.key_store.key_file import Passphrase
from aigrid.protocol.credential_kinds import StatusDelegationBody, status_list_of
from aigrid.protocol.errors import UsageError, VerificationError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record, build, verify_form_and_signature

FORMER_KEYS_FILE = "former-keys"


def delegated_to(data_dir: Path, did: str) -> list[Record]:
    """StatusDelegations by which keys of this directory let `did` sign their status lists.

    Whatever else is in the file is nothing.

    Raises:
        UsageError: `data_directory_unusable`.
    """
    found = []
    try:
        with (data_dir / FORMER_KEYS_FILE).open("rb") as file:
            lines = file.read(2 * LIMITS.status_owners_max * LIMITS.join_max_bytes).splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise keys.unusable(data_dir, error) from None
    for line in lines:
        try:
            record = verify_form_and_signature(line)
        except VerificationError:
            continue
        if isinstance(record.body, StatusDelegationBody) and record.body.delegates == (did,):
            found.append(record)
    return found


def hand_on(
    data_dir: Path, old: Identity, new: Identity, passphrase: Passphrase | None, *, now_ms: int
) -> list[str]:
    """Have `old`, and those for which it speaks, let `new` sign their status lists.

    What names `old` stays until the next time: the change may be broken off here. `passphrase`
    opens the retired keys that have the one of the node's key; None: it has none.

    Returns:
        The DIDs whose keys did not open: what they issued, `new` cannot revoke.

    Raises:
        UsageError: `data_directory_unusable`.
        OSError: the file cannot be written.
    """
    before = delegated_to(data_dir, old.did)
    until_ms = now_ms + LIMITS.status_delegation_ttl_seconds * 1000
    said = [_delegation(old, new, now_ms, until_ms)]
    left = []
    for earlier in before:
        if earlier.valid_until_ms <= now_ms:
            continue
        former = _retired(data_dir, earlier.issuer, passphrase)
        if former is None:
            left.append(earlier.issuer)
        else:
            # Nothing that it issued is valid for longer than what it signed first.
            said.append(_delegation(former, new, now_ms, earlier.valid_until_ms))
    kept = said[: LIMITS.status_owners_max]
    keys.write_private(data_dir / FORMER_KEYS_FILE, _lines([*kept, *before]))
    return left


def _delegation(former: Identity, to: Identity, now_ms: int, until_ms: int) -> Record:
    body = StatusDelegationBody(status_list_of(former.did), (to.did,), 1)
    return build(
        Kind.STATUS_DELEGATION, body, former, valid_from_ms=now_ms, valid_until_ms=until_ms
    )


def _retired(data_dir: Path, did: str, passphrase: Passphrase | None) -> Identity | None:
    """A retired key, if it is there and opens."""
    path = data_dir / keys.retired_name(did)
    try:
        found = keys.read_key(path)
        if found is None or (found.protected and passphrase is None):
            return None
        return keys.open_key(path, found, passphrase or keys.no_passphrase)
    except UsageError:
        return None


def _lines(records: Iterable[Record]) -> bytes:
    return b"".join(record.raw + b"\n" for record in records)
