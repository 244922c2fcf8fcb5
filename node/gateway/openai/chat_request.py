"""OpenAI's chat request, decoded and checked: bytes in, `ChatCall` or an error out.

Source: https://platform.openai.com/docs/api-reference/chat/create. A field that we do not know is
ignored; one that would change the meaning of the answer and that we cannot honour is refused by
name.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.inference import ChatMessage, TextRequest
from aigrid.protocol.limits import LIMITS

_ABSENT = msgspec.Raw()
_SEED_MAX = 2**63
_NEUTRAL_MAX_BYTES = 64

# Fields that change the answer, with the values that do not.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "n": (1,),
    "best_of": (1,),
    "audio": (),
    "modalities": (["text"], []),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "models": ([],),
    "provider": ({},),
}


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


class _Message(msgspec.Struct):
    role: Literal["system", "user", "assistant", "tool", "developer"]
    content: str | list[_Part] | None = None
    tool_calls: msgspec.Raw = _ABSENT
    function_call: msgspec.Raw = _ABSENT


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Body(msgspec.Struct):
    model: str
    messages: list[_Message]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    user: str | None = None
    keep_alive: str | int | float | None = None


_Chat = msgspec.defstruct(
    "_Chat",
    [(name, msgspec.Raw, _ABSENT) for name in _UNSUPPORTED],
    bases=(_Body,),
)
_DECODER: msgspec.json.Decoder[_Body] = msgspec.json.Decoder(_Chat)


@dataclass(frozen=True, slots=True)
class ChatCall:
    """What a client asked for. `include_usage` asks for token counts at the end of a stream.

    `keep_alive` is Ollama's field, as it was sent.
    """

    model: str
    request: TextRequest
    stream: bool
    include_usage: bool
    keep_alive: str | float | None = None


def decode_chat(body: bytes) -> ChatCall:
    """Decode and check the body of `POST /v1/chat/completions`.

    Raises:
        InvalidRequestError: whatever is wrong with it; `param` names the field where there is one.
    """
    parsed = _parse(body)
    _refuse_unsupported(parsed)
    if not parsed.model or len(parsed.model) > LIMITS.model_field_max_chars:
        raise _invalid("model", "must name a model")
    return ChatCall(
        model=parsed.model,
        request=TextRequest(
            messages=_messages(parsed.messages),
            max_tokens=_max_tokens(parsed),
            temperature=_within(parsed.temperature, "temperature", 0.0, 2.0, default=1.0),
            top_p=_within(parsed.top_p, "top_p", 0.0, 1.0, default=1.0, above=True),
            seed=_seed(parsed.seed),
            stop=_stop(parsed.stop),
            top_logprobs=_top_logprobs(parsed),
        ),
        stream=bool(parsed.stream),
        include_usage=bool(
            parsed.stream and parsed.stream_options and parsed.stream_options.include_usage
        ),
        keep_alive=parsed.keep_alive,
    )


def _parse(body: bytes) -> _Body:
    try:
        # msgspec checks only the strings that it keeps.
        body.decode()
        parsed = _DECODER.decode(body)
        # The standard library builds objects for everything; msgspec skips what we do not name.
        if len(body) <= LIMITS.duplicates_sought_max_bytes:
            json.loads(body, object_pairs_hook=_unique, parse_int=str)
    except InvalidRequestError:
        raise
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None
    except UnicodeDecodeError:
        raise InvalidRequestError("The body is not valid UTF-8. Send JSON in UTF-8.") from None
    except (ValueError, RecursionError) as error:
        # DecodeError is no ValidationError; deep nesting is a RecursionError.
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidRequestError(
            f"The body is not valid JSON: {what}. Send one JSON object."
        ) from None
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise InvalidRequestError("The body names a member twice.", Code.DUPLICATE_KEY)


def _explain(reason: str) -> InvalidRequestError:
    """Turn msgspec's 'Expected `x`, got `y` - at `$.a.b`' into ours, without the client's value."""
    what, _, where = reason.partition(" - at `$")
    param = where.rstrip("`").lstrip(".")
    missing = re.fullmatch(r"Object missing required field `(\w+)`", what)
    if missing is not None:
        return _invalid(f"{param}.{missing[1]}".lstrip("."), "is missing")
    if what.startswith("Invalid enum value"):
        what = "is not one of the values allowed there"
    else:
        what = f"is wrong: {what[:1].lower()}{what[1:]}"
    return _invalid(param, what) if param else InvalidRequestError(f"The body {what}.")


def _invalid(param: str, what: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param} {what}.", param=param)


def _unsupported(param: str, what: str = "is not supported") -> InvalidRequestError:
    return InvalidRequestError(f"{param} {what}.", Code.UNSUPPORTED_PARAMETER, param=param)


def _is_neutral(raw: msgspec.Raw, neutral: tuple[Any, ...]) -> bool:
    """Whether a raw value is absent, null or one of `neutral`."""
    text = bytes(raw)
    if not text:
        return True
    if len(text) > _NEUTRAL_MAX_BYTES:
        return False
    value = msgspec.json.decode(text)
    return value is None or (not isinstance(value, bool) and value in neutral)


def _refuse_unsupported(parsed: _Body) -> None:
    for name, neutral in _UNSUPPORTED.items():
        raw = getattr(parsed, name)
        if raw is not _ABSENT and not _is_neutral(raw, neutral):
            raise _unsupported(name)


def _messages(messages: list[_Message]) -> tuple[ChatMessage, ...]:
    if not messages:
        raise _invalid("messages", "is empty")
    if len(messages) > LIMITS.messages_max:
        raise _invalid("messages", f"holds more than {LIMITS.messages_max} messages")
    return tuple(
        ChatMessage(message.role, _content(message, f"messages[{index}]"))
        for index, message in enumerate(messages)
    )


def _content(message: _Message, where: str) -> str:
    for name in ("tool_calls", "function_call"):
        if not _is_neutral(getattr(message, name), ([],)):
            raise _unsupported(f"{where}.{name}")
    content = message.content
    if isinstance(content, str):
        return content
    if not content:
        raise _invalid(f"{where}.content", "is missing")
    texts: list[str] = []
    for index, part in enumerate(content):
        if part.type != "text":
            raise _unsupported(f"{where}.content[{index}]", "is no text: only text is supported")
        if part.text is None:
            raise _invalid(f"{where}.content[{index}].text", "is missing")
        texts.append(part.text)
    return "".join(texts)


def _max_tokens(parsed: _Body) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value: int | None = getattr(parsed, name)
        if value is None:
            continue
        if not 1 <= value <= LIMITS.max_tokens_max:
            raise _invalid(name, f"must be from 1 to {LIMITS.max_tokens_max}")
        return value
    return None


def _within(
    value: float | None,
    name: str,
    low: float,
    high: float,
    *,
    default: float,
    above: bool = False,
) -> float:
    if value is None:
        return default
    if not low <= value <= high or (above and value == low):
        raise _invalid(name, f"must be {'above' if above else 'from'} {low:g} to {high:g}")
    return value


def _seed(seed: int | None) -> int | None:
    if seed is not None and not -_SEED_MAX <= seed < _SEED_MAX:
        raise _invalid("seed", "must fit into 64 bits")
    return seed


def _stop(stop: str | list[str] | None) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(strings) > LIMITS.stop_max:
        raise _invalid("stop", f"holds more than {LIMITS.stop_max} strings")
    if any(not 1 <= len(string) <= LIMITS.stop_max_chars for string in strings):
        raise _invalid("stop", f"needs strings of 1 to {LIMITS.stop_max_chars} characters")
    return strings


def _top_logprobs(parsed: _Body) -> int | None:
    if not parsed.logprobs:
        if parsed.top_logprobs:
            raise _invalid("top_logprobs", "needs logprobs to be true")
        return None
    count = parsed.top_logprobs or 0
    if not 0 <= count <= LIMITS.top_logprobs_max:
        raise _invalid("top_logprobs", f"must be from 0 to {LIMITS.top_logprobs_max}")
    return count
