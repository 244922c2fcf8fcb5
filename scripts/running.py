"""Child processes of several threads that end together, and which code they are of."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from scripts.nodes import die_with_parent

JOBS_MAX = 1024


class Running:
    """Those that run; once it was stopped there are none any more, and none begins.

    `end` is the signal by which one is stopped: of SIGTERM it may make use to tidy up. On Linux the
    kernel sends it, too, when the thread that started the process is gone, whatever ended that.
    """

    def __init__(self, end: signal.Signals) -> None:
        self._end = end
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self.stopped = False

    @contextmanager
    def started(self, words: Sequence[str], **how: Any) -> Iterator["subprocess.Popen[str]"]:
        """A process, of which `how` is what `Popen` takes; it is waited for in the end.

        By the thread that started it: it would not outlive that one.
        """
        if sys.platform == "linux":
            how["preexec_fn"] = partial(die_with_parent, self._end)  # one system call, no lock
        with subprocess.Popen(words, text=True, **how) as process:
            with self._lock:
                self._running.add(process)
                if self.stopped:
                    process.send_signal(self._end)
            try:
                yield process
            finally:
                with self._lock:
                    self._running.discard(process)

    def stop(self) -> None:
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.send_signal(self._end)


def commit() -> str:
    """Of the code that ran; "unknown" where there is no repository."""
    root = Path(__file__).resolve().parents[1]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
