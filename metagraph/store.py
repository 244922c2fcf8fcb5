"""The signed records, in SQLite: the truth from which everything else is rebuilt.

Of each key (issuer, kind, subject) the store holds the newest record, a withdrawal included, until
it expires; and it remembers that record's rank until nothing older of the key can be valid
anywhere, so that nothing old comes back: not after a withdrawal, not after expiry, not after a
restart. Who may say what is decided above, in `graph`.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from aigrid.metagraph.accounts import Accounts, is_introduced
from aigrid.metagraph.branches import branches_of, mask, scope_mask
from aigrid.metagraph.database import Database
from aigrid.metagraph.quota import TokenBuckets
from aigrid.metagraph.rows import FIELDS, INSERT, OF_KEY, REMEMBER, record_of, row_of
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS, Limits
from aigrid.protocol.record import Record, RecordKey, remembered_until_ms


class PutResult(Enum):
    """What a record did to the store."""

    CHANGED = "changed"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Stored:
    """A record and how it came here. `received_from` is a PeerId, or None for this node."""

    record: Record
    received_ms: int
    received_from: str | None


@dataclass(frozen=True, slots=True)
class Summary:
    """What there is to know of a record without reading it."""

    content_id: str
    kind: Kind
    issuer: str


class Store:
    """Records that were verified, newest of each key only."""

    def __init__(self, path: Path | None = None, *, limits: Limits = LIMITS) -> None:
        """Open the database at `path`, or an empty one in memory.

        Raises:
            UsageError: `data_directory_unusable`; any other method may raise it too.
        """
        self.database = Database(path)
        self.accounts = Accounts(self.database, limits)
        self._evicted: list[Record] = []
        self._limits = limits
        self._changes = 0
        self._successors: OrderedDict[str, str] = OrderedDict()
        self._rates = TokenBuckets(
            per_second=limits.records_per_second_per_issuer, burst=limits.records_burst_per_issuer
        )
        self._place()

    def close(self) -> None:
        self.database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All puts within are one transaction; a refused put does not undo the others."""
        try:
            with self.database.transaction():
                yield
        except BaseException:
            self._evicted.clear()  # they are there again
            raise

    def put(
        self,
        record: Record,
        *,
        now_ms: int,
        received_from: str | None,
        account: str | None,
        rated: bool = True,
    ) -> PutResult:
        """Merge a verified record.

        Args:
            record: valid now, from somebody who may say it: both were checked.
            now_ms: wall time.
            received_from: PeerId that passed it on.
            account: whose quota and rate it counts against (see `accounts`); None for nobody's.
            rated: whether the rate, and the bound of all members together, apply.

        Raises:
            VerificationError: `superseded`, `over_quota` or `over_rate`. Nothing has changed then,
                but that a withdrawal counts where there is no room for it, too.
        """
        known = self._remembered(record.key)
        if known is not None and record.rank <= known[:2]:
            if record.rank < known[:2]:
                raise VerificationError("a newer record of this key is known", Code.SUPERSEDED)
            if self.has(record.content_id):
                return PutResult.DUPLICATE
        going: list[str] = []
        if account is not None:
            payer = account
            if known is not None and is_introduced(account) and is_introduced(known[2]):
                account = known[2]  # who introduced a key answers for it, whoever renews it
            try:
                going = self._room(record, account, now_ms, known=known is not None, own=not rated)
            except VerificationError:
                if known is not None and record.withdrawn:
                    self._remember(record, account)
                raise
            if rated:
                self._check_rate(payer, now_ms)
        with self.transaction():
            self._evict(going)
            self._write(record, now_ms, received_from, account)
            if is_introduced(account):
                self.accounts.forget_surplus(account, now_ms)
        if known is not None and known[1] != record.content_id:
            self._successors[known[1]] = record.content_id
            if len(self._successors) > self._limits.successors_kept_max:
                self._successors.popitem(last=False)
        return PutResult.CHANGED

    def take_evicted(self) -> list[Record]:
        """What made room for others since this was last asked."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def admit(self, issuer: str) -> None:
        """`issuer` is a member from now on: charge to itself as much of its own as it may have."""
        with self.transaction():
            self._evict(self.accounts.beyond_allowance(issuer))
            self.accounts.admit(issuer)

    def expel(self, issuer: str) -> None:
        """`issuer` is a stranger from now on, and what it said may have to make room."""
        with self.transaction():
            self.accounts.expel(issuer)
            while going := self.accounts.surplus():
                self._evict(going)

    def records(self, content_ids: Iterable[str]) -> list[Record]:
        """The stored records with these content ids, in this order."""
        found = (self.get(content_id) for content_id in content_ids)
        return [stored.record for stored in found if stored is not None]

    def has(self, content_id: str) -> bool:
        return (
            self.database.row("SELECT 1 FROM records WHERE content_id = ?", (content_id,))
            is not None
        )

    def get(self, content_id: str) -> Stored | None:
        """The record with this content id, expired or withdrawn ones included until they go."""
        row = self.database.row(
            f"SELECT {FIELDS}, received_ms, received_from FROM records WHERE content_id = ?",  # noqa: S608
            (content_id,),
        )
        return None if row is None else Stored(record_of(row), row[8], row[9])

    def successor(self, content_id: str) -> str | None:
        """What took the place of a record lately: the content id of the newest of its key."""
        newer = self._successors.get(content_id)
        while newer is not None and newer in self._successors:
            newer = self._successors[newer]
        return newer

    def newest(self, key: RecordKey) -> Record | None:
        """The stored record of `key`, a withdrawal included."""
        row = self.database.row(f"SELECT {FIELDS} FROM records WHERE {OF_KEY}", key)  # noqa: S608
        return None if row is None else record_of(row)

    def newest_valid_from_ms(self, key: RecordKey) -> int:
        """The greatest `validFrom` ever seen of `key`, 0 if none is remembered."""
        known = self._remembered(key)
        return 0 if known is None else known[0]

    def live(self, now_ms: int) -> Iterator[Record]:
        """All records valid now, withdrawals included. Finish reading before writing."""
        rows = self.database.rows(
            f"SELECT {FIELDS} FROM records WHERE valid_until_ms > ?",  # noqa: S608
            (now_ms,),
        )
        return map(record_of, rows)

    def of_kind(self, kind: Kind) -> list[Record]:
        """Everything stored of one kind."""
        rows = self.database.rows(f"SELECT {FIELDS} FROM records WHERE kind = ?", (kind.value,))  # noqa: S608
        return [record_of(row) for row in rows]

    def of_issuer(self, issuer: str) -> list[Record]:
        """Everything stored that `issuer` said."""
        rows = self.database.rows(f"SELECT {FIELDS} FROM records WHERE issuer = ?", (issuer,))  # noqa: S608
        return [record_of(row) for row in rows]

    def live_digests(
        self, now_ms: int, *, branch: str | None = None
    ) -> Iterator[tuple[bytes, str, str, int]]:
        """(SHA-256, kind, issuer, `validFrom`) of the live records, or of those of a branch."""
        return self.database.rows(
            "SELECT sha256, kind, issuer, valid_from_ms FROM records "
            "WHERE valid_until_ms > ? AND branches & ?",
            (now_ms, scope_mask(branch)),
        )

    def summaries(self, content_ids: Sequence[str], now_ms: int) -> list[Summary]:
        """Those that are live, in the order in which a peer needs them.

        Delegations come before the memberships renewed by them, these before what members say; of
        everything else the oldest first.

        At most 30,000 may be asked for.
        """
        marks = ",".join("?" * len(content_ids))
        rows = self.database.rows(
            "SELECT content_id, kind, issuer FROM records "  # noqa: S608 - only question marks
            f"WHERE content_id IN ({marks}) AND valid_until_ms > ? "
            "ORDER BY kind != ?, kind != ?, valid_from_ms, content_id",
            (*content_ids, now_ms, Kind.STATUS_DELEGATION.value, Kind.MEMBERSHIP.value),
        )
        return [Summary(row[0], Kind(row[1]), row[2]) for row in rows]

    def raw(self, content_id: str) -> bytes | None:
        """The bytes of the record with this content id."""
        row = self.database.row("SELECT raw FROM records WHERE content_id = ?", (content_id,))
        return None if row is None else bytes(row[0])

    @property
    def changes(self) -> int:
        """A number that is another one whenever the records have changed.

        What else is in the database does not count: receipts are written with every request.
        """
        return self._changes

    def expire(self, now_ms: int, *, records_max: int = -1) -> list[Record]:
        """Delete what is no longer valid, soonest ended first, and return it.

        With `records_max` at most so many go: ask again while `next_due_ms` lies in the past.
        """
        with self.transaction():
            rows = self.database.rows(
                f"SELECT {FIELDS} FROM records WHERE valid_until_ms <= ? "  # noqa: S608
                "ORDER BY valid_until_ms LIMIT ?",
                (now_ms, records_max),
            )
            gone = [record_of(row) for row in rows]
            self._delete(record.content_id for record in gone)
            self.database.execute("DELETE FROM remembered WHERE until_ms <= ?", (now_ms,))
            self.database.execute("DELETE FROM forgotten WHERE until_ms <= ?", (now_ms,))
        return gone

    def delete(self, records: list[Record]) -> None:
        """Drop records without forgetting their rank: these may come back, older ones may not."""
        with self.transaction():
            self._delete(record.content_id for record in records)

    def next_expiry_ms(self) -> int | None:
        """When the next record ends; None if there are no records."""
        row = self.database.row("SELECT MIN(valid_until_ms) FROM records")
        return None if row[0] is None else int(row[0])

    def next_due_ms(self) -> int | None:
        """When `expire` next has something to delete: a record, or a rank; None if never."""
        forgotten = self.database.row("SELECT MIN(until_ms) FROM remembered")[0]
        due = [end for end in (self.next_expiry_ms(), forgotten) if end is not None]
        return min(due, default=None)

    def size(self) -> int:
        """How many records are kept, expired ones included."""
        return int(self.database.row("SELECT COUNT(*) FROM records")[0])

    def counts(self, now_ms: int) -> dict[str, int]:
        """How many live records there are of each kind, withdrawals apart."""
        return dict(
            self.database.rows(
                "SELECT kind, COUNT(*) FROM records WHERE NOT withdrawn AND valid_until_ms > ? "
                "GROUP BY kind",
                (now_ms,),
            )
        )

    def _place(self) -> None:
        """Note the branches of records that were written before these were kept."""
        with self.transaction():
            rows = self.database.rows(f"SELECT {FIELDS} FROM records WHERE branches = 0")  # noqa: S608
            for record in list(map(record_of, rows)):
                self.database.execute(
                    "UPDATE records SET branches = ? WHERE content_id = ?",
                    (mask(branches_of(record.body)), record.content_id),
                )

    def _remembered(self, key: RecordKey) -> tuple[int, str, str | None] | None:
        row: tuple[int, str, str | None] | None = self.database.row(
            f"SELECT valid_from_ms, content_id, account FROM remembered WHERE {OF_KEY}",  # noqa: S608
            key,
        )
        return row

    def _room(
        self, record: Record, account: str, now_ms: int, *, known: bool, own: bool
    ) -> list[str]:
        """The content ids of what must go for `record` to be charged to `account`."""
        if is_introduced(account):
            return self.accounts.room_for(record, account, known=known)
        self.accounts.check_member(record, account, now_ms, known=known, bounded=not own)
        return []

    def _evict(self, content_ids: list[str]) -> None:
        self._evicted += self.records(content_ids)
        self._delete(content_ids)

    def _delete(self, content_ids: Iterable[str]) -> None:
        for content_id in content_ids:
            self._changes += 1
            self.database.execute("DELETE FROM records WHERE content_id = ?", (content_id,))

    def _check_rate(self, account: str, now_ms: int) -> None:
        wait_seconds = self._rates.take(account, now_ms / 1000)
        if wait_seconds:
            raise VerificationError(
                "too many records at once", Code.OVER_RATE, retry_after_seconds=wait_seconds
            )

    def _write(
        self, record: Record, now_ms: int, received_from: str | None, account: str | None
    ) -> None:
        self._changes += 1
        self.database.execute(
            INSERT,
            row_of(record, now_ms, received_from, account),
        )
        self._remember(record, account)

    def _remember(self, record: Record, account: str | None) -> None:
        until_ms = remembered_until_ms(record.kind, record.valid_from_ms)
        self.database.execute(
            REMEMBER,
            (*record.key, record.valid_from_ms, record.content_id, account, until_ms),
        )
