"""Weights from peers: which models are fetched, from whom, and how far that has come."""

from collections.abc import Callable, Collection
from typing import Any

import structlog
import trio

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Seeder
from aigrid.metagraph.local import LocalState
from aigrid.node.discovery.grid import NowMs
from aigrid.node.discovery.peers import Peers
from aigrid.node.discovery.typed_query import TypedQueries
from aigrid.node.mesh.pool.pool import ModelPool
from aigrid.node.mesh.shelf.copying import Progress, no_progress
from aigrid.node.mesh.shelf.hostable import Means, why_not_host
from aigrid.node.mesh.shelf.hosting import Hosting
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.node.mesh.weights.asked_for import AskedFor, FetchJournal
from aigrid.node.mesh.weights.asking import WeightsAsking
from aigrid.node.mesh.weights.books import WeightsBooks
from aigrid.node.mesh.weights.cache import WeightsCache
from aigrid.node.mesh.weights.fetching import Fetching
from aigrid.node.mesh.weights.giving import WeightsGiving
from aigrid.node.mesh.weights.ledger import Askers, Ledger
from aigrid.node.mesh.weights.partial import remove
from aigrid.node.mesh.weights.proving import HolderProofs
from aigrid.node.network.streams import RpcClient
from aigrid.node.policy.assembly import Policy
from aigrid.node.policy.explaining import nearness
from aigrid.node.settings.weights import WeightsConfig
from aigrid.protocol.errors import AigridError, NoCandidateError, UsageError
from aigrid.protocol.kinds import Seed
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.record import Record

log = structlog.get_logger()
_USE_SECONDS = 30.0


