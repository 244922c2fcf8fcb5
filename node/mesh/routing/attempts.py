"""Attempts at candidates, one after the other: each shows a fresh presentation and is asked."""

import math
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import structlog
import trio
from msgspec import UNSET

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Candidate
from aigrid.metagraph.selection import NOBODY, Ranking, known_latency
from aigrid.node.discovery.grid import NowMs
from aigrid.node.discovery.peers import Peers
from aigrid.node.mesh.pool.health import OWN
from aigrid.node.mesh.routing.alone import unless_another
from aigrid.node.mesh.routing.beginning import Beginning, InTime, allowed, ready
from aigrid.node.mesh.routing.mending import Asking, Mending
from aigrid.node.mesh.routing.noting import Learner, Noting
from aigrid.node.mesh.routing.remote_answer import RemoteAnswer
from aigrid.node.mesh.routing.segment import AskedSegment, Guard, ReceiptBook
from aigrid.node.mesh.routing.verdict import more_telling, worth_another
from aigrid.node.mesh.routing.waiting import STARTED, Tell, Waiting
from aigrid.node.mesh.serving import ServedAnswer, Serving
from aigrid.node.network.streams import RpcClient
from aigrid.node.network.transport import PeerAddress
from aigrid.node.observing.trace import Trace
from aigrid.node.policy.caller import Caller
from aigrid.node.policy.presenting import Presented, Presenter
from aigrid.protocol.errors import POLICY, AigridError, Code, RemoteError
from aigrid.protocol.inference import InferRequest
from aigrid.protocol.kinds import ModelBody, NodeBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Infer, encode
from aigrid.protocol.receipt import seeded

log = structlog.get_logger()
_NO_GUARD: Guard = nullcontext
Seek = Callable[[Candidate], Awaitable[bool]]


@dataclass(slots=True)
class Tried:
    """What came of the attempts for one request: their number, and what is best told of them.

    `deaths`: workers that died before they had begun to answer it: while they were loading, and
    while they ran it. `another`: the last one that was asked was given up, because another node has
    come that may do better. `ranking`: of whom it was.
    """

    attempts: int = 0
    deaths: list[int] = field(default_factory=lambda: [0, 0])
    another: bool = False
    problem: AigridError | None = None
    ranking: Ranking = NOBODY


@dataclass(slots=True)
class Opened:
    """A segment whose first batch is there, and the request it answers.

    Whoever has it closes it. `asked_seconds`: as of `Answer`.
    """

    candidate: Candidate
    request: InferRequest
    segment: AskedSegment
    stack: AsyncExitStack
    asked_seconds: float | None = None
    closed: bool = False

    async def close(self, error: BaseException | None = None) -> None:
        """It is over, finished or not: what is left of the work is cancelled at the other node."""
        if self.closed:
            return
        self.closed = True
        self.segment.left()
        await self.stack.__aexit__(
            type(error) if error is not None else None,
            error,
            None if error is None else error.__traceback__,
        )


