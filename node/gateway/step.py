"""A step of an answer: what was ready together, whoever made it; and what a task comes to. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aigrid.node.mesh.routing.answer import Answer, Segment
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
    there is no text.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...]
    finish: Finish | None
    output: bytes = b""
    tensors: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, slots=True)
class TaskAnswer:
    """A task's answer: who gave it, and its output as JSON text, or the tensors that came out."""

    answer: Answer
    output: bytes
    finish: Finish
    segments: tuple[Segment, ...]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def merged(chunks: tuple[InferChunk, ...], *, takes_tensors: bool = False) -> Step:
    """Join what was ready together; raises RemoteError or EngineError if it is no answer."""
    finish: Finish | None = None
    if isinstance(chunks[-1], Finish):
        finish, chunks = chunks[-1], chunks[:-1]
    if len(chunks) == 1 and isinstance(chunks[0], TextChunk):
        return Step(chunks[0].text, chunks[0].logprobs, finish)
    texts: list[str] = []
    logprobs: list[TokenLogprob] = []
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
    return Step("".join(texts), tuple(logprobs), finish, output, tensors)
