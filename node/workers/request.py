"""One request that a worker runs: what has arrived of its answer, and what it is still owed."""

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from aigrid.engines import ipc
from aigrid.protocol.errors import EngineError
from aigrid.protocol.inference import Finish, InferChunk
from aigrid.protocol.limits import LIMITS


@dataclass(frozen=True, slots=True)
class WorkerBounds:
    """How a worker is watched while it serves.

    Attributes:
        heartbeat_seconds: between two pings while requests run.
        idle_heartbeat_seconds: between two pings while none runs.
        heartbeat_silence_seconds: without a sign of life after a ping.
        cancel_seconds: for a cancelled request to end before its worker is killed.
        output_bytes: kept of what a worker printed last.
    """

    heartbeat_seconds: float = LIMITS.worker_heartbeat_seconds
    idle_heartbeat_seconds: float = LIMITS.worker_idle_heartbeat_seconds
    heartbeat_silence_seconds: float = LIMITS.worker_heartbeat_silence_seconds
    cancel_seconds: float = LIMITS.worker_cancel_seconds
    output_bytes: int = LIMITS.worker_output_max_bytes


class WorkerAnswer(Protocol):
    """Yields chunks that were ready together, at least one; the last tuple ends with `Finish`.

    Attributes:
        ended: what the worker says of how it went, once that is over and well.
        ended_seconds: when that came, by trio's clock.
    """

    ended: ipc.Ended | None
    ended_seconds: float

    def __aiter__(self) -> AsyncIterator[tuple[InferChunk, ...]]: ...

    async def __anext__(self) -> tuple[InferChunk, ...]: ...


BOUNDS: Final = WorkerBounds()
UNREAD_MAX_BYTES: Final = 2 * ipc.FRAME_MAX_BYTES


class RunningRequest:
    """Iterates over the answer. Silence counts only while somebody waits for more.

    Attributes:
        request_id: what it is called in logs; "" for one of the node's own.
        ended, ended_seconds: see `WorkerAnswer`.
    """

    __slots__ = (
        *("_bytes", "_cancelled", "_error", "_lot"),
        *("_over", "_ready", "_since", "_take", "_taken"),
        *("ended", "ended_seconds", "request_id"),
    )
    _since: float | None

    def __init__(self, take: Callable[[int], None], request_id: str = "") -> None:
        self.request_id = request_id
        self.ended: ipc.Ended | None = None
        self.ended_seconds = 0.0
        self._take = take
        self._taken = 0
        self._ready: list[InferChunk] = []
        self._bytes = 0
        self._error: EngineError | None = None
        self._lot = trio.lowlevel.ParkingLot()
        self._since = None
        self._cancelled = False
        self._over = False

    def add(self, chunk: InferChunk, size_bytes: int) -> bool:
        """Keep a chunk for whoever reads; False where the worker sends more than it may."""
        if self._cancelled:
            return True
        self._ready.append(chunk)
        self._bytes += size_bytes
        self._lot.unpark()
        return len(self._ready) <= ipc.CHUNK_WINDOW + 1 and self._bytes <= UNREAD_MAX_BYTES

    def end(self, ended: ipc.Ended, size_bytes: int) -> bool:
        """The last chunk; as `add`."""
        self.ended, self.ended_seconds = ended, trio.current_time()
        return self.add(ended.finish, size_bytes)

    def fail(self, error: EngineError) -> None:
        self._error = error
        self._lot.unpark()

    def cancel(self) -> None:
        """The worker was told to stop it."""
        self._cancelled, self._since = True, trio.current_time()

    def problem(self, now: float, silence_seconds: float, cancel_seconds: float) -> str:
        """What the worker has failed to do in time, or ""."""
        owed = 0.0 if self._since is None else now - self._since
        if self._cancelled:
            return f"did not stop within {owed:.0f} s" if owed > cancel_seconds else ""
        return f"said nothing for {owed:.0f} s" if owed > silence_seconds else ""

    def __aiter__(self) -> "RunningRequest":
        return self

    async def __anext__(self) -> tuple[InferChunk, ...]:
        if not self._ready:
            await self._wait()
        chunks = tuple(self._ready)
        self._ready.clear()
        self._bytes = 0
        self._taken += len(chunks)
        if isinstance(chunks[-1], Finish):
            self._over = True
        elif self._taken >= ipc.CHUNK_WINDOW // 2:
            self._take(self._taken)
            self._taken = 0
        return chunks

    async def _wait(self) -> None:
        if self._over:
            raise StopAsyncIteration
        if self._error is None:
            self._since = trio.current_time()
            try:
                await self._lot.park()
            finally:
                self._since = None
        if not self._ready:
            error, self._error = self._error, None  # it will hold this frame, and a whole request
            self._over = True
            try:
                raise error or RuntimeError("woken for nothing")
            finally:
                del error


def overdue(
    jobs: Iterable[RunningRequest], now: float, silence_seconds: float, cancel_seconds: float
) -> str:
    """The first of their problems, or ""."""
    problems = (job.problem(now, silence_seconds, cancel_seconds) for job in jobs)
    return next(filter(None, problems), "")
