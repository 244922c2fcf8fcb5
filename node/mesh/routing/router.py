"""Finding somebody to answer: candidates from the index, order from selection, then attempts.

Before the first chunk, a candidate that refuses, is busy or dies costs the client nothing: the next
one is tried, and when there is none somebody is summoned. After it, another holder of the same
model goes on where the answer broke off; one that nobody can go on with ends in an explicit error.
"""

import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import structlog
import trio

from aigrid.metagraph.filters import Filters, Found
from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Candidate
from aigrid.metagraph.preferences import ANY, Preferences
from aigrid.metagraph.selection import ANYTHING, Criteria, Explained, Ranking, explain
from aigrid.metagraph.typed_query import Wanted
from aigrid.node.discovery.grid import NowMs
from aigrid.node.discovery.peers import Peers
from aigrid.node.discovery.trouble import own_trouble
from aigrid.node.mesh.routing.answer import Answer, ModelView, Segment
from aigrid.node.mesh.routing.attempts import Attempts, Opened, Seek, Tried
from aigrid.node.mesh.routing.beginning import ready
from aigrid.node.mesh.routing.candidates import Candidates, Remembered, Sought
from aigrid.node.mesh.routing.continuation import Unbroken, others_first
from aigrid.node.mesh.routing.mending import Asking
from aigrid.node.mesh.routing.segment import ReceiptBook
from aigrid.node.mesh.routing.summoning import Summon, Unmet, nobody_comes
from aigrid.node.mesh.routing.verdict import TOLD, nobody_now, nobody_wanted, unmet, wants_some
from aigrid.node.mesh.routing.waiting import BROUGHT, IN_LINE, SOUGHT, Waiting, beside
from aigrid.node.mesh.serving import Serving
from aigrid.node.network.streams import RpcClient
from aigrid.node.observing.trace import NO_TRACE, Trace
from aigrid.node.policy.caller import OPERATOR, Caller
from aigrid.node.policy.presenting import Presenter
from aigrid.protocol.errors import (
    POLICY,
    AigridError,
    Code,
    InvalidRequestError,
)
from aigrid.protocol.identity import did_of_peer_id
from aigrid.protocol.inference import InferRequest, TextRequest, asked_for
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.more import needed

log = structlog.get_logger()
_DIAL_AGAIN_SECONDS = 0.5


