"""Worker processes, as the node sees them.

`WorkerSpawner` and `Worker` are what the pool relies on. `ProcessSpawner` keeps both promises with
real processes; `inline_workers.InlineSpawner` does within one process, in virtual time.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import trio

from aigrid.engines import ipc
from aigrid.engines.base import Device, Endpoint, EngineStats, Estimate, ModelSource, Probe, Served
from aigrid.engines.devices import memory
from aigrid.engines.draft import Draft, from_wire
from aigrid.engines.registry import installed
from aigrid.engines.sandbox import Needs, allowance_bytes
from aigrid.node.workers.environment import NOTHING, worker_environment
from aigrid.node.workers.failures import WorkerFailure, WorkerFailures
from aigrid.node.workers.model_reading import checked, home_of, readable_in
from aigrid.node.workers.probing import ask_own, ask_plugins
from aigrid.node.workers.process import WorkerProcess
from aigrid.node.workers.request import BOUNDS, WorkerAnswer, WorkerBounds
from aigrid.node.workers.spares import ONE_THREAD, Spares, SpareSettings
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import InferRequest
from aigrid.protocol.limits import LIMITS, Limits

Admit = Callable[[Estimate], Awaitable[int]]
"""Makes room for a model, or raises; bytes of the machine's memory that models may have at all."""


def _nobody(_: str) -> None:
    """The progress of whoever does not care."""


class Worker(Protocol):
    """A loaded model. At most `estimate.slots` requests run at once; further ones wait inside.

    Attributes:
        sandbox: what confines it, for people.
        died: set once the worker is gone, for whatever reason, and nothing of it is left.
        failure: why it went, where that was not asked for.
    """

    engine: str
    estimate: Estimate
    sandbox: str
    died: trio.Event
    failure: EngineError | None

    def infer(
        self, request: InferRequest, request_id: str = "", *, whole: bool = False
    ) -> AbstractAsyncContextManager[WorkerAnswer]:
        """Run a request, which logs call `request_id`. Leaving before its end cancels it.

        `whole`: nobody reads the answer before its end, so its text need not come word by word.

        Raises:
            EngineError: what the engine raised, or `engine_crashed`, `engine_timeout` or
                `out_of_memory`.
        """

    @property
    def gone(self) -> bool:
        """Whether it has ended, looked up now: why, and what it leaves, may not be known yet."""

    def stats(self) -> EngineStats:
        """Counters as last heard."""

    async def refresh(self) -> EngineStats:
        """Counters as they are now. Raises EngineError where the worker does not answer."""

    async def kill(self) -> None:
        """End the worker and everything in it; returns once its memory is free again."""


class WorkerSpawner(Protocol):
    """Starts workers. `run` is a service and has to be started before anything else is asked.

    Attributes:
        sandbox: what confines a worker on this machine, for people; "" until it was probed.
    """

    sandbox: str

    @property
    def worker_failures(self) -> WorkerFailures:
        """Of the workers that ended unasked."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look after workers until cancelled; then none is left."""

    async def probe(self) -> tuple[Probe, ...]:
        """What the engines of this package can do here, asked in a short-lived child."""

    async def probe_plugins(self, heard: Callable[[Probe], None]) -> None:
        """Tell `heard` what engines of other packages can do here, each again when it is known."""

    async def devices(self) -> tuple[Device, ...]:
        """The hardware, and how much of its memory is free now, asked in a short-lived child."""

    async def read(self, path: Path, *, task: str, formats: frozenset[str], trusted: bool) -> Draft:
        """What a model says of itself, asked in a short-lived child; see `metadata.read`."""

    async def discover(self, endpoint: Endpoint, model: str, *, engine: str) -> tuple[Served, ...]:
        """What a server serves, asked in a short-lived child; see `ServerEngine.discover`."""

    async def estimate(self, source: ModelSource, *, engine: str) -> Estimate:
        """What loading would take, from headers, asked in a short-lived child.

        Raises:
            EngineError: what the engine raised, or that the child died.
        """

    async def spawn(
        self,
        source: ModelSource,
        *,
        engine: str,
        threads: int,
        admit: Admit | None = None,
        progress: Callable[[str], None] = _nobody,
    ) -> Worker:
        """Start a worker and load the model.

        `admit` is awaited with the estimate before anything is loaded, and may raise. `progress` is
        told how far loading has come, where it takes long.

        Raises:
            EngineError: what the engine raised, or `engine_timeout`, `engine_crashed`.
        """


