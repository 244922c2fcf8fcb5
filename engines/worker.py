"""The worker process: one engine, one model, driven over an inherited socket.

    python -P -m aigrid.engines.worker --fd N [--scratch DIRECTORY]

The main thread only reads orders, so that a cancel or a ping is heard whatever the engine does.
Loading and each request run in threads of their own. The process ends with its socket: when the
node dies, however it dies, its workers do. Before it opens a model it gives up what it does not
need for that (`sandbox`), which is why a process examines one model and no other. A spare one has
imported what its engine needs before that, and nothing else.
"""

import argparse
import contextlib
import faulthandler
import os
import socket
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from aigrid.engines import ipc, progress, sandbox
from aigrid.engines.base import (
    Endpoint,
    Engine,
    ModelSource,
    ServerEngine,
    check_trusted,
)
from aigrid.engines.devices import hardware
from aigrid.engines.draft import to_wire
from aigrid.engines.hands import Hands
from aigrid.engines.jobs import Job, Outbox
from aigrid.engines.registry import factory_of, load_engine, preimports, probe
from aigrid.engines.upstream.address import ports_of
from aigrid.protocol.errors import AigridError, Code, EngineError
from aigrid.protocol.inference import Finish, InferRequest, TaskChunk, TensorChunk, TextChunk
from aigrid.protocol.limits import LIMITS

READ_BYTES = 256 * 1024


class Host:
    """Carries out orders for one model."""

    def __init__(self, connection: socket.socket, scratch: Path | None) -> None:
        self._connection = connection
        self._room = memoryview(bytearray(READ_BYTES))
        self._scratch = scratch
        self._files = sandbox.Files()
        self._held = sandbox.Plan()
        self._outbox = Outbox(connection)
        self._jobs: dict[int, Job] = {}
        self._engine: Engine | None = None
        self._source: ModelSource | None = None
        self._threads = Hands(1)

    def serve(self) -> NoReturn:
        self._report(ipc.Hello(os.getpid()))
        cutter = ipc.FrameCutter()
        while data := self._receive():
            for body in cutter.feed(data):
                self._obey(ipc.decode_order(body))
        os._exit(0)

    def _receive(self) -> bytes:
        try:
            return bytes(self._room[: self._connection.recv_into(self._room)])
        except OSError:
            return b""

    def _obey(self, order: ipc.Order) -> None:
        match order:
            case ipc.Infer():
                job = self._jobs[order.id] = Job(order.request_id, whole=order.whole)
                self._threads.submit(lambda: self._infer(order.id, order.request, job))
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
                # In this thread, while it is the only one: what it gives up, the others never have.
                self._guarded(0, lambda: self._begin(order))
            case ipc.Load():
                self._threads.submit(lambda: self._guarded(0, lambda: self._load(order)))
            case ipc.Tell():
                confined = sandbox.rehearse()
                self._threads.submit(lambda: self._guarded(0, lambda: self._probe(order, confined)))
            case ipc.FindDevices():
                self._threads.submit(lambda: self._guarded(0, self._find_devices))
            case ipc.Discover():
                self._guarded(0, lambda: self._ask(order))  # in this thread: see Examine
            case ipc.Read():
                self._guarded(0, lambda: self._begin_reading(order))  # likewise
            case ipc.Warm():
                self._guarded(0, lambda: self._warm(order))  # in this thread: it stays alone
            case ipc.Stop():
                self._stop()

    def _begin(self, order: ipc.Examine) -> None:
        source = self._source = ipc.source_from_wire(order.source)
        module = factory_of(order.engine, order.factory).partition(":")[0]
        cache = source.cache_directory
        if cache is not None:
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = [path for path in (cache, self._scratch) if path is not None]
        self._files = sandbox.Files(tuple(source.files.values()), tuple(own))
        needs = _to_server(order.needs, source.endpoint)
        wanted = sandbox.plan(sandbox.machine(), needs)
        self._held = sandbox.enter(wanted, needs, self._files, [module.partition(".")[0]])
        self._threads.submit(lambda: self._guarded(0, lambda: self._examine(order, source)))

    def _examine(self, order: ipc.Examine, source: ModelSource) -> None:
        if self._held.bounded:
            room = 2 * self._files.size_bytes + LIMITS.worker_headroom_bytes
            sandbox.bound_memory(room, final=False)
        engine = load_engine(order.engine, order.factory)
        check_trusted(source, order.code_formats)
        self._engine = engine
        self._report(ipc.Examined(self._engine.estimate(source)))

    def _load(self, order: ipc.Load) -> None:
        if self._engine is None or self._source is None:
            raise RuntimeError("load before examine")
        if self._held.bounded:
            sandbox.bound_memory(order.memory_bytes + 2 * self._files.size_bytes, final=True)
        progress.hear(lambda text: self._report(ipc.Progress(text[: ipc.PROGRESS_MAX_CHARS])))
        estimate = self._engine.load(self._source, threads=order.threads)
        self._threads = Hands(max(1, estimate.slots))
        self._report(ipc.Loaded(estimate, sandbox.describe(self._held, order.memory_bytes)))

    def _probe(self, order: ipc.Tell, confined: str) -> None:
        self._report(ipc.Probed(tuple(map(probe, order.names)), confined))

    def _warm(self, order: ipc.Warm) -> None:
        modules = preimports(order.engine, order.factory)
        fit = bool(modules) and sandbox.alone()
        self._report(ipc.Warmed(fit))

    def _find_devices(self) -> None:
        self._report(ipc.Found(hardware()))

    def _ask(self, order: ipc.Discover) -> None:
        needs = _to_server(sandbox.Needs(network=True), order.endpoint)
        own = [path for path in (self._scratch,) if path is not None]
        module = factory_of(order.engine, order.factory).partition(":")[0]
        packages = [module.partition(".")[0]]
        wanted = sandbox.plan(sandbox.machine(), needs)
        sandbox.enter(wanted, needs, sandbox.Files((), tuple(own)), packages)
        self._threads.submit(lambda: self._guarded(0, lambda: self._discover(order)))

    def _begin_reading(self, order: ipc.Read) -> None:
        own = [path for path in (self._scratch,) if path is not None]
        readable = tuple(map(Path, order.readable))
        wanted = sandbox.plan(sandbox.machine(), sandbox.Needs())
        held = sandbox.enter(wanted, sandbox.Needs(), sandbox.Files(readable, tuple(own)))
        if held.bounded:
            # Weights are mapped, so they take of the address space, though not of the memory.
            sandbox.bound_memory(_sizes(readable) + LIMITS.worker_headroom_bytes, final=True)
        self._threads.submit(lambda: self._guarded(0, lambda: self._read(order)))

    def _read(self, order: ipc.Read) -> None:
        from aigrid.engines.metadata import read  # numpy's threads could not be confined

        draft = read(
            Path(order.path), task=order.task, formats=order.formats, trusted=order.trusted
        )
        self._report(ipc.Drafted(to_wire(draft)))

    def _discover(self, order: ipc.Discover) -> None:
        engine = load_engine(order.engine, order.factory)
        if not isinstance(engine, ServerEngine):
            raise EngineError(f"engine {order.engine} knows no servers", Code.UNSUPPORTED_MODEL)
        self._report(ipc.Discovered(engine.discover(order.endpoint, order.model)))

    def _infer(self, job_id: int, request: InferRequest, job: Job) -> None:
        job.began()
        self._guarded(job_id, lambda: self._stream(job_id, request, job), job.request_id)
        job.cancel.over()

    def _stream(self, job_id: int, request: InferRequest, job: Job) -> None:
        if self._engine is None:
            raise RuntimeError("infer before load")
        if job.cancel.cancelled:
            self._end(job_id, job.ended(job_id, Finish("cancelled")))
            return
        post = self._outbox.post
        sign = ipc.encode(ipc.Chunk(job_id, TextChunk("")))
        job.cancel.on_advance(lambda: post(sign) if job.owes_sign() else None)
        for chunk in self._engine.infer(request, job.cancel):
            if isinstance(chunk, Finish):
                self._end(job_id, job.ended(job_id, chunk))
                return
            if not isinstance(chunk, TextChunk | TensorChunk | TaskChunk):
                raise TypeError(f"the engine yielded a {type(chunk).__name__}")
            job.take()
            job.held.append(ipc.encode(ipc.Chunk(job_id, chunk)))
            if job.is_due(chunk):
                post(*job.held)
                job.held.clear()
        raise RuntimeError("the engine ended without Finish")

    def _guarded(self, job_id: int, work: Callable[[], None], request_id: str = "") -> None:
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
            sys.stderr.write(f"{kind} in request {request_id}\n" if request_id else f"{kind}\n")
            self._fail(job_id, Code.ENGINE_FAILED, f"the engine failed with {kind}")

    def _fail(self, job_id: int, code: Code, message: str) -> None:
        text = message[: ipc.MESSAGE_MAX_CHARS].encode("utf-8", "replace").decode()
        self._end(job_id, ipc.Failed(job_id, code, text))

    def _end(self, job_id: int, report: ipc.Report) -> None:
        job = self._jobs.pop(job_id, None)
        held = [] if job is None else job.held
        self._outbox.post(*held, ipc.encode(report))

    def _report(self, report: ipc.Report) -> None:
        self._outbox.post(ipc.encode(report))

    def _stop(self) -> NoReturn:
        if self._engine is not None:
            with contextlib.suppress(Exception):  # boundary: an engine call
                self._engine.unload()
        sys.stderr.flush()
        os._exit(0)


