"""What a node must remember besides records: its settings and the invitations it has redeemed."""

import json
from dataclasses import dataclass

from aigrid.metagraph.store import Store

_ROTATION = "rotation/"


@dataclass(frozen=True, slots=True)
class Honoured:
    """A member's key was replaced: by whose, and when. Remembered until the KeyRotation ends."""

    successor: str
    at_ms: int
    until_ms: int


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

    def all(self, prefix: str) -> tuple[tuple[str, str], ...]:
        """Names that begin so, and their values. The prefix holds no `*`, `?` or `[`."""
        rows = self._database.rows(
            "SELECT name, value FROM settings WHERE name GLOB ?", (prefix + "*",)
        )
        return tuple((str(name), str(value)) for name, value in rows)

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

    def rotation_of(self, did: str) -> Honoured | None:
        """The rotation of a key that this node has honoured, as long as it is remembered."""
        found = self.get(_ROTATION + did)
        return None if found is None else Honoured(*json.loads(found))

    def successor_of(self, did: str) -> str | None:
        """The key that a key has come to by rotations, as long as they are remembered."""
        rotations, seen = self._rotations(), {did}
        while (found := rotations.get(_ROTATION + did)) and found.successor not in seen:
            did = found.successor
            seen.add(did)
        return did if len(seen) > 1 else None

    def rotated_to_ms(self, did: str) -> int | None:
        """When a key came by rotation, as long as that is remembered."""
        found = [o.at_ms for o in self._rotations().values() if o.successor == did]
        return max(found, default=None)

    def note_rotation(self, did: str, honoured: Honoured) -> None:
        """Remember that a key was replaced; what has ended by then is forgotten."""
        with self._database.transaction():
            for name, one in self._rotations().items():
                if one.until_ms <= honoured.at_ms:
                    self.remove(name)
            said = [honoured.successor, honoured.at_ms, honoured.until_ms]
            self.set(_ROTATION + did, json.dumps(said))

    def _rotations(self) -> dict[str, Honoured]:
        return {name: Honoured(*json.loads(value)) for name, value in self.all(_ROTATION)}
