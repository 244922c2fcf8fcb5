"""Workers without processes or threads, for simulations: virtual time, same promises.

Engines run in the node's own process, so only those that are pure Python and never wait are fit for
it: the echo engine, and doubles in tests.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import trio

from aigrid.engines import ipc
from aigrid.engines.base import (
    CancelToken,
    Device,
    Endpoint,
    Engine,
    EngineStats,
    Estimate,
    ModelSource,
    Probe,
    Served,
    ServerEngine,
)
from aigrid.engines.echo import EchoEngine
from aigrid.engines.metadata import Draft, read
from aigrid.node.workers.failures import WorkerFailures
from aigrid.node.workers.spawning import Admit
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import Finish, InferChunk, InferRequest

ENGINES: Final[Mapping[str, Callable[[], Engine]]] = {"echo": EchoEngine}

SANDBOX: Final = "none: engines run in the node's own process"


@dataclass
class InlineSpawner:
    """Starts inline workers.

    Attributes:
        start_seconds: what starting and loading takes.
        start_words: how often a load says meanwhile how far it is.
        chunk_seconds: what each chunk takes, on top of a source's own `delay_ms`.
        spawned: every worker ever started, for tests.
        hardware: the devices that it tells of.
    """

    engines: Mapping[str, Callable[[], Engine]] = field(default_factory=lambda: ENGINES)
    start_seconds: float = 0.1
    start_words: int = 0
    chunk_seconds: float = 0.0
    spawned: "list[InlineWorker]" = field(default_factory=list)
    sandbox: str = SANDBOX
    hardware: tuple[Device, ...] = ()
    worker_failures: WorkerFailures = field(default_factory=WorkerFailures)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            for worker in self.spawned:
                worker.crash(EngineError("the node stopped", Code.SHUTTING_DOWN))

    async def probe(self) -> tuple[Probe, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(
            replace(engine().probe(), devices=()) for _, engine in sorted(self.engines.items())
        )

    async def probe_plugins(self, heard: Callable[[Probe], None]) -> None:
        await trio.lowlevel.checkpoint()

    async def read(self, path: Path, *, task: str, formats: frozenset[str], trusted: bool) -> Draft:
        await trio.lowlevel.checkpoint()
        return read(path, task=task, formats=formats, trusted=trusted)

    async def devices(self) -> tuple[Device, ...]:
        await trio.lowlevel.checkpoint()
        return self.hardware

    async def estimate(self, source: ModelSource, *, engine: str) -> Estimate:
        await trio.lowlevel.checkpoint()
        return self._engine(engine).estimate(source)

    async def discover(self, endpoint: Endpoint, model: str, *, engine: str) -> tuple[Served, ...]:
        await trio.lowlevel.checkpoint()
        found = self._engine(engine)
        if not isinstance(found, ServerEngine):
            raise EngineError(f"engine {engine} knows no servers", Code.UNSUPPORTED_MODEL)
        return found.discover(endpoint, model)

    async def spawn(
        self,
        source: ModelSource,
        *,
        engine: str,
        threads: int,
        admit: Admit | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> "InlineWorker":
        loaded = self._engine(engine)
        if admit is not None:
            await admit(loaded.estimate(source))
        for done in range(self.start_words + 1):
            await trio.sleep(self.start_seconds / (self.start_words + 1))
            if done < self.start_words:
                progress(f"loading: {100 * (done + 1) // (self.start_words + 1)} %")
        delay = float(source.options.get("delay_ms", 0)) / 1000
        patient = replace(source, options={**source.options, "delay_ms": 0})
        estimate = loaded.load(patient, threads=threads)
        worker = InlineWorker(loaded, engine, estimate, delay + self.chunk_seconds)
        self.spawned.append(worker)
        return worker

    def _engine(self, name: str) -> Engine:
        if name not in self.engines:
            raise EngineError(f"no engine {name!r} is installed", Code.UNSUPPORTED_MODEL)
        return self.engines[name]()


class InlineWorker:
    """A worker whose engine runs between two checkpoints."""

    def __init__(
        self, loaded: Engine, engine: str, estimate: Estimate, chunk_seconds: float
    ) -> None:
        self.engine = engine
        self.estimate = estimate
        self.sandbox = SANDBOX
        self.died = trio.Event()
        self.failure: EngineError | None = None
        self._loaded = loaded
        self.chunk_seconds = chunk_seconds
        self._slots = trio.Semaphore(estimate.slots)
        self._running: set[trio.CancelScope] = set()

    @property
    def gone(self) -> bool:
        return self.died.is_set()

    def stats(self) -> EngineStats:
        return self._loaded.stats()

    async def refresh(self) -> EngineStats:
        await trio.lowlevel.checkpoint()
        if self.died.is_set():
            raise self._gone()
        return self._loaded.stats()

    async def kill(self) -> None:
        await trio.lowlevel.checkpoint()
        self._end()

    def crash(self, error: EngineError | None = None) -> None:
        """Die as a process would: at once, in the middle of everything."""
        if not self.died.is_set():
            self.failure = error or EngineError(
                f"engine {self.engine} died with SIGSEGV", Code.ENGINE_CRASHED
            )
        self._end()

    @asynccontextmanager
    async def infer(
        self,
        request: InferRequest,
        request_id: str = "",
        *,
        whole: bool = False,
    ) -> AsyncIterator["_Answer"]:
        if self.died.is_set():
            raise self._gone()
        asked_seconds = trio.current_time()
        async with self._slots:
            if self.died.is_set():
                raise self._gone()
            token = CancelToken()
            chunks = self._loaded.infer(request, token)
            answer = _Answer(self, chunks, self.chunk_seconds, asked_seconds)
            try:
                yield answer
            finally:
                token.cancel()

    def _end(self) -> None:
        self.died.set()
        for scope in self._running:
            scope.cancel()

    def _gone(self) -> EngineError:
        return self.failure or EngineError("the worker was stopped", Code.ENGINE_CRASHED)

    async def pause(self, seconds: float) -> None:
        """Let virtual time pass, unless the worker dies meanwhile."""
        with trio.CancelScope() as scope:
            self._running.add(scope)
            try:
                await trio.sleep(seconds)
            finally:
                self._running.discard(scope)
        if self.died.is_set():
            raise self._gone()


class _Answer:
    def __init__(
        self,
        worker: InlineWorker,
        chunks: Iterator[InferChunk],
        chunk_seconds: float,
        asked_seconds: float,
    ) -> None:
        self.ended: ipc.Ended | None = None
        self.ended_seconds = 0.0
        self._asked_seconds = asked_seconds
        self._queued_ms = self._ms()
        self._first_ms: float | None = None
        self._worker = worker
        self._chunks = chunks
        self.chunk_seconds = chunk_seconds

    def __aiter__(self) -> "_Answer":
        return self

    async def __anext__(self) -> tuple[InferChunk, ...]:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise StopAsyncIteration
        if isinstance(chunk, Finish):
            await self._worker.pause(0.0)
            self.ended_seconds = trio.current_time()
            self.ended = ipc.Ended(0, chunk, self._queued_ms, self._first_ms, self._ms())
        else:
            await self._worker.pause(self.chunk_seconds)
            if self._first_ms is None:
                self._first_ms = self._ms()
        return (chunk,)

    def _ms(self) -> float:
        return (trio.current_time() - self._asked_seconds) * 1000
