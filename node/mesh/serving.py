"""Inbound requests: what this node computes for others, and for itself."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager

import structlog
import trio

from aigrid.engines import ipc
from aigrid.node.discovery.grid import NowMs
from aigrid.node.mesh.pool.health import OWN, passed_on
from aigrid.node.mesh.pool.pool import ModelPool
from aigrid.node.mesh.routing.waiting import Tell, telling
from aigrid.node.network.streams import Send
from aigrid.node.observing.recent import OneAnswer, Recent
from aigrid.node.observing.trace import NO_TRACE, NO_TRACER, Trace, Tracer
from aigrid.node.policy.admission import Admission, Admitted
from aigrid.node.policy.receipting import Keep, Segment
from aigrid.protocol.errors import (
    CODES,
    AigridError,
    Code,
    EngineError,
    LocalError,
    NoCandidateError,
    PolicyDeniedError,
    RemoteError,
    VerificationError,
)
from aigrid.protocol.identity import Identity, did_of_peer_id
from aigrid.protocol.inference import InferChunk, TextRequest, check_text
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Chunks, Infer, Loading, Receipted, encode, loading, portions
from aigrid.protocol.more import check_more, needed, not_taken, untaken
from aigrid.protocol.record import Record

log = structlog.get_logger()
Batches = AsyncIterator[tuple[InferChunk, ...]]


class ServedAnswer:
    """Batches as they come from the worker; `receipt` is there with the last one.

    Attributes:
        engine_seconds: what was waited for the engine so far, the lease of its worker included.
    """

    def __init__(
        self, batches: Batches, segment: Segment, engine_seconds: float, counted: OneAnswer
    ) -> None:
        self._batches = batches
        self._segment = segment
        self._counted = counted
        self.engine_seconds = engine_seconds

    @property
    def receipt(self) -> Record | None:
        """For what was served, once it has ended."""
        return self._segment.receipt

    def __aiter__(self) -> "ServedAnswer":
        return self

    async def __anext__(self) -> tuple[InferChunk, ...]:
        began_seconds = trio.current_time()
        try:
            batch = await anext(self._batches)
        except AigridError:
            self._segment.end("failed")
            raise
        finally:
            self.engine_seconds += trio.current_time() - began_seconds
        self._segment.add(batch)
        self._counted.went_out(trio.current_time(), batch)
        return batch


class Serving:
    """Runs requests on the pool. `offered(model)` says whether this node offers the model now.

    `takes(model)`: further members of a text request that its engine takes, by name.

    Attributes:
        running, waiting, served: requests now, those of them that wait for a model or a slot, and
            those that were answered to their end.
        failed: how often engines failed, and with what code; not what was wrong with a request.
        denied: how often requests were refused by policy, and with what code.
        recent: tokens and latency of late.
    """

    def __init__(
        self,
        pool: ModelPool,
        *,
        identity: Identity,
        offered: Callable[[str], bool],
        admission: Admission,
        keep_receipt: Keep,
        now_ms: NowMs,
        takes: Callable[[str], Collection[str]] = lambda _: (),
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._pool = pool
        self._takes = takes
        self._tracer = tracer
        self._identity = identity
        self._offered = offered
        self._admission = admission
        self._keep_receipt = keep_receipt
        self._now_ms = now_ms
        self.running = 0
        self.waiting = 0
        self.served = 0
        self.failed: Counter[Code] = Counter()
        self.denied: Counter[Code] = Counter()
        self.recent = Recent()
        self.refusing = False
        self._remote: set[trio.CancelScope] = set()
        self._idle = trio.Event()

    @asynccontextmanager
    async def infer(
        self,
        message: Infer,
        peer: str,
        *,
        tell: Tell,
        asker: str | None = None,
        tell_after_seconds: float = LIMITS.loading_seconds,
        whole: bool = False,
        trace: Trace = NO_TRACE,
    ) -> AsyncIterator[ServedAnswer]:
        """Decide, lease the model and run one request of `peer` (a DID), this node's own included.

        While it waits for the model, `tell` hears now and then how far that is, the first
        time after `tell_after_seconds`. `asker`: whom of
        this node's callers it is put down to if it crashes the worker, `OWN` for the operator, who
        may have a model kept for longer than others; else it is put down to the actor who presents
        it and the peer that passes it on.
        `whole`: nobody reads the answer before its end. Leaving
        early cancels it in the worker. Every segment that has begun is receipted.

        Raises:
            NoCandidateError: this node does not offer the model, or is stopping.
            InvalidRequestError: the request is none, or asks for what the engine does not take.
            PolicyDeniedError, VerificationError: it may not be served.
            EngineError, LocalError: what the pool and the worker raise.
        """
        if self.refusing:
            raise _stopping_error()
        if isinstance(message.request, TextRequest):
            check_text(message.request)
            check_more(message.request)
        if not self._offered(message.model):
            raise NoCandidateError(f"this node does not offer {message.model}")
        if lacking := untaken(needed(message.request), self._takes(message.model)):
            raise not_taken(lacking, "the engine of this model")
        with self._counted(), ExitStack() as stack:
            try:
                with trace.child("policy"):
                    admitted = stack.enter_context(self._admission.admit(message, peer))
            except (PolicyDeniedError, VerificationError) as error:
                self.denied[error.code] += 1
                raise
            actor, first = admitted.presentation.holder, tell_after_seconds
            whose = passed_on(actor, peer) if asker is None else asker
            run = self._run(
                message,
                admitted,
                peer,
                tell,
                asker=whose,
                tell_after_seconds=first,
                whole=whole,
                trace=trace,
            )
            async with run as answer:
                yield answer

    @asynccontextmanager
    async def _run(
        self,
        message: Infer,
        admitted: Admitted,
        peer: str,
        tell: Tell,
        *,
        asker: str,
        tell_after_seconds: float,
        whole: bool,
        trace: Trace,
    ) -> AsyncIterator[ServedAnswer]:
        segment: Segment | None = None
        counted = OneAnswer(self.recent, trio.current_time())
        try:
            async with AsyncExitStack() as stack:
                lease = self._pool.lease(
                    message.model,
                    keep_alive_seconds=message.keep_alive_seconds,
                    asker=asker,
                    bounded=asker != OWN,
                )
                leased = stack.enter_async_context(lease)
                self.waiting += 1
                began_seconds = trio.current_time()
                try:
                    with trace.child("pool lease"):
                        worker = await telling(
                            leased,
                            self._pool.progress,
                            message.model,
                            tell,
                            after_seconds=tell_after_seconds,
                        )
                finally:
                    self.waiting -= 1
                leased_seconds = trio.current_time() - began_seconds
                segment = Segment(
                    self._identity,
                    message,
                    admitted,
                    peer=peer,
                    keep=self._keep_receipt,
                    now_ms=self._now_ms,
                )
                work = stack.enter_context(trace.child("worker infer"))
                running = worker.infer(message.request, message.request_id, whole=whole)
                sent_seconds = trio.current_time()
                async with _receipted(segment), running as batches:
                    yield ServedAnswer(batches, segment, leased_seconds, counted)
                    if batches.ended is not None:
                        _trace(work, batches.ended, batches.ended_seconds, sent_seconds)
                        self.served += 1
        except LocalError:
            if segment is None:
                admitted.charge.take_back()
            raise

    def progress(self, model: str) -> str:
        """How far a model is that is on its way here, in words; "" where nothing is said."""
        return loading(self._pool.progress.said.get(model, "")).text

    async def drain(self) -> None:
        """Refuse new work and wait until nothing runs."""
        self.refusing = True
        while self.running:
            self._idle = trio.Event()
            await self._idle.wait()

    async def cut_off(self) -> None:
        """Refuse new work, end with `shutting_down` what runs for peers, and let that leave."""
        self.refusing = True
        if self._remote:
            for scope in self._remote:
                scope.cancel()
            await trio.sleep(LIMITS.last_words_seconds)

    async def serve(self, peer_id: str, message: Infer, send: Send) -> None:
        """Answer an `Infer` of a peer with `Loading`, `Chunks`, and then with the receipt."""
        with self._tracer.begin("serve", message.trace) as trace:
            await self._serve(peer_id, message, send, trace)

    async def _serve(self, peer_id: str, message: Infer, send: Send, trace: Trace) -> None:
        peer, answer = did_of_peer_id(peer_id), None
        trace.tell(request_id=message.request_id, model=message.model, peer=peer_id)

        async def tell(text: str) -> None:
            await send(encode(Loading(text)))

        try:
            with self._until_cut():
                async with self.infer(message, peer, tell=tell, trace=trace) as answer:
                    log.debug(
                        "serving", peer=peer_id, request_id=message.request_id, model=message.model
                    )
                    async for batch in answer:
                        for part in portions(Chunks(batch)):
                            await send(part)
        except AigridError as error:
            log.info(
                "not_served", peer=peer_id, request_id=message.request_id, code=error.code.value
            )
            if answer is not None and answer.receipt is not None:
                await send(encode(_receipted_of(answer.receipt, answer)))
            raise
        if answer.receipt is not None:
            await send(encode(_receipted_of(answer.receipt, answer)))

    @contextmanager
    def _until_cut(self) -> Iterator[None]:
        """Raises NoCandidateError where `cut_off` ended what is within."""
        with trio.CancelScope() as scope:
            self._remote.add(scope)
            try:
                yield
            finally:
                self._remote.discard(scope)
        if scope.cancelled_caught:  # nobody else cancels it
            raise _stopping_error()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.running += 1
        try:
            yield
        except EngineError as error:
            if CODES[error.code].http >= 500:
                self.failed[error.code] += 1
            raise
        finally:
            self.running -= 1
            if not self.running:
                self._idle.set()


def _stopping_error() -> NoCandidateError:
    return NoCandidateError(
        "this node is stopping",
        Code.SHUTTING_DOWN,
        retry_after_seconds=LIMITS.retry_after_seconds,
    )


def _trace(work: Trace, ended: ipc.Ended, ended_seconds: float, sent_seconds: float) -> None:
    """The worker's own span: it took no longer than was waited for it, whatever it says."""
    told = {"queued_ms": ended.queued_ms}
    if ended.first_ms is not None:
        told["first_chunk_ms"] = ended.first_ms
    told["prompt_tokens"] = ended.finish.prompt_tokens
    told["completion_tokens"] = ended.finish.completion_tokens
    took_seconds = min(ended.whole_ms / 1000, ended_seconds - sent_seconds)
    work.past("infer", took_seconds, trio.current_time() - ended_seconds, **told)


def _receipted_of(receipt: Record, answer: ServedAnswer) -> Receipted:
    return Receipted(receipt.raw, round(answer.engine_seconds * 1000, 2))


@asynccontextmanager
async def _receipted(segment: Segment) -> AsyncIterator[None]:
    """However a segment ends, there is a receipt for it."""
    try:
        yield
    except RemoteError:  # whoever asked is gone
        raise
    except AigridError:
        segment.end("failed")
        raise
    finally:
        segment.end("cancelled")
