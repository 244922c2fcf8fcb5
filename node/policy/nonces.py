"""Which signed requests have been here: their nonces, until the signatures are too old anyway."""

from aigrid.metagraph.database import Database
from aigrid.protocol.errors import Code, LocalError
from aigrid.protocol.limits import LIMITS, Limits


class Nonces:
    """The table `nonces`; what it holds outlives the process. A full one refuses."""

    def __init__(self, database: Database, *, limits: Limits = LIMITS) -> None:
        self._database = database
        self._limits = limits

    def use(self, did: str, nonce: str, *, until_ms: int, now_ms: int) -> bool:
        """Mark a nonce as used; False if it was already.

        `until_ms` is when the signature's age refuses it.

        Raises:
            LocalError: `rate_limited`, when no more can be remembered.
            UsageError: the database cannot be used.
        """
        database, limits = self._database, self._limits
        with database.transaction():
            database.execute("DELETE FROM nonces WHERE until_ms < ?", (now_ms,))
            known = "SELECT 1 FROM nonces WHERE did = ? AND nonce = ?"
            if database.row(known, (did, nonce)) is not None:
                return False
            own = int(database.row("SELECT COUNT(*) FROM nonces WHERE did = ?", (did,))[0])
            everybodys = int(database.row("SELECT COUNT(*) FROM nonces")[0])
            if own >= limits.nonces_per_actor_max or everybodys >= limits.nonces_max:
                raise LocalError(
                    "Too many signed requests came within a minute.",
                    Code.RATE_LIMITED,
                    retry_after_seconds=limits.signature_age_seconds / 2,
                )
            database.execute("INSERT INTO nonces VALUES (?, ?, ?)", (did, nonce, until_ms))
        return True
