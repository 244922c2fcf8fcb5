"""Weights from peers: which models are fetched, from whom, and how far that has come."""

from collections.abc import Callable
from typing import Any

import structlog
import trio
from msgspec import UNSET

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Seeder
from aigrid.metagraph.local import LocalState
from aigrid.metagraph.typed_query import Wanted
from aigrid.node.discovery.grid import NowMs
from aigrid.node.discovery.peers import Peers
from aigrid.node.discovery.typed_query import TypedQueries
from aigrid.node.mesh.pool.pool import ModelPool
from aigrid.node.mesh.shelf.copying import Progress, no_progress
from aigrid.node.mesh.shelf.hosting import Hosting
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.node.mesh.weights.asking import WeightsAsking
from aigrid.node.mesh.weights.books import WeightsBooks
from aigrid.node.mesh.weights.cache import WeightsCache
from aigrid.node.mesh.weights.giving import WeightsGiving
from aigrid.node.mesh.weights.job import Job
from aigrid.node.mesh.weights.partial import Partial, occupied_bytes, remove
from aigrid.node.mesh.weights.transfer import Transfer
from aigrid.node.network.streams import RpcClient
from aigrid.node.policy.assembly import Policy
from aigrid.node.policy.explaining import nearness
from aigrid.node.settings.weights import WeightsConfig
from aigrid.protocol.errors import (
    AigridError,
    Code,
    EngineError,
    LocalError,
    NoCandidateError,
    PolicyDeniedError,
    UsageError,
    VerificationError,
)
from aigrid.protocol.kinds import ModelBody, Seed
from aigrid.protocol.limits import LIMITS, MIB
from aigrid.protocol.mesh_kinds import ChunkList
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.record import Record

log = structlog.get_logger()
_USE_SECONDS = 30.0


