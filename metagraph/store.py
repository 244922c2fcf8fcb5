"""The signed records, in SQLite: the truth from which everything else is rebuilt.

Of each key (issuer, kind, subject) the store holds the newest record, a withdrawal included, until
it expires; and it remembers that record's rank until nothing older of the key can be valid
anywhere, so that nothing old comes back: not after a withdrawal, not after expiry, not after a
restart. Who may say what is decided above, in `graph`.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from aigrid.metagraph.database import Database
from aigrid.metagraph.quota import TokenBuckets
from aigrid.protocol.errors import Code, UsageError, VerificationError
from aigrid.protocol.kinds import KINDS, Body, Kind, WithdrawnBody
from aigrid.protocol.limits import LIMITS, Limits
from aigrid.protocol.record import Record, RecordKey, remembered_until_ms

_FIELDS = "kind, issuer, subject, valid_from_ms, valid_until_ms, withdrawn, content_id, raw"
_OF_KEY = "issuer = ? AND kind = ? AND subject = ?"


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


class _Envelope(msgspec.Struct):
    credential_subject: msgspec.Raw = msgspec.field(name="credentialSubject")


_envelope = msgspec.json.Decoder(_Envelope)
_withdrawn = msgspec.json.Decoder(WithdrawnBody)
_bodies: dict[Kind, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(rule.body) for kind, rule in KINDS.items()
}


class Store:
    """Records that were verified, newest of each key only."""

    def __init__(self, path: Path | None = None, *, limits: Limits = LIMITS) -> None:
        """Open the database at `path`, or an empty one in memory.

        Raises:
            UsageError: `data_directory_unusable`; any other method may raise it too.
        """
        self.database = Database(path)
        self._limits = limits
        self._successors: OrderedDict[str, str] = OrderedDict()
        self._rates = TokenBuckets(
            per_second=limits.records_per_second_per_issuer, burst=limits.records_burst_per_issuer
        )

    def close(self) -> None:
        self.database.close()

    def transaction(self) -> AbstractContextManager[None]:
        """All puts within are one transaction; a refused put does not undo the others."""
        return self.database.transaction()

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
            account: whose quota and rate it counts against; None for nobody's.
            rated: whether the rate applies.

        Raises:
            VerificationError: `superseded`, `over_quota` or `over_rate`; nothing has changed then.
        """
        known = self._remembered(record.key)
        if known is not None and record.rank <= known:
            if record.rank < known:
                raise VerificationError("a newer record of this key is known", Code.SUPERSEDED)
            if self.has(record.content_id):
                return PutResult.DUPLICATE
        if account is not None:
            self._check_quota(record, account, now_ms, remembered=known is not None)
            if rated:
                self._check_rate(account, now_ms)
        with self.transaction():
            self._write(record, now_ms, received_from, account)
        if known is not None and known[1] != record.content_id:
            self._successors[known[1]] = record.content_id
            if len(self._successors) > self._limits.successors_kept_max:
                self._successors.popitem(last=False)
        return PutResult.CHANGED

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
            f"SELECT {_FIELDS}, received_ms, received_from FROM records WHERE content_id = ?",  # noqa: S608
            (content_id,),
        )
        return None if row is None else Stored(_record(row), row[8], row[9])

    def successor(self, content_id: str) -> str | None:
        """What took the place of a record lately: the content id of the newest of its key."""
        newer = self._successors.get(content_id)
        while newer is not None and newer in self._successors:
            newer = self._successors[newer]
        return newer

    def newest(self, key: RecordKey) -> Record | None:
        """The stored record of `key`, a withdrawal included."""
        row = self.database.row(f"SELECT {_FIELDS} FROM records WHERE {_OF_KEY}", key)  # noqa: S608
        return None if row is None else _record(row)

    def newest_valid_from_ms(self, key: RecordKey) -> int:
        """The greatest `validFrom` ever seen of `key`, 0 if none is remembered."""
        known = self._remembered(key)
        return 0 if known is None else known[0]

    def live(self, now_ms: int) -> Iterator[Record]:
        """All records valid now, withdrawals included. Finish reading before writing."""
        rows = self.database.rows(
            f"SELECT {_FIELDS} FROM records WHERE valid_until_ms > ?",  # noqa: S608
            (now_ms,),
        )
        return map(_record, rows)

    def of_issuer(self, issuer: str) -> list[Record]:
        """Everything stored that `issuer` said."""
        rows = self.database.rows(f"SELECT {_FIELDS} FROM records WHERE issuer = ?", (issuer,))  # noqa: S608
        return [_record(row) for row in rows]

    def live_digests(self, now_ms: int) -> Iterator[tuple[bytes, str, str, int]]:
        """(SHA-256, kind, issuer, `validFrom`) of the live records."""
        return self.database.rows(
            "SELECT sha256, kind, issuer, valid_from_ms FROM records WHERE valid_until_ms > ?",
            (now_ms,),
        )

    def summaries(self, content_ids: Sequence[str], now_ms: int) -> list[Summary]:
        """Those that are live, in the order in which a peer needs them: memberships, then oldest.

        At most 30,000 may be asked for.
        """
        marks = ",".join("?" * len(content_ids))
        rows = self.database.rows(
            "SELECT content_id, kind, issuer FROM records "  # noqa: S608 - only question marks
            f"WHERE content_id IN ({marks}) AND valid_until_ms > ? "
            "ORDER BY kind != ?, valid_from_ms, content_id",
            (*content_ids, now_ms, Kind.MEMBERSHIP.value),
        )
        return [Summary(row[0], Kind(row[1]), row[2]) for row in rows]

    def raw(self, content_id: str) -> bytes | None:
        """The bytes of the record with this content id."""
        row = self.database.row("SELECT raw FROM records WHERE content_id = ?", (content_id,))
        return None if row is None else bytes(row[0])

    @property
    def changes(self) -> int:
        """A number that is another one whenever something has changed."""
        return self.database.changes

    def expire(self, now_ms: int) -> list[Record]:
        """Delete what is no longer valid, and return it."""
        with self.transaction():
            rows = self.database.rows(
                f"SELECT {_FIELDS} FROM records WHERE valid_until_ms <= ?",  # noqa: S608
                (now_ms,),
            )
            gone = [_record(row) for row in rows]
            self.database.execute("DELETE FROM records WHERE valid_until_ms <= ?", (now_ms,))
            self.database.execute("DELETE FROM remembered WHERE until_ms <= ?", (now_ms,))
        return gone

    def delete(self, records: list[Record]) -> None:
        """Drop records without forgetting their rank: these may come back, older ones may not."""
        with self.transaction():
            for record in records:
                self.database.execute(
                    "DELETE FROM records WHERE content_id = ?", (record.content_id,)
                )

    def next_expiry_ms(self) -> int | None:
        """When `expire` next has something to delete; None if there are no records."""
        row = self.database.row("SELECT MIN(valid_until_ms) FROM records")
        return None if row[0] is None else int(row[0])

    def counts(self, now_ms: int) -> dict[str, int]:
        """How many live records there are of each kind, withdrawals apart."""
        return dict(
            self.database.rows(
                "SELECT kind, COUNT(*) FROM records WHERE NOT withdrawn AND valid_until_ms > ? "
                "GROUP BY kind",
                (now_ms,),
            )
        )

    def _remembered(self, key: RecordKey) -> tuple[int, str] | None:
        row: tuple[int, str] | None = self.database.row(
            f"SELECT valid_from_ms, content_id FROM remembered WHERE {_OF_KEY}",  # noqa: S608
            key,
        )
        return row

    def _check_quota(self, record: Record, account: str, now_ms: int, *, remembered: bool) -> None:
        most = self._limits.records_per_issuer_max
        replaces = self.database.row(
            f"SELECT 1 FROM records WHERE {_OF_KEY} AND valid_until_ms > ?",  # noqa: S608
            (*record.key, now_ms),
        )
        if replaces is not None:
            return
        (live,) = self.database.row(
            "SELECT COUNT(*) FROM records WHERE account = ? AND valid_until_ms > ?",
            (account, now_ms),
        )
        if live >= most:
            raise VerificationError(f"more than {most} live records", Code.OVER_QUOTA)
        if remembered:
            return
        (keys,) = self.database.row("SELECT COUNT(*) FROM remembered WHERE account = ?", (account,))
        # Somebody who publishes ever new short-lived keys stops here.
        most *= self._limits.keys_per_record_max
        if keys >= most:
            raise VerificationError(f"more than {most} keys used of late", Code.OVER_QUOTA)

    def _check_rate(self, account: str, now_ms: int) -> None:
        now_seconds = now_ms / 1000
        bucket = self._rates.of(account, now_seconds)
        if not bucket.take(now_seconds):
            raise VerificationError(
                "too many records at once",
                Code.OVER_RATE,
                retry_after_seconds=bucket.wait_seconds(now_seconds),
            )

    def _write(
        self, record: Record, now_ms: int, received_from: str | None, account: str | None
    ) -> None:
        self.database.execute(
            "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record.content_id,
                hashlib.sha256(record.raw).digest(),
                *record.key,
                record.valid_from_ms,
                record.valid_until_ms,
                record.withdrawn,
                account,
                now_ms,
                received_from,
                record.raw,
            ),
        )
        until_ms = remembered_until_ms(record.kind, record.valid_from_ms)
        self.database.execute(
            "INSERT OR REPLACE INTO remembered VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*record.key, record.valid_from_ms, record.content_id, account, until_ms),
        )


def _record(row: tuple[Any, ...]) -> Record:
    """Rebuild a record. It was verified before it was written, so only its body is decoded."""
    kind_text, issuer, subject, valid_from_ms, valid_until_ms, withdrawn, content_id, raw = row[:8]
    try:
        kind = Kind(kind_text)
        decoder = _withdrawn if withdrawn else _bodies[kind]
        body: Body = decoder.decode(_envelope.decode(raw).credential_subject)
    except (msgspec.DecodeError, ValueError) as error:
        raise UsageError(
            "The data directory cannot be used: a stored record is damaged.",
            Code.DATA_DIRECTORY_UNUSABLE,
        ) from error
    return Record(kind, issuer, subject, valid_from_ms, valid_until_ms, body, content_id, raw)
