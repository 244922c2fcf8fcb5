"""Answers as Ollama's clients read them: lines of JSON, durations in nanoseconds. Pure.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md. Ours on top is `aigrid` in the last
line, and in an error `code`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from aigrid.node.gateway.deltas import joined
from aigrid.node.gateway.http.errors import error_text, in_words_of
from aigrid.node.gateway.ollama.options import CALLED
from aigrid.node.gateway.step import Step
from aigrid.node.gateway.told import Told, aigrid_object, broken_object
from aigrid.node.mesh.routing.answer import Answer, Segment
from aigrid.node.mesh.routing.waiting import Waiting
from aigrid.protocol.errors import AigridError, EngineError
from aigrid.protocol.inference import Finish, TokenLogprob

LINES: Final = "application/x-ndjson"
_encode = msgspec.json.Encoder().encode
_CALLED: Final = {
    "response_format": "format",
    "reasoning_effort": "think",
    "messages.content": "messages.images",
    **{theirs: f"options.{ours}" for ours, theirs in CALLED.items()},
}
_MEMBERS: Final = frozenset(
    {"format", "think", "images", "messages", "tools", "suffix", "logprobs", "options"}
)
_REASONS: Final = {"length": "length"}  # everything else has stopped by itself


def error_body(error: AigridError, segments: Sequence[Segment] = ()) -> bytes:
    """The body of an error, and the line that ends a stream which failed."""
    said: dict[str, Any] = {"error": error_text(error), "code": error.code.value}
    if segments:
        said["aigrid"] = broken_object(segments)
    return _encode(said)


class _Function(msgspec.Struct):
    name: str
    arguments: str = ""


class _Call(msgspec.Struct):
    function: _Function
    id: str = ""


class Form(Protocol):
    """What is called otherwise by `/api/chat` and `/api/generate`."""

    def __call__(
        self, text: str, thinking: str, tool_calls: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        """The members that hold a piece of the answer."""


def as_message(text: str, thinking: str, tool_calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of `/api/chat`."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thinking:
        message["thinking"] = thinking
    if tool_calls:
        message["tool_calls"] = tool_calls
    return {"message": message}


def as_response(
    text: str,
    thinking: str,
    tool_calls: Sequence[dict[str, Any]],  # noqa: ARG001 - none there
) -> dict[str, Any]:
    """Of `/api/generate`."""
    return {"response": text, **({"thinking": thinking} if thinking else {})}


class OllamaSpelling:
    """One answer; see `Spelling`.

    Args:
        form: how a piece is held.
        model: the name to show: the one that was asked for.
        clock: wall time in RFC 3339, as it is.
        waiting: tells how long a load was waited for.
        now: monotonic seconds.
    """

    media_type = LINES

    def __init__(
        self,
        form: Form,
        *,
        model: str,
        clock: Callable[[], str],
        waiting: Waiting,
        now: Callable[[], float],
    ) -> None:
        self._form = form
        self._model = model
        self._clock = clock
        self._waiting = waiting
        self._now = now
        self._asked_at = self._first_at = now()
        self._more: list[bytes] = []

    def error(self, error: AigridError, segments: Sequence[Segment]) -> bytes:
        """See `Spelling`."""
        return error_body(in_words_of(error, self._called), segments)

    def whole(self, steps: Sequence[Step], told: Told) -> bytes:
        """See `Spelling`."""
        finish = steps[-1].finish
        if finish is None:
            raise ValueError("the last step has no finish")
        more = joined(piece for step in steps for piece in step.more)
        text = "".join(step.text for step in steps)
        entries = [entry for step in steps for entry in step.logprobs]
        piece = self._form(text, _thoughts(more), _tool_calls(more))
        return _encode({**self._head(), **piece, **_logprobs(entries), **self._end(finish, told)})

    def begin(self, _answer: Answer) -> bytes:
        """See `Spelling`: nothing is said, but from now on tokens are counted."""
        self._first_at = self._now()
        return b""

    def step(self, step: Step) -> bytes:
        """See `Spelling`."""
        thinking = ""
        if step.more:
            self._more += step.more
            thinking = _thoughts(joined(step.more))
        if not (step.text or thinking or step.logprobs):
            return b""
        return self._line({**self._form(step.text, thinking, ()), **_logprobs(step.logprobs)})

    def end(self, finish: Finish, told: Told) -> bytes:
        """See `Spelling`: the calls of tools, if any, then the counts."""
        calls = _tool_calls(joined(self._more))
        called = self._line(self._form("", "", calls)) if calls else b""
        last = {**self._head(), **self._form("", "", ()), **self._end(finish, told)}
        return called + _encode(last) + b"\n"

    def comment(self, _text: str) -> bytes:
        """See `Spelling`: a line without text. Clients read every line, so none can be skipped."""
        return self._line(self._form("", "", ()))

    def failed(self, error: AigridError, segments: Sequence[Segment]) -> bytes:
        """See `Spelling`."""
        return error_body(in_words_of(error, self._called), segments) + b"\n"

    def _called(self, name: str) -> str:
        """What a client said that travels under a name of chat's."""
        name = _CALLED.get(name, name)
        if self._form is as_response:
            name = name.removeprefix("messages.")
        return name if name.partition(".")[0] in _MEMBERS else f"options.{name}"

    def _head(self) -> dict[str, str]:
        return {"model": self._model, "created_at": self._clock()}

    def _line(self, piece: dict[str, Any]) -> bytes:
        return _encode({**self._head(), **piece, "done": False}) + b"\n"

    def _end(self, finish: Finish, told: Told) -> dict[str, Any]:
        loading = min(self._waiting.loading_seconds, self._first_at - self._asked_at)
        return {
            "done": True,
            "done_reason": _REASONS.get(finish.reason, "stop"),
            **durations(self._now() - self._asked_at, loading),
            "prompt_eval_count": finish.prompt_tokens,
            "prompt_eval_duration": nanoseconds(self._first_at - self._asked_at - loading),
            "eval_count": finish.completion_tokens,
            "eval_duration": nanoseconds(self._now() - self._first_at),
            "aigrid": aigrid_object(told),
        }


def durations(total_seconds: float, loading_seconds: float) -> dict[str, int]:
    """How long it took in all, and how much of that the load."""
    return {
        "total_duration": nanoseconds(total_seconds),
        "load_duration": nanoseconds(loading_seconds),
    }


def nanoseconds(seconds: float) -> int:
    """Never less than one: clients divide by it."""
    return max(1, round(seconds * 1e9))


def _logprobs(entries: Sequence[TokenLogprob]) -> dict[str, Any]:
    if not entries:
        return {}
    said = [
        {
            **_token(entry.token, entry.logprob),
            "top_logprobs": [_token(token, logprob) for _, token, logprob in entry.top],
        }
        for entry in entries
    ]
    return {"logprobs": said}


def _token(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def _thoughts(more: Mapping[str, Any]) -> str:
    """What the model thought, under either of the names that servers have for it."""
    said = more.get("reasoning_content") or more.get("reasoning")
    return said if isinstance(said, str) else ""


def _tool_calls(more: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Calls of tools with arguments as objects.

    Raises:
        EngineError: they are no calls, or the arguments of one are no JSON object.
    """
    try:
        calls = msgspec.convert(more.get("tool_calls") or [], list[_Call])
        return [
            {
                "id": call.id,
                "function": {
                    "name": call.function.name,
                    "arguments": msgspec.json.decode(
                        call.function.arguments or "{}", type=dict[str, Any]
                    ),
                },
            }
            for call in calls
        ]
    except (ValueError, RecursionError):
        raise EngineError("The model calls a tool with what is no JSON object.") from None
