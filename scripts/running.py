"""Child processes of several threads that end together."""

import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class Running:
    """Those that run; once it was stopped there are none any more, and none begins.

    `end` is how one is stopped: with `terminate` it may tidy up, with `kill` it may hang.
    """

    def __init__(self, end: Callable[["subprocess.Popen[str]"], None]) -> None:
        self._end = end
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self.stopped = False

    @contextmanager
    def started(self, words: Sequence[str], **how: Any) -> Iterator["subprocess.Popen[str]"]:
        """A process, of which `how` is what `Popen` takes; it is waited for in the end."""
        with subprocess.Popen(words, text=True, **how) as process:
            with self._lock:
                self._running.add(process)
                if self.stopped:
                    self._end(process)
            try:
                yield process
            finally:
                with self._lock:
                    self._running.discard(process)

    def stop(self) -> None:
        with self._lock:
            self.stopped = True
            for process in self._running:
                self._end(process)
