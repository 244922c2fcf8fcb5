"""Fetches under way: one for each model, a few at a time, and on after a restart."""

from collections.abc import Callable
from functools import partial as bound
from typing import Any

import structlog
import trio
from msgspec import UNSET

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Seeder
from aigrid.metagraph.typed_query import Wanted
from aigrid.node.discovery.grid import NowMs
from aigrid.node.discovery.peers import Peers
from aigrid.node.discovery.typed_query import TypedQueries
from aigrid.node.mesh.shelf.copying import Progress, check_room
from aigrid.node.mesh.shelf.hosting import Hosting
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.node.mesh.weights.asked_for import AskedFor, FetchJournal
from aigrid.node.mesh.weights.asking import WeightsAsking
from aigrid.node.mesh.weights.books import WeightsBooks
from aigrid.node.mesh.weights.cache import WeightsCache
from aigrid.node.mesh.weights.faults import HolderFaults
from aigrid.node.mesh.weights.job import Job
from aigrid.node.mesh.weights.ledger import Askers, Cost, Ledger, Reservation
from aigrid.node.mesh.weights.partial import Partial, occupied_bytes, remove
from aigrid.node.mesh.weights.transfer import Transfer
from aigrid.protocol.chunks import DIGEST_BYTES, chunk_count
from aigrid.protocol.errors import AigridError, Code, LocalError
from aigrid.protocol.kinds import ModelBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.mesh_kinds import ChunkList
from aigrid.protocol.record import Record

log = structlog.get_logger()