class Attempts:
    """Asks candidates on behalf of `Router`."""

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
        now_ms: NowMs,
        learner: Learner | None = None,
    ) -> None:
        self._own_peer_id = own_peer_id
        self._graph = graph
        self._peers = peers
        self._rpc = rpc
        self._serving = serving
        self._presenter = presenter
        self._receipts = receipts
        self._now_ms = now_ms
        self._noting = Noting(own_peer_id, peers, learner)
        self._mending = Mending(presenter, rpc, index=lambda: graph.index, now_ms=now_ms)

    async def first(
        self,
        ranking: Ranking,
        asking: Asking,
        tried: Tried,
        *,
        silence_seconds: float = math.inf,
        seek: Seek | None = None,
    ) -> Opened | None:
        """The first candidate that begins to answer; None if none of those that may be asked does.

        One that is silent for so long before its first batch, or does not begin in time, is given
        up; where nobody else is ready, once `seek` has found somebody: see `unless_another`. One
        whose worker died meanwhile is asked once more, after those that are ready: it may load
        another. Not twice: the request may be what kills them.

        Raises:
            AigridError: no other candidate would do better.
        """
        tried.another = False
        left, refusals_left = LIMITS.attempts_max, LIMITS.refusals_max
        unproven_left = LIMITS.unproven_max
        waiting = deque(ranking.kept)
        while waiting and left:
            kept, presented, asked_seconds = waiting.popleft(), None, trio.current_time()
            candidate, before = kept.candidate, len(asking.ended)
            try:
                request = self._request(candidate, asking)
                presented = self._present(candidate, request, asking)
                tried.attempts, left = tried.attempts + 1, left - 1
                asking.waiting.asked, asking.waiting.attempts = candidate.name, tried.attempts
                hurried = candidate.state == "warm" and waiting and left
                silence = silence_seconds if hurried else math.inf
                start = partial(self.open, candidate, request, asking, presented, silence)
                if candidate.node == self._own_peer_id:
                    return await start()
                beginning = self._beginning(candidate, request)
                if waiting and left and ready(waiting[0]):
                    return await start(beginning=beginning)
                return await self._alone(candidate, start, beginning, seek, tried)
            except AigridError as error:
                self._noting.failed(candidate, asking, error, asked_seconds)
                if not worth_another(error):
                    raise
                again = await self._mending.again(candidate, error, presented, asking)
                if again is not None:
                    waiting.appendleft(replace(kept, candidate=again))
                elif error.code is Code.ENGINE_CRASHED:
                    ran = len(asking.ended) > before  # one that was loading did not die of this
                    tried.deaths[ran] += 1
                    if tried.deaths[ran] > LIMITS.worker_deaths_max:
                        raise
                    place = sum(map(ready, waiting))
                    cold = replace(candidate, state="on_disk")
                    waiting.insert(place, replace(kept, candidate=cold))
                if presented is not None and error.code in POLICY and refusals_left:
                    refusals_left, left = refusals_left - 1, left + 1
                elif unproven_left and self._unproven(candidate, error, asked_seconds):
                    unproven_left, left = unproven_left - 1, left + 1
                if again is None or not left:  # else it is asked anew, and says the rest
                    tried.problem = more_telling(tried.problem, error)
                await trio.lowlevel.checkpoint()  # there may be any number
        return None

    async def open(
        self,
        candidate: Candidate,
        request: InferRequest,
        asking: Asking,
        presented: Presented,
        silence_seconds: float = math.inf,
        *,
        beginning: Beginning | None = None,
        alone: bool = False,
    ) -> Opened:
        """Start a request on a candidate, wait for its first batch; unless `alone` in time."""
        began_seconds = trio.current_time()
        guard = first_guard = _NO_GUARD
        async with AsyncExitStack() as stack:
            trace = stack.enter_context(asking.trace.child("attempt", calls=True))
            trace.tell(node=candidate.node, model=candidate.model, state=candidate.state)
            trace.tell(asked=candidate.name)
            message = self._message(candidate, request, asking, presented, trace)
            told = stack.enter_context(asking.waiting.at(candidate.node))
            in_time = InTime(candidate.node, beginning, ends=not alone)
            if candidate.node == self._own_peer_id:
                served = self._serving.infer(
                    message,
                    candidate.signer,
                    tell=_later(told),
                    asker=_asker(asking.caller),
                    tell_after_seconds=min(LIMITS.loading_seconds, asking.patience_seconds),
                    whole=asking.waiting.whole,
                    trace=trace,
                )
                batches: ServedAnswer | RemoteAnswer = await stack.enter_async_context(served)
                asking.waiting.over()
            else:
                stack.enter_context(self._peers.asking(candidate.node))
                alive = partial(self._peers.while_alive, candidate.node)
                guard, first_guard = alive, partial(alive, silence_seconds=silence_seconds)
                with trace.child("connect"):
                    await self._connect(candidate)
                with in_time, first_guard():
                    batches = await self._ask(
                        stack, candidate, message, asking.waiting, in_time.hear
                    )
                if candidate.state != "warm" and asking.patience_seconds < LIMITS.loading_seconds:
                    told(STARTED)  # it says so itself in a moment, which is longer than he waits
            segment = AskedSegment(
                batches,
                candidate,
                presented,
                self._receipts,
                request_id=asking.request_id,
                actor=asking.caller.actor,
                now_ms=self._now_ms,
                guard=guard,
                worked=asking.waiting.worked,
            )
            segment.segments = asking.ended
            with in_time:
                await segment.first(first_guard)
            waited_ms = (trio.current_time() - began_seconds) * 1000
            latency_ms = self._noting.began(candidate, request, batches, waited_ms)
            stack.callback(self._noting.ended, candidate, asking, segment, latency_ms)
            asked_seconds = None if latency_ms is None else began_seconds
            return Opened(candidate, request, segment, stack.pop_all(), asked_seconds)
        raise AssertionError("nothing above is swallowed")

    def _unproven(self, candidate: Candidate, error: AigridError, asked_seconds: float) -> bool:
        """Whether a candidate of which nothing good is known failed at once.

        Where most only say that they can answer, as many tries as suffice among sound nodes would
        often all go to those. A worker that died is another matter: the request may kill them all.
        """
        if candidate.node == self._own_peer_id or error.code is Code.ENGINE_CRASHED:
            return False
        seen = self._peers.seen(candidate.node)
        quickly = trio.current_time() - asked_seconds <= LIMITS.unproven_seconds
        return quickly and seen.failures_in_row > 0 and seen.pace.ttft_ms is None

    async def _alone(
        self,
        candidate: Candidate,
        start: Callable[..., Awaitable[Opened]],
        beginning: Beginning,
        seek: Seek | None,
        tried: Tried,
    ) -> Opened | None:
        """None where somebody else has come; once its time is up it counts as stalled."""
        if seek is None:
            return await start()

        async def sought() -> bool:
            if candidate.model not in self._peers.observation(candidate.node).stalled:
                self._peers.seen(candidate.node).stalled(candidate.model, trio.current_time())
            return await seek(candidate)

        work = partial(start, beginning=beginning, alone=True)
        opened = await unless_another(work, beginning, candidate.node, sought)
        tried.another = opened is None
        return opened

    def _message(
        self,
        candidate: Candidate,
        request: InferRequest,
        asking: Asking,
        presented: Presented,
        trace: Trace,
    ) -> Infer:
        return Infer(
            asking.request_id,
            candidate.model,
            candidate.manifest,
            request,
            asking.salt,
            presented.raw,
            self._keep_alive(candidate, asking.waiting.keep_alive_seconds),
            trace.parent,
        )

    def _request(self, candidate: Candidate, asking: Asking) -> InferRequest:
        """With a seed, so that whoever goes on with the answer draws the same numbers.

        A server behind a node is asked as the client asked: nobody goes on with its answers.
        """
        manifest = self._graph.index.manifest(candidate.manifest, self._now_ms())
        body = None if manifest is None else manifest.body
        if isinstance(body, ModelBody) and body.model.upstream is not UNSET:
            return asking.request
        return seeded(asking.request, asking.salt)

    def _beginning(self, candidate: Candidate, request: InferRequest) -> Beginning:
        known = known_latency(candidate, self._peers.observation(candidate.node))
        within = allowed(candidate.state, None if known is None else known[0], request)
        return Beginning(within, trio.current_time())

    def _present(self, candidate: Candidate, request: InferRequest, asking: Asking) -> Presented:
        """Signed anew for each attempt. Raises PolicyDeniedError where it would be in vain."""
        return self._presenter.present(
            candidate,
            request,
            asking.caller,
            asking.salt,
            refusal=asking.refusals.get(candidate.node),
        )

    async def _ask(
        self,
        stack: AsyncExitStack,
        candidate: Candidate,
        message: Infer,
        waiting: Waiting,
        hear: Callable[[str], None],
    ) -> RemoteAnswer:
        def loading(text: str) -> None:
            hear(text)
            waiting.tell(candidate.node, text)

        bodies = await stack.enter_async_context(
            self._rpc.call(
                candidate.node, encode(message), silence_seconds=LIMITS.infer_silence_seconds
            )
        )
        return RemoteAnswer(
            bodies,
            message.request,
            peer=candidate.node,
            failed=partial(self._peers.failed, candidate.node, trio.current_time()),
            loading=loading,
            came=waiting.over,
        )

    def _keep_alive(self, candidate: Candidate, seconds: float | None) -> float | None:
        """As it is asked for here; of others no longer than they may be asked."""
        if seconds is None or candidate.node == self._own_peer_id:
            return seconds
        return min(seconds, LIMITS.keep_alive_max_seconds)

    async def reach(self, candidate: Candidate) -> bool:
        """Whether the node is alive, or can be reached now."""
        try:
            await self._connect(candidate)
        except RemoteError:
            return False
        return True

    async def _connect(self, candidate: Candidate) -> None:
        if not self._peers.alive(candidate.node):
            node = self._graph.index.node(candidate.signer, self._now_ms())
            body = node.body if node is not None else None
            addresses = body.addresses if isinstance(body, NodeBody) else ()
            if not await self._peers.contact(PeerAddress(candidate.node, addresses)):
                raise RemoteError(
                    "the node cannot be reached", Code.UNREACHABLE, peer=candidate.node
                )


def _asker(caller: Caller) -> str:
    """Whom of this node's callers a crash is put down to."""
    return OWN if caller.kind == "local" else f"{caller.kind} {caller.actor}"


def _later(told: Callable[[str], None]) -> Tell:
    async def tell(text: str) -> None:
        told(text)
        await trio.lowlevel.checkpoint()

    return tell