class Router:
    """Implements `Inference` over the grid.

    `reach(wanted)` may bring candidates in from other nodes, when the index has none;
    `summon(unmet)` may bring a node to serve, when none does. `own_problem(model)` says why this
    node does not serve a model that it could, or "".
    """

    def __init__(
        self,
        *,
        own_peer_id: str,
        graph: Metagraph,
        peers: Peers,
        rpc: RpcClient,
        serving: Serving,
        presenter: Presenter,
        receipts: ReceiptBook,
        reach: Callable[[Wanted], Awaitable[object]],
        rotation_waits_for: Callable[[], str],
        now_ms: NowMs,
        rng: random.Random,
        summon: Summon = nobody_comes,
        own_problem: Callable[[str], str] = lambda _: "",
        remembered: Remembered | None = None,
    ) -> None:
        self._own_peer_id = own_peer_id
        self._graph = graph
        self._peers = peers
        self._presenter = presenter
        self._rotation_waits_for = rotation_waits_for
        self._now_ms = now_ms
        self._summon = summon
        self._own_problem = own_problem
        self._serving = serving
        self._candidates = Candidates(
            own_peer_id=own_peer_id,
            graph=graph,
            peers=peers,
            serving=serving,
            reach=reach,
            now_ms=now_ms,
            rng=rng,
            remembered=remembered,
        )
        self._attempts = Attempts(
            own_peer_id=own_peer_id,
            graph=graph,
            peers=peers,
            rpc=rpc,
            serving=serving,
            presenter=presenter,
            receipts=receipts,
            now_ms=now_ms,
            learner=remembered,
        )

    def models(self) -> tuple[ModelView, ...]:
        """Everything offered by nodes that may be asked, sorted by name."""
        return self._candidates.models()

    def offers(self) -> tuple[Candidate, ...]:
        """What such nodes offer, each under its own name, sorted by name and node."""
        return self._candidates.offers()

    def resolve(self, model: str) -> str:
        """The model id of a name or id. Raises InvalidRequestError."""
        return self._candidates.resolve(model)

    async def find(self, filters: Filters) -> Found:
        """What is known here of a capability, filtered, and in the order of asking."""
        return await self._candidates.find(filters)

    async def explain(self, sought: Sought) -> tuple[Explained, ...]:
        """What would become of every candidate now. Raises as `Candidates.ranked` does."""
        return explain(await self._ranked(sought))

    @asynccontextmanager
    async def infer(
        self,
        model: str,
        request: InferRequest,
        *,
        request_id: str,
        capability: str = "",
        fallbacks: tuple[str, ...] = (),
        preferences: Preferences = ANY,
        criteria: Criteria = ANYTHING,
        caller: Caller = OPERATOR,
        ended: list[Segment] | None = None,
        patience_seconds: float = LIMITS.patience_seconds,
        waiting: Waiting | None = None,
        trace: Trace = NO_TRACE,
    ) -> AsyncIterator[Answer]:
        """See `Inference.infer`."""
        sought = Sought(
            (model, *fallbacks) if model else (),
            capability,
            preferences,
            needed(request, strict=preferences.require_parameters),
            task=asked_for(request),
            criteria=criteria,
        )
        asking = Asking(
            request,
            request_id,
            caller,
            self._presenter.salt(),
            ended=[] if ended is None else ended,
            waiting=waiting or Waiting(),
            patience_seconds=patience_seconds,
            trace=trace,
            capability=capability,
        )
        tried = Tried()
        deadline = trio.current_time() + patience_seconds
        opened = await self._begin(sought, asking, tried, deadline)
        begun = opened.candidate
        same = replace(sought, models=(begun.model,))
        chunks = Unbroken(
            opened,
            lambda rest, failed: self._go_on(answer, same, asking, tried, rest=rest, failed=failed),
        )
        answer = Answer(request_id, begun.model, begun.name, begun.node, chunks, tried.attempts)
        answer.ranking, answer.sent = tried.ranking, opened.request
        answer.asked_seconds = opened.asked_seconds
        opened.segment.segments = answer.segments
        try:
            async with chunks:
                yield answer
        finally:
            if opened.segment.finished:
                self._candidates.used(sought.models, begun)
            self._summon.freed()

    async def _begin(self, sought: Sought, asking: Asking, tried: Tried, deadline: float) -> Opened:
        """The first candidate that begins to answer; somebody is summoned while there is none.

        Raises:
            AigridError: there is none.
        """
        # Whoever waits for longer may try more often; who tried in vain rests so long in between.
        left_seconds = max(0.0, deadline - trio.current_time())
        often = math.ceil(left_seconds / LIMITS.summon_retry_seconds)
        try:
            for _ in range(LIMITS.summons_max + often):
                with asking.trace.child("routing"):
                    ranking = await self._ranked(sought)
                tried.problem, tried.ranking = None, ranking
                wanted = self._behind(sought, asking) if wants_some(ranking) else None
                if wanted is None:
                    before, asking.place.asks = len(asking.ended), True
                    seek = self._seeking(sought, asking)
                    opened = await self._attempts.first(ranking, asking, tried, seek=seek)
                    if opened is not None:
                        return opened
                    if tried.another:
                        continue
                    if tried.problem is not None and not sought.preferences.allow_fallbacks:
                        raise tried.problem
                    ran = len(asking.ended) > before
                    wanted = self._unmet(sought, ranking, tried.problem, ran=ran)
                if wanted is None or not await self._summoned(wanted, asking, deadline):
                    break
            busy = wanted is not None and wanted.reason == "busy"
            raise self._nobody(sought, tried.problem, ranking, busy=busy)
        finally:
            self._summon.left(asking.place)
            tried.problem = None  # it holds frames that hold `tried`, and with it the request

    def _behind(self, sought: Sought, asking: Asking) -> Unmet | None:
        """Who comes while others wait for the same waits behind them; None where nobody does."""
        models = self._candidates.resolved(sought.models) or ("",)
        crowded = all(self._summon.crowded(model, sought.capability) for model in models)
        if asking.place.went or not crowded:
            return None
        return Unmet(models[0], sought.capability, sought.name, "busy")

    async def _summoned(self, wanted: Unmet, asking: Asking, deadline: float) -> bool:
        """Summon, and tell who waits what for: he hears that, too, if it takes too long."""
        waiting = asking.waiting

        async def talk() -> None:
            while True:
                waiting.tell(*self._coming(wanted))
                await trio.sleep(LIMITS.loading_seconds)

        began_seconds = trio.current_time()
        comes = await beside(self._summon(wanted, asking.place, deadline=deadline), talk)
        waiting.worked(trio.current_time() - began_seconds)
        waiting.over()
        return comes

    def _seeking(self, sought: Sought, asking: Asking) -> Seek | None:
        """To seek others than the last candidate; None where no other may be asked."""

        async def seek(stalls: Candidate) -> bool:
            wanted = Unmet(stalls.model, "", sought.name, "nobody offers")
            deadline = trio.current_time() + asking.patience_seconds
            if not await self._summon(wanted, asking.place, deadline=deadline):
                return False
            others = (kept for kept in self._candidates.ranked_here(sought).kept if ready(kept))
            found = any(kept.candidate.node != stalls.node for kept in others)
            if found:
                asking.waiting.over()
            return found

        return seek if sought.preferences.allow_fallbacks else None

    def _coming(self, wanted: Unmet) -> tuple[str, str]:
        """The node that is about to serve a demand, "" where none is known; and how far it is."""
        index, now_ms = self._graph.index, self._now_ms()
        if wanted.reason == "busy":
            return "", IN_LINE
        offers = (
            index.offers_of_model(wanted.model, now_ms)
            if wanted.model
            else index.offers_of_capability(wanted.capability, now_ms)
        )
        coming = next((offer for offer in offers if offer.state == "loading"), None)
        if coming is None:
            return "", SOUGHT
        own = coming.node == self._own_peer_id
        return coming.node, (own and self._serving.progress(coming.model)) or BROUGHT

    async def _go_on(
        self,
        answer: Answer,
        sought: Sought,
        asking: Asking,
        tried: Tried,
        *,
        rest: TextRequest,
        failed: Candidate,
    ) -> Opened | None:
        """Who goes on with an answer that broke off: another holder of the same model, if any.

        Else the one that failed, if it comes back soon, or somebody who is summoned.
        """
        if not sought.preferences.allow_fallbacks:
            return None
        waiting = asking.waiting
        again = Asking(
            rest,
            asking.request_id,
            asking.caller,
            asking.salt,
            ended=answer.segments,
            waiting=waiting,
            place=asking.place,
            trace=asking.trace,
            capability=asking.capability,
        )
        patience_seconds = min(asking.patience_seconds, LIMITS.continuation_patience_seconds)
        deadline = trio.current_time() + patience_seconds
        try:
            for _ in range(LIMITS.summons_max):
                ranking = others_first(self._candidates.ranked_here(sought), failed)
                tried.problem, before = None, len(again.ended)
                again.place.asks = True
                beginning = self._attempts.first(
                    ranking,
                    again,
                    tried,
                    silence_seconds=LIMITS.continuation_silence_seconds,
                    seek=self._seeking(sought, again),
                )
                opened = await waiting.patiently(beginning, LIMITS.patience_seconds)
                if opened is not None:
                    return opened
                if tried.another:
                    continue
                wanted = unmet(
                    ranking,
                    tried.problem,
                    model=answer.model,
                    capability="",
                    name=answer.name,
                    ran=len(again.ended) > before,
                )
                if wanted is None or not (
                    await self._summoned(wanted, again, deadline) or await self._back(failed)
                ):
                    return None
        except AigridError as error:
            log.info("no_other_node_may_go_on", model=answer.model, code=error.code.value)
        finally:
            self._summon.left(again.place)
            answer.attempts = tried.attempts
        return None

    async def _back(self, failed: Candidate) -> bool:
        """Whether a node that was lost is there again within a moment: connections do break."""
        if self._peers.alive(failed.node):
            return False
        with trio.move_on_after(LIMITS.continuation_return_seconds):
            while True:
                if await self._attempts.reach(failed):
                    return True
                await trio.sleep(_DIAL_AGAIN_SECONDS)
        return False

    async def _ranked(self, sought: Sought) -> Ranking:
        try:
            return await self._candidates.ranked(sought)
        except InvalidRequestError as error:
            trouble = self.own_trouble() if error.code is Code.MODEL_NOT_FOUND else None
            raise trouble or error from None

    def _unmet(
        self, sought: Sought, ranking: Ranking, problem: AigridError | None, *, ran: bool
    ) -> Unmet | None:
        if self.own_trouble() is not None:
            return None
        model = (*self._candidates.resolved(sought.models), "")[0]
        named = {"capability": sought.capability, "name": sought.name}
        return unmet(ranking, problem, model=model, **named, ran=ran)

    def _nobody(
        self, sought: Sought, problem: AigridError | None, ranking: Ranking, *, busy: bool
    ) -> AigridError:
        if problem is not None and problem.code is Code.NOT_MEMBER:
            return self.own_trouble() or problem  # which knows why
        if problem is not None and (problem.code in TOLD or problem.code in POLICY):
            return problem
        trouble = self.own_trouble()
        if trouble is not None:
            return trouble
        if problem is None and (unwanted := nobody_wanted(ranking, sought.what, sought.needed)):
            return unwanted
        models = self._candidates.resolved(sought.models)
        own = next((why for model in models if (why := self._own_problem(model))), "")
        return nobody_now(ranking, sought.what, busy=busy, own_problem=own)

    def own_trouble(self) -> AigridError | None:
        """What keeps this node itself from being served by others; None: nothing that it knows."""
        own = self._graph.membership_of(did_of_peer_id(self._own_peer_id), self._now_ms())
        return own_trouble(
            is_member=own is not None,
            turned_away=self._peers.turned_away(),
            clock_ahead_ms=self._peers.clock_ahead_ms(),
            rotation_waits_for=self._rotation_waits_for(),
        )
