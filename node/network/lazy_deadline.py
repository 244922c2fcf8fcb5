"""A deadline that is moved with every request and hardly ever comes due."""

import math
from collections.abc import Callable
from typing import Final

import trio

# Who wakes so late was stopped, or busy: what came meanwhile is there and has not been read.
LATE_SECONDS: Final = 0.05
READ_SECONDS: Final = 1.0


class LazyDeadline:
    """Moving it later, as nearly every request does, is an assignment and nothing in trio's heap.

    `run` sleeps until the time that it knew when it lay down, and only then asks where the
    deadline is by now. An earlier one than that is told to its sleep. After a pause of the process
    there is time to read what has come before anybody is judged.
    """

    def __init__(self) -> None:
        self._at = math.inf
        self._asleep_until = -math.inf  # not asleep: it will look before it sleeps
        self._sleep = trio.CancelScope()

    def move(self, at: float) -> None:
        """To `at`, of trio's clock, in seconds; `math.inf` for none."""
        self._at = at
        if at < self._asleep_until:
            self._asleep_until = self._sleep.deadline = at

    async def run(self, on_due: Callable[[], None]) -> None:
        """Call `on_due` once for every deadline that is reached; never returns."""
        granted = math.nan
        while True:
            self._asleep_until = self._at
            with trio.CancelScope(deadline=self._at) as self._sleep:
                await trio.sleep_forever()
            self._asleep_until = -math.inf
            now = trio.current_time()
            if now - self._at > LATE_SECONDS and self._at != granted:
                self._at = granted = now + READ_SECONDS
            elif now >= self._at:
                self._at = math.inf
                on_due()
