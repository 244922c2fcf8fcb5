"""The worker process: one engine, one model, driven over an inherited socket.

    python -P -m aigrid.engines.worker --fd N [--memory-bytes M]

The main thread only reads orders, so that a cancel or a ping is heard whatever the engine does.
Loading and each request run in threads of their own. The process ends with its socket: when the
node dies, however it dies, its workers do.
"""

import argparse
import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

from aigrid.engines import ipc
from aigrid.engines.base import CancelToken, Engine, ModelSource, ServerEngine
from aigrid.engines.registry import load_engine, probe_all
from aigrid.protocol.errors import AigridError, Code, EngineError
from aigrid.protocol.inference import Finish, InferRequest, TaskChunk, TensorChunk, TextChunk
from aigrid.protocol.limits import LIMITS

READ_BYTES = 256 * 1024
_PR_SET_PDEATHSIG = 1


class Outbox:
    """Sends frames from any thread; those that wait while one is sent leave together."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._waiting: list[bytes] = []
        self._sending = False

    def post(self, frame: bytes) -> None:
        with self._lock:
            self._waiting.append(frame)
            if self._sending:
                return
            self._sending = True
        while True:
            with self._lock:
                frames, self._waiting = self._waiting, []
                if not frames:
                    self._sending = False
                    return
            try:
                self._connection.sendall(frames[0] if len(frames) == 1 else b"".join(frames))
            except OSError:
                os._exit(0)  # the node is gone


class Job:
    """One request. Its thread waits where the node has not taken the chunks already sent."""

    def __init__(self) -> None:
        self.cancel = CancelToken()
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

    def _wake(self) -> None:
        with self._granted:
            self._granted.notify()


class Host:
    """Carries out orders for one model."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._outbox = Outbox(connection)
        self._jobs: dict[int, Job] = {}
        self._engine: Engine | None = None
        self._source: ModelSource | None = None
        self._threads = ThreadPoolExecutor(max_workers=1)

    def serve(self) -> NoReturn:
        self._report(ipc.Hello(os.getpid()))
        cutter = ipc.FrameCutter()
        while data := self._receive():
            for body in cutter.feed(data):
                self._obey(ipc.decode_order(body))
        os._exit(0)

    def _receive(self) -> bytes:
        try:
            return self._connection.recv(READ_BYTES)
        except OSError:
            return b""

    def _obey(self, order: ipc.Order) -> None:
        match order:
            case ipc.Infer():
                job = self._jobs[order.id] = Job()
                self._threads.submit(self._infer, order.id, order.request, job)
            case ipc.Cancel():
                if (running := self._jobs.get(order.id)) is not None:
                    running.cancel.cancel()
            case ipc.Taken():
                if (running := self._jobs.get(order.id)) is not None:
                    running.grant(order.chunks)
            case ipc.Ping():
                if self._engine is not None:
                    self._report(ipc.Pong(self._engine.stats()))
            case ipc.Examine():
                self._threads.submit(self._guarded, 0, lambda: self._examine(order))
            case ipc.Load():
                self._threads.submit(self._guarded, 0, lambda: self._load(order))
            case ipc.ProbeAll():
                self._threads.submit(self._guarded, 0, self._probe)
            case ipc.Discover():
                self._threads.submit(self._guarded, 0, lambda: self._discover(order))
            case ipc.Stop():
                self._stop()

    def _examine(self, order: ipc.Examine) -> None:
        self._source = ipc.source_from_wire(order.source)
        self._engine = load_engine(order.engine, order.factory)
        self._report(ipc.Examined(self._engine.estimate(self._source)))

    def _load(self, order: ipc.Load) -> None:
        if self._engine is None or self._source is None:
            raise RuntimeError("load before examine")
        estimate = self._engine.load(self._source, threads=order.threads)
        self._threads = ThreadPoolExecutor(max_workers=max(1, estimate.slots))
        self._report(ipc.Loaded(estimate))

    def _probe(self) -> None:
        self._report(ipc.Probed(probe_all()))

    def _discover(self, order: ipc.Discover) -> None:
        engine = load_engine(order.engine, order.factory)
        if not isinstance(engine, ServerEngine):
            raise EngineError(f"engine {order.engine} knows no servers", Code.UNSUPPORTED_MODEL)
        self._report(ipc.Discovered(engine.discover(order.endpoint, order.model)))

    def _infer(self, job_id: int, request: InferRequest, job: Job) -> None:
        self._guarded(job_id, lambda: self._stream(job_id, request, job))

    def _stream(self, job_id: int, request: InferRequest, job: Job) -> None:
        if self._engine is None:
            raise RuntimeError("infer before load")
        if job.cancel.cancelled:
            self._end(job_id, ipc.Chunk(job_id, Finish("cancelled")))
            return
        post, encode, chunk_type = self._outbox.post, ipc.encode, ipc.Chunk
        for chunk in self._engine.infer(request, job.cancel):
            if isinstance(chunk, Finish):
                self._end(job_id, ipc.Chunk(job_id, chunk))
                return
            if not isinstance(chunk, TextChunk | TensorChunk | TaskChunk):
                raise TypeError(f"the engine yielded a {type(chunk).__name__}")
            job.take()
            post(encode(chunk_type(job_id, chunk)))
        raise RuntimeError("the engine ended without Finish")

    def _guarded(self, job_id: int, work: Callable[[], None]) -> None:
        """The boundary around every engine call: whatever it raises is reported, typed."""
        try:
            work()
        except AigridError as error:
            self._fail(job_id, error.code, error.message)
        except MemoryError:
            self._fail(job_id, Code.OUT_OF_MEMORY, "the engine ran out of memory")
        except BaseException as error:  # noqa: BLE001 -- boundary: an engine call
            # The message may quote the request, so only the place goes to the log.
            traceback.print_tb(error.__traceback__)
            kind = type(error).__name__
            sys.stderr.write(f"{kind}\n")
            self._fail(job_id, Code.ENGINE_FAILED, f"the engine failed with {kind}")

    def _fail(self, job_id: int, code: Code, message: str) -> None:
        text = message[: ipc.MESSAGE_MAX_CHARS].encode("utf-8", "replace").decode()
        self._end(job_id, ipc.Failed(job_id, code, text))

    def _end(self, job_id: int, report: ipc.Report) -> None:
        self._jobs.pop(job_id, None)
        self._report(report)

    def _report(self, report: ipc.Report) -> None:
        self._outbox.post(ipc.encode(report))

    def _stop(self) -> NoReturn:
        if self._engine is not None:
            with contextlib.suppress(Exception):  # boundary: an engine call
                self._engine.unload()
        sys.stderr.flush()
        os._exit(0)


def confine(memory_bytes: int) -> None:
    """Limit what this process may take, before anything foreign is imported.

    `memory_bytes` bounds the address space, 0 does not; not for engines that map a GPU's memory.
    """
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the node decides; ^C reaches the whole group
    with contextlib.suppress(ImportError, OSError, ValueError):  # where the system has them
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = (
            LIMITS.worker_open_files_max
            if hard == resource.RLIM_INFINITY
            else min(LIMITS.worker_open_files_max, hard)
        )
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, most) if soft >= 0 else most, most))
        if memory_bytes:
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def die_with_parent() -> None:
    """Ask Linux to kill this process when the thread that started it ends."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main() -> NoReturn:
    """Run until the socket closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--memory-bytes", type=int, default=0)
    arguments = parser.parse_args()
    die_with_parent()
    confine(arguments.memory_bytes)
    faulthandler.enable()
    os.set_inheritable(arguments.fd, False)  # noqa: FBT003 -- positional only
    try:
        Host(socket.socket(fileno=arguments.fd)).serve()
    except BaseException:  # noqa: BLE001 -- boundary: end now, without waiting for engine threads
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    main()
