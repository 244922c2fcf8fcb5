"""An answer that may be checked, and the request by which another holder does that. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from aigrid.metagraph.preferences import Preferences
from aigrid.metagraph.selection import Criteria
from aigrid.node.auditing import comparing
from aigrid.node.auditing.comparing import Verdict
from aigrid.node.policy.caller import Caller
from aigrid.protocol.inference import (
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

Work = bytes | dict[str, Tensor] | tuple[TokenLogprob, ...]
"""What a holder said when it did the work again: an output, outputs, or what it makes of tokens."""


@dataclass(frozen=True, slots=True)
class Case:
    """An answer, as it was asked for.

    Attributes:
        node: PeerId of whoever answered.
        model: the model id.
        capability: that was asked for, "" where a model was.
        preferences, criteria: of the request: nobody is asked whom it would not have gone to.
        chunks: all of the answer.
    """

    request: InferRequest
    node: str
    model: str
    capability: str
    caller: Caller
    preferences: Preferences
    criteria: Criteria
    chunks: tuple[InferChunk, ...]

    def check(self) -> InferRequest | None:
        """What another holder is asked; None where this cannot be checked."""
        if not isinstance(self.request, TextRequest):
            return self.request
        tokens = _tokens(self.chunks)[: LIMITS.audit_tokens_max]
        if len(tokens) < LIMITS.audit_tokens_min:
            return None
        return msgspec.structs.replace(
            self.request,
            continued_ids=(*self.request.continued_ids, *tokens),
            max_tokens=0,
            stop=(),
            top_logprobs=None,
            checks=True,
        )

    def prefer(self, asked: Iterable[str], order: Iterable[str]) -> Preferences:
        """Others than those that were asked, in that order."""
        ignore = (*self.preferences.ignore, *asked)
        return replace(
            self.preferences,
            order=tuple(order),
            ignore=ignore,
            sort=None,
            allow_fallbacks=True,
            pinned="",
        )

    def verdict(self, again: Work) -> Verdict:
        """On the answer, by what another holder said."""
        if isinstance(self.request, TextRequest):
            said = _tokens(self.chunks)[: LIMITS.audit_tokens_max]
            given = (*self.request.continued_ids, *said)
            if not isinstance(again, tuple) or tuple(one.token_id for one in again) != given:
                return "unclear"  # it has not checked what it was asked to
            return comparing.tokens(again[-len(said) :])
        done = work(self.chunks)
        return "unclear" if done is None else same(done, again)


def checkable(request: InferRequest) -> bool:
    """Whether an answer to it can be checked at all: not where tools and formats decide tokens."""
    if isinstance(request, TextRequest):
        return not request.more and not request.checks and request.max_tokens != 0
    return isinstance(request, TaskRequest | TensorRequest)


def work(chunks: Iterable[InferChunk]) -> Work | None:
    """What an answer comes to for comparison; None where there is nothing."""
    logprobs: list[TokenLogprob] = []
    for chunk in chunks:
        if isinstance(chunk, TaskChunk):
            return chunk.output
        if isinstance(chunk, TensorChunk):
            return dict(chunk.outputs)
        if isinstance(chunk, TextChunk):
            logprobs += chunk.logprobs
    return tuple(logprobs) or None


def same(one: Work, other: Work) -> Verdict:
    """Of two holders that did the same; of tokens each judges by itself, so they do not differ."""
    if isinstance(one, bytes) and isinstance(other, bytes):
        return comparing.outputs(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return comparing.tensors(one, other)
    return "same" if type(one) is type(other) else "different"


def size_bytes(chunk: Any) -> int:
    """About what is kept of a chunk."""
    if isinstance(chunk, TextChunk):
        return _BYTES_PER_TOKEN * len(chunk.token_ids) + len(chunk.more)
    if isinstance(chunk, TaskChunk):
        return len(chunk.output)
    if isinstance(chunk, TensorChunk):
        return sum(len(tensor.data) for tensor in chunk.outputs.values())
    return 0


def _tokens(chunks: Iterable[InferChunk]) -> list[int]:
    return [token for chunk in chunks if isinstance(chunk, TextChunk) for token in chunk.token_ids]
