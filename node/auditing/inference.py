"""Inference whose answers are checked now and then, after whoever asked has them."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from aigrid.metagraph.preferences import ANY, Preferences
from aigrid.metagraph.selection import ANYTHING, Criteria
from aigrid.node.auditing.case import Case, checkable, request_bytes, size_bytes
from aigrid.node.mesh.routing.answer import Answer, Inference, ModelView
from aigrid.node.policy.caller import Caller
from aigrid.protocol.inference import (
    Finish,
    FinishReason,
    InferChunk,
    InferRequest,
    TextChunk,
)
from aigrid.protocol.limits import LIMITS


class Audits(Protocol):
    """Who checks; see `Auditor`."""

    def drawn(self) -> float | None:
        """A draw, if an answer may be checked by it, whoever gives it."""

    def wants(self, node: str, model: str, drawn: float) -> bool:
        """Whether this answer is checked, now that it is known who gives it."""

    def take(self, case: Case) -> None:
        """Check it when there is time."""


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
        async with self._inner.infer(model, request, **said, **more) as answer:
            room = LIMITS.audit_answer_max_bytes - request_bytes(request)
            if room > 0 and self._audits.wants(answer.node, answer.model, drawn):
                answer.chunks = kept = _Kept(answer.chunks, room)
            yield answer
        if kept is not None and kept.whole and len(answer.segments) == 1:
            self._audits.take(
                Case(
                    answer.sent or request,
                    answer.node,
                    answer.model,
                    **said,
                    chunks=tuple(kept.chunks),
                    reason=kept.reason,
                )
            )


class _Kept:
    """The batches of an answer, and what is needed to check it, if that is not too much.

    Attributes:
        whole: whether it came to its end, and everything was kept.
        reason: of that end.
    """

    def __init__(self, batches: AsyncIterator[tuple[InferChunk, ...]], room_bytes: int) -> None:
        self._batches = batches
        self._left_bytes = room_bytes
        self.chunks: list[InferChunk] = []
        self.whole = False
        self.reason: FinishReason = "cancelled"

    def __aiter__(self) -> "_Kept":
        return self

    async def __anext__(self) -> tuple[InferChunk, ...]:
        batch = await anext(self._batches)
        for chunk in batch:
            if isinstance(chunk, Finish):
                self.reason = chunk.reason
                self.whole = self._left_bytes >= 0 and chunk.reason != "cancelled"
                continue
            self._left_bytes -= size_bytes(chunk)
            if self._left_bytes >= 0:
                self.chunks.append(_plain(chunk))
            else:
                self.chunks.clear()
        return batch


def _plain(chunk: InferChunk) -> InferChunk:
    """Log-probabilities are not checked."""
    return TextChunk(chunk.text, chunk.token_ids) if isinstance(chunk, TextChunk) else chunk
