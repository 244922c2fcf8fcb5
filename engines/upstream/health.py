"""Whether a server still answers, found out by asking it.

Servers have been seen whose lists of models stayed green for hours while every generation hung, so
what counts is a real answer: to somebody's request, or, where nobody has asked for a while, to a
small one of our own. A request that failed is a suspicion, and leads to such a trial at once.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS, Limits

# What a sound server says of a request that it does not like, or has no room for.
_NO_FAULT: Final = frozenset(
    {
        Code.INVALID_REQUEST,
        Code.UNSUPPORTED_PARAMETER,
        Code.CONTEXT_LENGTH_EXCEEDED,
        Code.BUSY,
    }
)
Trial = Callable[[bool], None]
"""Asks the server; with True for an answer of the model too. Raises EngineError."""


class Health:
    """Keeps trying in a thread of its own, until it is stopped or the process ends."""

    def __init__(self, trial: Trial, *, limits: Limits = LIMITS) -> None:
        self._trial = trial
        self._limits = limits
        self._problem = ""
        self._good_at = time.monotonic()
        self._wake = threading.Event()
        self._over = False

    @property
    def problem(self) -> str:
        """Why the server does not answer, or ""."""
        return self._problem

    def start(self) -> None:
        """Begin, once the server has answered for the first time."""
        self._good_at = time.monotonic()
        threading.Thread(target=self._run, name="health", daemon=True).start()

    def stop(self) -> None:
        """Ask no more; a trial that runs is not waited for."""
        self._over = True
        self._wake.set()

    def answered(self) -> None:
        """A request was answered, or goes on being answered."""
        self._good_at = time.monotonic()

    def failed(self, error: EngineError) -> None:
        """A request failed."""
        if error.code not in _NO_FAULT:
            self._wake.set()

    def _run(self) -> None:
        limits, pause = self._limits, self._limits.upstream_retry_seconds
        while not self._over:
            suspected = self._wake.wait(
                pause if self._problem else limits.upstream_interval_seconds
            )
            self._wake.clear()
            if self._over:
                return
            quiet = time.monotonic() - self._good_at >= limits.upstream_interval_seconds
            problem = self._ask(bool(self._problem) or suspected or quiet)
            if problem and self._problem:
                pause = min(2 * pause, limits.upstream_retry_max_seconds)
            elif problem:
                pause = limits.upstream_retry_seconds
            self._problem = problem
            if problem:
                # Requests that are still on their way do not shorten the pause.
                self._wake.clear()

    def _ask(self, trial: bool) -> str:  # noqa: FBT001 -- see Trial
        try:
            self._trial(trial)
        except EngineError as error:
            return "" if error.code is Code.BUSY else error.message or error.code.value
        except Exception as error:  # noqa: BLE001 -- boundary: what a server says may surprise us
            return f"the trial request failed with {type(error).__name__}"
        if trial:
            self._good_at = time.monotonic()
        return ""
