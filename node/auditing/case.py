"""An answer that may be checked, and the request by which another holder does that. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from aigrid.metagraph.preferences import Preferences
from aigrid.metagraph.selection import Criteria
from aigrid.node.auditing import comparing
from aigrid.node.auditing.comparing import Reread, Verdict, Written
from aigrid.node.mesh.routing.answer import Segment
from aigrid.node.policy.caller import Caller
from aigrid.protocol.inference import (
    FinishReason,
    InferChunk,
    InferRequest,
    TaskChunk,
    TaskRequest,
    Tensor,
    TensorChunk,
    TensorRequest,
    TextChunk,
    TextRequest,
    TokenLogprob,
)
from aigrid.protocol.limits import LIMITS

_BYTES_PER_TOKEN = 8  # of an id in memory, about
_BYTES_PER_CHAR = 4  # at most
_PLANTED_MIN = 4 * LIMITS.audit_tokens_min

Work = bytes | dict[str, Tensor] | Reread
"""What a holder said when it did the work again: an output, outputs, or what it makes of a text."""


@dataclass(frozen=True, slots=True)
class Case:
    """An answer, as it was asked for.

    Attributes:
        node: PeerId of whoever answered.
        model: the model id.
        capability: that was asked for, "" where a model was.
        preferences, criteria: of the request: nobody is asked whom it would not have gone to.
        chunks: all of the answer but its end.
        reason: of its end.
        tokens_alone: whether the rest of a text says nothing.
        held_bytes: of memory that are spoken for until it is checked.
    """

    request: InferRequest
    node: str
    model: str
    capability: str
    caller: Caller
    preferences: Preferences
    criteria: Criteria
    chunks: tuple[InferChunk, ...]
    reason: FinishReason = "stop"
    tokens_alone: bool = False
    held_bytes: int = 0

    def check(self) -> InferRequest | None:
        """What another holder is asked; None where this cannot be checked."""
        if not isinstance(self.request, TextRequest):
            return self.request
        said = self._written(self.request)
        if said.text and not said.tokens:
            return None  # an engine that knows no ids says so by that
        left = self.request.max_tokens if said.whole else 0
        return msgspec.structs.replace(
            self.request,
            continued_ids=said.before + said.tokens,
            max_tokens=None if left is None else max(0, left - len(said.tokens)),
            top_logprobs=None,
            checks=True,
        )

    def parts(self, segments: Sequence[Segment]) -> "list[Case]":
        """Of a text that several nodes have written, what each has, if that can be told.

        Where one broke off and the next went on its text is nobody's alone: its tokens are.
        """
        parts: list[Case] = []
        request, tokens = self.request, self._tokens()
        if not isinstance(request, TextRequest) or sum(s.tokens for s in segments) != len(tokens):
            return parts
        start = 0
        for segment in segments:
            before, start = tokens[:start], start + segment.tokens
            mine = tokens[len(before) : start]
            if mine and len(before) <= LIMITS.audit_tokens_max:
                asked = msgspec.structs.replace(request, continued_ids=before)
                part = replace(self, request=asked, node=segment.node, held_bytes=0)
                parts.append(
                    replace(part, chunks=(TextChunk("", mine),), reason="length", tokens_alone=True)
                )
        if parts:
            parts[0] = replace(parts[0], held_bytes=self.held_bytes)
        return parts

    def planted(self) -> "Case | None":
        """A text of which hardly a token is where the model would say it; None of anything else.

        What repeats itself is much the same in reverse, and of a few tokens nothing is certain.
        """
        if not isinstance(self.request, TextRequest):
            return None
        tokens = self._written(self.request).tokens[::-1]
        if len(tokens) < _PLANTED_MIN or 2 * len(set(tokens)) < len(tokens):
            return None
        return replace(self, chunks=(TextChunk("", tokens),), reason="length", tokens_alone=True)

    @property
    def anybody(self) -> Preferences:
        """Whom the request itself might have gone to."""
        return replace(self.preferences, order=(), sort=None, allow_fallbacks=True, pinned="")

    def prefer(self, checker: str) -> Preferences:
        """That node and no other: who would take its place could be anybody's choice."""
        return replace(self.anybody, allow_fallbacks=False, pinned=checker)

    def verdict(self, again: Work) -> Verdict:
        """On the answer, by what another holder said."""
        if isinstance(self.request, TextRequest):
            if not isinstance(again, Reread):
                return "unclear"
            written = self._written(self.request)
            compare = comparing.tokens_of if self.tokens_alone else comparing.texts
            return compare(written, again)
        done = work(self.chunks)
        return "unclear" if done is None else same(done, again)

    def _written(self, request: TextRequest) -> Written:
        chunks = [chunk for chunk in self.chunks if isinstance(chunk, TextChunk)]
        tokens = self._tokens()
        return Written(
            before=request.continued_ids,
            tokens=tokens[: LIMITS.audit_tokens_max],
            whole=len(tokens) <= LIMITS.audit_tokens_max,
            text="".join(chunk.text for chunk in chunks),
            reason=self.reason,
            stops=request.stop,
            temperature=request.temperature,
        )

    def _tokens(self) -> tuple[int, ...]:
        chunks = (chunk for chunk in self.chunks if isinstance(chunk, TextChunk))
        return tuple(token for chunk in chunks for token in chunk.token_ids)


def checkable(request: InferRequest) -> bool:
    """Whether an answer to it can be checked at all: not where tools and formats decide tokens."""
    if isinstance(request, TextRequest):
        goes_on = bool(request.continued_ids)
        return not (request.more or request.checks or goes_on or request.max_tokens == 0)
    return isinstance(request, TaskRequest | TensorRequest)


def work(chunks: Iterable[InferChunk]) -> Work | None:
    """What an answer comes to for comparison; None where there is nothing."""
    text: list[str] = []
    logprobs: list[TokenLogprob] = []
    for chunk in chunks:
        if isinstance(chunk, TaskChunk):
            return chunk.output
        if isinstance(chunk, TensorChunk):
            return dict(chunk.outputs)
        if isinstance(chunk, TextChunk):
            text.append(chunk.text)
            logprobs += chunk.logprobs
    if not logprobs:
        return None
    end = logprobs.pop().logprob if logprobs[-1].token_id is None else None
    return Reread(tuple(logprobs), "".join(text), end)


def same(one: Work, other: Work) -> Verdict:
    """Of two holders that did the same; of tokens each judges by itself, so they do not differ."""
    if isinstance(one, bytes) and isinstance(other, bytes):
        return comparing.outputs(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return comparing.tensors(one, other)
    return "same" if type(one) is type(other) else "different"


def request_bytes(request: InferRequest) -> int:
    """About what is kept of a request."""
    if isinstance(request, TaskRequest):
        return len(request.input)
    if isinstance(request, TensorRequest):
        return sum(len(tensor.data) for tensor in request.inputs.values())
    chars = len(request.prompt or "") + sum(len(one.content) for one in request.messages)
    more = sum(len(one.more) for one in request.messages)
    return _BYTES_PER_CHAR * chars + more + _BYTES_PER_TOKEN * len(request.token_ids or ())


def size_bytes(chunk: Any) -> int:
    """About what is kept of a chunk."""
    if isinstance(chunk, TextChunk):
        return _BYTES_PER_TOKEN * len(chunk.token_ids) + _BYTES_PER_CHAR * len(chunk.text)
    if isinstance(chunk, TaskChunk):
        return len(chunk.output)
    if isinstance(chunk, TensorChunk):
        return sum(len(tensor.data) for tensor in chunk.outputs.values())
    return 0
