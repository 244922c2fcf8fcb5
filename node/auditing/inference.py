"""Inference whose answers are checked now and then, after whoever asked has them."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from aigrid.metagraph.preferences import ANY, Preferences
from aigrid.metagraph.selection import ANYTHING, Criteria
from aigrid.node.auditing.case import Case, checkable, request_bytes, size_bytes
from aigrid.node.auditing.room import Room
from aigrid.node.mesh.routing.answer import Answer, Inference, ModelView
from aigrid.node.policy.caller import Caller
from aigrid.protocol.inference import (
    Finish,
    FinishReason,
    InferChunk,
    InferRequest,
    TextChunk,
)


class Audits(Protocol):
    """Who checks; see `Auditor`."""

    def drawn(self) -> float | None:
        """A draw, if an answer may be checked by it, whoever gives it."""

    def wants(self, node: str, model: str, drawn: float) -> bool:
        """Whether this answer is checked, now that it is known who gives it."""

    @property
    def room(self) -> Room:
        """For what is kept until it is checked."""

    def take(self, case: Case) -> None:
        """Check it when there is time, and give back the room that it holds."""


class Audited:
    """Implements `Inference` over another one. What is not drawn goes there as it is."""

    def __init__(self, inner: Inference, audits: Audits) -> None:
        self._inner = inner
        self._audits = audits

    def models(self) -> tuple[ModelView, ...]:
        """See `Inference.models`."""
        return self._inner.models()

    def infer(
        self,
        model: str,
        request: InferRequest,
        *,
        caller: Caller,
        capability: str = "",
        preferences: Preferences = ANY,
        criteria: Criteria = ANYTHING,
        **more: Any,
    ) -> AbstractAsyncContextManager[Answer]:
        """See `Inference.infer`."""
        said: dict[str, Any] = {
            "caller": caller,
            "capability": capability,
            "preferences": preferences,
            "criteria": criteria,
        }
        drawn = self._audits.drawn()
        if drawn is None or not checkable(request):
            return self._inner.infer(model, request, **said, **more)
        return self._watched(model, request, drawn, said, more)

    @asynccontextmanager
    async def _watched(
        self,
        model: str,
        request: InferRequest,
        drawn: float,
        said: dict[str, Any],
        more: dict[str, Any],
    ) -> AsyncIterator[Answer]:
        kept: _Kept | None = None
        try:
            async with self._inner.infer(model, request, **said, **more) as answer:
                if self._audits.wants(answer.node, answer.model, drawn):
                    answer.chunks = kept = _Kept(answer.chunks, self._audits.room)
                    kept.hold(request_bytes(request))
                yield answer
            if kept is not None and kept.whole:
                self._hand_over(kept, answer, request, drawn, said)
        finally:
            if kept is not None:
                kept.drop()

    def _hand_over(
        self,
        kept: "_Kept",
        answer: Answer,
        request: InferRequest,
        drawn: float,
        said: dict[str, Any],
    ) -> None:
        sent = answer.sent or request
        case = Case(
            sent,
            answer.node,
            answer.model,
            **said,
            chunks=tuple(kept.chunks),
            reason=kept.reason,
            held_bytes=kept.taken(),
        )
        if len(answer.segments) == 1:
            self._audits.take(case)
            return
        parts = case.parts(answer.segments)
        if not parts:
            self._audits.room.give(case.held_bytes)
        for part in parts:
            if self._audits.wants(part.node, part.model, drawn):
                self._audits.take(part)
            else:
                self._audits.room.give(part.held_bytes)


class _Kept:
    """The batches of an answer, and what is needed to check it, if there is room for that.

    Attributes:
        whole: whether it came to its end, and everything was kept.
        reason: of that end.
    """

    def __init__(self, batches: AsyncIterator[tuple[InferChunk, ...]], room: Room) -> None:
        self._batches = batches
        self._room = room
        self._held_bytes = 0
        self._fits = True
        self.chunks: list[InferChunk] = []
        self.whole = False
        self.reason: FinishReason = "cancelled"

    def hold(self, count: int) -> None:
        """Take room for so many bytes more, or give up all that there is."""
        if self._fits and self._room.take(count):
            self._held_bytes += count
            return
        self._fits = False
        self.drop()

    def drop(self) -> None:
        """Nothing is kept any more."""
        self.chunks.clear()
        self._room.give(self.taken())

    def taken(self) -> int:
        """The bytes that are held, for whoever gives them back from now on."""
        held, self._held_bytes = self._held_bytes, 0
        return held

    def __aiter__(self) -> "_Kept":
        return self

    async def __anext__(self) -> tuple[InferChunk, ...]:
        batch = await anext(self._batches)
        for chunk in batch:
            if isinstance(chunk, Finish):
                self.reason = chunk.reason
                self.whole = self._fits and chunk.reason != "cancelled"
                continue
            self.hold(size_bytes(chunk))
            if self._fits:
                self.chunks.append(_plain(chunk))
        return batch


def _plain(chunk: InferChunk) -> InferChunk:
    """Log-probabilities are not checked."""
    return TextChunk(chunk.text, chunk.token_ids) if isinstance(chunk, TextChunk) else chunk
