"""One worker process: its socket, its output, its requests, and its end.

Whatever goes wrong in it becomes an `EngineError` of the requests that it was serving. There is one
way out, `_give_up`, and one place that says it is gone, the end of `run`.
"""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import structlog
import trio

from aigrid.engines import ipc
from aigrid.engines.base import EngineStats, Estimate
from aigrid.node.workers.exit import MemoryKills, pidfd, verdict
from aigrid.node.workers.outgoing import Outgoing
from aigrid.node.workers.request import RunningRequest, WorkerBounds, overdue
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import InferRequest
from aigrid.protocol.limits import KIB, Limits

READ_BYTES: Final = 256 * KIB

ReportT = TypeVar("ReportT", bound=ipc.Answer)

log = structlog.get_logger(__name__)


class WorkerProcess:
    """A started process. `run` has to be running for anything else to work.

    Attributes:
        ran: ids of the requests that it ran when it ended unasked, the oldest ones.
    """

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        connection: socket.socket,
        output: int,
        *,
        engine: str,
        log_file: Path,
        scratch: Path,
        limits: Limits,
        bounds: WorkerBounds,
    ) -> None:
        connection.setblocking(False)  # noqa: FBT003 -- positional only
        self.engine = engine
        self.model = ""
        self.estimate = Estimate(0)
        self.sandbox = ""
        self.died = trio.Event()
        self.failure: EngineError | None = None
        self.ran: tuple[str, ...] = ()
        self._popen = popen
        self._connection = connection
        self._socket = trio.socket.from_stdlib_socket(connection)
        self._outgoing = Outgoing(connection, self._socket)
        self._output = trio.lowlevel.FdStream(output)
        self._log_file = log_file
        self._scratch = scratch
        self._limits = limits
        self._bounds = bounds
        self._tail = bytearray()
        self._requests: dict[int, RunningRequest] = {}
        self._next_id = 1
        self._busy = trio.Event()
        self._exited, self._read_all, self._printed_all = trio.Event(), trio.Event(), trio.Event()
        self._asked_to_stop = False
        self._pinged_at: float | None = None
        self._stats = EngineStats()
        self._heard = trio.Event()
        self._orders_in, self._orders_out = trio.open_memory_channel[ipc.Report | EngineError](2)
        self._progress: Callable[[str], None] | None = None
        self._extend: Callable[[], None] = lambda: None
        self._memory_kills = MemoryKills()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def gone(self) -> bool:
        return self._exited.is_set() or self._popen.poll() is not None

    def stats(self) -> EngineStats:
        return self._stats

    async def refresh(self) -> EngineStats:
        """Ask for counters. The worker is killed where it does not answer."""
        self._heard = trio.Event()
        if not self._exited.is_set():
            self._ping()
        with trio.move_on_after(self._bounds.heartbeat_silence_seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_first_of, self._exited, nursery.cancel_scope)
                await self._heard.wait()
                nursery.cancel_scope.cancel()
        if self._exited.is_set():
            raise self.failure or self._stopped()
        if not self._heard.is_set():
            self._time_out("did not answer a ping")
            raise self.failure or self._stopped()
        return self._stats

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until the process is gone; leaves neither process nor zombie."""
        try:
            async with trio.open_nursery() as nursery:
                for task in (self._read, self._outgoing.run, self._watch, self._keep_output):
                    nursery.start_soon(task)
                task_status.started()
                await self._wait_exit()
                await self._after_exit()
                nursery.cancel_scope.cancel()
        finally:
            self._popen.kill()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._remove)
                self._fail_requests(self.failure or self._stopped())
                self._socket.close()
                await self._output.aclose()
            self.died.set()

    def adopt(self, log_file: Path, model: str) -> None:
        """It gets a model now: where its last output goes if it dies."""
        self._log_file, self.model = log_file, model

    async def hello(self) -> None:
        """Wait until the process is ready for orders."""
        await self._answer(self._limits.worker_start_seconds, "did not start")

    async def order(
        self,
        order: ipc.Order,
        kind: type[ReportT],
        *,
        timeout_seconds: float,
        progress: Callable[[str], None] | None = None,
    ) -> ReportT:
        """Give an order other than a request and wait for its answer.

        With `progress` each word of the worker begins the time anew, up to `worker_build_seconds`
        in all.
        """
        self._progress = progress
        self._post(order)
        try:
            report = await self._answer(timeout_seconds, f"did not {type(order).__name__.lower()}")
        finally:
            self._progress = None
        if not isinstance(report, kind):
            self._give_up(EngineError("the worker answered out of turn", Code.ENGINE_CRASHED))
            raise self.failure or self._stopped()
        return report

    async def kill(self) -> None:
        with trio.CancelScope(shield=True):
            if self.failure is None and not self._asked_to_stop and not self._exited.is_set():
                self._asked_to_stop = True
                self._post(ipc.Stop())
                with trio.move_on_after(self._limits.worker_stop_seconds):
                    await self._exited.wait()
            self._popen.kill()
            await self.died.wait()

    @asynccontextmanager
    async def infer(
        self, request: InferRequest, request_id: str = "", *, whole: bool = False
    ) -> AsyncIterator[RunningRequest]:
        if self._exited.is_set() or self.failure is not None or self._asked_to_stop:
            raise self.failure or self._stopped()
        job_id = self._next_id
        try:
            frame = ipc.encode(ipc.Infer(job_id, request, request_id, whole))
        except ValueError as error:
            raise EngineError(f"the request is too large: {error}", Code.INVALID_REQUEST) from None
        self._next_id += 1
        job = RunningRequest(lambda count: self._post(ipc.Taken(job_id, count)), request_id)
        self._requests[job_id] = job
        self._busy.set()
        self._outgoing.send(frame)
        try:
            yield job
        finally:
            if job_id in self._requests:
                # It stays listed until the worker says that it has really stopped.
                job.cancel()
                self._post(ipc.Cancel(job_id))

    async def _answer(self, timeout_seconds: float, what: str) -> ipc.Report:
        last = trio.current_time() + max(timeout_seconds, self._limits.worker_build_seconds)
        with trio.move_on_after(timeout_seconds) as scope:

            def extend() -> None:
                scope.deadline = min(trio.current_time() + timeout_seconds, last)

            self._extend = extend
            report = await self._orders_out.receive()
            if isinstance(report, EngineError):
                raise report
            return report
        error = EngineError(f"the worker {what} in {timeout_seconds:g} s", Code.ENGINE_TIMEOUT)
        self._give_up(error)
        raise error

    # -- sending

    def _post(self, order: ipc.Order) -> None:
        self._outgoing.send(ipc.encode(order))

    def _ping(self) -> None:
        self._memory_kills.asked()
        self._post(ipc.Ping())

    # -- receiving

    async def _read(self) -> None:
        try:
            await self._read_reports()
        except ValueError as error:
            self._give_up(
                EngineError(f"the worker broke the protocol: {error}", Code.ENGINE_CRASHED)
            )
            return
        finally:
            self._read_all.set()
        with trio.move_on_after(self._limits.worker_stop_seconds):
            await self._exited.wait()
        if not self._exited.is_set():
            self._give_up(EngineError("the worker closed its socket", Code.ENGINE_CRASHED))

    async def _read_reports(self) -> None:
        # One place to read into: making so large an answer each time takes longer than reading it.
        cutter, room = ipc.FrameCutter(), memoryview(bytearray(READ_BYTES))
        with contextlib.suppress(OSError):
            while True:
                await trio.lowlevel.wait_readable(self._connection)
                try:
                    size = self._connection.recv_into(room)
                except BlockingIOError:
                    continue
                if not size:
                    return
                self._pinged_at = None
                for body in cutter.feed(bytes(room[:size])):
                    self._deliver(ipc.decode_report(body), len(body))

    def _deliver(self, report: ipc.Report, size_bytes: int) -> None:
        if isinstance(report, ipc.Chunk):
            job = self._requests.get(report.id)
            if job is not None and not job.add(report.chunk, size_bytes):
                raise ValueError("more chunks than were asked for")
        elif isinstance(report, ipc.Ended):
            job = self._requests.pop(report.id, None)
            if job is not None and not job.end(report, size_bytes):
                raise ValueError("more chunks than were asked for")
        elif isinstance(report, ipc.Failed) and report.id:
            if (job := self._requests.pop(report.id, None)) is not None:
                job.fail(ipc.engine_error(report))
        elif isinstance(report, ipc.Progress):
            if self._progress is not None:
                self._extend()
                self._progress(report.text)
        elif isinstance(report, ipc.Pong):
            self._stats = report.stats
            self._memory_kills.answered()
            self._heard.set()
        else:
            answer = ipc.engine_error(report) if isinstance(report, ipc.Failed) else report
            try:
                self._orders_in.send_nowait(answer)
            except trio.WouldBlock:
                raise ValueError("more answers than orders") from None

    async def _keep_output(self) -> None:
        with contextlib.suppress(trio.BrokenResourceError, OSError):
            while data := await self._output.receive_some(4 * KIB):
                self._tail += data
                del self._tail[: -self._bounds.output_bytes]
        self._printed_all.set()

    # -- watching and ending

    async def _watch(self) -> None:
        """Notice a worker that hangs. While it has nothing to do, nobody waits for its pongs."""
        silence = self._limits.worker_silence_seconds
        tick = min(self._bounds.heartbeat_seconds, silence / 4, self._bounds.cancel_seconds / 4)
        while True:
            if not self._requests:
                self._pinged_at = None
                self._busy = trio.Event()
                with trio.move_on_after(self._bounds.idle_heartbeat_seconds):
                    await self._busy.wait()
                if not self._requests:
                    self._ping()
                    continue
            await trio.sleep(tick)
            now = trio.current_time()
            jobs = self._requests.values()
            if problem := overdue(jobs, now, silence, self._bounds.cancel_seconds):
                return self._time_out(problem)
            if self._pinged_at is None:
                self._pinged_at = now
                self._ping()
            elif now - self._pinged_at > self._bounds.heartbeat_silence_seconds:
                return self._time_out("did not answer a ping")

    def _time_out(self, what: str) -> None:
        self._give_up(EngineError(f"engine {self.engine} {what}", Code.ENGINE_TIMEOUT))

    def _give_up(self, error: EngineError) -> None:
        if self.failure is None:
            self.failure = error
        self._popen.kill()

    def _fail_requests(self, error: EngineError) -> None:
        for job in self._requests.values():
            job.fail(error)
        self._requests.clear()
        with contextlib.suppress(trio.WouldBlock):
            self._orders_in.send_nowait(error)

    def _stopped(self) -> EngineError:
        return EngineError(f"the worker of engine {self.engine} was stopped", Code.ENGINE_CRASHED)

    async def _wait_exit(self) -> None:
        ended = pidfd(self._popen.pid)
        if ended is None:
            await trio.to_thread.run_sync(self._popen.wait, abandon_on_cancel=True)
        else:
            try:
                await trio.lowlevel.wait_readable(ended)
            finally:
                os.close(ended)
            self._popen.poll()
        self._exited.set()

    async def _after_exit(self) -> None:
        """Say why it ended, once what it sent and printed last has been read."""
        with trio.move_on_after(self._limits.worker_stop_seconds):
            await self._read_all.wait()
            await self._printed_all.wait()
        if self.failure is None and not self._asked_to_stop:
            self.failure = verdict(
                self.engine,
                self._popen.returncode,
                bytes(self._tail),
                killed_for_memory=self._memory_kills.since(),
            )
        if self.failure is not None:
            most = min(self.estimate.slots, self._limits.worker_requests_told_max)
            running = [job.request_id for job in islice(self._requests.values(), most)]
            self.ran = tuple(filter(None, running))
            told = {"reason": self.failure.message, "requests": self.ran}
            self._save_output(f"{self.failure.message}; requests: {', '.join(self.ran) or 'none'}")
            log.warning("worker_died", engine=self.engine, pid=self.pid, **told)

    def _remove(self) -> None:
        """In a thread: memory is given back slowly, and a directory may be full."""
        self._popen.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _save_output(self, why: str) -> None:
        with contextlib.suppress(OSError):
            self._log_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            last = f"{why}\n".encode()
            room = max(0, self._bounds.output_bytes - len(last))
            self._log_file.write_bytes(self._tail[-room:] + last if room else last)


async def _first_of(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
