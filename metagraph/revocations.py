"""What this node knows of revocations: the newest status lists, who may sign them, and the bits.

Revocation is for good. A bit is kept from the moment in which a list counts that has it, whatever
becomes of that list, its signer or the issuer's own database: as long as any credential that it may
revoke can be valid. So lists may come in any order, expire, and be replaced by poorer ones.
"""

import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Final

from aigrid.metagraph.database import Database
from aigrid.protocol.credential_kinds import STATUS_URN, StatusListBody, status_list_of
from aigrid.protocol.errors import Code, UsageError
from aigrid.protocol.identity import public_key_of_did
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record
from aigrid.protocol.record_status import StatusEntry
from aigrid.protocol.status import (
    IssuerStatus,
    Statuses,
    decode_bits,
    delegates_of,
    has_bit,
    no_bits,
    status_of,
    union,
)

STATUS_KINDS: Final = (Kind.STATUS_DELEGATION, Kind.STATUS_LIST)
# After this long whatever the last bit of an issuer revoked has expired.
_KEPT_MS: Final = (LIMITS.grant_ttl_seconds + LIMITS.status_list_ttl_seconds) * 1000
_FORGOTTEN_SHARE: Final = 16  # of what may be kept, goes at once


class Revocations:
    """Lists are told by `put` and `drop`.

    Whether a delegate's list counts is decided when it is asked for, and again when the delegation
    comes: a list may come first.
    """

    def __init__(
        self, database: Database, *, grid: str = "", owners_max: int = LIMITS.status_owners_kept_max
    ) -> None:
        """What revokes memberships of `grid` (a DID) is kept, whoever else makes lists."""
        self._database = database
        self._grid = grid
        self._owners_max = owners_max
        self._lists: dict[str, dict[str, Record]] = {}  # by issuer of credentials, then signer
        self._delegations: dict[str, Record] = {}
        self._bits: OrderedDict[str, bytes] = OrderedDict()

    # --- records coming and going

    def put(self, record: Record, now_ms: int) -> bool:
        """Take note of a stored record; whether its issuer's known revocations are more now."""
        owner = owner_of(record)
        if record.kind is Kind.STATUS_LIST:
            self._lists.setdefault(owner, {})[record.issuer] = record
            if record.issuer != owner and record.issuer not in self.delegates(owner, now_ms):
                return False
            return self.add(owner, _bits_of(record), now_ms)
        if record.withdrawn:
            self._delegations.pop(owner, None)
            return False
        self._delegations[owner] = record
        allowed = self.delegates(owner, now_ms)
        lists = self._lists.get(owner, {})
        waiting = [lists[did] for did in allowed if did in lists]
        return self.add(owner, union(map(_bits_of, waiting)), now_ms)

    def drop(self, record: Record) -> None:
        """A record of this kind is stored no more. What its list revoked stays revoked."""
        owner = owner_of(record)
        if record.kind is Kind.STATUS_DELEGATION:
            if self._delegations.get(owner) == record:
                del self._delegations[owner]
            return
        lists = self._lists.get(owner, {})
        if lists.get(record.issuer) == record:
            del lists[record.issuer]
            if not lists:
                del self._lists[owner]

    def forget(self, now_ms: int) -> None:
        """Forget bits that can revoke nothing any more."""
        self._database.execute("DELETE FROM revoked WHERE until_ms <= ?", (now_ms,))
        self._bits.clear()

    def clear(self, grid: str) -> None:
        """Forget the lists, but not what they revoked: the node is in another grid."""
        self._grid = grid
        self._lists.clear()
        self._delegations.clear()

    def add(self, owner: str, bits: bytes, now_ms: int) -> bool:
        """Note for good what is revoked of `owner`; whether any of it is news."""
        known = self.bits(owner)
        whole = union((known, bits))
        if whole == known:
            return False
        self._database.execute(
            "INSERT OR REPLACE INTO revoked VALUES (?, ?, ?)",
            (owner, zlib.compress(whole), now_ms + _KEPT_MS),
        )
        self._remember(owner, whole)
        self._make_room(owner)
        return True

    # --- questions

    def bits(self, owner: str) -> bytes:
        """Everything that is known to be revoked of `owner`."""
        found = self._bits.get(owner)
        if found is not None:
            self._bits.move_to_end(owner)
        else:
            row = self._database.row("SELECT bits FROM revoked WHERE owner = ?", (owner,))
            found = no_bits() if row is None else _unpacked(row[0])
            self._remember(owner, found)
        return found

    def revoked(self, entry: StatusEntry | None) -> bool:
        """Whether the credential with this entry is known to be revoked."""
        return entry is not None and has_bit(self.bits(entry.issuer), entry.index)

    def delegation(self, owner: str, now_ms: int) -> Record | None:
        """The StatusDelegation of `owner` in force."""
        found = self._delegations.get(owner)
        return found if found is not None and found.valid_until_ms > now_ms else None

    def delegates(self, owner: str, now_ms: int) -> tuple[str, ...]:
        """Who may sign the status list of `owner` beside it."""
        return delegates_of(self.delegation(owner, now_ms), owner)

    def named(self, record: Record, now_ms: int) -> tuple[str, ...]:
        """The delegates in a StatusDelegation; in a withdrawal of one, those it takes back."""
        if record.kind is not Kind.STATUS_DELEGATION:
            return ()
        if record.withdrawn:
            return self.delegates(record.issuer, now_ms)
        return delegates_of(record, record.issuer)

    def naming(self, did: str, now_ms: int) -> list[str]:
        """Those who let `did` sign their status lists."""
        return [owner for owner in self._delegations if did in self.delegates(owner, now_ms)]

    def list_of(self, owner: str, signer: str, now_ms: int) -> Record | None:
        """The newest list of `owner` that `signer` signed."""
        found = self._lists.get(owner, {}).get(signer)
        return found if found is not None and found.valid_until_ms > now_ms else None

    def status(self, owner: str, now_ms: int) -> IssuerStatus | None:
        """What is known of the revocations of `owner`; None where nothing is.

        Delegates count until `owner` names others, also those that are no members any more: so the
        order in which two of them revoke each other does not matter.
        """
        lists = self._lists.get(owner, {})
        delegation = self.delegation(owner, now_ms)
        # Anybody may have signed one: only those that count are looked at.
        signers = (owner, *delegates_of(delegation, owner))
        times = {
            did: lists[did].valid_from_ms
            for did in signers
            if did in lists and lists[did].valid_until_ms > now_ms
        }
        found = status_of(owner, times, self.bits(owner), delegation)
        if not times and not found.delegates and found.bits == no_bits():
            return None
        return found

    def at(self, now_ms: int) -> Statuses:
        """The same as a mapping, for decisions; it is looked up when it is asked."""
        return _Known(self, now_ms)

    def owners(self) -> Iterator[str]:
        """Those of whom there are lists or delegations."""
        return iter({**self._lists, **self._delegations})

    def _make_room(self, owner: str) -> None:
        """Forget the longest unchanged bits of issuers of whom there are no lists, if it is many.

        Keys are free, and a list may be valid for a moment only: else it would fill the disk. What
        such an issuer signed counts nowhere before a list of it comes, and honest ones say it all.
        """
        if self._database.row("SELECT COUNT(*) FROM revoked")[0] <= self._owners_max:
            return
        rows = self._database.rows("SELECT owner FROM revoked ORDER BY rowid")
        spared = {*self._lists, *self._delegations, self._grid, owner}
        silent = [row[0] for row in rows if row[0] not in spared]
        with self._database.transaction():
            for one in silent[: max(1, self._owners_max // _FORGOTTEN_SHARE)]:
                self._database.execute("DELETE FROM revoked WHERE owner = ?", (one,))
                self._bits.pop(one, None)

    def _remember(self, owner: str, bits: bytes) -> None:
        self._bits[owner] = no_bits() if bits == no_bits() else bits  # one object for all of those
        if len(self._bits) > LIMITS.status_bits_kept_max:
            self._bits.popitem(last=False)


class _Known(Mapping[str, IssuerStatus]):
    """`Statuses` at one time."""

    __slots__ = ("_found", "_now_ms", "_revocations")

    def __init__(self, revocations: Revocations, now_ms: int) -> None:
        self._revocations = revocations
        self._now_ms = now_ms
        self._found: dict[str, IssuerStatus | None] = {}

    def __getitem__(self, owner: str) -> IssuerStatus:
        if owner not in self._found:
            self._found[owner] = self._revocations.status(owner, self._now_ms)
        found = self._found[owner]
        if found is None:
            raise KeyError(owner)
        return found

    def __iter__(self) -> Iterator[str]:
        return (owner for owner in self._revocations.owners() if owner in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, owner: object) -> bool:
        return isinstance(owner, str) and self.get(owner) is not None


def owner_of(record: Record) -> str:
    """Whose credentials a status list or a StatusDelegation is about."""
    return record.subject.removeprefix(STATUS_URN)


def check_status_record(record: Record) -> None:
    """Raise VerificationError unless a list can be unpacked, and names whose it is."""
    public_key_of_did(owner_of(record))
    if record.kind is Kind.STATUS_LIST:
        _bits_of(record)


def is_about_itself(record: Record) -> bool:
    """Whether the issuer of credentials itself signed what is said of their revocation."""
    return record.kind in STATUS_KINDS and record.subject == status_list_of(record.issuer)


def _bits_of(record: Record) -> bytes:
    body = record.body
    return decode_bits(body.encoded_list) if isinstance(body, StatusListBody) else no_bits()


def _unpacked(packed: bytes) -> bytes:
    try:
        bits = zlib.decompress(packed)
    except zlib.error:
        bits = b""
    if len(bits) != len(no_bits()):
        raise UsageError(
            "The data directory cannot be used: a kept revocation is damaged.",
            Code.DATA_DIRECTORY_UNUSABLE,
        )
    return bits
