"""Who holds how much of the store, and who makes room when it is full.

Each record is charged to an account: that of its issuer, if it is a member; for everybody else that
of the peer that introduced it, since keys are free; all Memberships to one of their own. What is
counted are units: a record is one for each begun `record_unit_bytes`, so that a bound on records
bounds bytes as well. The database counts (see `database.py`): no answer here scans anything.

Members are refused what exceeds their bounds and never lose a record. Strangers lose theirs to one
another, the soonest to expire first: what stays of one introducer's does not depend on the order in
which it came, so that repair does not bring back for ever what has gone.
"""

from dataclasses import dataclass
from typing import TypeGuard

from aigrid.metagraph.database import UNITS, Database
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.limits import Limits
from aigrid.protocol.record import Record, RecordKey

MEMBERSHIPS = "memberships"
_INTRODUCED = "via "
# The totals, rows of the same table.
_MEMBERS, _STRANGERS = "members", "strangers"
# A member may hold this share of the room that is left for all: who holds little still finds some
# when those who hold much have long been stopped.
_SHARES = 128
# When keys must be forgotten, this share of them goes at once: finding them then costs little.
_FORGOTTEN_SHARE = 16


def introduced_by(peer_id: str | None) -> str:
    """The account of strangers whose records `peer_id` passed on; None for this node itself."""
    return _INTRODUCED + (peer_id or "this node")


def is_introduced(account: str | None) -> TypeGuard[str]:
    """Whether an account is one of strangers."""
    return account is not None and account.startswith(_INTRODUCED)


