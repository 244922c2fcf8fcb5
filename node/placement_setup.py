"""Placement put together: who waits, who sees it, who acts."""

import random
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

from aigrid.node.mesh.placement.bringable import Bringable, Weights
from aigrid.node.mesh.placement.demands import Demands
from aigrid.node.mesh.placement.keeping import Keeping
from aigrid.node.mesh.placement.placing import Placing
from aigrid.node.mesh.placement.sight import Sight
from aigrid.node.mesh.placement.summoner import Summoner
from aigrid.node.mesh.shelf.copying import Progress
from aigrid.protocol.kinds import ModelBody, Offer
from aigrid.protocol.record import Record

if TYPE_CHECKING:
    from aigrid.node.app import Node


class Placement:
    """The services of placement.

    Attributes:
        summon: what `Router` calls when nobody serves a request.
        placing: what is on its way here, and why.
        services: to be run once the node's engines are known.
    """

    def __init__(self, node: "Node", weights: Weights, *, rng: random.Random) -> None:
        """Of a node whose models and peers are there."""
        self._node = node
        self._weights = weights
        graph, now_ms, config = node.graph, node.now_ms, node.config
        self.demands = Demands(
            graph,
            node.identity,
            queued=self._queued,
            manifest_of=node.hosting.manifest,
            audience=lambda: not self._sight.alone(),
            changed=lambda: self.placing.poke(),  # noqa: PLW0108 - made later
            now_ms=now_ms,
        )
        self._sight = Sight(
            graph,
            node.peers,
            own_waiting=self.demands.counts,
            seeds=weights.holders,
            running=lambda: node.serving.running,
            offered=lambda model: not self.held(model) or node.hosting.offered(model),
            now_ms=now_ms,
            rng=rng,
        )
        chosen = config.placement
        bringable = Bringable(
            chosen,
            graph=graph,
            sight=self._sight,
            weights=weights,
            machine=self,
            ledger=node.weights.ledger,
            trusted=config.trusted_publishers,
            now_ms=now_ms,
        )
        node.weights.unasked = partial(self._unasked, bringable)
        self.placing = Placing(
            graph,
            node.pool,
            self._sight,
            bringable,
            bring=self._bring,
            changed=self._changed,
            idle_seconds=chosen.replica_idle_seconds,
        )
        self.keeping = Keeping(
            graph,
            self._sight,
            bringable,
            seeds_min=chosen.replicas_min,
            patience_seconds=chosen.keep_after_seconds,
            bring=self._bring,
            held=self.held,
            room=self._room,
            now_ms=now_ms,
            rng=rng,
        )
        self.summon = Summoner(
            graph, self._sight, self.demands, placing=lambda: self.placing, now_ms=now_ms
        )
        self.services = (self.demands, self.placing, self.summon, self.keeping)

    def offers(self) -> tuple[Offer, ...]:
        """What this node serves, and what is on its way here."""
        served = self._node.hosting.offers()
        known = {offer.model for offer in served}
        return (*served, *(one for one in self.placing.coming() if one.model not in known))

    def view(self) -> dict[str, str]:
        """Model id -> why this node does or does not host a model that is wanted."""
        return {model: str(told) for model, told in sorted(self.placing.view().items())}

    def why_not(self, model: str) -> str:
        """Why this node does not serve a model now, or "": what it has, and what it might bring."""
        if self.held(model):
            return self._node.hosting.problem(model)
        return self.view().get(model, "")

    # -- `Machine`

    def held(self, model: str) -> bool:
        return model in self._node.models.list()

    def problem(self, model: str) -> str:
        return self._node.hosting.problem(model)

    # -- inside

    def _queued(self) -> dict[str, int]:
        """Model id -> requests that wait for a slot of a loaded model here."""
        if not self._node.serving.running:
            return {}
        found = self._node.pool.view().items()
        return {m: use.waiting for m, use in found if use.state == "warm" and use.waiting}

    def _unasked(self, bringable: Bringable, manifest: Record, askers: Collection[str]) -> str:
        """Why a fetch that was begun for others, or to keep files, does not go on; or ""."""
        if not bringable.on_list(manifest):
            return "it is not on this node's list: see `[placement] host`"
        return bringable.problem(manifest, askers, load=False)

    async def _bring(self, model: str, manifest: Record, askers: Collection[str]) -> None:
        """Get the files of a model here, if they are not. Raises AigridError."""
        body = manifest.body
        if self.held(model) or not isinstance(body, ModelBody):
            return
        if body.model.files:
            progress = self._tell(model)
            await self._weights.fetch(model, manifest, askers=askers, progress=progress)
        else:
            await self._node.hosting.take_in(manifest, {})

    def _room(self) -> int:
        """Bytes that fetched models may take besides those that are here."""
        taken = sum(self._node.weights.cache.fetched().values())
        return self._node.config.weights.cache_bytes - taken

    def _changed(self) -> None:
        self._node.announcer.poke()
        self._node.hints.poke()

    def _tell(self, model: str) -> Progress:
        async def progress(text: str) -> None:
            self._node.loading.tell(model, text)

        return progress
