"""Who could serve: the index asked, what is known of peers put beside it, and `rank` called."""

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import trio

from aigrid.metagraph.concepts import is_published
from aigrid.metagraph.evidence import NO_EVIDENCE, Evidence
from aigrid.metagraph.filters import Filters, Found, Sieve
from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Candidate, ModelSummary
from aigrid.metagraph.preferences import ANY, Preferences
from aigrid.metagraph.selection import (
    ANYTHING,
    Criteria,
    Observation,
    Outcomes,
    Ranking,
    Reason,
    rank,
)
from aigrid.metagraph.stated import facts_of
from aigrid.metagraph.typed_query import Wanted
from aigrid.node.discovery.grid import NowMs
from aigrid.node.discovery.peers import Peers
from aigrid.node.mesh.routing.answer import ModelView, the_one
from aigrid.node.mesh.routing.noting import Learner
from aigrid.node.mesh.routing.verdict import of_another_kind
from aigrid.node.mesh.serving import Serving
from aigrid.protocol.errors import InvalidRequestError
from aigrid.protocol.kinds import ModelBody
from aigrid.protocol.mesh_kinds import takes_only_tensors
from aigrid.protocol.model import MODEL_URN

_STATES = ("warm", "loading", "on_disk", "can_fetch")
_AT_A_TIME = 256  # offers filtered before others get their turn


@dataclass(frozen=True, slots=True)
class Sought:
    """Who may answer a request.

    Attributes:
        models: names or ids, one to stand in for another, in the order wanted; else `capability`.
        preferences: among those who have them.
        needed: further members of the request, by name, that they have to take.
        task: capability that the models need for it; "" for any.
        criteria: what they have to be, and what counts among them.
    """

    models: tuple[str, ...]
    capability: str = ""
    preferences: Preferences = ANY
    needed: frozenset[str] = frozenset()
    task: str = ""
    criteria: Criteria = ANYTHING

    @property
    def name(self) -> str:
        """Of the model that is wanted most, as the client calls it; "" where it names none."""
        return self.models[0] if self.models else ""

    @property
    def what(self) -> str:
        """For people."""
        return " or ".join(repr(model) for model in self.models) or repr(self.capability)


class Naming(Protocol):
    """See `node.learning.names`."""

    @property
    def pinned(self) -> Mapping[str, str]: ...

    def resolve(self, name_or_id: str) -> tuple[str, ...]: ...

    def publishers(self, model: str) -> tuple[str, ...]: ...

    def used(self, name: str, model: str, manifest: str) -> None: ...