@dataclass
class ProcessSpawner:
    """Starts worker processes.

    Attributes:
        log_directory: gets the last output of workers that died, one file per engine and model.
        scratch_directory: where each worker has a directory of its own while it lives; None for the
            system's. It is emptied at the start.
        environment: added to what a worker sees.
        factories: engine name -> "module:Class", for engines without an entry point.
        spare_settings: how many processes wait for a model of an engine that was used.
        worker_failures: see `WorkerSpawner`.
    """

    log_directory: Path
    scratch_directory: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    factories: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = LIMITS
    bounds: WorkerBounds = BOUNDS
    spare_settings: SpareSettings = field(default_factory=SpareSettings)
    sandbox: str = field(default="", init=False)
    worker_failures: WorkerFailures = field(default_factory=WorkerFailures, init=False)
    _needs: dict[str, Needs] = field(default_factory=dict, init=False)
    _code_formats: dict[str, tuple[str, ...]] = field(default_factory=dict, init=False)
    _nursery: trio.Nursery | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        settings, limits = self.spare_settings, self.limits
        self.spares = Spares(self._start_spare, self._factory, settings, limits)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        if self.scratch_directory is not None:
            shutil.rmtree(self.scratch_directory, ignore_errors=True)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await self.spares.run()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    async def probe(self) -> tuple[Probe, ...]:
        own = [one for one in installed() if one.own]
        probes, self.sandbox = await ask_own(self._start, own, self.limits)
        for probe in probes:
            self._note(probe)
        return probes

    async def probe_plugins(self, heard: Callable[[Probe], None]) -> None:
        def note(probe: Probe) -> None:
            self._note(probe)
            heard(probe)

        others = [one for one in installed() if not one.own]
        await ask_plugins(self._start, others, self.limits, heard=note)

    def _note(self, probe: Probe) -> None:
        self._needs[probe.engine] = _needs(probe)
        self._code_formats[probe.engine] = probe.code_formats

    async def devices(self) -> tuple[Device, ...]:
        process = await self._start("devices")
        try:
            report = await process.order(
                ipc.FindDevices(), ipc.Found, timeout_seconds=self.limits.worker_start_seconds
            )
            return report.devices
        finally:
            await process.kill()

    async def read(self, path: Path, *, task: str, formats: frozenset[str], trusted: bool) -> Draft:
        home = await trio.to_thread.run_sync(home_of, path)
        readable = await trio.to_thread.run_sync(readable_in, home)
        process = await self._start("reading")
        try:
            report = await process.order(
                ipc.Read(str(path), task, tuple(sorted(formats)), trusted, readable),
                ipc.Drafted,
                timeout_seconds=self.limits.model_read_seconds,
            )
        finally:
            await process.kill()
        return checked(from_wire(report.draft), home)

    async def discover(self, endpoint: Endpoint, model: str, *, engine: str) -> tuple[Served, ...]:
        process = await self._start(engine)
        try:
            report = await process.order(
                ipc.Discover(engine, self._factory(engine), endpoint, model),
                ipc.Discovered,
                timeout_seconds=self.limits.worker_load_seconds,
            )
            return report.served
        finally:
            await process.kill()

    async def estimate(self, source: ModelSource, *, engine: str) -> Estimate:
        process = await self._start(engine)
        process.adopt(self._log_file(engine, source.model_id), source.model_id)
        try:
            return await self._examine(process, source, engine)
        finally:
            await process.kill()

    async def spawn(
        self,
        source: ModelSource,
        *,
        engine: str,
        threads: int,
        admit: Admit | None = None,
        progress: Callable[[str], None] = _nobody,
    ) -> Worker:
        with self.spares.loading(engine):
            process = self.spares.take(engine) or await self._start(engine)
            process.adopt(self._log_file(engine, source.model_id), source.model_id)
            try:
                estimate = await self._examine(process, source, engine)
                budget = memory()[0] if admit is None else await admit(estimate)
                loaded = await process.order(
                    ipc.Load(threads, allowance_bytes(_host_bytes(estimate), budget)),
                    ipc.Loaded,
                    timeout_seconds=self.limits.worker_load_seconds,
                    progress=progress,
                )
            except BaseException:
                await process.kill()
                raise
        process.estimate, process.sandbox = loaded.estimate, loaded.sandbox
        return process

    async def _examine(self, process: WorkerProcess, source: ModelSource, engine: str) -> Estimate:
        # An engine that was not asked what it needs gets nothing but a processor.
        needs = self._needs.get(engine, Needs())
        wire, code = ipc.source_to_wire(source), self._code_formats.get(engine, ())
        order = ipc.Examine(engine, self._factory(engine), wire, needs, code)
        examined = await process.order(
            order, ipc.Examined, timeout_seconds=self.limits.worker_start_seconds
        )
        return examined.estimate

    async def _start_spare(self, engine: str) -> WorkerProcess:
        return await self._start(engine, ONE_THREAD)

    async def _start(self, engine: str, more: Mapping[str, str] = NOTHING) -> WorkerProcess:
        if self._nursery is None:
            raise EngineError("this node is stopping", Code.SHUTTING_DOWN)
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise _cannot_start(error) from None
        try:
            scratch = self._scratch()
        except OSError as error:
            ours.close()
            theirs.close()
            raise _cannot_start(error) from None
        try:
            output, output_end = os.pipe()
        except OSError as error:
            ours.close()
            theirs.close()
            scratch.rmdir()
            raise _cannot_start(error) from None
        try:
            # Not in a thread, as trio would: Linux kills a worker when the *thread* that started
            # it ends (PR_SET_PDEATHSIG), and trio's threads end after ten idle seconds.
            popen = subprocess.Popen(  # noqa: ASYNC220 -- see above; it takes about a millisecond
                self._command(theirs.fileno(), scratch),
                stdin=subprocess.DEVNULL,
                stdout=output_end,
                stderr=output_end,
                env=worker_environment({**self.environment, **more}),
                pass_fds=(theirs.fileno(),),
            )
        except OSError as error:
            ours.close()
            os.close(output)
            scratch.rmdir()
            raise _cannot_start(error) from None
        finally:
            theirs.close()
            os.close(output_end)
        process = WorkerProcess(
            popen,
            ours,
            output,
            engine=engine,
            log_file=self._log_file(engine),
            scratch=scratch,
            limits=self.limits,
            bounds=self.bounds,
        )
        await self._nursery.start(self._look_after, process)
        try:
            await process.hello()
        except BaseException:
            await process.kill()
            raise
        return process

    async def _look_after(
        self, process: WorkerProcess, *, task_status: trio.TaskStatus[None]
    ) -> None:
        await process.run(task_status=task_status)
        if (gone := process.failure) is not None:
            self.worker_failures.append(
                WorkerFailure(
                    process.engine,
                    process.model,
                    gone.code,
                    gone.message,
                    trio.current_time(),
                    process.ran,
                )
            )

    def _factory(self, engine: str) -> str:
        return self.factories.get(engine, "")

    def _log_file(self, engine: str, model: str = "") -> Path:
        name = f"{engine}-{model[-12:]}" if model else engine
        return self.log_directory / f"worker-{name}.log"

    def _command(self, fd: int, scratch: Path) -> list[str]:
        command = [sys.executable, "-P", "-m", "aigrid.engines.worker", "--fd", str(fd)]
        return [*command, "--scratch", str(scratch)]

    def _scratch(self) -> Path:
        if self.scratch_directory is not None:
            self.scratch_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="aigrid-worker-", dir=self.scratch_directory))


def _host_bytes(estimate: Estimate) -> int:
    return estimate.memory_bytes if estimate.device == "cpu" else estimate.host_bytes


def _needs(probe: Probe) -> Needs:
    accelerator = any(device.kind != "cpu" for device in probe.devices)
    return Needs(accelerator=accelerator, network=probe.network)


def _cannot_start(error: OSError) -> EngineError:
    return EngineError(f"cannot start a worker: {error.strerror}", Code.ENGINE_CRASHED)
