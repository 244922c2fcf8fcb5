"""The metagraph: the one door through which records come in, and what is believed of them.

A record is verified once per content id, merged into the store, and shown in the index as long as
its issuer is a member. Losing a membership hides what its holder said; renewing it shows it again.
What is a membership, and what revokes one, is decided in `members` and `revocations`.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from aigrid.metagraph.accounts import MEMBERSHIPS
from aigrid.metagraph.index import Index
from aigrid.metagraph.issuing import replacing
from aigrid.metagraph.members import Members
from aigrid.metagraph.refusals import Refusals
from aigrid.metagraph.repair import MaySay, Repair
from aigrid.metagraph.revocations import (
    STATUS_KINDS,
    Revocations,
    owner_of,
)
from aigrid.metagraph.store import PutResult, Store
from aigrid.protocol.canonical import record_cid
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import KINDS, Body, Kind, WithdrawnBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.reconcile_items import Items
from aigrid.protocol.record import (
    Record,
    RecordKey,
    check_time,
)
from aigrid.protocol.record_status import StatusEntry

Listener = Callable[[Record], None]
T = TypeVar("T")


class Metagraph:
    """What this node knows. Reads and writes `store`, keeps `index` in step with it.

    Attributes:
        grid: DID of the grid whose memberships count.
        refused: how many records were refused, by code.
        listeners: called with each record that changed something, after it is committed.
        eviction_listeners: called with each record of a stranger that made room for others.
        shift_listeners: called when members changed otherwise than by a Membership of theirs.
        revocations: what is known of them, of this grid's memberships and of other credentials.
        memberships: those of the grid.
    """

    def __init__(
        self,
        store: Store,
        index: Index,
        *,
        grid: str,
        own_did: str,
        open_to_strangers: bool,
        now_ms: int = 0,
    ) -> None:
        """Start from what `store` holds that is valid at `now_ms`."""
        self.store = store
        self.index = index
        self.revocations = Revocations(store.database, grid=grid)
        self.memberships = Members(
            store, self.revocations, (grid, own_did), open_to_all=open_to_strangers
        )
        self.grid = grid
        self.own_did = own_did
        self.open_to_strangers = open_to_strangers
        self.listeners: list[Listener] = []
        self.eviction_listeners: list[Listener] = []
        self.shift_listeners: list[Callable[[], None]] = []
        self._repair = Repair(store)
        self._refusals = Refusals()
        self.refused = self._refusals.refused
        self._load(now_ms)

    # --- records coming in

    def ingest(self, raw: bytes, *, now_ms: int, received_from: str | None) -> Record | None:
        """Verify and merge one record; None if it was known.

        Raises:
            VerificationError: why it was refused; it has been counted.
        """
        changed, refusals = self.ingest_batch([raw], now_ms=now_ms, received_from=received_from)
        if refusals:
            raise refusals[0]
        return changed[0] if changed else None

    def ingest_batch(
        self, raws: Iterable[bytes], *, now_ms: int, received_from: str | None
    ) -> tuple[list[Record], list[VerificationError]]:
        """Verify and merge records: the grid's delegation, then the rest, memberships first.

        Returns:
            The records that changed something, and why others were refused. Known ones are neither.
        """
        records: list[Record] = []
        refusals: list[VerificationError] = []
        for raw in raws:
            try:
                record = self._verify(raw)
            except VerificationError as error:
                refusals.append(self._refusals.count(error))
            else:
                if record is not None:
                    records.append(record)
        # What a membership may rest on comes first, and in a transaction of its own.
        first = [r for r in records if r.kind is Kind.STATUS_DELEGATION and r.issuer == self.grid]
        rest = [record for record in records if record not in first] if first else records
        rest.sort(key=lambda record: record.kind is not Kind.MEMBERSHIP)
        changed: list[Record] = []
        for part in (first, rest):
            merged, unfit = self._merge(part, now_ms, received_from)
            changed += merged
            refusals += unfit
        return changed, refusals

    def issue(
        self,
        kind: Kind,
        body: Body,
        identity: Identity,
        *,
        now_ms: int,
        ttl_ms: int,
        status: StatusEntry | None = None,
    ) -> Record:
        """Sign a record of our own, so that it replaces what `identity` said under its key.

        It is valid for `ttl_ms`, at most as long as its kind allows, and at least as long as what
        it replaces.

        Raises:
            VerificationError: if it would be refused; `from_future`, when the clock was set back.
        """
        record = replacing(self.store, kind, body, identity, (now_ms, ttl_ms), status)
        _, refusals = self._merge([record], now_ms, None)
        if refusals:
            raise refusals[0]
        return record

    def withdraw(
        self, kind: Kind, subject: str, identity: Identity, *, now_ms: int
    ) -> Record | None:
        """Take back what `identity` said under a key, for as long as it would have been valid.

        None if there is nothing valid to take back.
        """
        key = (identity.did, kind.value, subject)
        current = self.store.newest(key)
        if current is None or current.withdrawn or current.valid_until_ms <= now_ms:
            return None
        body = WithdrawnBody(id=subject, withdrawn=True)
        return self.issue(kind, body, identity, now_ms=now_ms, ttl_ms=1)

    # --- time and place

    def expire(self, now_ms: int) -> list[Record]:
        """Forget what is no longer valid; returns it. Due at `store.next_due_ms()`.

        At most `expired_at_once_max` records go: more may still be due.
        """
        gone = self.store.expire(now_ms, records_max=LIMITS.expired_at_once_max)
        for record in gone:
            self.index.remove(record)
            if record.kind is Kind.MEMBERSHIP:
                self.memberships.drop(record)
                self._follow_members([record.subject])
            elif record.kind in STATUS_KINDS:
                self.revocations.drop(record)
                if record.kind is Kind.STATUS_DELEGATION and record.issuer == self.grid:
                    self._shift()
        self._drop_evicted({})
        return gone

    def switch_grid(self, grid: str) -> None:
        """Belong to `grid` from now on: keep only what we said ourselves, memberships apart."""
        foreign = [
            record
            for record in self.store.live(0)
            if record.issuer != self.own_did or record.kind is Kind.MEMBERSHIP
        ]
        self.store.delete(foreign)
        for record in foreign:
            self.index.remove(record)
        self.memberships.clear(grid)
        self.revocations.clear(grid)
        self._load_status(0)
        self._refusals.make_room()
        self.grid = grid
        self._charge_all()

    # --- questions

    def members(self, now_ms: int) -> frozenset[str]:
        """DIDs of the members of the grid: those whose membership is revoked are none."""
        return self.memberships.all(now_ms)

    def membership_of(self, did: str, now_ms: int) -> Record | None:
        """The membership of `did` in force, and not revoked."""
        return self.memberships.current(did, now_ms)

    def live_records(self, now_ms: int, *, issuer: str | None = None) -> list[Record]:
        """Everything believed now, or what is believed of one issuer (which is much quicker)."""
        records = self.store.live(now_ms) if issuer is None else self.store.of_issuer(issuer)
        return [
            record
            for record in records
            if not record.withdrawn
            and record.valid_until_ms > now_ms
            and self.memberships.may_say(record.kind, record.issuer, now_ms)
        ]

    def check_believed(self, record: Record, now_ms: int) -> None:
        """Raises VerificationError(`from_future` | `expired` | `not_member`) unless it is now."""
        check_time(record, now_ms)
        if not self.memberships.may_say(record.kind, record.issuer, now_ms):
            raise VerificationError("the issuer is not a member", Code.NOT_MEMBER)

    def believed(self, now_ms: int) -> list[str]:
        """The content ids of everything believed now, withdrawals included."""
        return [
            record_cid(sha256)
            for sha256, kind, issuer, _ in self.store.live_digests(now_ms)
            if self.memberships.may_say(Kind(kind), issuer, now_ms)
        ]

    def manifests_of(self, model_id: str, now_ms: int) -> tuple[Record, ...]:
        """The manifests of a model, whether or not anybody offers it."""
        return self.index.manifests_of(model_id, now_ms)

    def counts(self, now_ms: int) -> dict[str, int]:
        """How many live records are held of each kind."""
        return self.store.counts(now_ms)

    def items(self, now_ms: int, *, branch: str | None = None) -> Items:
        """What reconciliation compares: all that we may say, withdrawals included.

        `branch` is one of `BRANCHES`, `EVERYBODY` for what belongs to none, or None for all.
        """
        return self._repair.items(self.grid, branch, self._may_say_at(now_ms), now_ms=now_ms)

    def lacking(self, sha256s: Iterable[bytes], *, peer_id: str, now_ms: int) -> list[bytes]:
        """Of these the ones worth fetching from a peer: not what there lately was no room for."""
        return self._refusals.lacking(sha256s, peer_id=peer_id, now_ms=now_ms)

    def raws(self, sha256s: Sequence[bytes], *, now_ms: int) -> Iterator[bytes]:
        """Of these the records that we hold and may say: memberships first, then oldest first."""
        return self._repair.raws(sha256s, self._may_say_at(now_ms), now_ms=now_ms)

    # --- inside

    def _load(self, now_ms: int) -> None:
        self.store.expire(now_ms)
        self.revocations.forget(now_ms)
        self._load_status(now_ms)
        for record in self.store.of_kind(Kind.MEMBERSHIP):
            if not record.withdrawn and getattr(record.body, "grid", "") == self.grid:
                self.memberships.put(record)
        self.memberships.refresh()
        self._charge_all()
        for record in self.store.live(0):
            self._show(record)

    def _load_status(self, now_ms: int) -> None:
        for kind in STATUS_KINDS:
            for record in self.store.of_kind(kind):
                self.revocations.put(record, now_ms)

    def _charge_all(self) -> None:
        """Who is not a member (any more) counts as a stranger."""
        for issuer in self.store.accounts.members():
            if not self.memberships.until_ms(issuer):
                self._charge(issuer, member=False)
        self._drop_evicted({})

    def _charge(self, issuer: str, *, member: bool) -> None:
        """What `issuer` said counts against itself if it is a member, else its introducers."""
        if issuer != self.own_did:
            (self.store.admit if member else self.store.expel)(issuer)

    def _drop_evicted(self, changed: dict[RecordKey, Record]) -> None:
        """Follow the store, in what was just `changed` as well."""
        for record in self.store.take_evicted():
            if changed.get(record.key) == record:
                del changed[record.key]
            self.index.remove(record)
            if record.kind in STATUS_KINDS:
                self.revocations.drop(record)
            for listener in self.eviction_listeners:
                listener(record)

    def _verify(self, raw: bytes) -> Record | None:
        """Everything that depends on the bytes alone; None if it is stored."""
        if len(raw) > LIMITS.record_max_bytes:
            raise VerificationError(f"{len(raw)} bytes", Code.RECORD_TOO_LARGE)
        digest = hashlib.sha256(raw).digest()
        self._refusals.check(digest)
        if self.store.has(record_cid(digest)):
            return None
        return self._refusals.verify(raw, digest)

    def _merge(
        self, records: Sequence[Record], now_ms: int, received_from: str | None
    ) -> tuple[list[Record], list[VerificationError]]:
        if not records:
            return [], []
        changed: dict[RecordKey, Record] = {}
        refusals: list[VerificationError] = []
        joined: dict[str, int] = {}
        with self.store.transaction():
            for record in records:
                try:
                    if self._put(record, now_ms, received_from, joined) is PutResult.CHANGED:
                        changed[record.key] = record
                except VerificationError as error:
                    refusals.append(self._refusals.count(error))
                    self._refusals.remember(record, error, now_ms, received_from)
        self._drop_evicted(changed)
        for record in changed.values():
            self._apply(record, now_ms)
        for record in changed.values():
            for listener in self.listeners:
                listener(record)
        return list(changed.values()), refusals

    def _put(
        self, record: Record, now_ms: int, received_from: str | None, joined: dict[str, int]
    ) -> PutResult:
        """Check and store one record; `joined`: until when others are by the same transaction."""
        if not KINDS[record.kind].shared:
            raise VerificationError(f"{record.kind} is not shared", Code.UNKNOWN_KIND)
        check_time(record, now_ms)
        account = self.memberships.account_of(record, now_ms, received_from, joined)
        result = self.store.put(
            record,
            now_ms=now_ms,
            received_from=received_from,
            account=account,
            rated=account not in {self.own_did, MEMBERSHIPS},
        )
        if record.kind is Kind.MEMBERSHIP and result is PutResult.CHANGED:
            self.store.delete(self.memberships.superseded_by(record))
            ended = record.withdrawn or self.revocations.revoked(record.status)
            joined[record.subject] = 0 if ended else record.valid_until_ms
            self._charge(record.subject, member=not ended)
        return result

    def _apply(self, record: Record, now_ms: int) -> None:
        if record.kind is Kind.MEMBERSHIP:
            self._refusals.make_room()  # what was a stranger's may be a member's now
            self.memberships.put(record)
            self.memberships.refresh([record.subject])
            self._show_all_of(record.subject)
            return
        if record.kind in STATUS_KINDS:
            more = self.revocations.put(record, now_ms)
            delegated = record.kind is Kind.STATUS_DELEGATION
            if owner_of(record) == self.grid and (more or delegated):
                self._shift()
        self._show(record)

    def _shift(self) -> None:
        """Revocations, or who may renew, are others than before: so may be the members."""
        self._refusals.make_room()
        if self._follow_members(None):
            for listener in self.shift_listeners:
                listener()

    def _follow_members(self, dids: list[str] | None) -> bool:
        """Find out whether these, or any, are members still or again; whether that changed."""
        changed = self.memberships.refresh(dids)
        for did in changed:
            self._charge(did, member=self.memberships.until_ms(did) > 0)
            self._show_all_of(did)
        self._drop_evicted({})
        return bool(changed)

    def _show_all_of(self, issuer: str) -> None:
        for record in self.store.of_issuer(issuer):
            self._show(record)

    def _show(self, record: Record) -> None:
        """Bring the index in step with what is believed of a stored record."""
        if record.issuer == self.own_did or self.open_to_strangers:
            self.index.add(record)
        elif until_ms := self.memberships.until_ms(record.issuer):
            self.index.add(record, until_ms=until_ms)
        else:
            self.index.remove(record)

    def _may_say_at(self, now_ms: int) -> MaySay:
        return partial(self.memberships.may_say, now_ms=now_ms)
