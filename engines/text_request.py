"""From a `TextRequest` to what a decoder needs; pure but for the model's own tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from aigrid.engines.sampling import Sampling
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import ChatMessage, TextRequest
from aigrid.protocol.limits import LIMITS


class Encoder(Protocol):
    """What is needed of a tokenizer."""

    longest_bytes: int

    def encode(self, text: str) -> list[int]: ...


class Renderer(Protocol):
    """What is needed of a chat template."""

    def render(self, messages: Sequence[ChatMessage]) -> str: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that can be run: `budget` is how many tokens it may add.

    It is 0 where an answer has all its tokens and only its end is asked for.
    """

    prompt: tuple[int, ...]
    continued: tuple[int, ...]
    budget: int
    sampling: Sampling
    stops: tuple[str, ...]
    top_logprobs: int | None
    checks: bool = False


def make_plan(
    request: TextRequest,
    encoder: Encoder,
    template: Renderer | None,
    *,
    context: int,
    vocabulary: int,
    fresh_seed: int,
) -> Plan:
    """Check a request and turn its input into tokens.

    Raises:
        EngineError: `invalid_request` for a value out of range, `context_length_exceeded`.
    """
    _check_numbers(request)
    sampling = Sampling(
        request.temperature,
        request.top_p,
        fresh_seed if request.seed is None else request.seed,
    )
    prompt = _prompt(request, encoder, template, context)
    for name, tokens in (("token_ids", prompt), ("continued_ids", request.continued_ids)):
        if any(not 0 <= token < vocabulary for token in tokens):
            raise _invalid(f"{name} must be between 0 and {vocabulary - 1}")
    if not prompt:
        raise _invalid("the prompt has no token: send at least one")
    used = len(prompt) + len(request.continued_ids)
    least = 0 if request.continued_ids or request.checks else 1
    wanted = least if request.max_tokens is None or request.checks else request.max_tokens
    if used + wanted > context:
        raise EngineError(
            f"the input has {used} tokens and {wanted} more are asked for, {context} fit",
            Code.CONTEXT_LENGTH_EXCEEDED,
        )
    return Plan(
        prompt=tuple(prompt),
        continued=request.continued_ids,
        budget=context - used if request.max_tokens is None else request.max_tokens,
        sampling=sampling,
        stops=request.stop,
        top_logprobs=request.top_logprobs,
        checks=request.checks,
    )


def _check_numbers(request: TextRequest) -> None:
    if request.max_tokens is not None and request.max_tokens < (not request.continued_ids):
        raise _invalid("max_tokens must be at least 1")
    if request.top_logprobs is not None and not (
        0 <= request.top_logprobs <= LIMITS.top_logprobs_max
    ):
        raise _invalid(f"top_logprobs must be between 0 and {LIMITS.top_logprobs_max}")
    if len(request.stop) > LIMITS.stop_max:
        raise _invalid(f"at most {LIMITS.stop_max} stop strings are allowed")
    if any(not 0 < len(stop) <= LIMITS.stop_max_chars for stop in request.stop):
        raise _invalid(f"a stop string must have 1 to {LIMITS.stop_max_chars} characters")


def _prompt(
    request: TextRequest, encoder: Encoder, template: Renderer | None, context: int
) -> Sequence[int]:
    given = [
        bool(request.messages),
        request.prompt is not None,
        request.token_ids is not None,
    ]
    if sum(given) > 1:
        raise _invalid("messages, prompt and token_ids exclude each other")
    if request.token_ids is not None:
        return request.token_ids
    if request.prompt is not None:
        return _encode(request.prompt, encoder, context)
    if not request.messages:
        raise _invalid("messages must not be empty")
    if len(request.messages) > LIMITS.messages_max:
        raise _invalid(f"at most {LIMITS.messages_max} messages are allowed")
    if template is None:
        raise _invalid("this model has no chat template, give it a prompt instead of messages")
    # Nothing is rendered that could not fit; templates repeat what they are given.
    _check_length(sum(len(message.content) for message in request.messages), encoder, context)
    return _encode(template.render(request.messages), encoder, context)


def _encode(text: str, encoder: Encoder, context: int) -> list[int]:
    _check_length(len(text), encoder, context)
    return encoder.encode(text)


def _check_length(chars: int, encoder: Encoder, context: int) -> None:
    """Refuse what cannot fit before spending seconds on splitting it into tokens."""
    least = chars // encoder.longest_bytes
    if least > context:
        raise EngineError(
            f"the input has {least} tokens or more, {context} fit", Code.CONTEXT_LENGTH_EXCEEDED
        )


def _invalid(message: str) -> EngineError:
    return EngineError(message, Code.INVALID_REQUEST)
