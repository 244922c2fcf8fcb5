"""What the bodies of OpenAI's text endpoints have in common, decoded and checked. Pure."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from aigrid.node.gateway.call import TextCall
from aigrid.node.gateway.preferred import models_of, preferences_of
from aigrid.node.outcome.no_json import no_json
from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.more import RESERVED, is_neutral, packed

ABSENT: Final = msgspec.Raw()
Members = dict[str, msgspec.Raw]
Refused = Mapping[str, tuple[tuple[Any, ...], str]]
"""What is refused by name: the values that change nothing, and what is said of all others."""

_SEED_MAX = 2**63
_REASON_MAX_CHARS = 300
_PARAM_MAX_CHARS = 200
_MEMBERS: msgspec.json.Decoder[Members] = msgspec.json.Decoder(Members)


class Fields(msgspec.Struct, kw_only=True):
    """Fields of every endpoint that answers with text."""

    model: str = ""
    models: list[str] | None = None
    provider: msgspec.Raw = ABSENT
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    keep_alive: str | int | float | None = None


class StreamOptions(msgspec.Struct):
    """Of chat and completions."""

    include_usage: bool | None = None


class ChoicesFields(Fields, kw_only=True):
    """Fields of chat and completions, whose answers are numbered choices."""

    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    n: int | None = None


@dataclass(frozen=True, slots=True)
class ChoicesCall:
    """What a client asked for. `include_usage` asks for token counts at the end of a stream."""

    call: TextCall
    include_usage: bool


F = TypeVar("F", bound=msgspec.Struct)


def parse(body: bytes, decoder: msgspec.json.Decoder[F]) -> tuple[F, Members]:
    """A body as far as we have fields for it, and all its members as they were sent.

    Raises:
        InvalidRequestError: whatever is wrong with it; `param` names the field where there is one.
    """
    try:
        # msgspec checks only the strings that it keeps.
        body.decode()
        parsed = decoder.decode(body)
        # The standard library builds objects for everything; msgspec skips what we do not name.
        if len(body) <= LIMITS.duplicates_sought_max_bytes:
            json.loads(body, object_pairs_hook=_unique, parse_int=str)
    except InvalidRequestError:
        raise
    except msgspec.ValidationError as error:
        raise explain(str(error)) from None
    except (ValueError, RecursionError) as error:
        # DecodeError is no ValidationError; deep nesting is a RecursionError.
        raise InvalidRequestError(
            f"The body is not valid JSON: {no_json(body, error)}. Send one JSON object in UTF-8."
        ) from None
    return parsed, _MEMBERS.decode(body)


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise InvalidRequestError("The body names a member twice.", Code.DUPLICATE_KEY)


def explain(reason: str, within: str = "") -> InvalidRequestError:
    """Turn msgspec's 'Expected `x`, got `y` - at `$.a.b`' into ours, without the client's value.

    `within` names what was decoded, where that is no whole body.
    """
    what, _, where = reason.partition(" - at `$")
    what = what[:_REASON_MAX_CHARS]  # a name that nobody knows may be as long as the body
    param = (within + where.rstrip("`")).lstrip(".")[:_PARAM_MAX_CHARS]  # of nested keys, any size
    missing = re.fullmatch(r"Object missing required field `(\w+)`", what)
    if missing is not None:
        return invalid(f"{param}.{missing[1]}".lstrip("."), "is missing")
    if what.startswith("Invalid enum value"):
        what = "is not one of the values allowed there"
    else:
        what = f"is wrong: {what[:1].lower()}{what[1:]}"
    return invalid(param, what) if param else InvalidRequestError(f"The body {what}.")


def invalid(param: str, what: str) -> InvalidRequestError:
    """The error for a field with a wrong value."""
    return InvalidRequestError(f"{param} {what}.", param=param)


def unsupported(param: str, what: str) -> InvalidRequestError:
    """The error for a field that there is none of here."""
    return InvalidRequestError(f"{param} {what}.", Code.UNSUPPORTED_PARAMETER, param=param)


def refuse(members: Members, refused: Refused) -> None:
    """Raise InvalidRequestError for the first of `refused` that would change something."""
    for name, (neutral, what) in refused.items():
        if name in members and not is_neutral(members[name], neutral):
            raise unsupported(name, what)


def call_of(
    parsed: Fields,
    *requests: TextRequest,
    choices: int = 1,
) -> TextCall:
    """The requests, with the models and the nodes that the body asks for."""
    return TextCall(
        models=models_of(parsed.model, parsed.models),
        request=requests[0],
        others=requests[1:],
        choices=choices,
        preferences=preferences_of(parsed.provider),
        stream=bool(parsed.stream),
        keep_alive=parsed.keep_alive,
    )


def choices_call(parsed: ChoicesFields, *requests: TextRequest, choices: int) -> ChoicesCall:
    """The same of an endpoint with choices."""
    usage = parsed.stream and parsed.stream_options and parsed.stream_options.include_usage
    return ChoicesCall(call_of(parsed, *requests, choices=choices), include_usage=bool(usage))


def sampled(parsed: Fields) -> TextRequest:
    """A request without input, with how to draw its tokens and where to stop."""
    return TextRequest(
        temperature=_within(parsed.temperature, "temperature", 0.0, 2.0, default=1.0),
        top_p=_within(parsed.top_p, "top_p", 0.0, 1.0, default=1.0, above=True),
        seed=_seed(parsed.seed),
        stop=_stop(parsed.stop),
    )


def further(members: Mapping[str, msgspec.Raw | bytes], known: Collection[str] = RESERVED) -> bytes:
    """What we have no field for, as it was sent; b"" where there is nothing of that."""
    return packed({name: msgspec.Raw(raw) for name, raw in members.items() if name not in known})


def counted(value: int | None, name: str, most: int, *, least: int = 1) -> int | None:
    """A number of things that is within its bounds."""
    if value is not None and not least <= value <= most:
        raise invalid(name, f"must be from {least} to {most}")
    return value


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
        most = f"above {low:g} and at most {high:g}" if above else f"from {low:g} to {high:g}"
        raise invalid(name, f"must be {most}")
    return value


def _seed(seed: int | None) -> int | None:
    if seed is not None and not -_SEED_MAX <= seed < _SEED_MAX:
        raise invalid("seed", "must fit into 64 bits")
    return seed


def _stop(stop: str | list[str] | None) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(strings) > LIMITS.stop_max:
        raise invalid("stop", f"holds more than {LIMITS.stop_max} strings")
    if any(not 1 <= len(string) <= LIMITS.stop_max_chars for string in strings):
        raise invalid("stop", f"needs strings of 1 to {LIMITS.stop_max_chars} characters")
    return strings