def _to_server(needs: sandbox.Needs, endpoint: Endpoint | None) -> sandbox.Needs:
    """The needs of an engine that asks this one server."""
    if endpoint is None or not needs.network:
        return needs
    return replace(needs, ports=ports_of(endpoint.url))


def _sizes(places: Iterable[Path]) -> int:
    """Bytes of files, and of files in folders; what cannot be seen counts nothing."""
    total = 0
    for place in places:
        with contextlib.suppress(OSError):
            inside = place.iterdir() if place.is_dir() else [place]
            total += sum(path.stat().st_size for path in inside if path.is_file())
    return total


def _say_little() -> None:
    """Keep what libraries say beside their answers out of the log: it may quote a request."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    told: set[str] = set()  # each place once: requests come by thousands

    def unraisable(what: "sys.UnraisableHookArgs") -> None:
        place = "".join(traceback.format_tb(what.exc_traceback))
        if place not in told:
            told.add(place)
            sys.stderr.write(f"{place}{what.exc_type.__name__}, which nobody could be told of\n")

    sys.unraisablehook = unraisable


def main() -> NoReturn:
    """Run until the socket closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--scratch", type=Path)
    arguments = parser.parse_args()
    sandbox.die_with_parent()
    sandbox.confine()
    faulthandler.enable()
    _say_little()
    if arguments.scratch is not None:
        tempfile.tempdir = os.environ["TMPDIR"] = str(arguments.scratch)
    os.set_inheritable(arguments.fd, False)  # noqa: FBT003 -- positional only
    try:
        Host(socket.socket(fileno=arguments.fd), arguments.scratch).serve()
    except BaseException:  # noqa: BLE001 -- boundary: end now, without waiting for engine threads
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    main()