class Weights:
    """A service. Models that this node may host it fetches, keeps, and gives to others.

    Attributes:
        giving: the serving side.
    """

    def __init__(
        self,
        config: WeightsConfig,
        *,
        graph: Metagraph,
        local: LocalState,
        models: LocalModels,
        hosting: Hosting,
        pool: ModelPool,
        peers: Peers,
        rpc: RpcClient,
        queries: TypedQueries,
        policy: Policy,
        formats: Callable[[], frozenset[str]],
        pinned: Callable[[], frozenset[str]],
        now_ms: NowMs,
    ) -> None:
        """`formats`: those that engines here take; `pinned`: models that are to stay."""
        self._config = config
        self._graph = graph
        self._models = models
        self._hosting = hosting
        self._peers = peers
        self._rpc = rpc
        self._queries = queries
        self._policy = policy
        self._formats = formats
        self._now_ms = now_ms
        self._jobs: dict[str, Job] = {}
        self._wrong: dict[str, None] = {}  # content ids of manifests that contradict themselves
        self._turns = trio.CapacityLimiter(LIMITS.fetches_max)
        self._nursery: trio.Nursery | None = None
        self._received_bytes, self._receiving_seconds = 0, 0.0
        self._books = WeightsBooks(local, bytes_per_day=config.fetch_bytes_per_day, now_ms=now_ms)
        self.giving = WeightsGiving(
            models,
            config=config,
            seeded_under=hosting.seeded_under,
            admission=policy.admission,
            used=self._books.used,
            damaged=hosting.set_aside,
        )
        self.cache = WeightsCache(
            config,
            self._books,
            models,
            hosting,
            pool,
            own_did=graph.own_did,
            others=self._surely_holding,
            given=lambda: {*self.giving.giving, *self._jobs},
            pinned=pinned,
        )

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Own the fetches."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await self.cache.sweep()
                task_status.started()
                while True:
                    self._write_down(self.cache.note_use)
                    await trio.sleep(_USE_SECONDS)
            finally:
                self._nursery = None
                self._write_down(self._books.write)

    # --- what is known

    def seeds(self) -> tuple[Seed, ...]:
        """The models whose files this node gives to others now."""
        return self._hosting.seeds() if self._config.seed else ()

    def holders(self, model: str) -> tuple[str, ...]:
        """DIDs of live nodes other than this one that give a model's files."""
        return tuple(one.signer for one in self._seeders(model))

    def progress(self, model: str) -> str:
        """How far the fetching of a model has come, in words; "" where it is not under way."""
        job = self._jobs.get(model)
        return "" if job is None else job.text

    def fetching(self) -> dict[str, str]:
        """Model id -> progress, of what is under way."""
        return {model: job.text for model, job in sorted(self._jobs.items())}

    def may_host(self, model: str, manifest: Record) -> AigridError | None:
        """Why this node may not or cannot host a model under a manifest; None: it may."""
        body = manifest.body
        if not isinstance(body, ModelBody) or body.id != MODEL_URN + model:
            return PolicyDeniedError("the manifest is of another model", Code.WRONG_MANIFEST)
        if self._graph.index.manifest(manifest.content_id, self._now_ms()) is None:
            return PolicyDeniedError(
                "the manifest was withdrawn, or has expired", Code.WRONG_MANIFEST
            )
        if body.model.upstream is not UNSET:
            return NoCandidateError("the model is behind a server, which is not fetched")
        if body.chunk_lists is UNSET:
            return NoCandidateError(
                "the manifest does not say how to fetch the model: its owner publishes it again"
            )
        if manifest.content_id in self._wrong:
            return VerificationError(
                "the files that the manifest leads to are not those that it names: its publisher "
                "has to publish the model again",
                Code.HASH_MISMATCH,
            )
        if body.model.format not in self._formats():
            return EngineError(
                f"no engine here takes {body.model.format} (`aigrid engines`)",
                Code.UNSUPPORTED_MODEL,
            )
        if not self._hosting.may_run(body.model.format, manifest):
            return PolicyDeniedError(
                "its files can run code of their publisher, whom this node does not trust: "
                f"`--trust-publisher {manifest.issuer}`"
            )
        size = sum(file.bytes for file in body.model.files)
        if size > self._config.cache_bytes:
            return LocalError(
                f"{size // MIB} MiB are more than what fetched models may take here "
                "(`cache_bytes`)",
                Code.OVER_QUOTA,
            )
        return self._policy.foresight.may_host(manifest)

    def choose(self, model: str) -> Record:
        """Of the manifests of a model that by which to fetch it: of a publisher trusted here first.

        Raises:
            AigridError: none will do, and why not.
        """
        now_ms = self._now_ms()
        refused: AigridError | None = None
        able: list[tuple[tuple[bool, int], Record]] = []
        for manifest in self._graph.manifests_of(model, now_ms):
            refusal = self.may_host(model, manifest)
            if refusal is None:
                place = self._hosting.trusts(manifest), len(self._seeders_under(manifest))
                able.append((place, manifest))
            elif refused is None or nearness(refusal.code) > nearness(refused.code):
                refused = refusal
        if not able:
            raise refused or NoCandidateError(f"nobody describes a model {model}")
        return max(able, key=lambda one: (one[0], one[1].rank))[1]

    def report(self) -> dict[str, Any]:
        """For `status`: what is given, fetched and kept; sizes in bytes."""
        fetched = self.cache.fetched()
        return {
            "seeds": len(self.seeds()),
            "giving": self.giving.giving.total(),
            "given_bytes": self.giving.given_bytes,
            "denied": {code.value: count for code, count in sorted(self.giving.denied.items())},
            "fetching": self.fetching(),
            "received_bytes": self._received_bytes,
            "receiving_seconds": round(self._receiving_seconds, 3),
            "fetched_today_bytes": self._books.fetched_today,
            "fetched_models": len(fetched),
            "cache_bytes": sum(fetched.values()),
            "cache_budget_bytes": self._config.cache_bytes,
        }

    # --- fetching

    async def fetch(
        self, model: str, manifest: Record, *, progress: Progress = no_progress
    ) -> None:
        """Bring a model from the nodes that give it, and offer it. Who leaves does not end that.

        Raises:
            PolicyDeniedError: this node may not host it, or nobody may give it to this node.
            NoCandidateError: nobody gives it now.
            EngineError: no engine here takes it.
            LocalError: `over_quota`, `over_budget`, `data_directory_unusable`, `hash_mismatch`.
        """
        if model in self._models.list():
            if self._hosting.manifest(model) is None:
                raise UsageError(
                    "the model is here under a manifest that no longer holds: "
                    f"`aigrid models drop {model}` first"
                )
            refusal = None if self._hosting.offered(model) else self.may_host(model, manifest)
            if refusal is not None:
                raise refusal
            return
        job = self._jobs.get(model)
        if job is None:
            refusal = self.may_host(model, manifest)
            if refusal is not None:
                raise refusal
            if self._nursery is None:
                raise LocalError("this node is stopping", Code.SHUTTING_DOWN)
            job = self._jobs[model] = Job(model, manifest)
            self._nursery.start_soon(self._run_job, job)
        await job.follow(progress)

    async def drop(self, model: str) -> None:
        """Remove a fetched model, or what there is of one that is on its way.

        Raises:
            UsageError: this node has published it.
        """
        job = self._jobs.get(model)
        if job is not None:
            job.scope.cancel()
            with trio.move_on_after(LIMITS.cancel_seconds):
                while not job.done:  # noqa: ASYNC110 - it is over in a moment
                    await trio.sleep(0.01)
        if model in self._models.list():
            if self._models.obtained(model) is None or self._hosting.publishes(model):
                raise UsageError("this node has published the model: `aigrid withdraw` it")
            await self._hosting.remove_fetched(model)
        folder = self._models.fetching_folder(model)
        await self._models.run_blocking(lambda: remove(folder))
        self._books.forget(model)

    def _surely_holding(self, model: str) -> frozenset[str]:
        """Of these holders those that are connected: nobody else is counted on."""
        found = self._seeders(model)
        return frozenset(one.signer for one in found if self._peers.alive(one.node))

    def _seeders(self, model: str) -> list[Seeder]:
        found = self._graph.index.seeders_of(model, self._now_ms())
        return [
            one
            for one in found
            if one.signer != self._graph.own_did and self._peers.observation(one.node).alive
        ]

    def _seeders_under(self, manifest: Record) -> tuple[Seeder, ...]:
        model = manifest.subject.removeprefix(MODEL_URN)
        return tuple(s for s in self._seeders(model) if s.manifest == manifest.content_id)

    async def _run_job(self, job: Job) -> None:
        error: AigridError | None = LocalError("this node is stopping", Code.SHUTTING_DOWN)
        try:
            with job.scope:
                async with self._turns:
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
            del self._jobs[job.model]
            job.finish(error)
            self._write_down(self._books.write)

    def _write_down(self, note: Callable[[], None]) -> None:
        """The disk may be full, of all times while something is fetched: the node goes on."""
        try:
            note()
        except AigridError as error:
            log.warning("not_written_down", code=error.code, reason=error.message)

    async def _fetch(self, job: Job) -> None:
        model, manifest = job.model, job.manifest
        body = manifest.body
        if not isinstance(body, ModelBody) or body.chunk_lists is UNSET:
            raise LocalError("not a manifest by which a model is fetched", Code.MALFORMED)
        if not self._seeders_under(manifest):
            job.say("looking for nodes that give it")
            await self._queries.ask(Wanted("model", model))
        files = tuple(sorted(body.model.files, key=lambda file: file.name))
        partial = Partial(self._models.fetching_folder(model), files)
        size = sum(file.bytes for file in files)
        here = await self._models.run_blocking(lambda: occupied_bytes(partial.folder))
        self._books.check(max(0, size - here))
        async with self.cache.room(model, size):
            await self._bring(job, body.chunk_lists, partial)

    async def _bring(self, job: Job, lists: tuple[ChunkList, ...], partial: Partial) -> None:
        model, manifest = job.model, job.manifest
        self._hosting.check_room()
        self._books.used(model)
        await self._models.run_blocking(partial.prepare)
        transfer = Transfer(
            manifest,
            partial,
            WeightsAsking(
                self._graph, self._rpc, self._peers, self._policy.presenter, now_ms=self._now_ms
            ),
            holders=lambda: self._seeders_under(manifest),
            peers=self._peers,
            run_blocking=self._models.run_blocking,
            spend=self._books.spend,
            moved=lambda: job.say(_told(transfer)),
        )
        began = trio.current_time()
        try:
            await transfer.run(lists)
            await self._models.run_blocking(partial.sync)
        finally:
            self._received_bytes += transfer.progress.received_bytes
            self._receiving_seconds += trio.current_time() - began
            with trio.CancelScope(shield=True):
                await self._models.run_blocking(partial.close)
                await self._models.run_blocking(partial.remove_if_empty)
        given = transfer.progress.given
        log.info("weights_here", model=model, resumed=transfer.progress.resumed_bytes, given=given)

        async def installing(text: str) -> None:
            await trio.lowlevel.checkpoint()
            job.say(text)

        try:
            await self._hosting.take_in(manifest, partial.paths(), installing)
        except LocalError as error:
            if error.code is Code.HASH_MISMATCH:  # what the manifest says of chunks was wrong
                self._wrong[manifest.content_id] = None
                if len(self._wrong) > LIMITS.offers_max:
                    del self._wrong[next(iter(self._wrong))]
                await self._models.run_blocking(lambda: remove(partial.folder))
            raise
        await self._models.run_blocking(lambda: remove(partial.folder))
        log.info("fetched", model=model, manifest=manifest.content_id)


def _told(transfer: Transfer) -> str:
    done, nodes = transfer.progress, len(transfer.progress.given)
    percent = 100 * done.here_bytes // done.all_bytes if done.all_bytes else 100
    where = f" from {nodes} {'node' if nodes == 1 else 'nodes'}" if nodes else ""
    return f"fetching: {percent} % of {-(-done.all_bytes // MIB)} MiB{where}"
