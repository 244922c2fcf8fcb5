"""OpenAI's chat request, decoded and checked: bytes in, `ChatCall` or an error out.

Source: https://platform.openai.com/docs/api-reference/chat/create. What we have no field for is
passed on as it was sent, to engines that take it: see `protocol.more`.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from aigrid.node.gateway.call import TextCall
from aigrid.node.gateway.openai.messages import Message, messages_of
from aigrid.node.gateway.preferred import models_of, preferences_of
from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.more import RESERVED, is_neutral

_ABSENT = msgspec.Raw()
_SEED_MAX = 2**63
_encode = msgspec.json.Encoder().encode
_MEMBERS: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(
    dict[str, msgspec.Raw]
)
_LISTED: msgspec.json.Decoder[list[dict[str, msgspec.Raw]]] = msgspec.json.Decoder(
    list[dict[str, msgspec.Raw]]
)
# Refused by name, with the values that change nothing.
_REFUSED: Final[dict[str, tuple[tuple[Any, ...], str]]] = {
    "functions": (([],), "is deprecated: use tools"),
    "function_call": (("none", "auto"), "is deprecated: use tool_choice"),
    "best_of": ((1,), "is not supported: use n, and choose"),
}


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Body(msgspec.Struct):
    messages: list[Message]
    model: str = ""
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    models: list[str] | None = None
    provider: msgspec.Raw = _ABSENT
    keep_alive: str | int | float | None = None


_DECODER: msgspec.json.Decoder[_Body] = msgspec.json.Decoder(_Body)


@dataclass(frozen=True, slots=True)
class ChatCall:
    """What a client asked for. `include_usage` asks for token counts at the end of a stream."""

    call: TextCall
    include_usage: bool


def decode_chat(body: bytes) -> ChatCall:
    """Decode and check the body of `POST /v1/chat/completions`.

    Raises:
        InvalidRequestError: whatever is wrong with it; `param` names the field where there is one.
    """
    parsed = _parse(body)
    members = _MEMBERS.decode(body)
    for name, (neutral, what) in _REFUSED.items():
        if name in members and not is_neutral(members[name], neutral):
            raise InvalidRequestError(f"{name} {what}.", Code.UNSUPPORTED_PARAMETER, param=name)
    call = TextCall(
        models=models_of(parsed.model, parsed.models),
        request=TextRequest(
            messages=messages_of(parsed.messages, _LISTED.decode(members["messages"])),
            max_tokens=_max_tokens(parsed),
            temperature=_within(parsed.temperature, "temperature", 0.0, 2.0, default=1.0),
            top_p=_within(parsed.top_p, "top_p", 0.0, 1.0, default=1.0, above=True),
            seed=_seed(parsed.seed),
            stop=_stop(parsed.stop),
            top_logprobs=_top_logprobs(parsed),
            more=_more(members),
        ),
        choices=_choices(parsed.n),
        preferences=preferences_of(parsed.provider),
        stream=bool(parsed.stream),
        keep_alive=parsed.keep_alive,
    )
    usage = parsed.stream and parsed.stream_options and parsed.stream_options.include_usage
    return ChatCall(call, include_usage=bool(usage))


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


def _more(members: dict[str, msgspec.Raw]) -> bytes:
    """What we have no field for, as it was sent."""
    more = {name: raw for name, raw in members.items() if name not in RESERVED}
    text = _encode(more) if more else b""
    if len(text) > LIMITS.more_max_bytes:
        raise InvalidRequestError("The body is too large.", Code.BODY_TOO_LARGE)
    return text


def _choices(n: int | None) -> int:
    if n is not None and not 1 <= n <= LIMITS.choices_max:
        raise _invalid("n", f"must be from 1 to {LIMITS.choices_max}")
    return n or 1


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
