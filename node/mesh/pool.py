"""Which models are loaded: leases, single-flight loading, eviction, unloading.

The pool decides; the spawner does. A model that is leased is never unloaded; what can never fit is
refused before anything is evicted for it; a load that fails fails all who wait for it, and the next
lease tries again.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Literal

import structlog
import trio

from aigrid.engines.base import Device, Estimate, ModelSource
from aigrid.engines.devices import memory
from aigrid.node.mesh.budget import (
    HOST,
    Budget,
    Charge,
    Holding,
    budget,
    check_fits,
    larger,
    make_room,
    taken,
)
from aigrid.node.mesh.choice import first_able
from aigrid.node.mesh.models import LocalModels
from aigrid.node.mesh.pool_entry import Entry, Turn, end
from aigrid.node.mesh.progress import LoadProgress
from aigrid.node.workers import Worker, WorkerSpawner
from aigrid.protocol.errors import AigridError, Code, LocalError
from aigrid.protocol.limits import LIMITS, Limits

State = Literal["warm", "loading", "on_disk"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """How much the pool may take.

    Attributes:
        threads: of each worker.
        memory: place of a device -> bytes for all workers together; elsewhere it is
            `memory_share` of what is free when the device is found.
        queue_max: leases of one model that may wait for a load or a slot.
    """

    threads: int = 1
    memory: Mapping[str, int] = field(default_factory=dict)
    queue_max: int = LIMITS.model_queue_max


class ModelPool:
    """Leases loaded models. `run` is a service; leases before it has started are refused."""

    def __init__(
        self,
        spawner: WorkerSpawner,
        local_models: LocalModels,
        *,
        engines_for: Callable[[ModelSource], Sequence[str]],
        config: PoolConfig,
        limits: Limits = LIMITS,
        on_change: Callable[[], None] = lambda: None,
        progress: LoadProgress | None = None,
    ) -> None:
        self._spawner = spawner
        self._local_models = local_models
        self._engines_for = engines_for
        self._config = config
        self._limits = limits
        self._on_change = on_change
        self._progress = progress or LoadProgress()
        self._entries: dict[str, Entry] = {}
        self._charges: dict[Entry, Charge] = {}
        self._devices: dict[str, Device] = {}
        self.budget = Budget()
        self._nursery: trio.Nursery | None = None
        self._idle_changed = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load and unload until cancelled; then nothing is loaded any more."""
        self.equip(())
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await self._unload_idle()
        finally:
            self._nursery = None
            with trio.CancelScope(shield=True):
                await self._kill(list(self._entries.values()))

    def equip(self, devices: Iterable[Device]) -> None:
        """Take devices that engines can use here into the budget; one that is in it stays."""
        if HOST not in self._devices:
            self._devices[HOST] = Device(HOST, "", *memory())
        for device in devices:
            self._devices.setdefault(device.place, device)
        share = self._limits.memory_share
        self.budget = budget(self._devices.values(), self._config.memory, share=share)

    def reserved(self) -> dict[str, int]:
        """Purse of the budget -> bytes that models have of it."""
        return taken(self._charges.values())

    def states(self) -> dict[str, State]:
        """Model id -> what it would take to use it here, for every model on the disk."""
        states: dict[str, State] = dict.fromkeys(self._local_models.list(), "on_disk")
        for model, entry in self._entries.items():
            if model in states:
                states[model] = "warm" if entry.worker is not None else "loading"
        return states

    def estimate(self, model: str) -> Estimate | None:
        """Slots, memory and context of a loaded model."""
        entry = self._entries.get(model)
        return entry.worker.estimate if entry is not None and entry.worker is not None else None

    def busy(self, model: str) -> int:
        """How many requests of a model run or wait here now."""
        entry = self._entries.get(model)
        return entry.leases + entry.waiting if entry is not None else 0

    @asynccontextmanager
    async def lease(self, model: str) -> AsyncIterator[Worker]:
        """Hold one slot of a loaded model, loading it if need be.

        Raises:
            InvalidRequestError: `model_not_found`.
            EngineError: why it cannot be loaded (`out_of_memory`, `engine_crashed`, ...).
            LocalError: `busy`, with a time to try again; `shutting_down`.
        """
        entry = await self._acquire(model)
        try:
            if entry.worker is None:
                raise RuntimeError("a lease without a worker")
            yield entry.worker
        finally:
            self._release(entry)

    async def resident(self, model: str) -> Worker:
        """The worker of a model, which stays until `unload`; no slot is held. Raises as `lease`."""
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()
            entry = self._entry(model)
            entry.resident = True
            await entry.settled.wait()
            if entry.worker is not None:
                return entry.worker
            if entry.error is not None:
                raise copy(entry.error)

    async def unload(self, model: str) -> None:
        """Unload a model once its last lease has ended; new leases load it anew.

        One that is loading is broken off; nothing of it is left when this returns.
        """
        entry = self._entries.get(model)
        if entry is None:
            return
        self._drop(entry)
        if not entry.settled.is_set():
            entry.scope.cancel()
            await entry.settled.wait()
        elif not entry.leases:
            await self._kill([entry])

    # -- leasing

    async def _acquire(self, model: str) -> Entry:
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()
            entry = self._entry(model)
            if await self._wait_in_line(entry):
                return entry

    def _entry(self, model: str) -> Entry:
        entry = self._entries.get(model)
        if entry is not None and entry.worker is not None and entry.worker.died.is_set():
            self._bury(entry)  # its own task has not come to it yet
            entry = None
        return entry if entry is not None else self._begin(model)

    async def _wait_in_line(self, entry: Entry) -> bool:
        """Wait for load and slot; False where the worker went away meanwhile."""
        if entry.worker is not None and not entry.waiters and entry.leases < entry.slots:
            entry.leases += 1
            return True
        if entry.waiting >= self._config.queue_max:
            raise LocalError(
                "every slot of this model is taken and the queue is full",
                Code.BUSY,
                retry_after_seconds=self._limits.retry_after_seconds,
            )
        entry.waiting += 1
        try:
            await entry.settled.wait()
            if entry.error is not None:
                raise copy(entry.error)
            return await self._wait_for_slot(entry)
        finally:
            entry.waiting -= 1
            self._note_idle(entry)

    async def _wait_for_slot(self, entry: Entry) -> bool:
        if entry.leases < entry.slots and not entry.waiters and not entry.closing:
            entry.leases += 1
            return True
        if entry.closing:
            return False
        turn = Turn(trio.Event())
        entry.waiters.append(turn)
        try:
            await turn.come.wait()
        except trio.Cancelled:
            if turn.admitted:
                self._release(entry)
            elif turn in entry.waiters:
                entry.waiters.remove(turn)
            raise
        if turn.admitted and entry.closing:
            self._release(entry)
        return turn.admitted and not entry.closing

    def _release(self, entry: Entry) -> None:
        entry.leases -= 1
        entry.admit_next()
        self._note_idle(entry)
        if entry.closing and not entry.leases and self._nursery is not None:
            self._nursery.start_soon(self._kill, [entry])

    # -- loading

    def _begin(self, model: str) -> Entry:
        if self._nursery is None:
            raise LocalError("this node is stopping", Code.SHUTTING_DOWN)
        try:
            source = self._local_models.source(model)
        except AigridError as error:
            self._set_aside(model, error)
            raise
        engines = self._engines_for(source)
        entry = self._entries[model] = Entry(model)
        # In a task of its own, so that a caller who leaves does not cancel it for the others.
        self._nursery.start_soon(self._load, entry, source, engines)
        self._on_change()
        return entry

    async def _load(self, entry: Entry, source: ModelSource, engines: Sequence[str]) -> None:
        started = trio.current_time()
        worker: Worker | None = None
        self._progress.tell(entry.model, "starting")
        try:
            with entry.scope:
                await self._local_models.check(entry.model)
                worker = await first_able(engines, lambda name: self._spawn(entry, source, name))
                await self._book(entry, worker)
        except AigridError as error:
            entry.error = error
            log.warning("load_failed", model=entry.model, engines=engines, code=error.code)
            self._forget(entry)
            entry.settled.set()
            self._set_aside(entry.model, error)
            return
        except trio.Cancelled:
            entry.error = LocalError("this node is stopping", Code.SHUTTING_DOWN)
            self._forget(entry)
            entry.settled.set()
            raise
        finally:
            self._progress.over(entry.model)
        if worker is None or entry.closing:  # unloaded meanwhile
            await self._leave(entry, worker)
            return
        entry.worker = worker
        entry.settled.set()
        self._note_idle(entry)
        self._on_change()
        seconds = round(trio.current_time() - started, 3)
        told = {"engine": worker.engine, "device": worker.estimate.device[:32], "seconds": seconds}
        log.info("model_loaded", model=entry.model, sandbox=worker.sandbox, **told)
        await worker.died.wait()
        self._bury(entry)

    async def _leave(self, entry: Entry, worker: Worker | None) -> None:
        """End a load that nobody wants any more; it may have succeeded in its last moment."""
        if worker is not None:
            await end(worker)
        self._forget(entry)
        entry.settled.set()
        log.info("load_broken_off", model=entry.model)

    async def _spawn(self, entry: Entry, source: ModelSource, engine: str) -> Worker:
        self._charges.pop(entry, None)  # of an engine that refused while it loaded
        return await self._spawner.spawn(
            replace(source, room=self.budget.room()),
            engine=engine,
            threads=self._config.threads,
            admit=lambda estimate: self._admit(entry, estimate),
            progress=lambda text: self._progress.tell(entry.model, text),
        )

    async def _book(self, entry: Entry, worker: Worker) -> None:
        """Charge what a model took, which it may not have had; elsewhere only if there is room.

        What it says of that is the worker's word.
        """
        real = worker.estimate
        try:
            if real.device == entry.device:
                charge = larger(self._charges[entry], self.budget.charge(real))
                check_fits(charge, self.budget.purses)
                self._charges[entry] = charge
            else:
                self._charges.pop(entry, None)
                await self._admit(entry, real)
        except BaseException:
            await end(worker)
            raise

    def _set_aside(self, model: str, error: AigridError) -> None:
        """Stop offering a model whose files are gone or damaged."""
        if error.code in (Code.MODEL_FILE_MISSING, Code.HASH_MISMATCH):
            log.error("model_damaged", model=model, code=error.code)
            self._local_models.set_aside(model)
            self._on_change()

    def _bury(self, entry: Entry) -> None:
        self._drop(entry)
        self._forget(entry)

    async def _admit(self, entry: Entry, estimate: Estimate) -> int:
        """Make room, evicting what was idle longest; decided at once, then carried out.

        What is told is the whole budget of the machine's memory: see `Admit`.
        """
        needed = self.budget.charge(estimate)
        entries = list(self._charges)
        holdings = [Holding(self._charges[e], e.idle_since if e.idle else None) for e in entries]
        chosen = make_room(needed, holdings, self.budget.purses, self._limits)
        victims = [entries[number] for number in chosen]
        self._charges[entry] = needed
        entry.device = estimate.device
        for victim in victims:
            self._drop(victim)
        await self._kill(victims)
        return self.budget.purses[HOST]

    # -- unloading

    async def _unload_idle(self) -> None:
        """Unload what has been idle too long. Sleeps until something can be due."""
        while True:
            self._idle_changed = trio.Event()
            now = trio.current_time()
            wait = self._limits.model_idle_seconds
            due = [e for e in self._entries.values() if e.idle and e.idle_since + wait <= now]
            for entry in due:
                log.info("model_unloaded", model=entry.model, idle_seconds=wait)
                self._drop(entry)
            await self._kill(due)
            left = [e.idle_since + wait for e in self._entries.values() if e.idle]
            with trio.move_on_at(min(left, default=float("inf"))):
                await self._idle_changed.wait()

    def _note_idle(self, entry: Entry) -> None:
        if entry.idle:
            entry.idle_since = trio.current_time()
            self._idle_changed.set()

    def _drop(self, entry: Entry) -> None:
        """Take an entry out of use: no new leases; who waits for a slot looks again."""
        entry.closing = True
        if self._entries.get(entry.model) is entry:
            del self._entries[entry.model]
            self._on_change()
        while entry.waiters:
            entry.waiters.popleft().come.set()

    def _forget(self, entry: Entry) -> None:
        """Give back what an entry had reserved, once its worker is gone or never came."""
        self._charges.pop(entry, None)
        if self._entries.get(entry.model) is entry:
            del self._entries[entry.model]
            self._on_change()

    async def _kill(self, entries: list[Entry]) -> None:
        async with trio.open_nursery() as nursery:
            for entry in entries:
                self._drop(entry)
                if entry.worker is not None:
                    nursery.start_soon(end, entry.worker)
