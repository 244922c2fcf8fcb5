"""Which of the models here are offered, under which manifest, and why the others are not."""

from collections.abc import Callable, Collection
from typing import Any

from msgspec import UNSET, UnsetType

from aigrid.metagraph.graph import Metagraph
from aigrid.node.discovery.grid import NowMs
from aigrid.node.mesh.pool.pool import ModelPool
from aigrid.node.mesh.shelf.hostable import Standing, why_not_host
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.node.mesh.shelf.watch import UpstreamWatch
from aigrid.node.policy.explaining import Foresight
from aigrid.protocol.credential_kinds import Rules
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import ModelBody, Offer, OfferState, Seed
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.mesh_kinds import Serves
from aigrid.protocol.policy import rules_of
from aigrid.protocol.record import Record


class Offering:
    """What this node says of its models. Needs nothing but what is on the disk and in the graph."""

    def __init__(
        self,
        *,
        identity: Identity,
        graph: Metagraph,
        models: LocalModels,
        pool: ModelPool,
        now_ms: NowMs,
        changed: Callable[[], None],
        runs_code: Callable[[str], bool] = lambda _: False,
        takes: Callable[[str], tuple[str, ...]] = lambda _: (),
        trusted_publishers: Collection[str] = (),
        foresight: Callable[[], Foresight] | None = None,
    ) -> None:
        """`runs_code`: whether files of a format may run code; see `Probe.code_formats`.

        `takes`: further members of a text request that models of a format take; see `Probe.takes`.
        `foresight` says what may be published and hosted; without it, everything.
        """
        self._identity = identity
        self._graph = graph
        self._models = models
        self._pool = pool
        self._now_ms = now_ms
        self._runs_code = runs_code
        self._takes = takes
        self._trusted_publishers = trusted_publishers
        self._foresight = foresight
        self._publishing: set[str] = set()
        self.watch = UpstreamWatch(models, pool, changed=changed)

    def offers(self) -> tuple[Offer, ...]:
        """What this node can serve now."""
        states = self._pool.states()
        found = []
        for model in self._models.list():
            manifest = self.manifest(model)
            if manifest is not None and not self.problem(model):
                state: OfferState = states.get(model, "on_disk")
                slots = min(self._pool.slots(model), LIMITS.slots_max) or 1
                takes = self.takes(model)
                found.append(Offer(model, manifest.content_id, state, slots, takes=takes))
        return tuple(found)

    def manifests(self) -> list[ModelBody]:
        """The manifests under which that is, those that are believed."""
        now_ms = self._now_ms()
        found = (self._graph.index.manifest(one.manifest, now_ms) for one in self.offers())
        return [one.body for one in found if one is not None and isinstance(one.body, ModelBody)]

    def takes(self, model: str) -> tuple[str, ...]:
        """Further members of a text request that a model here takes, by name."""
        return self._takes(self._models.description(model).format)

    def seeds(self) -> tuple[Seed, ...]:
        """The models whose files this node may give to others."""
        found = ((model, self.seeded_under(model)) for model in self._models.list())
        return tuple(Seed(model, m.content_id) for model, m in found if m is not None)

    def seeded_under(self, model: str) -> Record | None:
        """The manifest under which the files of a model may be given away; None: they may not."""
        manifest = self.manifest(model) if model in self._models.list() else None
        body = None if manifest is None else manifest.body
        if manifest is None or not isinstance(body, ModelBody) or body.chunk_lists is UNSET:
            return None
        given = any("fetch" in rule.actions for rule in rules_of(manifest))
        return manifest if given and not self._barred(model) else None

    def withheld(self) -> list[dict[str, str]]:
        """The models here that are not offered now, and why."""
        return [
            {"model": model, "name": self.name(model), "problem": problem}
            for model in self._models.list()
            if (problem := self.problem(model))
        ]

    def offered(self, model: str) -> bool:
        """Whether a request for `model` may be served here."""
        return (
            model in self._models.list()
            and self.manifest(model) is not None
            and not self.problem(model)
        )

    def trusted(self, model: str) -> bool:
        """Whether this node trusts anybody who published a model.

        One is enough: the id of a model says what every byte of it is. What others say of it
        besides takes nothing away.
        """
        did = self._identity.did
        if model in self._publishing and did in self._trusted_publishers:
            return True
        signed = self._graph.manifests_of(model, self._now_ms())
        others = self._models.brought(model)  # what we sign of it says nothing of its code
        return any(self.trusts(m) for m in signed if not (others and m.issuer == did))

    def publishes(self, model: str) -> bool:
        """Whether this node itself says what a model is."""
        return self._own_manifest(model) is not None

    def standing(self, model: str, manifest: Record) -> Standing:
        """What is permitted here under a manifest; see `why_not_host`.

        What this node has published itself, or somebody has put here by hand, nobody hosts on
        sufferance.
        """
        body, foresight = manifest.body, self._foresight and self._foresight()
        live = self._graph.index.manifest(manifest.content_id, self._now_ms()) is not None
        runs_code = isinstance(body, ModelBody) and self._runs_code(body.model.format)
        safe = not runs_code or self.trusted(model)
        if foresight is None:
            return Standing(live, hosted=True, safe=safe)
        own = model in self._models.list() and self._models.obtained(model) is None
        refusal = None if own else foresight.may_host(manifest)
        return Standing(live, foresight.hosts(manifest), safe, refusal)

    def manifest(self, model: str) -> Record | None:
        """The manifest we offer a model under: our own, else the one by which it was fetched.

        Of that the newest that its issuer has signed. Of what somebody put here by hand it is the
        newest of those we trust: its policy binds, and its issuer may do everything, so it is never
        that of just anybody.
        """
        own, obtained = self._own_manifest(model), self._models.obtained(model)
        if own is not None:
            return own
        signed = self._graph.manifests_of(model, self._now_ms())
        if obtained is not None:
            signed = tuple(m for m in signed if m.issuer == obtained.issuer)
        else:
            signed = tuple(filter(self.trusts, signed))
        return max(signed, key=lambda m: m.rank, default=None)

    def trusts(self, manifest: Record) -> bool:
        """Whether the operator named its issuer as a publisher whose models may run code."""
        return manifest.issuer in self._trusted_publishers

    def problem(self, model: str) -> str:
        """Why a model is not offered now, or "". One that does not run here may still be given."""
        return self._barred(model) or self.watch.problem(model) or self._pool.problem(model)

    def _barred(self, model: str) -> str:
        """Why a model may neither be served nor given away here, or ""."""
        manifest = self.manifest(model)
        if manifest is not None:
            refusal = why_not_host(model, manifest, self.standing(model, manifest))
            return "" if refusal is None else f"it may not be hosted here: {refusal.message}"
        if self._runs_code(self._models.description(model).format) and not self.trusted(model):
            return "it can run code of its publisher, whom this node does not trust (any more)"
        if self._models.obtained(model) is not None:
            return "the manifest by which it was fetched was withdrawn or has expired"
        return "neither this node nor a publisher whom it trusts says what it is: publish it"

    def _own_manifest(self, model: str) -> Record | None:
        manifests = self._graph.manifests_of(model, self._now_ms())
        return next((m for m in manifests if m.issuer == self._identity.did), None)

    def _own_policy(self, model: str) -> Rules | UnsetType:
        own = self._own_manifest(model)
        return own.body.policy if own is not None and isinstance(own.body, ModelBody) else UNSET

    def _own_serves(self, model: str) -> Serves | UnsetType:
        own = self._own_manifest(model)
        return own.body.serves if own is not None and isinstance(own.body, ModelBody) else UNSET

    def name(self, model: str) -> str:
        """What a model here is called, or ""."""
        return _name_in(self.manifest(model) or self._models.obtained(model))

    def _own_name(self, model: str) -> str:
        return _name_in(self._own_manifest(model))


def _name_in(manifest: Record | None) -> str:
    body: Any = None if manifest is None else manifest.body
    return body.name if isinstance(body, ModelBody) else ""