class Weights:
    """A service. Models that this node may host it fetches, keeps, and gives to others.

    Attributes:
        giving: the serving side.
        cache: the room that fetched models take.
        ledger: what is spent on them in a day.
        unasked: why placement would not bring a model by a manifest for some members, or "".
    """

    def __init__(
        self,
        config: WeightsConfig,
        *,
        graph: Metagraph,
        local: LocalState,
        ledger: Ledger,
        models: LocalModels,
        hosting: Hosting,
        pool: ModelPool,
        peers: Peers,
        rpc: RpcClient,
        queries: TypedQueries,
        policy: Policy,
        formats: Callable[[], frozenset[str]],
        pinned: Callable[[], frozenset[str]],
        draw: Callable[[], int],
        now_ms: NowMs,
    ) -> None:
        """`formats`: those that engines here take. `draw()`: a large random number."""
        self._config = config
        self._graph, self._peers = graph, peers
        self._models, self._hosting, self._pool = models, hosting, pool
        self._formats = formats
        self._now_ms = now_ms
        self._books = books = WeightsBooks(local, now_ms=now_ms)
        self.unasked: Callable[[Record, Collection[str]], str] = lambda *_: "nobody places models"
        self.ledger = ledger
        self.giving = WeightsGiving(
            models,
            config=config,
            seeded_under=hosting.seeded_under,
            admission=policy.admission,
            used=books.used,
            damaged=hosting.set_aside,
        )

        def asking() -> WeightsAsking:
            return WeightsAsking(graph, rpc, peers, policy.presenter, now_ms=now_ms)

        proofs = HolderProofs(
            graph, models, ledger, asking, seeders=self._connected, draw=draw, now_ms=now_ms
        )
        self.cache = WeightsCache(
            config,
            books,
            models,
            hosting,
            pool,
            own_did=graph.own_did,
            proven=proofs.proven,
            given=lambda: {*self.giving.giving, *self._fetching.jobs},
            pinned=pinned,
        )
        self._fetching: Fetching = Fetching(
            graph,
            models,
            hosting,
            peers,
            queries,
            books=books,
            ledger=ledger,
            journal=FetchJournal(local),
            cache=self.cache,
            asking=asking,
            seeders=self._seeders_under,
            resumable=self._resumable,
            now_ms=now_ms,
        )

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Own the fetches."""
        async with trio.open_nursery() as nursery:
            try:
                await self.cache.sweep()
            except AigridError as error:
                log.warning("not_swept", code=error.code, reason=error.message)
            await nursery.start(self._fetching.run)
            task_status.started()
            try:
                while True:
                    self.cache.note_use()
                    await trio.sleep(_USE_SECONDS)
            finally:
                self.ledger.write()

    # --- what is known

    def seeds(self) -> tuple[Seed, ...]:
        """The models whose files this node gives to others now."""
        return self._hosting.seeds() if self._config.seed else ()

    def holders(self, model: str) -> tuple[str, ...]:
        """DIDs of live nodes other than this one that give a model's files."""
        return tuple(one.signer for one in self._seeders(model))

    def progress(self, model: str) -> str:
        """How far the fetching of a model has come, in words; "" where it is not under way."""
        job = self._fetching.jobs.get(model)
        return "" if job is None else job.text

    def fetching(self) -> dict[str, dict[str, Any]]:
        """Model id -> how far it has come, of what is under way; see `Job.view`."""
        return self._fetching.view()

    def may_host(self, model: str, manifest: Record, *, load: bool = False) -> AigridError | None:
        """Why this node may not or cannot host a model under a manifest, and run it with `load`."""
        means = Means(
            self._formats(),
            max(self._pool.budget.purses.values(), default=0),
            self._config.cache_bytes,
            self._fetching.contradicted,
        )
        standing = self._hosting.standing(model, manifest)
        fetch = model not in self._models.list()
        return why_not_host(model, manifest, standing, means, fetch=fetch, load=load)

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
            "broken_off": self._fetching.waiting(),
            "paused": self._fetching.paused,
            "received_bytes": self._fetching.received_bytes,
            "receiving_seconds": round(self._fetching.receiving_seconds, 3),
            "today": self.ledger.report(),
            "fetched_models": len(fetched),
            "cache_bytes": sum(fetched.values()),
            "cache_budget_bytes": self._config.cache_bytes,
        }

    # --- fetching

    async def fetch(
        self,
        model: str,
        manifest: Record,
        *,
        askers: Askers = None,
        progress: Progress = no_progress,
    ) -> None:
        """Bring a model from the nodes that give it, and offer it. Who leaves does not end that.

        `askers`: for whom it is, see `ledger.Askers`; the operator, if nothing is said.

        Raises:
            PolicyDeniedError: this node may not host it, or nobody may give it to this node.
            NoCandidateError: nobody gives it now.
            EngineError: no engine here takes it.
            LocalError: `over_quota`, `over_budget`, `data_directory_unusable`, `hash_mismatch`.
        """
        here = model in self._models.list()
        if here and self._hosting.manifest(model) is None:
            raise UsageError(
                "the model is here under a manifest that no longer holds: "
                f"`aigrid models drop {model}` first"
            )
        if here and self._hosting.offered(model):
            return
        refusal = self.may_host(model, manifest)
        if refusal is not None:
            raise refusal
        if not here:
            await self._fetching.fetch(model, manifest, askers=askers, progress=progress)

    async def drop(self, model: str) -> None:
        """Remove a fetched model, or what there is of one that is on its way.

        Raises:
            UsageError: this node has published it.
        """
        await self._fetching.stop(model)
        if model in self._models.list():
            if self._models.obtained(model) is None or self._hosting.publishes(model):
                raise UsageError("this node has published the model: `aigrid withdraw` it")
            await self._hosting.remove_fetched(model)
        folder = self._models.fetching_folder(model)
        await self._models.run_blocking(lambda: remove(folder))
        self._books.forget(model)

    def _resumable(self, model: str, asked: AskedFor) -> Record | None:
        now_ms = self._now_ms()
        manifest = self._graph.index.manifest(asked.manifest, now_ms)
        if manifest is None or self.may_host(model, manifest) is not None:
            try:
                manifest = self.choose(model)
            except AigridError:
                return None
        unasked = asked.askers is not None and self.unasked(manifest, asked.askers)
        return None if unasked else manifest

    def _connected(self, model: str) -> list[Seeder]:
        return [one for one in self._seeders(model) if self._peers.alive(one.node)]

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
