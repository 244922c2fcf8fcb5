"""The one SQLite database of a node: opening, schema migrations, transactions, errors.

WAL with synchronous=NORMAL: a commit is in the kernel's hands before it returns, so that after
kill -9 every committed transaction is there, and none by halves (`scripts/bench/crash.py`). After
a power failure the last ones may be missing, but the file is sound: the log is synced before a
checkpoint overwrites pages. What is missing comes back from peers that had it, and what its issuer
says next still comes after it, since a `validFrom` is no earlier than the wall clock.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aigrid.protocol.errors import Code, UsageError
from aigrid.protocol.limits import LIMITS

# What a record counts (`accounts.units_of`), as the triggers have it for good.
UNITS = "(length(raw) + 4095) / 4096"
_TOTAL = """CASE WHEN account = 'memberships' THEN 'all memberships'
    WHEN account GLOB 'via *' THEN 'strangers' ELSE 'members' END"""


def _counted(table: str, units: str, keys: str) -> str:
    """Triggers that keep `accounts` the sums over the rows of `table`, totals included."""

    def change(row: str, sign: str) -> str:
        amounts = f"{sign}({units}), {sign}({keys})".replace("raw", f"{row}.raw")
        total = _TOTAL.replace("account", f"{row}.account")
        return f"""INSERT INTO accounts
            SELECT {row}.account, {total}, {amounts} WHERE {row}.account IS NOT NULL
            UNION ALL SELECT {total}, NULL, {amounts} WHERE {row}.account IS NOT NULL
            ON CONFLICT (account) DO UPDATE
            SET units = units + excluded.units, keys = keys + excluded.keys;"""  # noqa: S608

    old, new = (units.replace("raw", f"{row}.raw") for row in ("OLD", "NEW"))
    return f"""
    CREATE TRIGGER {table}_added AFTER INSERT ON {table} BEGIN {change("NEW", "+")} END;
    CREATE TRIGGER {table}_deleted AFTER DELETE ON {table} BEGIN {change("OLD", "-")} END;
    CREATE TRIGGER {table}_changed AFTER UPDATE ON {table}
    WHEN OLD.account IS NOT NEW.account OR {old} != {new}
    BEGIN {change("OLD", "-")} {change("NEW", "+")} END;
    """


# Brings about `accounts`, which counts what is charged to whom (see `accounts.py`). Its rows
# without `total` are the totals.
_ACCOUNTS = f"""
    CREATE TABLE accounts (
        account TEXT NOT NULL PRIMARY KEY,
        total TEXT,
        units INTEGER NOT NULL,
        keys INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX accounts_by_units ON accounts (total, units DESC, account);
    CREATE TABLE forgotten (
        kind TEXT NOT NULL PRIMARY KEY,
        valid_from_ms INTEGER NOT NULL,
        until_ms INTEGER NOT NULL
    ) WITHOUT ROWID;
    UPDATE records SET account = 'memberships' WHERE kind = 'Membership';
    UPDATE remembered SET account = 'memberships' WHERE kind = 'Membership';
    INSERT INTO accounts SELECT account, {_TOTAL}, SUM(units), SUM(keys) FROM (
        SELECT account, {UNITS} AS units, 0 AS keys FROM records
        UNION ALL SELECT account, 0, 1 FROM remembered
    ) WHERE account IS NOT NULL GROUP BY account;
    INSERT INTO accounts SELECT total, NULL, SUM(units), SUM(keys) FROM accounts GROUP BY total;
    CREATE TRIGGER accounts_emptied AFTER UPDATE ON accounts WHEN NEW.units = 0 AND NEW.keys = 0
    BEGIN DELETE FROM accounts WHERE account = NEW.account; END;
    {_counted("records", UNITS, "0")}
    {_counted("remembered", "0", "1")}
    DROP INDEX records_by_account;
    CREATE INDEX records_by_account ON records (account, valid_until_ms, content_id);
    DROP INDEX records_by_expiry;
    CREATE INDEX records_by_expiry ON records (valid_until_ms, kind, withdrawn);
    DROP INDEX remembered_by_account;
    CREATE INDEX remembered_by_account ON remembered (account, until_ms);
"""  # noqa: S608 - constants

# Who may call the gateway (`node/policy/api_keys.py`): by a bearer key, of which only the SHA-256
# is here, or by a key pair of its own. And the nonces of requests that could still be repeated.
_ACTORS = """
    CREATE TABLE actors (
        id TEXT NOT NULL PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        digest BLOB UNIQUE,
        did TEXT UNIQUE,
        limits TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        day INTEGER NOT NULL DEFAULT 0,
        day_tokens INTEGER NOT NULL DEFAULT 0,
        CHECK ((digest IS NULL) != (did IS NULL))
    ) WITHOUT ROWID;
"""

# Receipts (see `node/policy/receipts.py`). `number` counts them without gaps and without repeating.
_RECEIPTS = """
    CREATE TABLE receipts (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL,
        role TEXT NOT NULL,
        state TEXT NOT NULL,
        code TEXT NOT NULL,
        because TEXT NOT NULL,
        kept_ms INTEGER NOT NULL,
        request_id TEXT NOT NULL,
        actor TEXT NOT NULL,
        peer TEXT NOT NULL,
        model TEXT NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        began_ms INTEGER NOT NULL,
        ended_ms INTEGER NOT NULL,
        salt BLOB NOT NULL,
        seen TEXT,
        raw BLOB
    );
    CREATE INDEX receipts_by_id ON receipts (id);
"""

_NONCES = """
    CREATE TABLE nonces (
        did TEXT NOT NULL,
        nonce TEXT NOT NULL,
        until_ms INTEGER NOT NULL,
        PRIMARY KEY (did, nonce)
    ) WITHOUT ROWID;
    CREATE INDEX nonces_by_expiry ON nonces (until_ms);
"""
# What credentials with a limit were used for, by day of UTC (see `node/policy/budgets.py`).
_BUDGETS = """
    CREATE TABLE budgets (
        key TEXT NOT NULL,
        day INTEGER NOT NULL,
        requests INTEGER NOT NULL,
        tokens INTEGER NOT NULL,
        PRIMARY KEY (key, day)
    ) WITHOUT ROWID;
"""

# Step n brings a database from user_version n to n + 1. Steps are never edited once released.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE records (
        content_id TEXT NOT NULL PRIMARY KEY,
        sha256 BLOB NOT NULL,
        issuer TEXT NOT NULL,
        kind TEXT NOT NULL,
        subject TEXT NOT NULL,
        valid_from_ms INTEGER NOT NULL,
        valid_until_ms INTEGER NOT NULL,
        withdrawn INTEGER NOT NULL,
        account TEXT,
        received_ms INTEGER NOT NULL,
        received_from TEXT,
        raw BLOB NOT NULL,
        UNIQUE (issuer, kind, subject)
    );
    CREATE INDEX records_by_expiry ON records (valid_until_ms);
    CREATE INDEX records_by_account ON records (account, valid_until_ms);
    CREATE TABLE remembered (
        issuer TEXT NOT NULL,
        kind TEXT NOT NULL,
        subject TEXT NOT NULL,
        valid_from_ms INTEGER NOT NULL,
        content_id TEXT NOT NULL,
        account TEXT,
        until_ms INTEGER NOT NULL,
        PRIMARY KEY (issuer, kind, subject)
    ) WITHOUT ROWID;
    CREATE INDEX remembered_by_expiry ON remembered (until_ms);
    CREATE INDEX remembered_by_account ON remembered (account);
    CREATE TABLE redeemed (
        nonce TEXT NOT NULL PRIMARY KEY,
        until_ms INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE settings (
        name TEXT NOT NULL PRIMARY KEY,
        value TEXT NOT NULL
    ) WITHOUT ROWID;
    """,
    # 0: not worked out yet, which the store does when it is opened.
    "ALTER TABLE records ADD COLUMN branches INTEGER NOT NULL DEFAULT 0",
    _ACCOUNTS,
    _NONCES,
    _BUDGETS,
    _RECEIPTS,
    """
    CREATE TABLE credentials (
        content_id TEXT NOT NULL PRIMARY KEY,
        valid_until_ms INTEGER NOT NULL,
        raw BLOB NOT NULL,
        held INTEGER NOT NULL,
        issued INTEGER NOT NULL,
        given_by TEXT NOT NULL,
        received_ms INTEGER NOT NULL
    );
    CREATE INDEX credentials_by_expiry ON credentials (valid_until_ms);
    """,
    """
    CREATE TABLE revoked (
        owner TEXT NOT NULL PRIMARY KEY,
        bits BLOB NOT NULL,
        until_ms INTEGER NOT NULL
    );
    CREATE TABLE status_entries (
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        entry INTEGER NOT NULL,
        PRIMARY KEY (owner, name)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX status_entries_by_entry ON status_entries (owner, entry);
    """,
    _ACTORS,
)


