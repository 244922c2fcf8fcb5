"""Finding somebody to answer: candidates from the index, order from selection, then attempts.

Before the first chunk, a candidate that refuses, is busy or dies costs the client nothing: the next
one is tried. After it, the answer ends in an explicit error.
"""

import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import structlog
import trio

from aigrid.metagraph.filters import Filters, Found, Sieve
from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Candidate, ModelSummary
from aigrid.metagraph.selection import Observation, Ranking, rank
from aigrid.metagraph.typed_query import Wanted
from aigrid.node.discovery.grid import NowMs
from aigrid.node.discovery.peers import Peers
from aigrid.node.discovery.trouble import own_trouble
from aigrid.node.mesh.answer import Answer, ModelView, Segment, the_one
from aigrid.node.mesh.mending import Asking, Mending
from aigrid.node.mesh.remote_answer import RemoteAnswer
from aigrid.node.mesh.segment import AskedSegment, ReceiptBook
from aigrid.node.mesh.serving import ServedAnswer, Serving
from aigrid.node.network.streams import RpcClient
from aigrid.node.network.transport import PeerAddress
from aigrid.node.policy.caller import OPERATOR, Caller
from aigrid.node.policy.explaining import nearness
from aigrid.node.policy.presenting import Presented, Presenter
from aigrid.protocol.errors import (
    CODES,
    POLICY,
    AigridError,
    Code,
    InvalidRequestError,
    NoCandidateError,
    RemoteError,
)
from aigrid.protocol.identity import did_of_peer_id
from aigrid.protocol.inference import InferRequest
from aigrid.protocol.kinds import NodeBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Infer, encode
from aigrid.protocol.model import MODEL_URN

log = structlog.get_logger()
_STATES = ("warm", "on_disk", "can_fetch")
_AT_A_TIME = 256  # offers filtered before others get their turn


