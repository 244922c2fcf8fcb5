"""A step of an answer: what was ready together, whoever made it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from aigrid.node.gateway.deltas import checked
from aigrid.protocol.errors import Code, EngineError, RemoteError
from aigrid.protocol.inference import (
    Finish,
    InferChunk,
    TaskChunk,
    Tensor,
    TensorChunk,
    TextChunk,
    TokenLogprob,
)


@dataclass(frozen=True, slots=True)
class Step:
    """What was ready together: text, its tokens, and with the last step how the answer ended.

    `output` is the answer of a typed task, as JSON text, `tensors` that of a model of tensors; then
    there is no text. `more`: JSON texts of objects, further members of a delta such as
    `tool_calls`, in order.

    Of several answers to one request `choice` is the number of the one that the step is of, from 0,
    and `ended` how that ended; `finish` comes once, after all of them, with the sum.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...]
    finish: Finish | None
    output: bytes = b""
    more: tuple[bytes, ...] = ()
    choice: int = 0
    ended: Finish | None = None
    tensors: Mapping[str, Tensor] | None = None


def merged(chunks: tuple[InferChunk, ...], *, takes_tensors: bool = False) -> Step:
    """Join what was ready together; raises RemoteError or EngineError if it is no answer."""
    finish: Finish | None = None
    if isinstance(chunks[-1], Finish):
        finish, chunks = chunks[-1], chunks[:-1]
    if len(chunks) == 1 and isinstance(chunks[0], TextChunk):
        one = chunks[0]
        return Step(one.text, one.logprobs, finish, more=_further(one))
    texts: list[str] = []
    logprobs: list[TokenLogprob] = []
    more: list[bytes] = []
    output = b""
    tensors: Mapping[str, Tensor] | None = None
    for chunk in chunks:
        if isinstance(chunk, Finish):
            raise RemoteError("The answer went on after its end.")
        if isinstance(chunk, TaskChunk):
            if output:
                raise RemoteError("The answer has two results.")
            output = chunk.output
            continue
        if isinstance(chunk, TensorChunk):
            if tensors is not None:
                raise RemoteError("The answer has two results.")
            if not takes_tensors:
                raise EngineError(
                    "The model answers with tensors, not text.", Code.UNSUPPORTED_MODEL
                )
            tensors = chunk.outputs
            continue
        texts.append(chunk.text)
        logprobs += chunk.logprobs
        more += _further(chunk)
    return Step("".join(texts), tuple(logprobs), finish, output, tuple(more), tensors=tensors)


def _further(chunk: TextChunk) -> tuple[bytes, ...]:
    more = checked(chunk.more) if chunk.more else b""
    return (more,) if more else ()
