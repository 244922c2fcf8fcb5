"""Child processes of a bench that talk in lines and never outlive it."""

import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
_PR_SET_PDEATHSIG = 1
_TAIL_BYTES = 2000


class ChildFailedError(Exception):
    """A child ended, said nothing in time, or could not be started; with what it said."""


class Child:
    """A process with lines in and out. What it says on stderr is kept for its failure."""

    def __init__(self, process: "subprocess.Popen[bytes]", errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors
        self._unread = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ChildFailedError(self._said() or str(error)) from error

    def line(self, timeout_seconds: float) -> str:
        """The next line of its output. Raises ChildFailedError."""
        assert self._process.stdout is not None
        end = time.monotonic() + timeout_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise ChildFailedError(f"silent for {timeout_seconds:g} s: {self._said()}")
                data = os.read(self._process.stdout.fileno(), 1 << 20)
                if not data:
                    raise ChildFailedError(f"it ended: {self._said()}")
                self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    def report(self, holds: str, timeout_seconds: float) -> dict[str, Any]:
        """The next line that is a JSON object with that member.

        Libraries log to the same place; what they say is passed over. Raises ChildFailedError.
        """
        while True:
            line = self.line(timeout_seconds)
            if line.startswith("{") and f'"{holds}"' in line:
                return dict(json.loads(line))

    def _said(self) -> str:
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - _TAIL_BYTES))
        return self._errors.read().decode(errors="replace").strip()


@contextmanager
def child(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[Child]:
    """Run a command in the repository's root; it and what it started are killed in the end.

    Where this process is killed itself, the kernel does that (on Linux).
    """
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - one system call, no lock
            )
        except OSError as error:
            raise ChildFailedError(str(error)) from error
        try:
            yield Child(process, errors)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # what was not flushed to it
                    if pipe is not None:
                        pipe.close()


def leave_cleanly() -> None:
    """Let SIGTERM unwind this process, so that its children end with it."""

    def leave(*_: Any) -> None:
        sys.exit(1)

    signal.signal(signal.SIGTERM, leave)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
