"""The models this node holds: how one gets onto its shelf and leaves it. See `offering`."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakValueDictionary

import structlog
import trio
from msgspec import UNSET, UnsetType

from aigrid.engines.base import Endpoint, Estimate, ModelSource, Served
from aigrid.metagraph.graph import Metagraph
from aigrid.node.discovery.grid import NowMs
from aigrid.node.mesh.pool.pool import ModelPool
from aigrid.node.mesh.pool.progress import LoadProgress
from aigrid.node.mesh.routing.answer import the_one
from aigrid.node.mesh.shelf.chunk_lists import chunk_lists_of
from aigrid.node.mesh.shelf.copying import Progress, no_progress
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.node.mesh.shelf.offering import Offering
from aigrid.node.mesh.shelf.sayable import usual_name
from aigrid.node.mesh.shelf.server_model import Discover, ServerModel, look
from aigrid.node.mesh.shelf.starter import fetch
from aigrid.node.mesh.shelf.trying import Trials
from aigrid.node.policy.explaining import Foresight
from aigrid.protocol.credential_kinds import Rules
from aigrid.protocol.errors import (
    AigridError,
    Code,
    EngineError,
    LocalError,
    UsageError,
)
from aigrid.protocol.identity import Identity
from aigrid.protocol.inference import InferRequest
from aigrid.protocol.kinds import Kind, ModelBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.mesh_kinds import Serves
from aigrid.protocol.model import MODEL_URN, ModelDescription, model_id
from aigrid.protocol.record import Record
from aigrid.protocol.tensors import TensorSpecs
from aigrid.protocol.upstream import Upstream

log = structlog.get_logger(__name__)
_UNFIT = frozenset({Code.UNSUPPORTED_MODEL, Code.UNSUPPORTED_QUANTISATION, Code.UNSAFE_FILE})


@dataclass(frozen=True, slots=True)
class Published:
    """A model id, and the content id of the manifest signed for it.

    `before` is the name that this node offered the same model by until now, if that was another.
    """

    model: str
    name: str
    record: str
    before: str = ""


class Hosting(Offering):
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
        runs_code: Callable[[str], bool] = lambda _: False,
        takes: Callable[[str], tuple[str, ...]] = lambda _: (),
        trusted_publishers: Collection[str] = (),
        foresight: Callable[[], Foresight] | None = None,
    ) -> None:
        """`estimate` is asked of an engine here; see `Offering` for the rest."""
        super().__init__(
            identity=identity,
            graph=graph,
            models=models,
            pool=pool,
            now_ms=now_ms,
            changed=changed,
            runs_code=runs_code,
            takes=takes,
            trusted_publishers=trusted_publishers,
            foresight=foresight,
        )
        self._estimate = estimate
        self._discover = discover
        self._trials = Trials(pool, loading)
        self._changed = changed
        self._locks: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()

    def _check_publish(self, model: str, capabilities: tuple[str, ...]) -> None:
        if self._foresight is not None:
            obtained = self.manifest(model) if self._models.obtained(model) else None
            self._foresight().check_publish(model, capabilities, obtained)

    async def take_in(
        self, manifest: Record, files: dict[str, Path], progress: Progress = no_progress
    ) -> None:
        """Put a model that was fetched by `manifest` on the shelf, and offer it. Files are moved.

        Raises:
            EngineError: no engine here takes it.
            LocalError: `hash_mismatch`, `over_quota`, `data_directory_unusable`.
        """
        body = manifest.body
        if not isinstance(body, ModelBody):
            raise LocalError("not a manifest", Code.MALFORMED)
        model = model_id(body.model)
        async with self._alone(model):
            if model in self._models.list():
                return
            self.check_room()
            await self._models.add(
                body.model, files, take=True, own=False, obtained=manifest, progress=progress
            )
            try:
                self._pool.judge(model, await self._estimate(self._models.source(model)))
            except EngineError as error:
                if error.code in _UNFIT:
                    await self._undo(model, {})
                    raise
                log.warning("fetched_model_not_estimated", model=model, code=error.code)
            self._changed()

    async def remove_fetched(self, model: str) -> None:
        """Take a fetched model off the disk; nothing happens where it is not there.

        Raises:
            LocalError: `busy` where somebody uses it; `data_directory_unusable`.
        """
        async with self._alone(model):
            if model not in self._models.list():
                return
            if self._pool.busy(model):
                raise LocalError("the model is in use: try again later", Code.BUSY)
            await self._remove(model, {})
            self._changed()

    def set_aside(self, model: str) -> None:
        """Neither offer nor give a model whose files are damaged."""
        self._models.set_aside(model)
        self._changed()

    async def fetch(self, name: str, progress: Progress) -> Published:
        """Bring a starter model by name, sign a manifest for it, and offer it."""
        self.check_room()
        held = self._models.list()
        starter = await fetch(name, self._models, progress)
        async with self._alone(starter.model):
            try:
                self._check_publish(starter.model, starter.capabilities)
            except AigridError:
                if starter.model not in held:
                    await self._undo(starter.model, {})
                raise
            return await self._announce(
                starter.model, starter.name, starter.capabilities, license_id=starter.license
            )

    async def look(self, upstream: ServerModel) -> Served:
        """What the server says of the model; see `server_model.look`."""
        return await look(self._discover, upstream)

    async def publish_upstream(
        self,
        upstream: ServerModel,
        *,
        capability: str,
        name: str = "",
        license_id: str = "",
        languages: tuple[str, ...] = (),
        policy: Rules | UnsetType = UNSET,
        serves: Serves | UnsetType = UNSET,
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
            name=name or usual_name(served_as.name),
            capabilities=(capability,),
            license_id=license_id,
            languages=languages,
            policy=policy,
            serves=serves,
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
        policy: Rules | UnsetType = UNSET,
        serves: Serves | UnsetType = UNSET,
        endpoint: Endpoint | None = None,
        trial: InferRequest | None = None,
        tensors: tuple[TensorSpecs, TensorSpecs] = ((), ()),
        take: bool = False,
        own: bool = True,
        progress: Progress = no_progress,
    ) -> Published:
        """Put a described model on the shelf, have it answer `trial`, and offer it.

        With `take` its files are moved rather than copied. `own`: whether this node is the
        publisher of what code there is in them. Without `policy` or `serves` it keeps the one that
        this node published it with before. What fails leaves nothing behind. See `ModelBody`.
        """
        model = model_id(description)
        async with self._alone(model, publishing=own):
            self._check_publish(model, capabilities)
            known = model in self._models.list()
            self.check_room(known=known)
            named = self._own_name(model)
            before = self._models.endpoint(model) if known else None
            await self._models.add(
                description, files, endpoint=endpoint, take=take, own=own, progress=progress
            )
            try:
                if known and endpoint is not None:
                    await self._move(model, endpoint)
                if trial is not None:
                    await self._trials.have_answer(model, trial, progress)
                published = await self._announce(
                    model,
                    name,
                    capabilities,
                    license_id=license_id,
                    languages=languages,
                    policy=policy,
                    serves=serves,
                    tensors=tensors,
                )
            except BaseException:
                with trio.CancelScope(shield=True):
                    if not known:
                        await self._undo(model, files if take else {})
                    elif before is not None:
                        await self._move(model, before)
                raise
            if own:
                await self._models.claim(model)
            return replace(published, before=named if named != name else "")

    def check_name(self, name: str, model: str) -> None:
        """Raise UsageError (`ambiguous_model`) where another model here has that name already.

        Neither would be found by it any more.
        """
        for other in self._models.list():
            if other != model and self._own_name(other) == name:
                raise UsageError(
                    f"this node offers another model as {name!r} ({other}): `aigrid withdraw` that "
                    "first, or give this one another name with --name",
                    Code.AMBIGUOUS_MODEL,
                )

    async def _undo(self, model: str, taken: Mapping[str, Path]) -> None:
        """Take a model off the shelf again; why it has to go is what its publisher is told."""
        try:
            await self._remove(model, taken)
        except AigridError as error:
            log.warning("publication_not_undone", model=model, code=error.code)

    async def _remove(self, model: str, taken: Mapping[str, Path]) -> None:
        """In this order: nobody loads it anew, nobody is loading it, and then its files go."""
        self._models.set_aside(model)
        await self._pool.unload(model)
        await self._models.discard(model, taken=taken)

    @asynccontextmanager
    async def _alone(self, model: str, *, publishing: bool = False) -> AsyncIterator[None]:
        """Whoever adds or withdraws a model waits for whoever is about that already.

        While it is `publishing`, and its manifest not signed yet, a model is this node's own.
        """
        lock = self._locks.setdefault(model, trio.Lock())
        async with lock:
            if publishing:
                self._publishing.add(model)
            try:
                yield
            finally:
                self._publishing.discard(model)

    async def _move(self, model: str, endpoint: Endpoint) -> None:
        """The server of a model is elsewhere, or wants another key."""
        await self._models.set_endpoint(model, endpoint)
        await self._pool.unload(model)

    def check_room(self, *, known: bool = False) -> None:
        """Raise LocalError (`over_quota`) unless one model more, or one `known`, can be offered."""
        if not known and len(self._models.list()) >= LIMITS.offers_max:
            raise LocalError(
                f"a node offers at most {LIMITS.offers_max} models; withdraw one first",
                Code.OVER_QUOTA,
            )

    async def withdraw(self, model: str) -> str:
        """Stop offering a model (a name or an id), and take our manifest back; returns the id."""
        found = [m for m in self._models.list() if model in (m, self.name(m))]
        one = the_one(model, found, unknown=f"this node does not hold {model!r}")
        async with self._alone(one):
            self._models.description(one)  # or somebody else has withdrawn it meanwhile
            if self._own_manifest(one) is not None:
                now_ms = self._now_ms()
                self._graph.withdraw(Kind.MODEL, MODEL_URN + one, self._identity, now_ms=now_ms)
            await self._remove(one, {})
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
        policy: Rules | UnsetType = UNSET,
        serves: Serves | UnsetType = UNSET,
        tensors: tuple[TensorSpecs, TensorSpecs] = ((), ()),
    ) -> Published:
        """Sign a manifest, once an engine here has said that it can run the model.

        Where the model is behind a server, the server has to have answered.
        """
        description = self._models.description(model)
        if description.upstream is UNSET:
            estimate = await self._estimate(self._models.source(model))
            self._pool.judge(model, estimate)
        else:
            estimate = (await self._pool.resident(model)).estimate
            self.watch.note(model, "")
            self.watch.poke()
        chunk_lists = await chunk_lists_of(self._models, model)
        body = ModelBody(
            id=MODEL_URN + model,
            name=name,
            capabilities=capabilities,
            model=description,
            license=license_id,
            languages=languages,
            memory_bytes=estimate.memory_bytes,
            context_tokens=estimate.context_tokens,
            policy=self._own_policy(model) if policy is UNSET else policy,
            serves=self._own_serves(model) if serves is UNSET else serves,
            inputs=tensors[0] or UNSET,
            outputs=tensors[1] or UNSET,
            chunk_lists=chunk_lists,
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