class Remembered(Learner, Protocol):
    """What is known of models and nodes beyond what runs now: see `node.learning`."""

    def outcomes(self, peer_id: str, capability: str) -> Mapping[str, Outcomes]:
        """What came of requests to a node, by model; `capability` "" for all of them."""

    def evidence(self) -> Evidence:
        """Of quality and reputation, as of now."""

    @property
    def names(self) -> Naming:
        """What names of models mean here."""


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
        remembered: Remembered | None = None,
    ) -> None:
        self._own_peer_id = own_peer_id
        self._graph = graph
        self._peers = peers
        self._serving = serving
        self._reach = reach
        self._now_ms = now_ms
        self._rng = rng
        self._remembered = remembered

    def models(self) -> tuple[ModelView, ...]:
        """Everything offered by nodes that may be asked, sorted by name.

        Those are also nodes that were never met: a request would go there, and few are connected.
        """
        views = []
        for summary in self._graph.index.models(self._now_ms()):
            able = [c for c in summary.candidates if self._askable(c.node)]
            if able:
                views.append(_view(summary, able))
        told = [replace(one, meant=self._meant(one.name) == (one.model,)) for one in views]
        return tuple(sorted(told, key=lambda view: (view.name, view.model)))

    def offers(self) -> tuple[Candidate, ...]:
        """What such nodes offer, each under its own name, sorted by name and node."""
        able = [
            candidate
            for summary in self._graph.index.models(self._now_ms())
            for candidate in summary.candidates
            if self._askable(candidate.node)
        ]
        return tuple(sorted(able, key=lambda c: (c.name, c.model, c.node)))

    def _askable(self, node: str) -> bool:
        """As `rank` sees it: alive, or not known to be otherwise."""
        return node == self._own_peer_id or self._peers.observation(node).alive

    def resolve(self, model: str) -> str:
        """The model id of a name or id. Raises InvalidRequestError."""
        found = self._meant(model.removeprefix(MODEL_URN))
        unknown = f"no model named {model!r} is known here"
        return the_one(model, found, unknown=unknown, said_by=self._said_by)

    def used(self, models: Sequence[str], answered: Candidate) -> None:
        """A request for one of these was answered: under a name it goes on meaning that."""
        if self._remembered is None:
            return
        for model in models:
            name = model.removeprefix(MODEL_URN)
            if name != answered.model and self._meant(name) == (answered.model,):
                self._remembered.names.used(name, answered.model, answered.manifest)

    def _meant(self, name: str) -> tuple[str, ...]:
        if self._remembered is None:
            return self._graph.index.resolve(name, self._now_ms())
        return self._remembered.names.resolve(name)

    def _pinned(self, name: str) -> str:
        """The model id that the operator has given a name to; else the name."""
        return name if self._remembered is None else self._remembered.names.pinned.get(name, name)

    def _said_by(self, model: str) -> tuple[str, ...]:
        return () if self._remembered is None else self._remembered.names.publishers(model)

    def resolved(self, models: Sequence[str]) -> tuple[str, ...]:
        """The model ids of those that can be told, each once, in order.

        Raises:
            InvalidRequestError: none can; why the first cannot.
        """
        found: dict[str, None] = {}
        problem: InvalidRequestError | None = None
        for model in models:
            try:
                found[self.resolve(model)] = None
            except InvalidRequestError as error:
                problem = problem or error
        if problem is not None and not found:
            raise problem
        return tuple(found)

    async def ranked(self, sought: Sought) -> Ranking:
        """Candidates in the order of asking.

        Raises:
            InvalidRequestError: `model_not_found`, `ambiguous_model`, or none of the models named
                does what is asked.
        """
        names = [model.removeprefix(MODEL_URN) for model in sought.models]
        if not names or any(map(self._meant, names)):
            ranking = self.ranked_here(sought)
            if ranking.kept or any(one.reason is Reason.BUSY for one in ranking.dropped):
                return ranking
        for name in names:
            await self._reach(Wanted("model", self._pinned(name)))
        if not names:
            await self._reach(Wanted("capability", sought.capability))
        return self.ranked_here(sought)

    def ranked_here(self, sought: Sought) -> Ranking:
        """The same, of those that are in the index already."""
        index, now_ms = self._graph.index, self._now_ms()
        if not sought.models:
            return self._order(index.offers_of_capability(sought.capability, now_ms), sought)
        models = self._able(self.resolved(sought.models), sought.task)
        offers = [offer for model in models for offer in index.offers_of_model(model, now_ms)]
        return self._order(tuple(offers), replace(sought, models=models))

    def _able(self, models: tuple[str, ...], task: str) -> tuple[str, ...]:
        """Those of the models whose manifests, anybody's, do not rule out that they do the task.

        Raises:
            InvalidRequestError: there are none. Else one would be loaded to find that out.
        """
        does: dict[str, None] = {}
        able, tensors = [], False
        for model in models:
            bodies = self._bodies(model)
            claims = tuple(name for body in bodies for name in body.capabilities)
            does |= dict.fromkeys(claims)
            tensors = bool(bodies) and all(map(takes_only_tensors, bodies))
            does_it = task in claims or self._may_do(claims, task)
            if not task or (does_it and not tensors):
                able.append(model)
        if models and not able:
            raise of_another_kind(tuple(does), task, tensors=tensors)
        return tuple(able)

    def _bodies(self, model: str) -> tuple[ModelBody, ...]:
        manifests = self._graph.index.manifests_of(model, self._now_ms())
        bodies = (record.body for record in manifests)
        return tuple(body for body in bodies if isinstance(body, ModelBody))

    def _may_do(self, claims: tuple[str, ...], task: str) -> bool:
        """Whether one of these capabilities is below the task, above it, or not known here."""
        concepts, now_ms = self._graph.index.concepts, self._now_ms()
        if is_published(task) and not concepts.known(task, now_ms):
            return True
        above = concepts.ancestors(task)
        return any(
            name in above or task in concepts.ancestors(name) or not concepts.known(name, now_ms)
            for name in claims
        )

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

    def _order(self, candidates: tuple[Candidate, ...], sought: Sought | None = None) -> Ranking:
        """Order candidates by what this node has observed; models are ids here."""
        sought = sought or Sought(())
        criteria, now_ms = sought.criteria, self._now_ms()
        capability = sought.capability
        constraints = criteria.constraints
        if constraints is not None:
            capability = constraints.capability
        elif capability and criteria.strategy.weights is not None:
            constraints = Filters(capability=capability)  # of which quality is to be known
        nodes = {candidate.node for candidate in candidates}
        rng, seed = self._rng, criteria.seed
        if seed is not None:
            rng = random.Random(seed)  # noqa: S311 - draws to be repeated, no secrets
        return rank(
            candidates,
            {node: self._observation(node, capability) for node in nodes},
            now_ms=now_ms,
            rng=rng,
            own_peer_id=self._own_peer_id,
            strategy=criteria.strategy,
            models=sought.models,
            preferences=sought.preferences,
            needed=sought.needed,
            constraints=constraints,
            facts=facts_of(self._graph.index, capability, now_ms),
            evidence=NO_EVIDENCE if self._remembered is None else self._remembered.evidence(),
        )

    def _observation(self, node: str, capability: str = "") -> Observation:
        if node == self._own_peer_id:
            seen = Observation(running=self._serving.running)
        else:
            seen = self._peers.observation(node)
        if self._remembered is None:
            return seen
        outcomes = self._remembered.outcomes(node, capability)
        return replace(seen, outcomes=outcomes) if outcomes else seen


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
        takes=tuple(sorted({name for offer in offers for name in offer.takes})),
    )
