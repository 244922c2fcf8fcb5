"""One segment of an answer, as whoever asked takes it: batches until `Finish`, and its receipt."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import trio

from aigrid.metagraph.index import Candidate
from aigrid.node.discovery.grid import NowMs
from aigrid.node.mesh.routing.answer import Segment
from aigrid.node.mesh.routing.remote_answer import RemoteAnswer
from aigrid.node.mesh.routing.verdict import ENGINE_DIED, is_its_fault
from aigrid.node.mesh.serving import ServedAnswer
from aigrid.node.policy.presenting import Presented
from aigrid.node.policy.receipt_checks import Expected
from aigrid.node.policy.receipts import holds
from aigrid.protocol.errors import AigridError, Code, RemoteError
from aigrid.protocol.inference import Finish, InferChunk, TextChunk
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.receipt import OutputHash
from aigrid.protocol.record import Record

# After these nobody knows here whether the other node has begun; one that refuses says so.
_BROKEN_OFF = frozenset({Code.CONNECTION_LOST, Code.TIMEOUT, Code.PROTOCOL_VIOLATION})


_MEASURED_TOKENS = 8  # fewer do not tell how quick a node is
Guard = Callable[[], AbstractContextManager[None]]


class ReceiptBook(Protocol):
    """See `node.policy.receipts.Receipts`."""

    def received(self, sent: bytes | Record, expected: Expected) -> str: ...

    def unreceipted(self, expected: Expected, reason: Code = Code.UNRECEIPTED) -> str: ...


class AskedSegment:
    """Batches until `Finish`, the first one fetched ahead; counts the tokens of the segment.

    `guard` gives what each wait for a batch is done within: it may give the wait up. `worked` hears
    once how long was waited for the engine.

    Signs of life are not passed on, and none is the beginning of an answer. However the segment
    ends, the receipt for it is kept, or that there is none, unless the other node refused it.

    Attributes:
        segments: of the answer; this one is added when it ends.
    """

    def __init__(
        self,
        batches: RemoteAnswer | ServedAnswer,
        candidate: Candidate,
        presented: Presented,
        book: ReceiptBook,
        *,
        request_id: str,
        actor: str,
        now_ms: NowMs,
        guard: Guard = nullcontext,
        worked: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._batches = batches
        self._guard = guard
        self._worked: Callable[[float], None] | None = worked
        self._received_seconds = 0.0
        self._candidate = candidate
        self._presented = presented
        self._book = book
        self._request_id = request_id
        self._actor = actor
        self._now_ms = now_ms
        self._output = OutputHash(presented.salt)
        self._ahead: tuple[InferChunk, ...] | None = None
        self._tokens = 0
        self._finish: Finish | None = None
        self._begun = False
        self._settled = False
        self._first_seconds = 0.0
        self._last_seconds = 0.0
        self._waited_seconds = 0.0
        self._timed_tokens = 0
        self._failed = False
        self.segments: list[Segment] = []

    @property
    def model(self) -> str:
        """The model id."""
        return self._candidate.model

    @property
    def finished(self) -> bool:
        """Whether it was answered to its end, and not given up."""
        return self._finish is not None and self._finish.reason != "cancelled"

    @property
    def failed(self) -> bool:
        """Whether it broke off after it had begun; nobody but the node itself says `cancelled`."""
        return self._failed or (self._finish is not None and not self.finished)

    @property
    def token_ms(self) -> float | None:
        """Milliseconds per token after the first batch, if they can be told.

        They cannot where few came, or where whoever reads the answer is the slower one. Tokens
        without ids are none that were seen to come, however many the end says that there were.
        """
        took, tokens = self._last_seconds - self._first_seconds, self._timed_tokens
        if tokens < _MEASURED_TOKENS or took <= 0 or self._waited_seconds < took / 2:
            return None
        return took / tokens * 1000

    async def first(self, guard: Guard | None = None) -> None:
        """Wait for the first batch, within a guard of its own if one is given.

        Raises:
            AigridError: another candidate may do better.
        """
        try:
            self._ahead = await self._fetch(guard or self._guard)
        except trio.Cancelled:
            # While the model was still being loaded over there, nothing had begun.
            self._begun = not (isinstance(self._batches, RemoteAnswer) and self._batches.waits)
            self.left()
            raise
        except AigridError as error:
            # What failed over there was receipted.
            self._begun = bool(self._batches.receipt) or error.code in _BROKEN_OFF
            self.left(error.code)
            raise
        self._begun = True
        self._first_seconds = trio.current_time()

    def __aiter__(self) -> "AskedSegment":
        return self

    async def __anext__(self) -> tuple[InferChunk, ...]:
        if self._finish is not None:
            raise StopAsyncIteration
        batch, self._ahead = self._ahead, None
        try:
            if batch is None:
                began_seconds = trio.current_time()
                batch = await self._fetch(self._guard)
                self._last_seconds = trio.current_time()
                self._waited_seconds += self._last_seconds - began_seconds
                texts = (chunk for chunk in batch if isinstance(chunk, TextChunk))
                self._timed_tokens += sum(len(chunk.token_ids) for chunk in texts)
            await self._take(batch)
        except AigridError as error:
            self._failed = error.code in ENGINE_DIED or is_its_fault(error)
            self.left(error.code)
            raise
        return batch

    def left(self, reason: Code = Code.CANCELLED) -> None:
        """The segment is over, and not because it was finished: keep what there is of it."""
        self._tell_worked()
        if self._settled or not self._begun:
            return
        self._keep(self._batches.receipt, reason)

    async def _take(self, batch: tuple[InferChunk, ...]) -> None:
        self._output.add(batch)
        for chunk in batch:
            if isinstance(chunk, TextChunk):
                self._tokens += len(chunk.token_ids)
            elif isinstance(chunk, Finish):
                self._finish = chunk
                # Where tokens come without ids, the end alone says how many there were.
                self._tokens = self._tokens or chunk.completion_tokens
        if self._finish is not None:
            await self._settle()

    async def _settle(self) -> None:
        """Wait for the receipt, and keep the end of the segment."""
        if isinstance(self._batches, RemoteAnswer):
            await self._batches.settle()
        self._tell_worked()
        self._keep(self._batches.receipt, Code.UNRECEIPTED)

    def _tell_worked(self) -> None:
        """Another node's engine took as long as it says, and no longer than it was waited for."""
        told, self._worked = self._worked, None
        if told is None:
            return
        seconds, waited = self._batches.engine_seconds, self._received_seconds
        if isinstance(self._batches, RemoteAnswer):
            seconds = waited if seconds is None else min(seconds, waited)
        told(seconds or 0.0)

    def _keep(self, receipt: bytes | Record | None, reason: Code) -> None:
        self._settled = True
        if receipt:
            kept = self._book.received(receipt, self._expected())
        else:
            kept = self._book.unreceipted(self._expected(), reason)
        own = self._candidate
        self.segments.append(
            Segment(own.node, own.model, self._tokens, receipt=kept, receipted=holds(kept))
        )

    def _expected(self) -> Expected:
        binding, finish = self._presented.binding, self._finish
        return Expected(
            request_id=self._request_id,
            peer=self._presented.audience,
            model=binding.model,
            manifest=binding.manifest,
            request_hash=binding.request_hash,
            prefix_hash=binding.prefix_hash,
            output_hash=self._output.hexdigest(),
            presentation=self._presented.digest,
            credentials=self._presented.credentials,
            actor=self._actor,
            prompt_tokens=0 if finish is None else finish.prompt_tokens,
            completion_tokens=max(self._tokens, 0 if finish is None else finish.completion_tokens),
            reason="" if finish is None else finish.reason,
            began_ms=self._presented.made_ms,
            ended_ms=self._now_ms(),
            salt=self._presented.salt,
        )

    async def _fetch(self, guard: Guard) -> tuple[InferChunk, ...]:
        deadline = trio.current_time() + LIMITS.answer_silence_seconds
        while True:
            with guard():
                batch = await self._receive()
            if not all(isinstance(c, TextChunk) and c.says_nothing for c in batch):
                return batch
            if trio.current_time() >= deadline:
                raise RemoteError(
                    "signs of life, and no answer", Code.TIMEOUT, peer=self._candidate.node
                )

    async def _receive(self) -> tuple[InferChunk, ...]:
        began_seconds = trio.current_time()
        try:
            return await anext(self._batches)
        except StopAsyncIteration:
            raise RemoteError(
                "the answer stopped before its end",
                Code.CONNECTION_LOST,
                peer=self._candidate.node,
            ) from None
        finally:
            self._received_seconds += trio.current_time() - began_seconds
