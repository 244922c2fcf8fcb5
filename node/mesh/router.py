"""Finding somebody to answer: candidates from the index, order from selection, then attempts.

Before the first chunk, a candidate that refuses, is busy or dies costs the client nothing: the next
one is tried. After it, the answer ends in an explicit error.
"""

import random
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
from aigrid.node.mesh.answer import Answer, ModelView, Segment, the_one
from aigrid.node.mesh.remote_answer import RemoteAnswer
from aigrid.node.mesh.serving import Batches, Serving
from aigrid.node.network.streams import RpcClient
from aigrid.node.network.transport import PeerAddress
from aigrid.node.policy.caller import Caller
from aigrid.protocol.errors import (
    CODES,
    AigridError,
    Code,
    NoCandidateError,
    RemoteError,
)
from aigrid.protocol.inference import Finish, InferChunk, InferRequest, TextChunk
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
        reach: Callable[[Wanted], Awaitable[object]],
        now_ms: NowMs,
        rng: random.Random,
    ) -> None:
        self._own_peer_id = own_peer_id
        self._graph = graph
        self._peers = peers
        self._rpc = rpc
        self._serving = serving
        self._reach = reach
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
        caller: Caller,
        capability: str = "",
    ) -> AsyncIterator[Answer]:
        """See `Inference.infer`."""
        ranking = await self._candidates(model, capability)
        problem: AigridError | None = None
        for attempt, kept in enumerate(ranking.kept[: LIMITS.attempts_max], 1):
            candidate = kept.candidate
            async with AsyncExitStack() as stack:
                started_seconds = trio.current_time()
                try:
                    chunks = await self._open(stack, candidate, request, request_id)
                except AigridError as error:
                    if not self._worth_another(candidate, error):
                        raise
                    problem = error
                    continue
                waited_ms = (trio.current_time() - started_seconds) * 1000
                self._peers.succeeded(candidate.node, waited_ms)
                answer = Answer(
                    request_id, candidate.model, candidate.name, candidate.node, chunks, attempt
                )
                chunks.segments = answer.segments
                yield answer
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
        of_the_node = CODES[error.code].retry or error.code in _OF_THE_NODE
        if isinstance(error, RemoteError) and of_the_node and error.code not in _NO_FAULT:
            self._peers.failed(candidate.node)
        return of_the_node

    def _nobody(
        self, what: str, problem: AigridError | None, cooling_seconds: float | None
    ) -> AigridError:
        if problem is not None and problem.code in _TOLD:
            return problem
        return NoCandidateError(
            f"no live node can serve {what!r} now",
            retry_after_seconds=cooling_seconds or LIMITS.retry_after_seconds,
        )

    async def _open(
        self, stack: AsyncExitStack, candidate: Candidate, request: InferRequest, request_id: str
    ) -> "_AnswerChunks":
        """Start the request on a candidate and wait for its first chunk."""
        if candidate.node == self._own_peer_id:
            batches: Batches = await stack.enter_async_context(
                self._serving.infer(candidate.model, request)
            )
            chunks = _AnswerChunks(batches, candidate)
            await chunks.first()
            return chunks
        await self._connect(candidate)
        with self._peers.while_alive(candidate.node):
            batches = await self._ask(stack, candidate, request, request_id)
            chunks = _AnswerChunks(batches, candidate)
            await chunks.first()
        return chunks

    async def _ask(
        self, stack: AsyncExitStack, candidate: Candidate, request: InferRequest, request_id: str
    ) -> Batches:
        message = Infer(request_id, candidate.model, candidate.manifest, request)
        bodies = await stack.enter_async_context(
            self._rpc.call(
                candidate.node, encode(message), silence_seconds=LIMITS.infer_silence_seconds
            )
        )
        return RemoteAnswer(
            bodies,
            request,
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


class _AnswerChunks:
    """Batches until `Finish`, the first one fetched ahead; counts the tokens of the segment.

    Signs of life are not passed on, and none is the beginning of an answer.
    """

    def __init__(self, batches: Batches, candidate: Candidate) -> None:
        self._batches = batches
        self._candidate = candidate
        self._ahead: tuple[InferChunk, ...] | None = None
        self._tokens = 0
        self._finished = False
        self.segments: list[Segment] = []

    async def first(self) -> None:
        self._ahead = await self._fetch()

    def __aiter__(self) -> "_AnswerChunks":
        return self

    async def __anext__(self) -> tuple[InferChunk, ...]:
        if self._finished:
            raise StopAsyncIteration
        batch, self._ahead = self._ahead, None
        if batch is None:
            batch = await self._fetch()
        for chunk in batch:
            if isinstance(chunk, TextChunk):
                self._tokens += len(chunk.token_ids)
            elif isinstance(chunk, Finish):
                self._finished = True
                # Where tokens come without ids, the end alone says how many there were.
                self._tokens = self._tokens or chunk.completion_tokens
        if self._finished:
            own = self._candidate
            self.segments.append(Segment(own.node, own.model, self._tokens))
        return batch

    async def _fetch(self) -> tuple[InferChunk, ...]:
        deadline = trio.current_time() + LIMITS.answer_silence_seconds
        while True:
            batch = await self._receive()
            if not all(isinstance(c, TextChunk) and c.says_nothing for c in batch):
                return batch
            if trio.current_time() >= deadline:
                raise RemoteError(
                    "signs of life, and no answer", Code.TIMEOUT, peer=self._candidate.node
                )

    async def _receive(self) -> tuple[InferChunk, ...]:
        try:
            return await anext(self._batches)
        except StopAsyncIteration:
            raise RemoteError(
                "the answer stopped before its end",
                Code.CONNECTION_LOST,
                peer=self._candidate.node,
            ) from None


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
