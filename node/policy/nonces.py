"""Which signed requests have been here, so that none serves twice, however the node was stopped."""

import heapq
from collections import Counter

import structlog

from aigrid.metagraph.database import Database
from aigrid.protocol.errors import AigridError, Code, LocalError
from aigrid.protocol.limits import LIMITS, Limits

log = structlog.get_logger()
_FORGOTTEN = "nonces_forgotten_ms"
# After its use here, until a signature has expired.
_LONGEST_MS = (LIMITS.presentation_ttl_seconds + LIMITS.clock_skew_seconds) * 1000
_SWEEP = 256  # forgotten ones are deleted from the disk this many at a time


class Nonces:
    """The table `nonces`, with an index in memory. A full one refuses.

    What was forgotten had expired by the wall clock. Should that step back, whatever expires no
    later counts as used; but by a clock that was far ahead nobody is locked out for longer than
    anything signed before can be valid.
    """

    def __init__(self, database: Database, *, limits: Limits = LIMITS) -> None:
        self._database = database
        self._limits = limits
        self._used: set[tuple[str, str]] = set()
        self._by_expiry: list[tuple[int, str, str]] = []
        self._of: Counter[str] = Counter()
        row = database.row("SELECT value FROM settings WHERE name = ?", (_FORGOTTEN,))
        self._forgotten_ms = 0 if row is None else int(row[0])
        self._unswept = 0
        self._unwritten: list[tuple[str, str, int]] = []
        for did, nonce, until_ms in database.rows("SELECT did, nonce, until_ms FROM nonces"):
            self._note(did, nonce, until_ms)

    def __len__(self) -> int:
        return len(self._used)

    def use(self, did: str, nonce: str, *, until_ms: int, now_ms: int) -> bool:
        """Mark a nonce of `did` as used; False if it was already.

        `until_ms` is when the signature expires, by this node's wall clock.

        On a full disk it is remembered in memory alone, and written down once there is room: what
        is loaded is served on. Only who then kills the node, too, could repeat what is still valid.

        Raises:
            LocalError: `rate_limited`, when no more can be remembered.
        """
        try:
            self._forget(now_ms)
        except AigridError as error:
            log.debug("nonces_not_swept", reason=error.message)
        if (did, nonce) in self._used or until_ms <= self._forgotten_ms:
            return False
        limits = self._limits
        if self._of[did] >= limits.nonces_of_one_max or len(self._used) >= limits.nonces_kept_max:
            raise LocalError(
                "too many signed requests came lately",
                Code.RATE_LIMITED,
                retry_after_seconds=max(1.0, (self._by_expiry[0][0] - now_ms) / 1000),
            )
        self._note(did, nonce, until_ms)
        try:
            self._write((did, nonce, until_ms), now_ms)
        except AigridError as error:
            if not self._unwritten:  # once, not for every request
                log.warning("nonces_not_written", code=error.code.value, reason=error.message)
            self._unwritten.append((did, nonce, until_ms))
            if len(self._unwritten) > 2 * limits.nonces_kept_max:
                self._unwritten = [row for row in self._unwritten if row[2] > now_ms]
        return True

    def _write(self, row: tuple[str, str, int], now_ms: int) -> None:
        """This one, then those that found the disk full. Raises UsageError."""
        self._database.execute("INSERT OR IGNORE INTO nonces VALUES (?, ?, ?)", row)
        if self._unwritten:
            with self._database.transaction():
                for one in self._unwritten:
                    if one[2] > now_ms:
                        self._database.execute("INSERT OR IGNORE INTO nonces VALUES (?, ?, ?)", one)
            self._unwritten.clear()

    def _note(self, did: str, nonce: str, until_ms: int) -> None:
        self._used.add((did, nonce))
        self._of[did] += 1
        heapq.heappush(self._by_expiry, (until_ms, did, nonce))

    def _forget(self, now_ms: int) -> None:
        if self._forgotten_ms > now_ms + _LONGEST_MS:
            self._forgotten_ms = now_ms + _LONGEST_MS
            self._sweep()
        while self._by_expiry and self._by_expiry[0][0] <= now_ms:
            until_ms, did, nonce = heapq.heappop(self._by_expiry)
            self._used.discard((did, nonce))
            self._of[did] -= 1
            if not self._of[did]:
                del self._of[did]
            self._forgotten_ms = max(self._forgotten_ms, until_ms)
            self._unswept += 1
        if self._unswept >= _SWEEP:
            self._sweep()

    def _sweep(self) -> None:
        with self._database.transaction():
            self._database.execute("DELETE FROM nonces WHERE until_ms <= ?", (self._forgotten_ms,))
            self._database.execute(
                "INSERT OR REPLACE INTO settings VALUES (?, ?)",
                (_FORGOTTEN, str(self._forgotten_ms)),
            )
        self._unswept = 0
