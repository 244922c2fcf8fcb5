"""The limits that decisions oblige this node to hold: requests and tokens per day, and at once.

Counted here alone: a credential that is used at several nodes has its allowance at each of them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from aigrid.metagraph.database import Database
from aigrid.node.discovery.grid import NowMs
from aigrid.protocol.errors import Code, PolicyDeniedError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.policy import Obligation

DAY_MS = 86_400_000
_KEPT_DAYS = 2


class Charge:
    """One request while it runs: `spend` what it uses."""

    def __init__(self, database: Database, keys: Sequence[str], day: int) -> None:
        self._database = database
        self._keys = keys
        self._day = day

    def spend(self, tokens: int) -> None:
        """Charge tokens to everything that bounds the request."""
        if tokens:
            for key in self._keys:
                self._database.execute(
                    "UPDATE budgets SET tokens = tokens + ? WHERE key = ? AND day = ?",
                    (tokens, key, self._day),
                )

    def take_back(self) -> None:
        """The request was not begun, for want of room here: it does not count for the day."""
        for key in self._keys:
            self._database.execute(
                "UPDATE budgets SET requests = requests - 1 WHERE key = ? AND day = ?",
                (key, self._day),
            )


class Budgets:
    """The table `budgets`; days are those of UTC by the wall clock, and outlive the process."""

    def __init__(self, database: Database, *, now_ms: NowMs) -> None:
        self._database = database
        self._now_ms = now_ms
        self._running: Counter[str] = Counter()
        self._spoken_for: Counter[str] = Counter()
        self._swept_day = 0

    @contextmanager
    def charge(self, obligations: Sequence[Obligation], *, most: int = 0) -> Iterator[Charge]:
        """One request more, while the context lasts, that may use up to `most` tokens.

        It begins while something is left that no running request may still use.

        Raises:
            PolicyDeniedError: `over_budget`, with the time until there is room again.
        """
        now_ms = self._now_ms()
        day = now_ms // DAY_MS
        keys = [obligation.key for obligation in obligations]
        if obligations:
            self.check(obligations)
            self._add(keys, day)
        mine = dict.fromkeys(keys, most)
        self._running.update(keys)
        self._spoken_for.update(mine)
        try:
            yield Charge(self._database, keys, day)
        finally:
            for counter, what in ((self._running, keys), (self._spoken_for, mine)):
                counter.subtract(what)
                counter += Counter()  # drops those that are back at none

    def used(self, key: str) -> tuple[int, int]:
        """(requests, tokens) of today."""
        return self._of(key, self._now_ms() // DAY_MS)

    def check(self, obligations: Sequence[Obligation]) -> None:
        """Whether there is room for one request more. Raises as `charge` does."""
        now_ms = self._now_ms()
        day = now_ms // DAY_MS
        tomorrow_seconds = (DAY_MS - now_ms % DAY_MS) / 1000
        for limit in obligations:
            requests, tokens = self._of(limit.key, day)
            if limit.concurrency and self._running[limit.key] >= limit.concurrency:
                text = f"{limit.concurrency} requests are running, as many as are permitted"
                raise _over(text, LIMITS.retry_after_seconds)
            if limit.requests_per_day and requests >= limit.requests_per_day:
                text = f"the {limit.requests_per_day} requests of the day are used up"
                raise _over(text, tomorrow_seconds)
            if limit.tokens_per_day and tokens >= limit.tokens_per_day:
                text = f"the {limit.tokens_per_day} tokens of the day are used up"
                raise _over(text, tomorrow_seconds)
            if limit.tokens_per_day and tokens + self._spoken_for[limit.key] >= (
                limit.tokens_per_day
            ):
                text = "running requests may use what is left of the day's tokens"
                raise _over(text, LIMITS.retry_after_seconds)

    def _add(self, keys: Sequence[str], day: int) -> None:
        with self._database.transaction():
            for key in keys:
                self._database.execute(
                    "INSERT INTO budgets VALUES (?, ?, 1, 0) "
                    "ON CONFLICT (key, day) DO UPDATE SET requests = requests + 1",
                    (key, day),
                )
            if day > self._swept_day:
                self._database.execute("DELETE FROM budgets WHERE day < ?", (day - _KEPT_DAYS,))
                self._swept_day = day

    def _of(self, key: str, day: int) -> tuple[int, int]:
        found = self._database.row(
            "SELECT requests, tokens FROM budgets WHERE key = ? AND day = ?", (key, day)
        )
        return (0, 0) if found is None else (int(found[0]), int(found[1]))


def _over(text: str, retry_after_seconds: float) -> PolicyDeniedError:
    return PolicyDeniedError(
        text, Code.OVER_BUDGET, retry_after_seconds=min(retry_after_seconds, 86400.0)
    )