class Fetching:
    """`run` is a service.

    `seeders(manifest)`: live nodes that give the files of a manifest. `resumable(model, asked)`: by
    which manifest a fetch may go on that was broken off, or None where it may not now.

    Attributes:
        jobs: model -> its fetch.
        contradicted: content ids of manifests that led to other files than they name.
        received_bytes, receiving_seconds: of all of them, since the start.
        paused: why nothing is fetched now, of what concerns the disk, or "".
    """

    def __init__(
        self,
        graph: Metagraph,
        models: LocalModels,
        hosting: Hosting,
        peers: Peers,
        queries: TypedQueries,
        *,
        books: WeightsBooks,
        ledger: Ledger,
        journal: FetchJournal,
        cache: WeightsCache,
        asking: Callable[[], WeightsAsking],
        seeders: Callable[[Record], tuple[Seeder, ...]],
        resumable: Callable[[str, AskedFor], Record | None],
        now_ms: NowMs,
    ) -> None:
        self._graph = graph
        self._models = models
        self._hosting = hosting
        self._peers = peers
        self._queries = queries
        self._books = books
        self._ledger = ledger
        self._journal = journal
        self._cache = cache
        self._asking = asking
        self._seeders = seeders
        self._resumable = resumable
        self._now_ms = now_ms
        self._turns = trio.CapacityLimiter(LIMITS.fetches_max)
        self._nursery: trio.Nursery | None = None
        self._faults = HolderFaults()
        self.jobs: dict[str, Job] = {}
        self.contradicted: dict[str, None] = {}
        self.received_bytes, self.receiving_seconds = 0, 0.0
        self.paused = ""

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Own the fetches, and go on with those that were broken off."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                while True:
                    await trio.sleep(LIMITS.fetch_resume_seconds)
                    await self._look_at_disk()
                    self._resume()
            finally:
                self._nursery = None

    async def fetch(
        self, model: str, manifest: Record, *, askers: Askers, progress: Progress
    ) -> None:
        """Bring a model that may be fetched; see `Weights.fetch`."""
        await self._start(model, manifest, askers).follow(progress)

    async def stop(self, model: str) -> None:
        """End a fetch, if there is one, and forget that it was asked for."""
        self._journal.forget(model)
        job = self.jobs.get(model)
        if job is not None:
            job.scope.cancel()
            with trio.move_on_after(LIMITS.cancel_seconds):
                while not job.done:  # noqa: ASYNC110 - it is over in a moment
                    await trio.sleep(0.01)

    def view(self) -> dict[str, dict[str, Any]]:
        """Model id -> how far its fetch has come."""
        return {model: job.view() for model, job in sorted(self.jobs.items())}

    def waiting(self) -> list[str]:
        """Models whose fetch was broken off, and goes on once it can."""
        return sorted(self._journal.all().keys() - self.jobs.keys())

    def _start(self, model: str, manifest: Record, askers: Askers) -> Job:
        job = self.jobs.get(model)
        if job is None:
            body = manifest.body
            if self._nursery is None:
                raise LocalError("this node is stopping", Code.SHUTTING_DOWN)
            size = sum(f.bytes for f in body.model.files) if isinstance(body, ModelBody) else 0
            job = self.jobs[model] = Job(model, manifest, size, askers)
            self._nursery.start_soon(self._run_job, job)
        known = self._journal.all().get(model)
        if known is None or (askers is None and known.askers is not None):
            who = None if askers is None else tuple(sorted(askers))
            self._journal.note(model, AskedFor(manifest.content_id, self._now_ms(), who))
        return job

    def _resume(self) -> None:
        """Go on with what was broken off; what nobody can go on with is forgotten in the end."""
        for model, asked in self._journal.all().items():
            age_seconds = (self._now_ms() - asked.since_ms) / 1000
            if model in self.jobs or self._nursery is None:
                continue
            if model in self._models.list() or age_seconds > LIMITS.fetch_kept_seconds:
                self._journal.forget(model)
            elif not self.paused:
                manifest = self._resumable(model, asked)
                if manifest is not None and self._seeders(manifest):
                    log.info("fetch_resumed", model=model)
                    self._start(model, manifest, asked.askers)

    async def _look_at_disk(self) -> None:
        """Note whether there is room to fetch anything at all."""
        folder = self._models.fetching_folder("").parent
        try:
            await self._models.run_blocking(lambda: check_room(folder, 0))
        except LocalError as error:
            if not self.paused:
                log.warning("fetching_paused", reason=error.message)
            self.paused = error.message
        else:
            self.paused = ""

    async def _run_job(self, job: Job) -> None:
        error: AigridError | None = LocalError("this node is stopping", Code.SHUTTING_DOWN)
        try:
            with job.scope:
                await self._fetch(job)
                error = None
            if job.scope.cancelled_caught:
                error = LocalError("the fetch was cancelled", Code.CANCELLED)
        except AigridError as caught:
            log.warning("not_fetched", model=job.model, code=caught.code, reason=caught.message)
            error = caught
        except Exception as caught:  # noqa: BLE001 - boundary: it ends this fetch only
            log.error("fetch_failed", model=job.model, error=type(caught).__name__)  # noqa: TRY400
            error = LocalError("the fetch failed for a reason that is in this node's log")
        finally:
            del self.jobs[job.model]
            if error is None or error.code not in _GOES_ON:
                self._journal.forget(job.model)
            job.finish(error)
            self._ledger.write()

    async def _fetch(self, job: Job) -> None:
        model, manifest = job.model, job.manifest
        body = manifest.body
        if not isinstance(body, ModelBody) or body.chunk_lists is UNSET:
            raise LocalError("not a manifest by which a model is fetched", Code.MALFORMED)
        files = tuple(sorted(body.model.files, key=lambda file: file.name))
        partial = Partial(self._models.fetching_folder(model), files)
        size = sum(file.bytes for file in files)
        here = await self._models.run_blocking(lambda: occupied_bytes(partial.folder))
        lists = sum(chunk_count(file.bytes) for file in files) * DIGEST_BYTES
        cost = Cost(max(0, size - here) + lists)
        with self._ledger.reserve(cost, job.askers) as spending, self._cache.coming(model, size):
            await self._cache.check(model)
            if not self._seeders(manifest):
                job.say("looking for nodes that give it")
                await self._queries.ask(Wanted("model", model))
            await self._bring(job, body.chunk_lists, partial, spending)
            await self._install(job, partial)

    async def _bring(
        self, job: Job, lists: tuple[ChunkList, ...], partial: Partial, spending: Reservation
    ) -> None:
        """In turns with others: where little comes, those who wait go first."""
        transfer = Transfer(
            job.manifest,
            partial,
            self._asking(),
            holders=lambda: self._seeders(job.manifest),
            peers=self._peers,
            run_blocking=self._models.run_blocking,
            spend=spending.spend,
            make_room=bound(self._cache.make_room, job.model),
            others_wait=lambda: self._turns.statistics().tasks_waiting > 0,
            faults=self._faults,
            progress=job.moved,
            moved=job.tell_moved,
        )
        whole = False
        while not whole:
            async with self._turns:
                whole = await self._take_turn(transfer, lists, job.model, partial)
            if not whole:
                job.say("waiting for other downloads: it comes slowly")
        given = job.moved.given
        log.info("weights_here", model=job.model, resumed=job.moved.resumed_bytes, given=given)

    async def _take_turn(
        self, transfer: Transfer, lists: tuple[ChunkList, ...], model: str, partial: Partial
    ) -> bool:
        """Whether everything is here now."""
        self._hosting.check_room()
        self._books.used(model)
        await self._models.run_blocking(partial.prepare)
        began, before = trio.current_time(), transfer.progress.received_bytes
        try:
            whole = await transfer.run(lists)
            if whole:
                await self._models.run_blocking(partial.sync)
            return whole
        finally:
            self.received_bytes += transfer.progress.received_bytes - before
            self.receiving_seconds += trio.current_time() - began
            with trio.CancelScope(shield=True):
                await self._models.run_blocking(partial.close)
                await self._models.run_blocking(partial.remove_if_empty)

    async def _install(self, job: Job, partial: Partial) -> None:
        async def installing(text: str) -> None:
            await trio.lowlevel.checkpoint()
            job.say(text)

        manifest = job.manifest
        try:
            await self._hosting.take_in(manifest, partial.paths(), installing)
        except LocalError as error:
            if error.code is Code.HASH_MISMATCH:  # what the manifest says of chunks was wrong
                self.contradicted[manifest.content_id] = None
                if len(self.contradicted) > LIMITS.offers_max:
                    del self.contradicted[next(iter(self.contradicted))]
                await self._models.run_blocking(lambda: remove(partial.folder))
            raise
        await self._models.run_blocking(lambda: remove(partial.folder))
        log.info("fetched", model=job.model, manifest=manifest.content_id)


# After these a fetch goes on by itself: the node was stopped, its disk full, or its day's bytes
# were spent.
_GOES_ON = frozenset({Code.SHUTTING_DOWN, Code.DATA_DIRECTORY_UNUSABLE, Code.OVER_BUDGET})
