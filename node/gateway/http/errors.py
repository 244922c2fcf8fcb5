"""Errors as HTTP answers: status and headers are alike in all dialects, bodies are not. Pure."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aigrid.node.mesh.routing.answer import Segment
from aigrid.protocol.errors import AigridError, Code, InvalidRequestError

SpellError = Callable[[AigridError, Sequence[Segment]], bytes]
"""A dialect's body of an error, as JSON; the segments are of the answer that it ends."""

_PATIENCE_SECONDS = 60.0
_NAME = re.compile("`([^`]*)`")


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error as clients of a dialect read it: status, headers of its own, and body."""

    status: int
    headers: dict[str, str]
    body: bytes


def error_answer(
    error: AigridError,
    spell: SpellError,
    *,
    retry_after_seconds: float,
    segments: Sequence[Segment] = (),
) -> ErrorAnswer:
    """Translate an error; `retry_after_seconds` is for those that know no better."""
    headers = _headers(error, retry_after_seconds)
    return ErrorAnswer(error.info.http, headers, spell(error, segments))


def _headers(error: AigridError, retry_after_seconds: float) -> dict[str, str]:
    info = error.info
    headers: dict[str, str] = {}
    if info.http in {429, 503}:
        seconds = error.retry_after_seconds
        if seconds is None or not math.isfinite(seconds):
            seconds = retry_after_seconds
        milliseconds = max(1, math.ceil(seconds * 1000))
        headers["retry-after"] = str(math.ceil(milliseconds / 1000))
        headers["retry-after-ms"] = str(milliseconds)
        if seconds > _PATIENCE_SECONDS:  # the SDK would not wait so long, but repeat at once
            headers["x-should-retry"] = "false"
    if not info.retry:
        # The SDK repeats every 408, 409 and 5xx unless told not to.
        headers["x-should-retry"] = "false"
    if info.http == 401:
        headers["www-authenticate"] = 'Bearer realm="aigrid"'
    return headers


def param_of(error: AigridError) -> str | None:
    """The field that an error is about; that of an engine's has its name in the message alone."""
    param: str | None = getattr(error, "param", None)
    if param is None and error.code is Code.UNSUPPORTED_PARAMETER:
        named = _NAME.search(error.message)
        param = None if named is None else named[1]
    return param


def in_words_of(error: AigridError, called: Callable[[str], str]) -> AigridError:
    """The refusal of a parameter as a dialect calls it; `called` takes OpenAI's name in chat."""
    if error.code is not Code.UNSUPPORTED_PARAMETER:
        return error
    param = param_of(error)
    message = _NAME.sub(lambda found: f"`{called(found[1])}`", error.message)
    return InvalidRequestError(message, error.code, param=param and called(param))


def error_text(error: AigridError) -> str:
    """What happened, then what to do about it, in one line for people."""
    message = error.message.strip()
    if message and message[-1] not in ".!?":
        message += "."
    # Without a field to name, the message says itself what to send.
    says_all = error.code is Code.INVALID_REQUEST and getattr(error, "param", None) is None
    # The next step of what is not found is about paths; a name that is unknown has its own.
    says_all |= error.code is Code.NOT_FOUND and getattr(error, "param", None) is not None
    # Why it is no member, which a node says of itself, has a next step of its own.
    says_all |= error.code is Code.NOT_MEMBER and "`" in message
    if not says_all and error.info.next_step not in message:
        message = f"{message} {error.info.next_step}".lstrip()
    return message
