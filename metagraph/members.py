"""Who is a member: Memberships of the grid's authority, and those that its delegates renewed.

A renewal counts as long as its signer is named in the authority's StatusDelegation in force, and as
long as the authority is known to have said nothing newer of that member. None counts whose entry in
the grid's status list is set.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import UNSET

from aigrid.metagraph.accounts import MEMBERSHIPS, introduced_by
from aigrid.metagraph.quota import TokenBuckets
from aigrid.metagraph.revocations import (
    STATUS_KINDS,
    Revocations,
    check_status_record,
    is_about_itself,
    owner_of,
)
from aigrid.metagraph.store import Store
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.kinds import Kind, MembershipBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.membership import check_renewal
from aigrid.protocol.record import Record
from aigrid.protocol.timestamp import parse_ms


class _Dated(msgspec.Struct):
    valid_from: str = msgspec.field(name="validFrom")


_dated = msgspec.json.Decoder(_Dated)
_FOREVER_MS = 1 << 62


class Members:
    """The Memberships that are stored. `put` and `drop` tell of changes, `refresh` applies them."""

    def __init__(
        self, store: Store, revocations: Revocations, who: tuple[str, str], *, open_to_all: bool
    ) -> None:
        """Of `who`, the DIDs of the grid and of this node, the latter is always believed.

        With `open_to_all` also those may say something who are no members.
        """
        self.grid, self._own_did = who
        self._open = open_to_all
        self._store = store
        self._revocations = revocations
        self._outsiders = TokenBuckets(
            burst=LIMITS.outsiders_burst, per_second=LIMITS.outsiders_per_second
        )
        self._held: dict[str, dict[str, Record]] = {}  # by subject and issuer
        self._until: dict[str, int] = {}
        self._all: tuple[frozenset[str], int, int] | None = None  # and from when to when it holds

    def clear(self, grid: str) -> None:
        """Nobody is a member; the grid is another one from now on."""
        self.grid = grid
        self._held.clear()
        self._until.clear()
        self._all = None

    def check(self, record: Record, now_ms: int) -> None:
        """Raise VerificationError(`not_member` | `superseded`) unless a Membership may count."""
        if record.issuer == self.grid:
            return
        body = record.body
        if not isinstance(body, MembershipBody) or body.grid != self.grid:
            raise VerificationError("a membership of another grid", Code.NOT_MEMBER)
        original = check_renewal(record, self._revocations.delegates(self.grid, now_ms))
        key = (self.grid, Kind.MEMBERSHIP.value, record.subject)
        if original.valid_from_ms < self._store.newest_valid_from_ms(key):
            raise VerificationError("the authority has said something newer", Code.SUPERSEDED)

    def superseded_by(self, record: Record) -> list[Record]:
        """The renewals of what the authority said of a member before `record`, which is its own."""
        if record.issuer != self.grid:
            return []
        held = self._held.get(record.subject, {}).values()
        return [r for r in held if r.issuer != self.grid and _renewed_ms(r) < record.valid_from_ms]

    def put(self, record: Record) -> None:
        """A Membership that passed `check` is stored, or withdrawn by the authority."""
        for gone in self.superseded_by(record):
            self.drop(gone)
        if record.withdrawn:
            self._held.get(record.subject, {}).pop(record.issuer, None)
        else:
            self._held.setdefault(record.subject, {})[record.issuer] = record

    def drop(self, record: Record) -> None:
        """A Membership is stored no more."""
        held = self._held.get(record.subject, {})
        if held.get(record.issuer) == record:
            del held[record.issuer]

    def refresh(self, dids: Iterable[str] | None = None) -> list[str]:
        """Find out anew until when these are members, or all; those for whom that is different."""
        changed = []
        for did in list(self._held if dids is None else dids):
            held = self._held.get(did, {})
            until_ms = max((r.valid_until_ms for r in held.values() if self._counts(r)), default=0)
            if until_ms != self._until.get(did, 0):
                changed.append(did)
                self._until[did] = until_ms
                self._all = None
            if not until_ms:
                self._until.pop(did, None)
            if not held:
                self._held.pop(did, None)
        return changed

    def until_ms(self, did: str) -> int:
        """Until when `did` is a member, 0 if it is none. That may have passed."""
        return self._until.get(did, 0)

    def all(self, now_ms: int) -> frozenset[str]:
        """DIDs of the members: the same object as long as they are the same."""
        if self._all is None or not self._all[1] <= now_ms < self._all[2]:
            live = {did: until_ms for did, until_ms in self._until.items() if until_ms > now_ms}
            ends_ms = min(live.values(), default=_FOREVER_MS)
            self._all = frozenset(live), now_ms, ends_ms
        return self._all[0]

    def current(self, did: str, now_ms: int) -> Record | None:
        """The Membership of `did` in force: the authority's own, or the longest renewal."""
        if self._until.get(did, 0) <= now_ms:
            return None
        held = self._held.get(did, {})
        own = held.get(self.grid)
        if own is not None and own.valid_until_ms > now_ms and self._counts(own):
            return own
        counting = (record for record in held.values() if self._counts(record))
        best = max(counting, key=lambda record: record.valid_until_ms, default=None)
        return best if best is not None and best.valid_until_ms > now_ms else None

    def may_say(self, kind: Kind, issuer: str, now_ms: int) -> bool:
        """Whether what `issuer` says is believed."""
        if issuer == self.grid:
            return kind is Kind.MEMBERSHIP or kind in STATUS_KINDS
        if kind is Kind.MEMBERSHIP:
            return issuer in self._revocations.delegates(self.grid, now_ms)
        if issuer == self._own_did or self._open or self.until_ms(issuer) > now_ms:
            return True
        if kind is Kind.STATUS_DELEGATION:
            named = self._revocations.delegates(issuer, now_ms)
            return any(self._vouches(did, issuer, now_ms) for did in named)
        return kind is Kind.STATUS_LIST and issuer in self._revocations.delegates(self.grid, now_ms)

    def account_of(
        self, record: Record, now_ms: int, received_from: str | None, joined: Mapping[str, int]
    ) -> str:
        """Whose it is to have room for a record that comes in.

        `joined` says until when others are members than those who were `put`.

        Raises:
            VerificationError: nobody's, since its issuer may not say this.
        """
        if record.kind is Kind.MEMBERSHIP:
            self.check(record, now_ms)
            return MEMBERSHIPS  # there may be more members than anybody has records
        if record.kind in STATUS_KINDS:
            check_status_record(record)
        until_ms = joined.get(record.issuer, self.until_ms(record.issuer))
        if record.issuer == self._own_did or until_ms > now_ms:
            return record.issuer
        if self._is_of_grid(record, now_ms):
            return MEMBERSHIPS
        named = self._revocations.named(record, now_ms)
        sponsor = next((did for did in named if self._vouches(did, record.issuer, now_ms)), None)
        if sponsor is not None:
            wait_seconds = self._outsiders.take(record.issuer, now_ms / 1000)
            if wait_seconds:
                raise VerificationError(
                    "too many at once", Code.OVER_RATE, retry_after_seconds=wait_seconds
                )
            return sponsor
        if not self._open:
            raise VerificationError("the issuer is not a member", Code.NOT_MEMBER)
        return introduced_by(received_from)  # keys are free: the introducer answers for them

    def _vouches(self, did: str, owner: str, now_ms: int) -> bool:
        """Whether a member signs the status list of `owner`, who may be none.

        Such an issuer's StatusDelegation is then kept at that member's expense: naming somebody who
        does not want it costs that one nothing.
        """
        is_member = did == self._own_did or self.until_ms(did) > now_ms
        return is_member and self._revocations.list_of(owner, did, now_ms) is not None

    def _is_of_grid(self, record: Record, now_ms: int) -> bool:
        """Whether it tells which memberships are revoked: its signer need not be a member."""
        if record.issuer == self.grid:
            return is_about_itself(record)
        is_list = record.kind is Kind.STATUS_LIST and owner_of(record) == self.grid
        return is_list and record.issuer in self._revocations.delegates(self.grid, now_ms)

    def ending_before(self, end_ms: int, now_ms: int) -> list[str]:
        """DIDs of members whose memberships run out before `end_ms`."""
        return [did for did, until_ms in self._until.items() if now_ms < until_ms < end_ms]

    def original(self, did: str, now_ms: int) -> Record | None:
        """What the authority signed last of the membership of `did` in force, for its renewal.

        None where it cannot be renewed: it cannot be revoked, or is of the authority's own node.
        """
        current = self.current(did, now_ms)
        if current is None or current.status is None:
            return None
        if not isinstance(current.body, MembershipBody) or current.body.role != "member":
            return None
        if current.issuer == self.grid:
            return current
        return check_renewal(current, (current.issuer,))

    def revoked(self, now_ms: int) -> list[Record]:
        """The authority's Memberships that would be in force if they were not revoked."""
        return [
            held[self.grid]
            for held in self._held.values()
            if self.grid in held
            and held[self.grid].valid_until_ms > now_ms
            and self._revocations.revoked(held[self.grid].status)
        ]

    def indexes(self) -> frozenset[int]:
        """The entries of the grid's status list that Memberships have."""
        held = (record for by_issuer in self._held.values() for record in by_issuer.values())
        return frozenset(r.status.index for r in held if r.status is not None)

    def _counts(self, record: Record) -> bool:
        if self._revocations.revoked(record.status):
            return False
        # A delegation that has expired is dropped, which refreshes this.
        return record.issuer == self.grid or record.issuer in self._revocations.delegates(
            self.grid, 0
        )


def _renewed_ms(record: Record) -> int:
    """`validFrom` of what a stored renewal renews: its signature was checked before."""
    body = record.body
    renews = body.renews if isinstance(body, MembershipBody) else UNSET
    try:
        text = "" if renews is UNSET else renews
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return parse_ms(_dated.decode(raw).valid_from)
    except (binascii.Error, msgspec.DecodeError, ValueError, VerificationError):
        return 0
