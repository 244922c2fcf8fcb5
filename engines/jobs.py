"""What a worker has to say of its requests: when it may, and how it leaves."""

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from aigrid.engines import ipc
from aigrid.engines.base import CancelToken
from aigrid.protocol.inference import Finish, InferChunk, TextChunk
from aigrid.protocol.limits import LIMITS

JOINED_MAX_BYTES: Final = 64 * 1024  # beyond, copying costs more than a second call of the system
_HELD_MAX: Final = ipc.CHUNK_WINDOW // 4  # so that the node gets enough to grant more


class Outbox:
    """Sends frames from any thread; those that wait while one is sent leave together."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._waiting: list[bytes] = []
        self._sending = False

    def post(self, *frames: bytes) -> None:
        with self._lock:
            self._waiting += frames
            if self._sending:
                return
            self._sending = True
        while True:
            with self._lock:
                waiting, self._waiting = self._waiting, []
                if not waiting:
                    self._sending = False
                    return
            try:
                if sum(map(len, waiting)) <= JOINED_MAX_BYTES:
                    self._connection.sendall(b"".join(waiting))
                else:
                    for frame in waiting:
                        self._connection.sendall(frame)
            except OSError:
                os._exit(0)  # the node is gone


class Job:
    """One request. Its thread waits where the node has not taken the chunks already sent.

    `whole`: nobody reads the answer before its end.

    Attributes:
        held: frames that leave with the next one that does, or with the end.
    """

    def __init__(
        self,
        request_id: str = "",
        *,
        whole: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.request_id = request_id
        self.cancel = CancelToken()
        self.held: list[bytes] = []
        self._whole = whole
        self._due = 0.0
        self._now = now
        self._read = self._said = now()
        self._began: float | None = None
        self._first: float | None = None
        self._credit = ipc.CHUNK_WINDOW
        self._granted = threading.Condition()
        self.cancel.on_cancel(self._wake)

    def grant(self, chunks: int) -> None:
        with self._granted:
            self._credit += chunks
            self._granted.notify()

    def take(self) -> None:
        """Wait for credit; a cancelled job needs none, for nobody reads it."""
        with self._granted:
            while self._credit <= 0 and not self.cancel.cancelled:
                self._granted.wait()
            self._credit -= 1
        self._said = self._now()
        if self._first is None:
            self._first = self._said

    def is_due(self, chunk: InferChunk) -> bool:
        """Whether what is held leaves now, `chunk` being the last of it."""
        if not isinstance(chunk, TextChunk):
            return len(self.held) > 1  # an answer that comes at once leaves with its end, next
        if not self._whole:
            return True
        if self._said < self._due and len(self.held) < _HELD_MAX:
            return False
        if not chunk.says_nothing:  # the first words tell when the answer began
            self._due = self._said + LIMITS.worker_hold_seconds
        return True

    def began(self) -> None:
        """A thread has turned to it."""
        self._began = self._now()

    def ended(self, job_id: int, finish: Finish) -> ipc.Ended:
        """What to report of it now."""
        now = self._now()
        began, first = (None if at is None else self._ms(at) for at in (self._began, self._first))
        whole = self._ms(now)
        return ipc.Ended(job_id, finish, whole if began is None else began, first, whole)

    def _ms(self, at: float) -> float:
        return round((at - self._read) * 1000, 3)

    def owes_sign(self) -> bool:
        """Whether it is time to say that the work goes on, for which credit is then taken.

        Where there is no credit nobody waits, and nothing has to be said.
        """
        if self._now() - self._said < LIMITS.sign_of_life_seconds:
            return False
        with self._granted:
            if self._credit <= 0:
                return False
            self._credit -= 1
        self._said = self._now()
        return True

    def _wake(self) -> None:
        with self._granted:
            self._granted.notify()
