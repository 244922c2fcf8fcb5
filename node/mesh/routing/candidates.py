"""Who could serve: the index asked, what is known of peers put beside it, and `rank` called."""

import random
from collections.abc import Awaitable, Callable

import trio

from aigrid.metagraph.filters import Filters, Found, Sieve
from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Candidate, ModelSummary
from aigrid.metagraph.selection import Observation, Ranking, Reason, rank
from aigrid.metagraph.typed_query import Wanted
from aigrid.node.discovery.grid import NowMs
from aigrid.node.discovery.peers import Peers
from aigrid.node.mesh.routing.answer import ModelView, the_one
from aigrid.node.mesh.serving import Serving
from aigrid.protocol.model import MODEL_URN

_STATES = ("warm", "loading", "on_disk", "can_fetch")
_AT_A_TIME = 256  # offers filtered before others get their turn


class Candidates:
    """`reach(wanted)` may bring candidates in from other nodes, when the index has none."""

    def __init__(
        self,
        *,
        own_peer_id: str,
        graph: Metagraph,
        peers: Peers,
        serving: Serving,
        reach: Callable[[Wanted], Awaitable[object]],
        now_ms: NowMs,
        rng: random.Random,
    ) -> None:
        self._own_peer_id = own_peer_id
        self._graph = graph
        self._peers = peers
        self._serving = serving
        self._reach = reach
        self._now_ms = now_ms
        self._rng = rng

    def models(self) -> tuple[ModelView, ...]:
        """Everything offered by live nodes, sorted by name."""
        views = []
        for summary in self._graph.index.models(self._now_ms()):
            live = [c for c in summary.candidates if self._peers.alive(c.node)]
            if live:
                views.append(_view(summary, live))
        return tuple(sorted(views, key=lambda view: (view.name, view.model)))

    def offers(self) -> tuple[Candidate, ...]:
        """What live nodes offer, each under its own name, sorted by name and node."""
        live = [
            candidate
            for summary in self._graph.index.models(self._now_ms())
            for candidate in summary.candidates
            if self._peers.alive(candidate.node)
        ]
        return tuple(sorted(live, key=lambda c: (c.name, c.model, c.node)))

    def resolve(self, model: str) -> str:
        """The model id of a name or id. Raises InvalidRequestError."""
        found = self._graph.index.resolve(model.removeprefix(MODEL_URN), self._now_ms())
        return the_one(model, found, unknown=f"no model named {model!r} is known here")

    async def ranked(self, model: str, capability: str) -> Ranking:
        """Candidates in the order of asking, for a model (a name or id) or else a capability.

        Raises:
            InvalidRequestError: `model_not_found`, `ambiguous_model`.
        """
        name = model.removeprefix(MODEL_URN)
        if not model or self._graph.index.resolve(name, self._now_ms()):
            ranking = self.ranked_here(model, capability)
            if ranking.kept or any(one.reason is Reason.BUSY for one in ranking.dropped):
                return ranking
        await self._reach(Wanted("model", name) if model else Wanted("capability", capability))
        return self.ranked_here(model, capability)

    def ranked_here(self, model: str, capability: str = "") -> Ranking:
        """The same, of those that are in the index already."""
        now_ms = self._now_ms()
        if model:
            candidates = self._graph.index.offers_of_model(self.resolve(model), now_ms)
        else:
            candidates = self._graph.index.offers_of_capability(capability, now_ms)
        return self._order(candidates)

    async def find(self, filters: Filters) -> Found:
        """What is known here of a capability, filtered, and in the order of asking."""
        now_ms = self._now_ms()
        sieve = Sieve(self._graph.index, filters, self._observation, now_ms=now_ms)
        offers = self._graph.index.offers_of_capability(filters.capability, now_ms)
        for number, candidate in enumerate(offers):
            if number % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()  # there may be any number
            sieve.add(candidate)
        return sieve.found(self._order)

    def _order(self, candidates: tuple[Candidate, ...]) -> Ranking:
        """Order candidates by what this node has observed."""
        nodes = {candidate.node for candidate in candidates}
        return rank(
            candidates,
            {node: self._observation(node) for node in nodes},
            now_ms=self._now_ms(),
            rng=self._rng,
            own_peer_id=self._own_peer_id,
        )

    def _observation(self, node: str) -> Observation:
        if node == self._own_peer_id:
            return Observation(running=self._serving.running)
        return self._peers.observation(node)


def _view(summary: ModelSummary, offers: list[Candidate]) -> ModelView:
    offers = sorted(offers, key=lambda offer: (_STATES.index(offer.state), offer.node))
    oldest = min(summary.manifests, key=lambda record: record.rank)
    return ModelView(
        model=summary.model,
        name=offers[0].name,
        issuer=oldest.issuer,
        capabilities=summary.capabilities,
        nodes=tuple(dict.fromkeys(offer.node for offer in offers)),
        state=offers[0].state,
        context_tokens=summary.context_tokens,
        created_ms=oldest.valid_from_ms,
    )