class Router:
    """Implements `Inference` over the grid.

    `reach(wanted)` may bring candidates in from other nodes, when the index has none.
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
    ) -> None:
        self._own_peer_id = own_peer_id
        self._graph = graph
        self._peers = peers
        self._rpc = rpc
        self._serving = serving
        self._presenter = presenter
        self._mending = Mending(presenter, rpc, index=lambda: graph.index, now_ms=now_ms)
        self._receipts = receipts
        self._reach = reach
        self._rotation_waits_for = rotation_waits_for
        self._rng = rng
        self._now_ms = now_ms

    def models(self) -> tuple[ModelView, ...]:
        """Everything offered by live nodes, sorted by name."""
        now_ms = self._now_ms()
        views = []
        for summary in self._graph.index.models(now_ms):
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

    @asynccontextmanager
    async def infer(
        self,
        model: str,
        request: InferRequest,
        *,
        request_id: str,
        capability: str = "",
        caller: Caller = OPERATOR,
        ended: list[Segment] | None = None,
    ) -> AsyncIterator[Answer]:
        """See `Inference.infer`."""
        asking = Asking(
            request,
            request_id,
            caller,
            self._presenter.salt(),
            ended=[] if ended is None else ended,
        )
        try:
            ranking = await self._candidates(model, capability)
        except InvalidRequestError as error:
            trouble = self.own_trouble() if error.code is Code.MODEL_NOT_FOUND else None
            raise trouble or error from None
        problem: AigridError | None = None
        attempt, left, refusals_left = 0, LIMITS.attempts_max, LIMITS.refusals_max
        waiting = deque(kept.candidate for kept in ranking.kept)
        while waiting and left:
            candidate = waiting.popleft()
            async with AsyncExitStack() as stack:
                started_seconds, presented = trio.current_time(), None
                try:
                    presented = self._present(candidate, asking)
                    attempt, left = attempt + 1, left - 1
                    chunks = await self._open(stack, candidate, asking, presented)
                except AigridError as error:
                    if not self._worth_another(candidate, error):
                        raise
                    again = await self._mending.again(candidate, error, presented, asking)
                    if again is not None:
                        waiting.appendleft(again)
                    if presented is not None and error.code in POLICY and refusals_left:
                        refusals_left, left = refusals_left - 1, left + 1
                    if again is None or not left:  # else it is asked anew, and says the rest
                        problem = _more_telling(problem, error)
                    await trio.lowlevel.checkpoint()  # there may be any number
                    continue
                waited_ms = (trio.current_time() - started_seconds) * 1000
                self._peers.succeeded(candidate.node, waited_ms)
                answer = Answer(
                    request_id, candidate.model, candidate.name, candidate.node, chunks, attempt
                )
                chunks.segments = answer.segments
                try:
                    yield answer
                finally:
                    chunks.left()
                return
        raise self._nobody(model or capability, problem, ranking.retry_after_seconds)

    async def _candidates(self, model: str, capability: str) -> Ranking:
        name = model.removeprefix(MODEL_URN)
        if not model or self._graph.index.resolve(name, self._now_ms()):
            ranking = self._rank(model, capability)
            if ranking.kept:
                return ranking
        await self._reach(Wanted("model", name) if model else Wanted("capability", capability))
        return self._rank(model, capability)

    def _rank(self, model: str, capability: str) -> Ranking:
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

    def _worth_another(self, candidate: Candidate, error: AigridError) -> bool:
        """Whether the next candidate may do better; note the failure if it is this one's."""
        log.info(
            "candidate failed", peer=candidate.node, model=candidate.model, code=error.code.value
        )
        if error.code in POLICY:
            return True  # another may be permitted to serve it; this one did what it should
        of_the_node = CODES[error.code].retry or error.code in _OF_THE_NODE
        if isinstance(error, RemoteError) and of_the_node and error.code not in _NO_FAULT:
            self._peers.failed(candidate.node)
        return of_the_node

    def _nobody(
        self, what: str, problem: AigridError | None, cooling_seconds: float | None
    ) -> AigridError:
        if problem is not None and problem.code is Code.NOT_MEMBER:
            return self.own_trouble() or problem  # which knows why
        if problem is not None and (problem.code in _TOLD or problem.code in POLICY):
            return problem
        return self.own_trouble() or NoCandidateError(
            f"no live node can serve {what!r} now",
            retry_after_seconds=cooling_seconds or LIMITS.retry_after_seconds,
        )

    def own_trouble(self) -> AigridError | None:
        """What keeps this node itself from being served by others; None: nothing that it knows."""
        own = self._graph.membership_of(did_of_peer_id(self._own_peer_id), self._now_ms())
        return own_trouble(
            is_member=own is not None,
            turned_away=self._peers.turned_away(),
            clock_ahead_ms=self._peers.clock_ahead_ms(),
            rotation_waits_for=self._rotation_waits_for(),
        )

    def _present(self, candidate: Candidate, asking: Asking) -> Presented:
        """Signed anew for each attempt. Raises PolicyDeniedError where it would be in vain."""
        return self._presenter.present(
            candidate,
            asking.request,
            asking.caller,
            asking.salt,
            refusal=asking.refusals.get(candidate.node),
        )

    async def _open(
        self, stack: AsyncExitStack, candidate: Candidate, asking: Asking, presented: Presented
    ) -> AskedSegment:
        """Start the request on a candidate and wait for its first chunk."""
        message = Infer(
            asking.request_id,
            candidate.model,
            candidate.manifest,
            asking.request,
            asking.salt,
            presented.raw,
        )
        if candidate.node == self._own_peer_id:
            served = self._serving.infer(message, candidate.signer)
            segment = self._segment(
                await stack.enter_async_context(served), candidate, asking, presented
            )
            await segment.first()
            return segment
        await self._connect(candidate)
        with self._peers.while_alive(candidate.node):
            remote = await self._ask(stack, candidate, message)
        segment = self._segment(remote, candidate, asking, presented)
        await segment.first(self._peers.while_alive(candidate.node))
        return segment

    def _segment(
        self,
        batches: RemoteAnswer | ServedAnswer,
        candidate: Candidate,
        asking: Asking,
        presented: Presented,
    ) -> AskedSegment:
        segment = AskedSegment(
            batches,
            candidate,
            presented,
            self._receipts,
            request_id=asking.request_id,
            actor=asking.caller.actor,
            now_ms=self._now_ms,
        )
        segment.segments = asking.ended
        return segment

    async def _ask(
        self, stack: AsyncExitStack, candidate: Candidate, message: Infer
    ) -> RemoteAnswer:
        bodies = await stack.enter_async_context(
            self._rpc.call(
                candidate.node, encode(message), silence_seconds=LIMITS.infer_silence_seconds
            )
        )
        return RemoteAnswer(
            bodies,
            message.request,
            peer=candidate.node,
            failed=partial(self._peers.failed, candidate.node),
        )

    async def _connect(self, candidate: Candidate) -> None:
        if not self._peers.alive(candidate.node):
            node = self._graph.index.node(candidate.signer, self._now_ms())
            body = node.body if node is not None else None
            addresses = body.addresses if isinstance(body, NodeBody) else ()
            if not await self._peers.contact(PeerAddress(candidate.node, addresses)):
                raise RemoteError(
                    "the node cannot be reached", Code.UNREACHABLE, peer=candidate.node
                )


# Of these the client hears, when no other candidate did better: the node is there.
_TOLD = frozenset(
    {
        Code.BUSY,
        Code.OUT_OF_MEMORY,
        Code.ENGINE_CRASHED,
        Code.ENGINE_FAILED,
        Code.ENGINE_TIMEOUT,
    }
)

# Codes that say something about the node that was asked rather than about the request.
_OF_THE_NODE = frozenset(
    {
        Code.PROTOCOL_VIOLATION,
        Code.FRAME_TOO_LARGE,
        Code.INTERNAL,
        Code.ENGINE_FAILED,
        Code.MODEL_FILE_MISSING,
        Code.HASH_MISMATCH,
        Code.NOT_MEMBER,
        Code.DENIED,
        Code.MODEL_NOT_FOUND,
        Code.UNSUPPORTED_MODEL,
        Code.UNSUPPORTED_QUANTISATION,
        Code.DATA_DIRECTORY_UNUSABLE,
    }
)

# What a sound node says when it has no room: the next one is asked, and this one keeps its name.
_NO_FAULT = frozenset(
    {
        Code.BUSY,
        Code.RATE_LIMITED,
        Code.OVER_RATE,
        Code.OUT_OF_MEMORY,
        Code.NO_CANDIDATE,
        Code.SHUTTING_DOWN,
    }
)


def _more_telling(before: AigridError | None, error: AigridError) -> AigridError:
    """Of two reasons the one to tell: of policies' that nearest to permission; any other first."""
    if before is None or error.code not in POLICY:
        return error
    nearer = before.code in POLICY and nearness(error.code) >= nearness(before.code)
    return error if nearer else before


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
