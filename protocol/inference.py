"""What an engine is asked and what it answers: the same on the wire and in a worker's pipe.

A request is a tagged union over *task shapes*, not over models: text generation and tensors now,
typed tasks later. Chunks stream back; exactly one `Finish` ends a successful answer. Decoding holds
the bounds that stand with each field; what depends on several fields, `check_text` holds.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.limits import LIMITS

TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
TokenIds = Annotated[tuple[TokenId, ...], Meta(max_length=LIMITS.max_tokens_max)]
# JSON, in which the gateway passes it on, knows neither NaN nor infinities.
Finite = Annotated[float, Meta(ge=-1e38, le=1e38)]
TokenCount = Annotated[int, Meta(ge=0, le=2**53 - 1)]
StopText = Annotated[str, Meta(min_length=1, max_length=LIMITS.stop_max_chars)]
JsonText = Annotated[bytes, Meta(min_length=1, max_length=LIMITS.task_json_max_bytes)]
More = Annotated[bytes, Meta(max_length=LIMITS.more_max_bytes)]
FinishReason = Literal["stop", "length", "cancelled", "tool_calls", "content_filter"]


class ChatMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One turn. `content` is plain text; parts were joined by the gateway.

    `more`: JSON text of an object with what else was said of it (`tool_calls`, `tool_call_id`), and
    `content` where that is more than text; see `protocol.more`.
    """

    role: Literal["system", "user", "assistant", "tool", "developer"]
    content: str
    more: More = b""


