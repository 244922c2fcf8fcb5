"""How workers come: an engine that takes the model, room for it, a process, and its end awaited."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog
import trio

from aigrid.engines.base import Estimate, ModelSource
from aigrid.node.mesh.pool.budget import HOST, check_fits
from aigrid.node.mesh.pool.choice import first_able
from aigrid.node.mesh.pool.entry import Entry, Never, Replica, end
from aigrid.node.mesh.pool.progress import LoadProgress
from aigrid.node.mesh.pool.room import Room, long_unused, stoppable, unused
from aigrid.node.mesh.pool.unloading import Unloading
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.node.workers.spawning import Worker, WorkerSpawner
from aigrid.protocol.errors import AigridError, Code, LocalError
from aigrid.protocol.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator

EnginesFor = Callable[[ModelSource], Sequence[str]]

log = structlog.get_logger(__name__)
_LOOK_SECONDS = 0.25  # between two looks for room: a stay that ends is told to nobody


@dataclass(frozen=True, slots=True)
class _Job:
    """What to load, with which engines, as one of how many."""

    source: ModelSource
    engines: tuple[str, ...]
    extra: bool


class Loading:
    """Starts workers for entries. A load is a task of its own, whoever waits for it."""

    def __init__(
        self,
        spawner: WorkerSpawner,
        local_models: LocalModels,
        engines_for: EnginesFor,
        *,
        threads: int,
        room: Room,
        unloading: Unloading,
        progress: LoadProgress,
        on_change: Callable[[], None],
        limits: Limits,
    ) -> None:
        self._spawner = spawner
        self._local_models = local_models
        self._engines_for = engines_for
        self._threads = threads
        self._room = room
        self._unloading = unloading
        self._progress = progress
        self._on_change = on_change
        self._limits = limits
        self.nursery: trio.Nursery | None = None

    def begin(self, entry: Entry, *, extra: bool = False) -> Replica:
        """Load a worker of a model.

        Raises:
            AigridError: why not, known at once: its files are gone, no engine takes it, it can
                never fit, it has crashed, or the node is stopping.
        """
        if self.nursery is None:
            raise LocalError("this node is stopping", Code.SHUTTING_DOWN)
        try:
            source = self._local_models.source(entry.model)
        except AigridError as error:
            self._set_aside(entry.model, error)
            raise
        engines = tuple(self._engines_for(source))
        entry.several = source.upstream is None
        if (never := self.never(entry, engines)) is not None:
            raise copy(never)
        entry.health.check_load(trio.current_time())
        replica = Replica(entry)
        entry.replicas.append(replica)
        # In a task of its own, so that a caller who leaves does not cancel it for the others.
        self.nursery.start_soon(self._load, replica, _Job(source, engines, extra))
        self._on_change()
        return replica

    def never(self, entry: Entry, engines: tuple[str, ...] = ()) -> AigridError | None:
        """Why a model can never fit, as far as that was found out with this budget and engines."""
        found = entry.never
        if found is None or found.budget != self._room.budget or engines not in ((), found.engines):
            return None
        if found.beside_pinned is not None:
            try:
                self._room.check_beside_pinned(found.beside_pinned, entry)
            except AigridError:
                return found.error
            return None
        return found.error

    def judge(self, entry: Entry, estimate: Estimate) -> None:
        """Note whether a model can ever fit, before anybody asks for it."""
        engines = tuple(self._engines_for(self._local_models.source(entry.model)))
        try:
            check_fits(self._room.budget.charge(estimate), self._room.budget.purses)
        except AigridError as error:
            log.warning("model_never_fits", model=entry.model, reason=error.message)
            entry.never = Never(self._room.budget, engines, error)

    def could_grow(self, entry: Entry) -> bool:
        """Whether there would be room for one more worker like those that are loaded."""
        charge = self._room.of(entry.loaded[:1])
        try:
            self._room.victims(charge, long_unused(trio.current_time(), self._limits))
        except AigridError:
            return False
        return True

    async def _load(self, replica: Replica, job: _Job) -> None:
        started = trio.current_time()
        worker: Worker | None = None
        try:
            with replica.scope, self._told(replica, job):
                await self._local_models.check(replica.model)
                worker = await first_able(
                    job.engines, lambda name: self._spawn(replica, job, engine=name)
                )
                await self._book(replica, job, worker)
        except AigridError as error:
            self._failed(replica, job, error)
            return
        except trio.Cancelled:
            replica.error = LocalError("this node is stopping", Code.SHUTTING_DOWN)
            self._unloading.forget(replica)
            replica.settled.set()
            raise
        if worker is None or replica.closing:  # unloaded meanwhile
            await self._leave(replica, worker)
            return
        now = trio.current_time()
        self._loaded(replica, worker, now)
        seconds = round(now - started, 3)
        if not job.extra:
            replica.entry.cold = (seconds, now)
            self._progress.cold_starts += 1
        told = {"engine": worker.engine, "device": worker.estimate.device[:32], "seconds": seconds}
        log.info("model_loaded", model=replica.model, sandbox=worker.sandbox, **told)
        await worker.died.wait()
        self._unloading.bury(replica)

    def _loaded(self, replica: Replica, worker: Worker, now: float) -> None:
        replica.worker = worker
        replica.loaded_at = replica.idle_since = now
        replica.settled.set()
        replica.entry.never = None
        replica.entry.trouble = ""
        replica.entry.admit_next(now)
        self._unloading.poke()
        self._room.tell()
        self._on_change()

    @contextmanager
    def _told(self, replica: Replica, job: _Job) -> "Iterator[None]":
        """Those who wait for the first worker hear how far it is."""
        if job.extra:
            yield
            return
        self._progress.tell(replica.model, "starting")
        try:
            yield
        finally:
            self._progress.over(replica.model)

    def _failed(self, replica: Replica, job: _Job, error: AigridError) -> None:
        """The last of its workers that fails fails all who wait."""
        entry = replica.entry
        replica.error = error
        entry.trouble = error.message
        log.warning("load_failed", model=entry.model, engines=job.engines, code=error.code)
        self._unloading.forget(replica)
        if error is not self.never(entry):
            self._unloading.blame(replica, error)
        entry.grow_at = trio.current_time() + self._limits.model_grow_pause_seconds
        if not entry.replicas:
            entry.dismiss(copy(error) for _ in range(len(entry.waiters)))
        replica.settled.set()
        self._set_aside(entry.model, error)
        self._on_change()

    async def _leave(self, replica: Replica, worker: Worker | None) -> None:
        """End a load that nobody wants any more; it may have succeeded in its last moment."""
        if worker is not None:
            await end(worker)
        self._unloading.forget(replica)
        replica.settled.set()
        log.info("load_broken_off", model=replica.model)

    async def _spawn(self, replica: Replica, job: _Job, *, engine: str) -> Worker:
        self._room.give_back(replica)  # of an engine that refused while it loaded
        room = self._room.left() if job.extra else self._room.budget.room()
        return await self._spawner.spawn(
            replace(job.source, room=room),
            engine=engine,
            threads=self._threads,
            admit=lambda estimate: self.admit(replica, job, estimate),
            progress=lambda text: self._tell(replica, job, text),
        )

    def _tell(self, replica: Replica, job: _Job, text: str) -> None:
        if not job.extra:
            self._progress.tell(replica.model, text)

    async def _book(self, replica: Replica, job: _Job, worker: Worker) -> None:
        """Charge what a model took, which it may not have had; elsewhere only if there is room.

        What it says of that is the worker's word.
        """
        real = worker.estimate
        try:
            if real.device == replica.device:
                self._room.settle(replica, real)
            else:
                self._room.give_back(replica)
                await self.admit(replica, job, real, patient=False)
        except BaseException:
            await end(worker)
            raise

    async def admit(
        self, replica: Replica, job: _Job, estimate: Estimate, *, patient: bool = True
    ) -> int:
        """Make room, evicting what was idle longest; decided at once, then carried out.

        A first worker waits a while for what is in use (with `patient`), and those who use it take
        no new leases then. What is told is the whole budget of the machine's memory: see `Admit`.
        """
        needed = self._room.budget.charge(estimate)
        try:
            check_fits(needed, self._room.budget.purses)
        except AigridError as error:
            if not job.extra:
                replica.entry.never = Never(self._room.budget, job.engines, error)
            raise
        if not job.extra:
            self._check_beside_pinned(replica.entry, job, needed)
        patience = self._limits.model_room_seconds if patient and not job.extra else 0.0
        victims = await self._victims(replica, job, needed, trio.current_time() + patience)
        self._room.charge(replica, needed)
        replica.device = estimate.device
        for victim in victims:
            self._unloading.drop(victim)
        await self._unloading.kill(victims)
        return self._room.budget.purses[HOST]

    def _check_beside_pinned(self, entry: Entry, job: _Job, needed: dict[str, int]) -> None:
        try:
            self._room.check_beside_pinned(needed, entry)
        except AigridError as error:
            entry.never = Never(self._room.budget, job.engines, error, needed)
            raise

    async def _victims(
        self, replica: Replica, job: _Job, needed: dict[str, int], until: float
    ) -> list[Replica]:
        asked: list[Replica] = []
        try:
            while True:
                now = trio.current_time()
                free = long_unused(now, self._limits) if job.extra else unused
                try:
                    return self._room.victims(needed, free)
                except LocalError:  # in use
                    if now >= until:
                        raise
                self._tell(replica, job, "waiting for memory that other models use")
                self._ask_to_yield(needed, asked)
                changed = self._room.changed
                with trio.move_on_at(min(until, now + _LOOK_SECONDS)):
                    await changed.wait()
        finally:
            for one in asked:
                one.yielding -= 1
                one.entry.admit_next(trio.current_time())

    def _ask_to_yield(self, needed: dict[str, int], asked: list[Replica]) -> None:
        """Have those take no more leases whose memory would be enough."""
        try:
            found = self._room.victims(needed, stoppable(trio.current_time(), self._limits))
        except LocalError:
            return  # nobody can, so nobody is stopped in vain
        for one in found:
            if one not in asked:
                one.yielding += 1
                asked.append(one)

    def _set_aside(self, model: str, error: AigridError) -> None:
        """Stop offering a model whose files are gone or damaged."""
        if error.code in (Code.MODEL_FILE_MISSING, Code.HASH_MISMATCH):
            log.error("model_damaged", model=model, code=error.code)
            self._local_models.set_aside(model)
            self._on_change()
