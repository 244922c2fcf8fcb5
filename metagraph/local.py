"""What a node must remember besides records: its settings and the invitations it has redeemed."""

from aigrid.metagraph.store import Store


class LocalState:
    """Small tables in the same database as the records, so that one transaction covers both."""

    def __init__(self, store: Store) -> None:
        self._database = store.database

    @property
    def grid(self) -> str | None:
        """DID of the grid this data directory belongs to; None before the first `up` or `join`."""
        return self.get("grid")

    @grid.setter
    def grid(self, did: str) -> None:
        self.set("grid", did)

    def get(self, name: str) -> str | None:
        row = self._database.row("SELECT value FROM settings WHERE name = ?", (name,))
        return None if row is None else str(row[0])

    def set(self, name: str, value: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))

    def remove(self, name: str) -> None:
        self._database.execute("DELETE FROM settings WHERE name = ?", (name,))

    def redeem(self, nonce: str, *, until_ms: int, now_ms: int) -> bool:
        """Mark an invitation as used; False if it was already.

        `until_ms` is the invitation's own expiry: afterwards it need not be remembered.
        """
        with self._database.transaction():
            self._database.execute("DELETE FROM redeemed WHERE until_ms <= ?", (now_ms,))
            if self.redeemed(nonce):
                return False
            self._database.execute("INSERT INTO redeemed VALUES (?, ?)", (nonce, until_ms))
        return True

    def redeemed(self, nonce: str) -> bool:
        return self._database.row("SELECT 1 FROM redeemed WHERE nonce = ?", (nonce,)) is not None