def units_of(raw: bytes, limits: Limits) -> int:
    """What a record counts."""
    return -(-len(raw) // limits.record_unit_bytes)


def member_allowance(everybody: int, limits: Limits) -> int:
    """How many units a member may hold where all members together hold `everybody`."""
    left = max(0, limits.members_records_max - everybody)
    return min(limits.records_per_issuer_max, left // _SHARES)


@dataclass(frozen=True, slots=True)
class Shortage:
    """`units` must go: of the introducer that has most, or else of the one that brings more."""

    units: int
    of_fullest: bool


def shortage(*, introducer: int, fullest: int, everybody: int, limits: Limits) -> Shortage | None:
    """Who makes room for a stranger's record, if there is none. All figures are units.

    Args:
        introducer: of those whom the peer that brings it introduced, the new record included.
        fullest: of those whom the introducer that has most introduced.
        everybody: of all strangers, the new record included.
        limits: the bounds.
    """
    over = introducer - limits.records_per_introducer_max
    over_all = everybody - limits.strangers_records_max
    if over > 0:
        return Shortage(max(over, over_all), of_fullest=False)
    if over_all > 0:
        return Shortage(over_all, of_fullest=fullest > introducer)
    return None


class Accounts:
    """The accounts of one database: decides, and changes what is charged to whom."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits

    def held(self, account: str) -> tuple[int, int]:
        """(units of records, keys remembered) of an account."""
        row = self._database.row("SELECT units, keys FROM accounts WHERE account = ?", (account,))
        return (0, 0) if row is None else (row[0], row[1])

    def members(self) -> list[str]:
        """The DIDs to whose own accounts something is charged."""
        rows = self._database.rows("SELECT account FROM accounts WHERE total = ?", (_MEMBERS,))
        return [row[0] for row in rows]

    def check_member(
        self, record: Record, account: str, now_ms: int, *, known: bool, bounded: bool
    ) -> None:
        """Raise VerificationError(`over_quota`) where `account` may not hold `record` besides.

        Args:
            record: to be charged.
            account: a member's own, or `MEMBERSHIPS`.
            now_ms: wall time; what has expired does not count.
            known: whether its key is remembered.
            bounded: whether the bound of all members together applies.
        """
        limits = self._limits
        more = units_of(record.raw, limits) - self._replaced(record.key, account, now_ms)
        if more <= 0:
            return
        units, keys = self.held(account)
        most = most_keys = limits.records_per_issuer_max
        if account == MEMBERSHIPS:
            most = most_keys = limits.memberships_max
        elif bounded:
            most = member_allowance(self.held(_MEMBERS)[0], limits)
        if units + more > most and units + more - self._due(account, now_ms) > most:
            raise VerificationError(f"more than {most} live records", Code.OVER_QUOTA)
        # Somebody who publishes ever new short-lived keys stops here.
        most_keys *= limits.keys_per_record_max
        if not known and keys >= most_keys:
            raise VerificationError(f"more than {most_keys} keys used of late", Code.OVER_QUOTA)

    def room_for(self, record: Record, account: str, *, known: bool) -> list[str]:
        """Whose going makes room for a stranger's `record`: content ids, soonest to expire first.

        Raises:
            VerificationError: `over_quota`: it would itself be the next to go, or its key may be
                one of those forgotten.
        """
        if not known and record.valid_from_ms <= self._forgotten_ms(record.kind.value):
            raise VerificationError("older than what is known of strangers", Code.OVER_QUOTA)
        more = units_of(record.raw, self._limits) - self._replaced(record.key, account, 0)
        if more <= 0:
            return []
        fullest = self._fullest()
        short = shortage(
            introducer=self.held(account)[0] + more,
            fullest=self.held(fullest)[0],
            everybody=self.held(_STRANGERS)[0] + more,
            limits=self._limits,
        )
        if short is None:
            return []
        giver = fullest if short.of_fullest else account
        going = self._soonest(giver, short.units, but=record.key)
        last = going[-1] if going else (record.valid_until_ms, record.content_id)
        if giver == account and last >= (record.valid_until_ms, record.content_id):
            raise VerificationError("no room for more records of strangers", Code.OVER_QUOTA)
        return [content_id for _, content_id in going]

    def surplus(self) -> list[str]:
        """What must go next where strangers hold too much as it is; ask until it is empty."""
        fullest = self._fullest()
        units, _ = self.held(fullest)
        everybody, _ = self.held(_STRANGERS)
        short = shortage(introducer=units, fullest=units, everybody=everybody, limits=self._limits)
        going = [] if short is None else self._soonest(fullest, min(short.units, units))
        return [content_id for _, content_id in going]

    def beyond_allowance(self, issuer: str) -> list[str]:
        """What a stranger holds that it could not hold as a member: content ids."""
        rows = self._database.rows(
            f"SELECT content_id, {UNITS} FROM records "  # noqa: S608 - constants
            "WHERE issuer = ? AND account GLOB 'via *' ORDER BY valid_until_ms DESC, content_id",
            (issuer,),
        )
        left = member_allowance(self.held(_MEMBERS)[0], self._limits) - self.held(issuer)[0]
        going = []
        for content_id, units in rows:
            left -= units
            if left < 0:
                going.append(content_id)
        return going

    def admit(self, issuer: str) -> None:
        """Charge to `issuer` itself what was charged to those who introduced it."""
        for table in ("records", "remembered"):
            self._database.execute(
                f"UPDATE {table} SET account = issuer "  # noqa: S608 - two constants
                "WHERE issuer = ? AND account GLOB 'via *'",
                (issuer,),
            )

    def expel(self, issuer: str) -> None:
        """Charge what `issuer` said to those who passed it on."""
        unknown = introduced_by(None)
        self._database.execute(
            "UPDATE remembered SET account = COALESCE((SELECT ? || received_from FROM records r"
            " WHERE (r.issuer, r.kind, r.subject) ="
            " (remembered.issuer, remembered.kind, remembered.subject)), ?)"
            " WHERE issuer = ? AND account = issuer",
            (_INTRODUCED, unknown, issuer),
        )
        self._database.execute(
            "UPDATE records SET account = COALESCE(? || received_from, ?)"
            " WHERE issuer = ? AND account = issuer",
            (_INTRODUCED, unknown, issuer),
        )

    def forget_surplus(self, account: str, now_ms: int) -> None:
        """Forget keys of strangers beyond their bounds: those that would be forgotten next anyway.

        A key with a record is kept, and one from the future: what is new could not be told from
        what is forgotten. Of each kind the latest time forgotten is kept instead of the
        keys: nothing that old of an unknown key is taken in from strangers, so nothing comes back.
        """
        limits = self._limits
        most = limits.records_per_introducer_max * limits.keys_per_record_max
        if self.held(account)[1] > most:
            self._forget(account, max(1, most // _FORGOTTEN_SHARE), now_ms)
        most_all = limits.strangers_records_max * limits.keys_per_record_max
        if self.held(_STRANGERS)[1] > most_all:
            self._forget(self._fullest("keys"), max(1, most // _FORGOTTEN_SHARE), now_ms)

    def _forget(self, account: str, count: int, now_ms: int) -> None:
        rows = self._database.rows(
            "SELECT issuer, kind, subject, valid_from_ms, until_ms FROM remembered AS k"
            " WHERE account = ? AND valid_from_ms <= ?"
            " AND NOT EXISTS (SELECT 1 FROM records AS r"
            " WHERE (r.issuer, r.kind, r.subject) = (k.issuer, k.kind, k.subject))"
            " ORDER BY until_ms LIMIT ?",
            (account, now_ms, count),
        )
        for issuer, kind, subject, valid_from_ms, until_ms in list(rows):
            self._database.execute(
                "INSERT INTO forgotten VALUES (?, ?, ?) ON CONFLICT (kind) DO UPDATE SET"
                " valid_from_ms = max(valid_from_ms, excluded.valid_from_ms),"
                " until_ms = max(until_ms, excluded.until_ms)",
                (kind, valid_from_ms, until_ms),
            )
            self._database.execute(
                "DELETE FROM remembered WHERE issuer = ? AND kind = ? AND subject = ?",
                (issuer, kind, subject),
            )

    def _forgotten_ms(self, kind: str) -> int:
        row = self._database.row("SELECT valid_from_ms FROM forgotten WHERE kind = ?", (kind,))
        return 0 if row is None else int(row[0])

    def _fullest(self, column: str = "units") -> str:
        """The account of strangers with most `units` or `keys`; '' if there is none."""
        row = self._database.row(
            f"SELECT account FROM accounts WHERE total = ? ORDER BY {column} DESC, account",  # noqa: S608
            (_STRANGERS,),
        )
        return "" if row is None else str(row[0])

    def _soonest(
        self, account: str, units: int, *, but: RecordKey | None = None
    ) -> list[tuple[int, str]]:
        """(`validUntil`, content id) of the next to expire that make up `units`; [] if none do."""
        rows = self._database.rows(
            f"SELECT valid_until_ms, content_id, {UNITS} FROM records "  # noqa: S608 - a constant
            "WHERE account = ? AND (issuer, kind, subject) IS NOT (?, ?, ?) "
            "ORDER BY valid_until_ms, content_id LIMIT ?",
            (account, *(but or (None, None, None)), units),
        )
        found = []
        for valid_until_ms, content_id, freed in rows:
            if units > 0:
                found.append((valid_until_ms, content_id))
            units -= freed
        return found if units <= 0 else []

    def _replaced(self, key: RecordKey, account: str, now_ms: int) -> int:
        """Units of a record valid then that a new one of `key` gives back to `account`."""
        row = self._database.row(
            f"SELECT {UNITS} FROM records WHERE issuer = ? AND kind = ? AND subject = ? "  # noqa: S608
            "AND account = ? AND valid_until_ms > ?",
            (*key, account, now_ms),
        )
        return 0 if row is None else int(row[0])

    def _due(self, account: str, now_ms: int) -> int:
        """Units of what has expired and is not deleted yet."""
        row = self._database.row(
            f"SELECT COALESCE(SUM({UNITS}), 0) FROM records "  # noqa: S608 - a constant
            "WHERE account = ? AND valid_until_ms <= ?",
            (account, now_ms),
        )
        return int(row[0])
