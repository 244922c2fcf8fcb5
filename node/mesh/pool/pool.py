"""Which models are loaded: leases, single-flight loading, and everything that is asked of them.

The pool decides; the spawner does. A model that is leased is never unloaded; what can never fit is
refused before anything is evicted for it; a load that fails fails all who wait for it, and the next
lease tries again, later where that has failed, too (`health`). How workers come is in
`loading`, how they go in `unloading`, their memory in `room`.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass, field

import structlog
import trio

from aigrid.engines.base import Device, Estimate
from aigrid.node.mesh.pool.budget import HOST, Budget
from aigrid.node.mesh.pool.entry import INFINITE, Entry, Replica, Turn
from aigrid.node.mesh.pool.growing import kept_seconds, wants_more, workers_max
from aigrid.node.mesh.pool.health import OWN
from aigrid.node.mesh.pool.loading import EnginesFor, Loading
from aigrid.node.mesh.pool.progress import LoadProgress
from aigrid.node.mesh.pool.room import Room
from aigrid.node.mesh.pool.unloading import Unloading
from aigrid.node.mesh.pool.view import ColdStart, ModelUse, State
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.node.workers.spawning import Worker, WorkerSpawner
from aigrid.protocol.errors import AigridError, Code, LocalError
from aigrid.protocol.limits import LIMITS, Limits

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """How much the pool may take, and for how long.

    Attributes:
        threads: of each worker.
        memory: place of a device -> bytes for all workers together; elsewhere it is
            `memory_share` of what is free when the device is found.
        queue_max: leases of one model that may wait for a load or a slot.
        cores: of this machine.
        workers_per_model: at most; 0 leaves it to what there is.
        keep_alive_seconds: an unused model stays loaded; None for the usual.
        keep_alive_max_seconds: the longest that a request may have it.
        keep_alive: the same for single models, by name or id.
    """

    threads: int = 1
    memory: Mapping[str, int] = field(default_factory=dict)
    queue_max: int = LIMITS.model_queue_max
    cores: int = 1
    workers_per_model: int = 0
    keep_alive_seconds: float | None = None
    keep_alive_max_seconds: float = LIMITS.keep_alive_max_seconds
    keep_alive: Mapping[str, float] = field(default_factory=dict)


class ModelPool:
    """Leases loaded models. `run` is a service; leases before it has started are refused."""

    def __init__(
        self,
        spawner: WorkerSpawner,
        local_models: LocalModels,
        *,
        engines_for: EnginesFor,
        config: PoolConfig,
        limits: Limits = LIMITS,
        on_change: Callable[[], None] = lambda: None,
        progress: LoadProgress | None = None,
        name_of: Callable[[str], str] = lambda _: "",
    ) -> None:
        """`name_of` says what a model is called here, for what is configured by name."""
        self._local_models = local_models
        self._config = config
        self._limits = limits
        self._name_of = name_of
        self.progress = progress or LoadProgress()
        self._entries: dict[str, Entry] = {}
        self._room = Room(config.memory, limits)
        self._unloading = Unloading(self._entries, self._room, on_change)
        self._loading = Loading(
            spawner,
            local_models,
            engines_for,
            threads=config.threads,
            room=self._room,
            unloading=self._unloading,
            progress=self.progress,
            on_change=on_change,
            limits=limits,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load and unload until cancelled; then nothing is loaded any more."""
        self.equip(())
        try:
            async with trio.open_nursery() as nursery:
                self._loading.nursery = nursery
                task_status.started()
                await self._unloading.run()
        finally:
            self._loading.nursery = None
            with trio.CancelScope(shield=True):
                entries = self._entries.values()
                everything = [one for e in entries for one in (*e.replicas, *e.closing)]
                await self._unloading.kill(everything)

    def equip(self, devices: Iterable[Device]) -> None:
        """Take devices that engines can use here into the budget; one that is in it stays."""
        self._room.equip(devices)

    @property
    def budget(self) -> Budget:
        """What models may take."""
        return self._room.budget

    def reserved(self) -> dict[str, int]:
        """Purse of the budget -> bytes that models have of it."""
        return self._room.reserved()

    def states(self) -> dict[str, State]:
        """Model id -> what it would take to use it here, for every model on the disk."""
        return {model: self._state(self._entries.get(model)) for model in self._local_models.list()}

    def view(self) -> dict[str, ModelUse]:
        """Model id -> how it stands, for every model on the disk."""
        now = trio.current_time()
        return {model: self._use(model, now) for model in self._local_models.list()}

    def estimate(self, model: str) -> Estimate | None:
        """Slots, memory and context of a loaded model's oldest worker."""
        workers = self._workers(model)
        return workers[0].estimate if workers else None

    def slots(self, model: str) -> int:
        """How many requests the loaded workers of a model run at once."""
        return sum(max(1, worker.estimate.slots) for worker in self._workers(model))

    def busy(self, model: str) -> int:
        """How many requests of a model run or wait here now."""
        entry = self._entries.get(model)
        return entry.leases + len(entry.waiters) if entry is not None else 0

    def problem(self, model: str) -> str:
        """Why a model cannot be served for now, or "": it keeps crashing, or can never fit."""
        entry = self._entries.get(model)
        if entry is None:
            return ""
        never = self._loading.never(entry)
        return never.message if never is not None else entry.health.problem(trio.current_time())

    def judge(self, model: str, estimate: Estimate) -> None:
        """Note whether a model can ever be loaded here: one that cannot is not offered."""
        self._loading.judge(self._entry(model), estimate)

    def forgive(self, model: str) -> None:
        """What crashed a model was mended: it may be loaded at once."""
        entry = self._entry(model)
        entry.health.forgive()
        self._unloading.changed()

    @asynccontextmanager
    async def lease(
        self,
        model: str,
        keep_alive_seconds: float | None = None,
        *,
        asker: str = OWN,
        bounded: bool = True,
    ) -> AsyncIterator[Worker]:
        """Hold one slot of a loaded model, loading it if need be.

        Args:
            model: its id.
            keep_alive_seconds: how long it shall stay without use: 0 not at all, below 0 as long
                as may be; None: as usual. The latest request's wish holds.
            asker: whose request it is, as far as crashes are put down to somebody.
            bounded: whether the operator's maximum holds for the wish; such a one can only make it
                stay longer than usual, or whoever asks could take it from those who ask next.

        Raises:
            InvalidRequestError: `model_not_found`.
            EngineError: why it cannot be loaded (`out_of_memory`, `engine_crashed`, ...), or
                `quarantined`.
            LocalError: `busy`, with a time to try again; `shutting_down`.
        """
        replica = await self._acquire(model, asker)
        worker = replica.worker
        try:
            if worker is None:
                raise RuntimeError("a lease without a worker")
            self._note_wish(replica.entry, keep_alive_seconds, bounded=bounded)
            yield worker
            if not worker.died.is_set():
                replica.entry.health.served()
        finally:
            self._release(replica, asker)

    async def resident(self, model: str) -> Worker:
        """The worker of a model, which stays until `unload`; no slot is held. Raises as `lease`."""
        return await self._first_worker(model, resident=True)

    async def hold(self, model: str) -> Worker:
        """Keep a model loaded from now on until `let_go`; its first worker. Raises as `lease`."""
        self._entry(model).pinned = True
        return await self._first_worker(model)

    async def warm(self, model: str) -> None:
        """Load a model that nobody asks for yet; it stays as long as usual. Raises as `lease`."""
        await self._first_worker(model)

    def let_go(self, model: str) -> None:
        """It may be unloaded again when it is idle."""
        if (entry := self._entries.get(model)) is not None:
            entry.pinned = False
            self._unloading.changed()  # what it left no room for may be offered again

    async def unload(self, model: str, *, drained: bool = False) -> None:
        """Unload a model once its last lease has ended; new leases load it anew.

        One that is loading is broken off; nothing of it is left when this returns. With `drained`
        that is when the last lease has ended.
        """
        if (entry := self._entries.get(model)) is not None:
            workers = self._workers(model) if drained else []
            await self._unloading.unload(entry)
            entry.off_disk = model not in self._local_models.list()
            self._unloading.prune(entry)
            for worker in workers:
                await worker.died.wait()

    # -- leasing

    async def _acquire(self, model: str, asker: str) -> Replica:
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()
            entry, now = self._entry(model), trio.current_time()
            entry.health.check_asker(now, asker)
            replica = None if entry.waiters else entry.free(asker, now)
            if replica is not None:
                replica.take(asker)
                return replica
            if len(entry.waiters) >= self._config.queue_max:
                raise LocalError(
                    "every slot of this model is taken and the queue is full",
                    Code.BUSY,
                    retry_after_seconds=self._limits.retry_after_seconds,
                )
            if not entry.replicas:
                self._loading.begin(entry)
            replica = await self._wait(entry, asker)
            if replica is not None:
                return replica

    async def _first_worker(self, model: str, *, resident: bool = False) -> Worker:
        """The worker that a model lives by, loaded if need be."""
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()
            entry = self._entry(model)
            replica = entry.replicas[0] if entry.replicas else self._loading.begin(entry)
            replica.resident = replica.resident or resident
            await replica.settled.wait()
            if replica.worker is not None:
                return replica.worker
            if replica.error is not None:
                raise copy(replica.error)

    def _entry(self, model: str) -> Entry:
        entry = self._entries.get(model)
        if entry is None:
            self._local_models.description(model)  # or whoever asks could fill this up
            entry = self._entries[model] = Entry(model, self._limits)
        entry.off_disk = False
        entry.keep_seconds = self._keep_seconds(model)
        for replica in entry.loaded:
            if replica.worker is not None and replica.worker.died.is_set():
                self._unloading.bury(replica)  # its own task has not come to it yet
        return entry

    async def _wait(self, entry: Entry, asker: str) -> Replica | None:
        """Wait for load and slot; None where the workers went away meanwhile."""
        turn = Turn(asker)
        entry.waiters.append(turn)
        try:
            while not turn.come.is_set():
                with trio.move_on_after(self._limits.model_grow_seconds):
                    await turn.come.wait()
                if not turn.come.is_set():
                    self._grow(entry)
        except BaseException:
            if turn.replica is not None:
                self._release(turn.replica, asker)
            elif turn in entry.waiters:
                entry.waiters.remove(turn)
                entry.admit_next(trio.current_time())
            raise
        if turn.error is not None:
            raise turn.error
        replica = turn.replica
        if replica is not None and replica.closing:
            self._release(replica, asker)
            return None
        return replica

    def _release(self, replica: Replica, asker: str) -> None:
        now = trio.current_time()
        replica.give(asker, now)
        replica.entry.admit_next(now)
        if replica.leases:
            return
        self._unloading.poke()
        self._room.tell()
        if replica.closing and self._loading.nursery is not None:
            self._loading.nursery.start_soon(self._unloading.kill, [replica])

    def _grow(self, entry: Entry) -> None:
        """Add a worker where those that are there are not enough."""
        now, loaded = trio.current_time(), entry.loaded
        entry.admit_next(now)  # a time of one asker at a time may have ended
        if not loaded or self._loading.nursery is None:
            return
        most = workers_max(
            self._config.workers_per_model,
            device=loaded[0].device,
            cores=self._config.cores,
            threads=self._config.threads,
            accelerators=len(self.budget.purses.keys() - {HOST}),
            limits=self._limits,
        )
        if wants_more(entry, most, now):
            try:
                grows = self._loading.could_grow(entry)
                if grows:
                    self._loading.begin(entry, extra=True)
            except AigridError as error:  # those who wait have what is loaded
                log.info("no_further_worker", model=entry.model, code=error.code.value)
                grows = False
            if not grows:
                entry.grow_at = now + self._limits.model_grow_pause_seconds

    # -- keeping, and telling

    def _note_wish(self, entry: Entry, seconds: float | None, *, bounded: bool) -> None:
        most = self._config.keep_alive_max_seconds if bounded else INFINITE
        wish = None if seconds is None else kept_seconds(seconds, most)
        if bounded:
            entry.others_wish_seconds = wish or 0.0
        else:
            entry.wish_seconds = wish

    def _keep_seconds(self, model: str) -> float:
        """How long a model stays if no request says otherwise."""
        found, usual = self._configured(model), self._config.keep_alive_seconds
        if found is not None:
            return found
        return self._limits.model_idle_seconds if usual is None else usual

    def _configured(self, model: str) -> float | None:
        """How long this very model stays by the configuration, or None."""
        table = self._config.keep_alive
        return table.get(model, table.get(self._name_of(model))) if table else None

    def _workers(self, model: str) -> list[Worker]:
        entry = self._entries.get(model)
        replicas = entry.replicas if entry is not None else ()
        return [one.worker for one in replicas if one.worker is not None]

    @staticmethod
    def _state(entry: Entry | None) -> State:
        if entry is None or not entry.replicas:
            return "on_disk"
        return "warm" if entry.loaded else "loading"

    def _use(self, model: str, now: float) -> ModelUse:
        entry = self._entries.get(model)
        if entry is None:
            return ModelUse()
        loaded, cold = entry.loaded, entry.cold
        first = loaded[0].worker if loaded else None
        expires = max(map(entry.expires_at, loaded), default=INFINITE)
        return ModelUse(
            state=self._state(entry),
            workers=len(loaded),
            loading=len(entry.replicas) - len(loaded),
            engine=first.engine if first is not None else "",
            device=first.estimate.device if first is not None else "",
            memory=self._room.of((*entry.replicas, *entry.closing)),
            slots=self.slots(model),
            leases=entry.leases,
            waiting=len(entry.waiters),
            expires_in_seconds=max(0.0, expires - now) if expires < INFINITE else None,
            pinned=entry.pinned,
            wished=entry.wish_seconds is not None or self._configured(model) is not None,
            cold_start=None if cold is None else ColdStart(cold[0], now - cold[1]),
            problem=self.problem(model) or ("" if loaded else entry.trouble),
        )
