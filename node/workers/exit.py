"""Why a worker process ended, as an error for whoever waited for it."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from aigrid.protocol.errors import Code, EngineError

_OUT_OF_MEMORY: Final = (
    *(b"std::bad_alloc", b"MemoryError", b"out of memory"),
    b"memory allocation of ",  # as Rust says it
)
"""Last words of a runtime that gives up where nobody catches its exception."""


def verdict(
    engine: str, returncode: int, printed: bytes, *, killed_for_memory: bool
) -> EngineError:
    """What a process died of that nobody had asked to end; `printed` is its last output."""
    if returncode == -signal.SIGKILL and killed_for_memory:
        return EngineError(
            f"engine {engine} was killed: the machine ran out of memory", Code.OUT_OF_MEMORY
        )
    # Where Python itself has no memory left, the worker ends with a traceback.
    ended = returncode in (-signal.SIGABRT, 1)
    if ended and any(said in printed for said in _OUT_OF_MEMORY):
        return EngineError(f"engine {engine} ran out of memory", Code.OUT_OF_MEMORY)
    return EngineError(f"engine {engine} died with {describe(returncode)}", Code.ENGINE_CRASHED)


def oom_kills() -> int:
    """How many processes the kernel has killed for memory since it started; 0 where unknown."""
    try:
        with Path("/proc/vmstat").open(encoding="ascii") as facts:
            return next((int(line.split()[1]) for line in facts if line.startswith("oom_kill ")), 0)
    except (OSError, ValueError):
        return 0


class MemoryKills:
    """Whether the kernel has killed for memory since a worker was last known to live.

    The kernel counts for the whole machine. So the count is taken before each question to the
    worker, and the answer proves that none of those kills was the worker's.
    """

    def __init__(self, count: Callable[[], int] = oom_kills) -> None:
        self._count = count
        self._alive_at = count()
        self._asked_at: int | None = None

    def asked(self) -> None:
        """A question is about to be sent."""
        if self._asked_at is None:  # the next answer may be that to an earlier one
            self._asked_at = self._count()

    def answered(self) -> None:
        if self._asked_at is not None:
            self._alive_at, self._asked_at = self._asked_at, None

    def since(self) -> bool:
        """Whether there was one after the last sign of life."""
        return self._count() > self._alive_at


def describe(returncode: int) -> str:
    """A status of `subprocess` in words."""
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


def pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends, where the system has them."""
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None
