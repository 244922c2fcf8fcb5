"""The metagraph: the one door through which records come in, and what is believed of them.

A record is verified once per content id, merged into the store, and shown in the index as long as
its issuer is a member. Losing a membership hides what its holder said; renewing it shows it again.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from aigrid.metagraph.accounts import MEMBERSHIPS, introduced_by
from aigrid.metagraph.index import Index
from aigrid.metagraph.memo import Memo
from aigrid.metagraph.repair import MaySay, Repair
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
    build,
    check_time,
    verify_form_and_signature,
)

Listener = Callable[[Record], None]
T = TypeVar("T")


class Metagraph:
    """What this node knows. Reads and writes `store`, keeps `index` in step with it.

    Attributes:
        grid: DID of the grid whose memberships count.
        refused: how many records were refused, by code.
        listeners: called with each record that changed something, after it is committed.
        eviction_listeners: called with each record of a stranger that made room for others.
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
        self.grid = grid
        self.own_did = own_did
        self.open_to_strangers = open_to_strangers
        self.refused: Counter[Code] = Counter()
        self.listeners: list[Listener] = []
        self.eviction_listeners: list[Listener] = []
        self._repair = Repair(store)
        self._memberships: dict[str, Record] = {}
        self._refusals: Memo[tuple[str, Code]] = Memo(LIMITS.refusals_kept_max)
        self._verified: Memo[Record] = Memo(LIMITS.records_waiting_max)
        self._no_room: Memo[int] = Memo(LIMITS.refusals_for_room_max)  # until when
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
        """Verify and merge records in one transaction, memberships first.

        Returns:
            The records that changed something, and why others were refused. Known ones are neither.
        """
        records: list[Record] = []
        refusals: list[VerificationError] = []
        for raw in raws:
            try:
                record = self._verify(raw)
            except VerificationError as error:
                refusals.append(self._count(error))
            else:
                if record is not None:
                    records.append(record)
        records.sort(key=lambda record: record.kind is not Kind.MEMBERSHIP)
        changed, unfit = self._merge(records, now_ms, received_from)
        return changed, refusals + unfit

    def issue(
        self, kind: Kind, body: Body, identity: Identity, *, now_ms: int, ttl_ms: int
    ) -> Record:
        """Sign a record of our own, so that it replaces what `identity` said under its key.

        It is valid for `ttl_ms`, at most as long as its kind allows, and at least as long as what
        it replaces.

        Raises:
            VerificationError: if it would be refused; `from_future`, when the clock was set back.
        """
        key = (identity.did, kind.value, body.id)
        valid_from_ms = max(now_ms, self.store.newest_valid_from_ms(key) + 1)
        current = self.store.newest(key)
        valid_until_ms = max(
            valid_from_ms + min(ttl_ms, KINDS[kind].ttl_seconds * 1000),
            0 if current is None else current.valid_until_ms,
        )
        record = build(
            kind, body, identity, valid_from_ms=valid_from_ms, valid_until_ms=valid_until_ms
        )
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
            if self._memberships.get(record.subject) == record:
                del self._memberships[record.subject]
                self._charge(record.subject, member=False)
                self._show_all_of(record.subject)
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
        self._memberships.clear()
        self._no_room.clear()
        self.grid = grid
        self._charge_all()

    # --- questions

    def members(self, now_ms: int) -> frozenset[str]:
        """DIDs of the members of the grid."""
        return frozenset(
            did for did, record in self._memberships.items() if record.valid_until_ms > now_ms
        )

    def membership_of(self, did: str, now_ms: int) -> Record | None:
        """The membership of `did` in force."""
        record = self._memberships.get(did)
        return record if record is not None and record.valid_until_ms > now_ms else None

    def live_records(self, now_ms: int, *, issuer: str | None = None) -> list[Record]:
        """Everything believed now, or what is believed of one issuer (which is much quicker)."""
        records = self.store.live(now_ms) if issuer is None else self.store.of_issuer(issuer)
        return [
            record
            for record in records
            if not record.withdrawn
            and record.valid_until_ms > now_ms
            and self._may_say(record.kind, record.issuer, now_ms)
        ]

    def check_believed(self, record: Record, now_ms: int) -> None:
        """Raises VerificationError(`from_future` | `expired` | `not_member`) unless it is now."""
        check_time(record, now_ms)
        if not self._may_say(record.kind, record.issuer, now_ms):
            raise VerificationError("the issuer is not a member", Code.NOT_MEMBER)

    def believed(self, now_ms: int) -> list[str]:
        """The content ids of everything believed now, withdrawals included."""
        return [
            record_cid(sha256)
            for sha256, kind, issuer, _ in self.store.live_digests(now_ms)
            if self._may_say(Kind(kind), issuer, now_ms)
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
        peer, longest_ms = peer_id.encode(), LIMITS.refused_for_room_seconds * 1000
        left_ms = ((one, (self._no_room.get(one + peer) or 0) - now_ms) for one in sha256s)
        return [one for one, left in left_ms if not 0 < left <= longest_ms]  # clocks are set back

    def raws(self, sha256s: Sequence[bytes], *, now_ms: int) -> Iterator[bytes]:
        """Of these the records that we hold and may say: memberships first, then oldest first."""
        return self._repair.raws(sha256s, self._may_say_at(now_ms), now_ms=now_ms)

    # --- inside

    def _load(self, now_ms: int) -> None:
        self.store.expire(now_ms)
        for record in self.store.of_issuer(self.grid):
            if record.kind is Kind.MEMBERSHIP and not record.withdrawn:
                self._memberships[record.subject] = record
        self._charge_all()
        for record in self.store.live(0):
            self._show(record)

    def _charge_all(self) -> None:
        """Who is not a member (any more) counts as a stranger."""
        for issuer in self.store.accounts.members():
            if issuer not in self._memberships:
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
            for listener in self.eviction_listeners:
                listener(record)

    def _verify(self, raw: bytes) -> Record | None:
        """Everything that depends on the bytes alone, once per content id; None if it is stored."""
        if len(raw) > LIMITS.record_max_bytes:
            raise VerificationError(f"{len(raw)} bytes", Code.RECORD_TOO_LARGE)
        digest = hashlib.sha256(raw).digest()
        refusal = self._refusals.get(digest)
        if refusal is not None:
            raise VerificationError(*refusal)
        if self.store.has(record_cid(digest)):
            return None
        record = self._verified.get(digest)
        if record is not None:
            return record
        try:
            record = verify_form_and_signature(raw)
        except VerificationError as error:
            self._refusals.put(digest, (error.message, error.code))
            raise
        return record

    def _merge(
        self, records: Sequence[Record], now_ms: int, received_from: str | None
    ) -> tuple[list[Record], list[VerificationError]]:
        if not records:
            return [], []
        changed: dict[RecordKey, Record] = {}
        refusals: list[VerificationError] = []
        joined: dict[str, Record] = {}
        with self.store.transaction():
            for record in records:
                try:
                    if self._put(record, now_ms, received_from, joined) is PutResult.CHANGED:
                        changed[record.key] = record
                except VerificationError as error:
                    refusals.append(self._count(error))
                    self._remember_refusal(record, error, now_ms, received_from)
        self._drop_evicted(changed)
        for record in changed.values():
            self._apply(record)
        for record in changed.values():
            for listener in self.listeners:
                listener(record)
        return list(changed.values()), refusals

    def _put(
        self, record: Record, now_ms: int, received_from: str | None, joined: dict[str, Record]
    ) -> PutResult:
        """Check and store one record; `joined` are memberships of the same transaction."""
        if not KINDS[record.kind].shared:
            raise VerificationError(f"{record.kind} is not shared", Code.UNKNOWN_KIND)
        check_time(record, now_ms)
        member = joined.get(record.issuer) or self._memberships.get(record.issuer)
        is_member = member is not None and not member.withdrawn and member.valid_until_ms > now_ms
        account = record.issuer
        if record.kind is Kind.MEMBERSHIP:
            if record.issuer != self.grid:
                raise VerificationError("a membership of another grid", Code.NOT_MEMBER)
            account = MEMBERSHIPS  # there may be more members than anybody has records
        elif record.issuer != self.own_did and not is_member:
            if not self.open_to_strangers:
                raise VerificationError("the issuer is not a member", Code.NOT_MEMBER)
            account = introduced_by(received_from)  # keys are free: the introducer answers for them
        result = self.store.put(
            record,
            now_ms=now_ms,
            received_from=received_from,
            account=account,
            rated=account not in {self.own_did, MEMBERSHIPS},
        )
        if record.kind is Kind.MEMBERSHIP and result is PutResult.CHANGED:
            joined[record.subject] = record
            self._charge(record.subject, member=not record.withdrawn)
        return result

    def _apply(self, record: Record) -> None:
        if record.kind is not Kind.MEMBERSHIP:
            self._show(record)
            return
        self._no_room.clear()  # what was a stranger's may be a member's now
        if record.withdrawn:
            self._memberships.pop(record.subject, None)
        else:
            self._memberships[record.subject] = record
        self._show_all_of(record.subject)

    def _show_all_of(self, issuer: str) -> None:
        for record in self.store.of_issuer(issuer):
            self._show(record)

    def _show(self, record: Record) -> None:
        """Bring the index in step with what is believed of a stored record."""
        if record.issuer == self.own_did or self.open_to_strangers:
            self.index.add(record)
        elif record.issuer in self._memberships:
            self.index.add(record, until_ms=self._memberships[record.issuer].valid_until_ms)
        else:
            self.index.remove(record)

    def _may_say_at(self, now_ms: int) -> MaySay:
        return partial(self._may_say, now_ms=now_ms)

    def _may_say(self, kind: Kind, issuer: str, now_ms: int) -> bool:
        if kind is Kind.MEMBERSHIP:
            return issuer == self.grid
        return (
            issuer == self.own_did
            or self.open_to_strangers
            or self.membership_of(issuer, now_ms) is not None
        )

    def _count(self, error: VerificationError) -> VerificationError:
        self.refused[error.code] += 1
        return error

    def _remember_refusal(
        self, record: Record, error: VerificationError, now_ms: int, received_from: str | None
    ) -> None:
        """A superseded record stays so; any other refused here may be welcome later."""
        digest = hashlib.sha256(record.raw).digest()
        if error.code is Code.SUPERSEDED:
            self._refusals.put(digest, (error.message, error.code))
        else:
            self._verified.put(digest, record)
        if error.code is Code.OVER_QUOTA and received_from is not None:
            until_ms = now_ms + LIMITS.refused_for_room_seconds * 1000
            self._no_room.put(digest + received_from.encode(), until_ms)
