"""One answer of the mesh as steps, and what of them is live when the node stops."""

from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

import trio

from aigrid.node.gateway.step import Step, merged
from aigrid.node.mesh.routing.answer import Answer, Segment
from aigrid.node.mesh.routing.waiting import Waiting
from aigrid.node.observing.course import Course
from aigrid.node.policy.charging import Charge
from aigrid.node.policy.metering import Visit
from aigrid.protocol.errors import AigridError, Code, LocalError, NoCandidateError, RemoteError
from aigrid.protocol.inference import InferChunk


class Generation:
    """An answer: enter it to wait for the first chunk, then iterate over its steps.

    The last step carries `Finish`, and `segments` is complete with it. Leaving early cancels the
    request everywhere. Entering and iterating raise an `AigridError` when the answer cannot be
    completed; an answer that merely stops is turned into one. `Charge` says what it costs.

    Attributes:
        waiting: what is known of the load that it waits for before its first chunk.
        course: what is noted of the request.
    """

    def __init__(
        self,
        live: "Live",
        answering: AbstractAsyncContextManager[Answer],
        visit: Visit,
        charge: Charge,
        *,
        ended: list[Segment],
        waiting: Waiting,
        patience_seconds: float,
        course: Course,
        takes_tensors: bool = False,
    ) -> None:
        self._takes_tensors = takes_tensors
        self._ended_before = ended
        self.waiting = waiting
        self._patience_seconds = patience_seconds
        self.course = course
        self._live = live
        self._answering = answering
        self._visit = visit
        self._charge = charge
        self._answer: Answer | None = None
        self._waiting: trio.CancelScope | None = None
        self._is_cut = False
        self._ended = self._noted = False
        self._since_seconds = 0.0

    async def __aenter__(self) -> Self:
        self._live.enter(self)
        self._since_seconds = trio.current_time()
        try:
            with trio.CancelScope() as self._waiting:
                entering = self._answering.__aenter__()
                self._answer = await self.waiting.patiently(entering, self._patience_seconds)
            self._waiting = None
        except BaseException as error:
            if isinstance(error, trio.Cancelled):  # somebody was at work on it
                self._visit.spend(self._charge.broke_off())
            self._never_began()
            raise
        if self._answer is None:
            self._never_began()
            raise _stopping_error()
        self.course.answered(self._answer)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._visit.spend(self._charge.broke_off())
        if not self._noted:
            seconds = self.waiting.engine_seconds
            since = self._since_seconds
            self.course.broke_off(self.answer, *self._charge.counted, seconds, since_seconds=since)
        try:
            await self._answering.__aexit__(kind, error, traceback)
        finally:
            self._live.leave(self)

    @property
    def answer(self) -> Answer:
        """Who answers; known once entered."""
        if self._answer is None:
            raise RuntimeError("the generation has not been entered")
        return self._answer

    @property
    def segments(self) -> list[Segment]:
        """Which node produced how much; complete after the last step, or once left.

        Without an answer: what failed before its first chunk.
        """
        return self._ended_before if self._answer is None else self._answer.segments

    def cut(self) -> None:
        """End with `shutting_down` at the next wait, or the present one."""
        self._is_cut = True
        if self._waiting is not None:
            self._waiting.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Step:
        if self._ended:
            raise StopAsyncIteration
        while True:
            chunks = await self._next_chunks()
            if chunks is None:
                raise RemoteError("The answer stopped without an end.", Code.CONNECTION_LOST)
            step = merged(chunks, takes_tensors=self._takes_tensors)
            if step.finish is None:
                if step.text or step.logprobs or step.output or step.more or step.tensors:
                    return step
                continue
            self._ended = True
            if await self._next_chunks() is not None:
                raise RemoteError("The answer went on after its end.")
            if step.finish.reason == "cancelled":
                raise LocalError("The answer was cancelled before it was complete.", Code.CANCELLED)
            self._noted = True
            self.course.ended(
                self.answer,
                step.finish,
                self.waiting.engine_seconds,
                since_seconds=self._since_seconds,
            )
            return step

    def _never_began(self) -> None:
        self.course.failed_to_begin(self.waiting.asked, self.waiting.attempts)
        self._live.leave(self)

    async def _next_chunks(self) -> tuple[InferChunk, ...] | None:
        """The next batch, or None at the end."""
        if self._is_cut:
            raise _stopping_error()
        with trio.CancelScope() as self._waiting:
            chunks = await anext(self.answer.chunks, None)
        scope, self._waiting = self._waiting, None
        if scope.cancelled_caught:
            raise _stopping_error()
        if chunks is not None:
            self._visit.spend(self._charge.chunks(chunks))
        return chunks


class Live:
    """What is live, and whether anything may still begin."""

    def __init__(self) -> None:
        self._generations: set[Generation] = set()
        self._idle = trio.Event()
        self.stopping = False

    def refuse_new(self) -> None:
        """Refuse new generations from now on; live ones go on."""
        self.stopping = True
        self._note_idle()

    async def drained(self) -> None:
        """Wait until no generation is live; call `refuse_new` first."""
        await self._idle.wait()

    def cut_off(self) -> None:
        """End whatever is live with `shutting_down` as soon as it next waits for the mesh."""
        self.stopping = True
        for generation in tuple(self._generations):
            generation.cut()

    def enter(self, generation: Generation) -> None:
        """It begins. Raises NoCandidateError: the node is stopping."""
        if self.stopping:
            raise _stopping_error()
        self._generations.add(generation)

    def leave(self, generation: Generation) -> None:
        """It is over."""
        self._generations.discard(generation)
        self._note_idle()

    def _note_idle(self) -> None:
        if self.stopping and not self._generations:
            self._idle.set()


def _stopping_error() -> AigridError:
    return NoCandidateError("This node is stopping.", Code.SHUTTING_DOWN)
