"""The models this node holds: what it offers, and how a model gets onto its shelf."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio
from msgspec import UNSET, UnsetType

from aigrid.engines.base import Endpoint, Estimate, ModelSource, Served
from aigrid.metagraph.graph import Metagraph
from aigrid.node.discovery.grid import NowMs
from aigrid.node.mesh.answer import the_one
from aigrid.node.mesh.model_copy import Progress, no_progress
from aigrid.node.mesh.models import LocalModels
from aigrid.node.mesh.pool import ModelPool
from aigrid.node.mesh.progress import LoadProgress
from aigrid.node.mesh.starter import fetch
from aigrid.node.mesh.watch import UpstreamWatch
from aigrid.protocol.errors import AigridError, Code, EngineError, LocalError, UsageError
from aigrid.protocol.identity import Identity
from aigrid.protocol.inference import InferRequest
from aigrid.protocol.kinds import Kind, ModelBody, Offer, OfferState
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN, ModelDescription, model_id
from aigrid.protocol.record import Record
from aigrid.protocol.task import TaskMapping
from aigrid.protocol.upstream import Upstream


class Discover(Protocol):
    """See `WorkerSpawner.discover`."""

    def __call__(
        self, endpoint: Endpoint, model: str, /, *, engine: str
    ) -> Awaitable[tuple[Served, ...]]: ...


@dataclass(frozen=True, slots=True)
class ServerModel:
    """A model behind a server: which engine speaks to it, where it is, what it is called there.

    Without a `model`, publishing fails with a list of what the server has.
    """

    engine: str
    endpoint: Endpoint
    model: str
    mapping: TaskMapping | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class Published:
    """A model id, and the content id of the manifest signed for it."""

    model: str
    name: str
    record: str


class Hosting:
    """Joins the models on disk with the manifests that describe them."""

    def __init__(
        self,
        *,
        identity: Identity,
        graph: Metagraph,
        models: LocalModels,
        pool: ModelPool,
        estimate: Callable[[ModelSource], Awaitable[Estimate]],
        discover: Discover,
        loading: LoadProgress,
        now_ms: NowMs,
        changed: Callable[[], None],
    ) -> None:
        self._identity = identity
        self._graph = graph
        self._models = models
        self._pool = pool
        self._estimate = estimate
        self._discover = discover
        self._loading = loading
        self._now_ms = now_ms
        self._changed = changed
        self.watch = UpstreamWatch(models, pool, changed=changed)

    def offers(self) -> tuple[Offer, ...]:
        """What this node can serve now."""
        states = self._pool.states()
        found = []
        for model in self._models.list():
            manifest = self._manifest(model)
            if manifest is not None and not self.watch.problem(model):
                state: OfferState = "warm" if states.get(model) == "warm" else "on_disk"
                estimate = self._pool.estimate(model)
                slots = estimate.slots if estimate is not None else 1
                found.append(Offer(model, manifest.content_id, state, slots))
        return tuple(found)

    def withheld(self) -> list[dict[str, str]]:
        """The models here that are not offered now, and why."""
        return [
            {"model": model, "name": self._name(model), "problem": problem}
            for model in self._models.list()
            if (problem := self.watch.problem(model))
        ]

    def offered(self, model: str) -> bool:
        """Whether a request for `model` may be served here."""
        return (
            model in self._models.list()
            and self._manifest(model) is not None
            and not self.watch.problem(model)
        )

    async def fetch(self, name: str, progress: Progress) -> Published:
        """Bring a starter model by name, sign a manifest for it, and offer it."""
        self._check_room(known=False)
        starter = await fetch(name, self._models, progress)
        return await self._announce(
            starter.model, starter.name, starter.capabilities, license_id=starter.license
        )

    async def look(self, upstream: ServerModel) -> Served:
        """What the server says of the model.

        Raises:
            UsageError: where no model is named, with what the server has; for a wrong address.
            EngineError: why the server does not answer.
        """
        endpoint, engine = upstream.endpoint, upstream.engine
        if not upstream.model:
            served = await self._discover(endpoint, "", engine=engine)
            names = ", ".join(sorted(model.name for model in served)) or "none"
            raise UsageError(f"name one of the server's models with --upstream-model: {names}")
        (served_as,) = await self._discover(endpoint, upstream.model, engine=engine)
        return served_as

    async def publish_upstream(
        self,
        upstream: ServerModel,
        *,
        capability: str,
        name: str = "",
        license_id: str = "",
        languages: tuple[str, ...] = (),
    ) -> Published:
        """Offer a model behind a server, once the server has answered a trial request.

        Raises as `look`, and EngineError where the model does not answer.
        """
        served_as = await self.look(upstream)
        description = ModelDescription(
            upstream.engine,
            self._graph.index.concepts.task_of(capability),
            (),
            mapping=upstream.mapping,
            upstream=Upstream(
                self._identity.did,
                served_as.name,
                served_as.version,
                served_as.inputs,
                served_as.outputs,
            ),
        )
        return await self.add(
            description,
            {},
            name=name or usual_name(upstream.model),
            capabilities=(capability,),
            license_id=license_id,
            languages=languages,
            endpoint=upstream.endpoint,
        )

    async def add(
        self,
        description: ModelDescription,
        files: dict[str, Path],
        *,
        name: str,
        capabilities: tuple[str, ...],
        license_id: str,
        languages: tuple[str, ...] = (),
        endpoint: Endpoint | None = None,
        trial: InferRequest | None = None,
        take: bool = False,
        progress: Progress = no_progress,
    ) -> Published:
        """Put a described model on the shelf, have it answer `trial`, and offer it.

        With `take` its files are moved rather than copied. What fails leaves nothing behind.
        """
        model = model_id(description)
        known = model in self._models.list()
        self._check_room(known=known)
        before = self._models.endpoint(model) if known else None
        await self._models.add(description, files, endpoint=endpoint, take=take, progress=progress)
        try:
            if known and endpoint is not None:
                await self._move(model, endpoint)
            if trial is not None:
                await self._try(model, trial, progress)
            return await self._announce(
                model, name, capabilities, license_id=license_id, languages=languages
            )
        except BaseException:
            with trio.CancelScope(shield=True):
                if not known:
                    await self._models.remove(model, taken=files if take else None)
                    await self._pool.unload(model)
                elif before is not None:
                    await self._move(model, before)
            raise

    async def _try(self, model: str, request: InferRequest, progress: Progress) -> None:
        """Load a model and have it answer once.

        Raises:
            EngineError: why it did not. A request that it does not take means that it is not what
                it is published as.
        """
        failed: AigridError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._relay, model, progress)
            try:
                await self._answers(model, request)
            except AigridError as error:  # out of here, it would come in a group
                failed = error
            nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed

    async def _relay(self, model: str, progress: Progress) -> None:
        async for text in self._loading.follow(model):
            await progress(f"loading for a trial request: {text}")

    async def _answers(self, model: str, request: InferRequest) -> None:
        async with self._pool.lease(model) as worker:
            try:
                async with worker.infer(request) as chunks:
                    async for _ in chunks:
                        pass
            except EngineError as error:
                refused = error.code in (Code.INVALID_REQUEST, Code.UNSUPPORTED_PARAMETER)
                raise EngineError(
                    f"the model did not answer a trial request: {error.message}",
                    Code.UNSUPPORTED_MODEL if refused else error.code,
                ) from None

    async def _move(self, model: str, endpoint: Endpoint) -> None:
        """The server of a model is elsewhere, or wants another key."""
        await self._models.set_endpoint(model, endpoint)
        await self._pool.unload(model)

    def _check_room(self, *, known: bool) -> None:
        if not known and len(self._models.list()) >= LIMITS.offers_max:
            raise LocalError(
                f"a node offers at most {LIMITS.offers_max} models; withdraw one first",
                Code.OVER_QUOTA,
            )

    async def withdraw(self, model: str) -> str:
        """Stop offering a model (a name or an id), and take our manifest back; returns the id."""
        found = [m for m in self._models.list() if model in (m, self._name(m))]
        one = the_one(model, found, unknown=f"this node does not hold {model!r}")
        manifest = self._own_manifest(one)
        if manifest is not None:
            self._graph.withdraw(Kind.MODEL, MODEL_URN + one, self._identity, now_ms=self._now_ms())
        await self._models.remove(one)  # first: who sees its worker end does not load it again
        await self._pool.unload(one)
        self._changed()
        return one

    async def _announce(
        self,
        model: str,
        name: str,
        capabilities: tuple[str, ...],
        *,
        license_id: str,
        languages: tuple[str, ...] = (),
    ) -> Published:
        """Sign a manifest, once an engine here has said that it can run the model.

        Where the model is behind a server, the server has to have answered.
        """
        description = self._models.description(model)
        if description.upstream is UNSET:
            estimate = await self._estimate(self._models.source(model))
        else:
            estimate = (await self._pool.resident(model)).estimate
            self.watch.note(model, "")
            self.watch.poke()
        body = ModelBody(
            id=MODEL_URN + model,
            name=name,
            capabilities=capabilities,
            model=description,
            license=license_id,
            languages=languages,
            memory_bytes=estimate.memory_bytes,
            context_tokens=estimate.context_tokens,
        )
        record = self._graph.issue(
            Kind.MODEL,
            body,
            self._identity,
            now_ms=self._now_ms(),
            ttl_ms=LIMITS.manifest_ttl_seconds * 1000,
        )
        self._changed()
        return Published(model, name, record.content_id)

    def _manifest(self, model: str) -> Record | None:
        """The manifest we offer a model under: our own, else the newest anybody signed."""
        own = self._own_manifest(model)
        if own is not None:
            return own
        others = self._graph.manifests_of(model, self._now_ms())
        return max(others, key=lambda record: record.rank, default=None)

    def _own_manifest(self, model: str) -> Record | None:
        for record in self._graph.manifests_of(model, self._now_ms()):
            if record.issuer == self._identity.did:
                return record
        return None

    def _name(self, model: str) -> str:
        manifest = self._manifest(model)
        return manifest.body.name if manifest and isinstance(manifest.body, ModelBody) else ""


def usual_name(upstream_model: str) -> str:
    """What a model behind a server is called, unless somebody names it."""
    return upstream_model[: LIMITS.name_max_chars]