class Database:
    """A connection whose every failure is one sentence: UsageError(`data_directory_unusable`)."""

    def __init__(self, path: Path | None) -> None:
        """Open `path`, or a database in memory. The file is for its owner alone: it holds salts.

        Raises:
            UsageError: the directory cannot be written, or the file is no database of ours.
        """
        self._depth = 0
        if path is not None:
            _make_private(path)
        with _one_sentence():
            self._connection = sqlite3.connect(
                ":memory:" if path is None else path,
                timeout=LIMITS.database_busy_seconds,
                isolation_level=None,
            )
        try:
            self.execute("PRAGMA journal_mode = WAL")
            self.execute("PRAGMA synchronous = NORMAL")
            self.execute("PRAGMA foreign_keys = ON")
            # Keys are hashes: a batch touches pages everywhere. Each is read from the file once,
            # and written back once for many batches.
            self.execute(f"PRAGMA cache_size = -{LIMITS.database_cache_bytes // 1024}")
            page_bytes = int(self.row("PRAGMA page_size")[0])
            self.execute(f"PRAGMA wal_autocheckpoint = {LIMITS.database_log_bytes // page_bytes}")
            self._migrate()
        except UsageError:
            self._connection.close()
            raise

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise _unusable(error) from error

    def execute_durably(self, statement: str, values: Sequence[Any] = ()) -> None:
        """One statement that is on the disk when this returns, and outlives a power failure.

        For what no peer gives back. Not inside a transaction.
        """
        self.execute("PRAGMA synchronous = FULL")
        try:
            self.execute(statement, values)
        finally:
            self.execute("PRAGMA synchronous = NORMAL")

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """The rows of a query, one at a time; also read errors met on the way are UsageErrors."""
        cursor = self.execute(statement, values)
        with _one_sentence():
            yield from cursor

    def row(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """The first row, or None."""
        try:
            return self._connection.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise _unusable(error) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Within another transaction it becomes part of that one."""
        if self._depth:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
            return
        self.execute("BEGIN IMMEDIATE")
        self._depth = 1
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.rollback()
            raise
        finally:
            self._depth = 0

    def close(self) -> None:
        self._connection.close()

    def _migrate(self) -> None:
        with self.transaction():  # also where there is nothing to do: shows that we may write
            version = int(self.row("PRAGMA user_version")[0])
            if version > len(MIGRATIONS):
                raise UsageError(
                    "The data directory was written by a newer version of aigrid.",
                    Code.DATA_DIRECTORY_UNUSABLE,
                )
            for script in MIGRATIONS[version:]:
                for statement in _statements(script):
                    self.execute(statement)
            self.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _make_private(path: Path) -> None:
    """Mode 0600; what SQLite puts beside a file gets the mode of that."""
    try:
        # A file that is there is not opened: closing it would drop SQLite's locks on it.
        if not path.exists():
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        for suffix in ("", "-wal", "-shm"):  # those of an earlier version had the usual mode
            file = path.with_name(path.name + suffix)
            if file.is_file() and file.stat().st_mode & 0o077:
                file.chmod(0o600)
    except OSError as error:
        raise UsageError(
            f"The data directory cannot be used: {error.strerror}.", Code.DATA_DIRECTORY_UNUSABLE
        ) from None


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for part in script.split(";"):
        statement += part + ";"
        if part.strip() and sqlite3.complete_statement(
            statement
        ):  # and not in the middle of a trigger
            yield statement
            statement = ""


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _unusable(error) from error


def _unusable(error: sqlite3.Error) -> UsageError:
    return UsageError(f"The data directory cannot be used: {error}.", Code.DATA_DIRECTORY_UNUSABLE)