class TextRequest(msgspec.Struct, frozen=True, tag="text", forbid_unknown_fields=True):
    """Generate text.

    Exactly one of `messages`, `prompt` and `token_ids` is given. `continued_ids` are output tokens
    that the client already has: generation goes on after them, and `seed` together with the
    absolute output position decides each sample, so a continuation elsewhere draws the same.

    Attributes:
        max_tokens: upper bound on new tokens; None means as many as the context still holds.
        temperature: 0 is greedy.
        top_p: nucleus mass in (0, 1].
        seed: of the sampler; None lets the engine draw one.
        stop: strings that end the answer and are not part of it.
        top_logprobs: how many alternatives per token to report; None reports no log-probabilities.
        more: JSON text of an object with what only some engines take; see `protocol.more`.
        checks: nothing is generated: chunks without ids tell by `logprobs`, for each of
            `continued_ids` in order, its log-probability after all that is before it, and as `top`
            alone the token that this engine would have drawn there itself; by `text`, together, the
            text that those tokens come to. Where `max_tokens` leaves room for more and no stop
            string was completed, a last one without an id tells the log-probability that the answer
            ends there.
    """

    messages: Annotated[tuple[ChatMessage, ...], Meta(max_length=LIMITS.messages_max)] = ()
    prompt: str | None = None
    token_ids: TokenIds | None = None
    continued_ids: TokenIds = ()
    max_tokens: Annotated[int, Meta(ge=0, le=LIMITS.max_tokens_max)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=LIMITS.temperature_max)] = 1.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    seed: int | None = None
    stop: Annotated[tuple[StopText, ...], Meta(max_length=LIMITS.stop_max)] = ()
    top_logprobs: Annotated[int, Meta(ge=0, le=LIMITS.top_logprobs_max)] | None = None
    more: More = b""
    checks: bool = False


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A dense tensor, row-major, little-endian.

    `dtype` is a numpy name ("float32", "int64", "uint8", "bool"...) or "string", whose data is a
    msgpack array of UTF-8 strings. `data` is exactly prod(shape) * itemsize bytes otherwise.
    """

    dtype: Annotated[str, Meta(max_length=16)]
    shape: Annotated[
        tuple[Annotated[int, Meta(ge=0)], ...], Meta(max_length=LIMITS.tensor_rank_max)
    ]
    data: Annotated[bytes, Meta(max_length=LIMITS.tensor_max_bytes)]


class TensorRequest(msgspec.Struct, frozen=True, tag="tensor", forbid_unknown_fields=True):
    """Run a tensor model once. `outputs` selects by name; empty means all."""

    inputs: Annotated[dict[str, Tensor], Meta(max_length=LIMITS.tensors_max)]
    outputs: Annotated[tuple[str, ...], Meta(max_length=LIMITS.tensors_max)] = ()


class TaskRequest(msgspec.Struct, frozen=True, tag="task", forbid_unknown_fields=True):
    """Run a task once, with input and output as its capability's schemas say.

    Attributes:
        task: the capability asked for: a pipeline tag, or a published one's IRI.
        input: JSON text; images, sounds and files in it are base64.
        parameters: settings of this request ("top_k", "threshold"...).
    """

    task: Annotated[str, Meta(min_length=1, max_length=LIMITS.capability_max_chars)]
    input: JsonText
    parameters: Annotated[
        dict[Annotated[str, Meta(max_length=64)], str | int | float | bool],
        Meta(max_length=LIMITS.task_parameters_max),
    ] = {}


InferRequest = TextRequest | TensorRequest | TaskRequest
TEXT_GENERATION: Final = "text-generation"
_WIDE: Final = 2**63


def asked_for(request: InferRequest) -> str:
    """The capability that a model needs to answer; "" for tensors, of which each has its own."""
    if isinstance(request, TaskRequest):
        return request.task
    return TEXT_GENERATION if isinstance(request, TextRequest) else ""


class TokenLogprob(msgspec.Struct, frozen=True):
    """Natural log-probability of a token under the unmodified distribution.

    Ids are None where the engine knows tokens by their text only.
    """

    token_id: TokenId | None
    token: str
    logprob: Finite
    top: Annotated[
        tuple[tuple[TokenId | None, str, Finite], ...], Meta(max_length=LIMITS.top_logprobs_max)
    ] = ()


class TextChunk(msgspec.Struct, frozen=True, tag="text"):
    """A piece of the answer.

    `text` is complete UTF-8 and holds back what may yet become a stop string, so it may be empty
    while `token_ids` is not. Tokens are reported exactly once, in order. An engine that is not told
    the ids of its tokens leaves `token_ids` empty throughout: then `Finish` alone counts them, and
    nobody can go on where the answer broke off. A chunk with nothing in it is a sign of life.
    `more` is JSON text of an object: further members of a delta, such as `tool_calls`. Nobody goes
    on with an answer that has said such.
    """

    text: str
    token_ids: TokenIds = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    more: Annotated[bytes, Meta(max_length=LIMITS.more_delta_max_bytes)] = b""

    @property
    def says_nothing(self) -> bool:
        return not (self.text or self.token_ids or self.logprobs or self.more)


class TensorChunk(msgspec.Struct, frozen=True, tag="tensor"):
    """All outputs of a tensor model."""

    outputs: Annotated[dict[str, Tensor], Meta(max_length=LIMITS.tensors_max)]


class TaskChunk(msgspec.Struct, frozen=True, tag="task"):
    """The answer to a task: JSON text."""

    output: JsonText


class Finish(msgspec.Struct, frozen=True, tag="finish"):
    """The clean end of an answer, with token counts (0 where the model has no tokens)."""

    reason: FinishReason
    prompt_tokens: TokenCount = 0
    completion_tokens: TokenCount = 0


InferChunk = TextChunk | TensorChunk | TaskChunk | Finish


def check_settings(parameters: Mapping[str, object], within: str = "parameters.") -> None:
    """Raise InvalidRequestError for a whole number beyond 64 bits: no message could carry it.

    `within`: what stands before a parameter's name in `param`.
    """
    for name, value in parameters.items():
        if isinstance(value, int) and not -_WIDE <= value < _WIDE:
            raise InvalidRequestError(
                f"{name[:64]!r} must fit into 64 bits.", param=f"{within}{name[:64]}"
            )


def check_text(request: TextRequest) -> None:
    """Raise InvalidRequestError unless there is exactly one kind of input."""
    given = (bool(request.messages), request.prompt is not None, request.token_ids is not None)
    if sum(given) != 1:
        raise InvalidRequestError(
            "give exactly one of messages, prompt and token_ids",
            Code.INVALID_REQUEST,
            param="messages",
        )
    if request.checks and not request.continued_ids and request.max_tokens == 0:
        raise InvalidRequestError("a check needs tokens to check", param="continued_ids")
    if request.checks and request.temperature > 0 and request.seed is None:
        raise InvalidRequestError("what was drawn is checked by the seed", param="seed")


def check_tensor(tensor: Tensor, itemsize: int | None) -> None:
    """Raise ValueError unless shape and byte count agree and are within limits."""
    if len(tensor.shape) > LIMITS.tensor_rank_max or any(n < 0 for n in tensor.shape):
        raise ValueError(f"tensor shape {tensor.shape} is not allowed")
    count = 1
    for n in tensor.shape:
        count *= n
    if itemsize is not None and count * itemsize != len(tensor.data):
        raise ValueError(
            f"tensor of shape {tensor.shape} and type {tensor.dtype} needs "
            f"{count * itemsize} bytes, got {len(tensor.data)}"
        )
