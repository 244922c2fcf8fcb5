"""Threads for the calls of a worker."""

import queue
import threading
from collections.abc import Callable


class Hands:
    """Calls in threads, so many at once; further ones wait their turn. They end with the process.

    An executor would do; this one wakes a thread and nothing else, and a request waits for that.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._started = 0
        self._idle = 0
        self._lock = threading.Lock()
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def submit(self, call: Callable[[], None]) -> None:
        """Have it called; it must not raise. For one thread only."""
        self._calls.put(call)
        with self._lock:
            # Who worked before has its memory warm, so a new thread is the second choice.
            if self._idle:
                self._idle -= 1
                return
            if self._started == self._count:
                return
            self._started += 1
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            self._calls.get()()
            with self._lock:
                self._idle += 1
