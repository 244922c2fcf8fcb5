"""OpenAI's responses as bytes: whole, or as events. Pure translation.

Source: https://platform.openai.com/docs/api-reference/responses. Ours on top is the `aigrid` object
of a response that has ended and of an error.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from aigrid.node.gateway.http.errors import in_words_of
from aigrid.node.gateway.openai.answers import (
    EVENT_STREAM,
    comment,
    error_body,
    error_object,
)
from aigrid.node.gateway.openai.response_output import Events, Output
from aigrid.node.gateway.step import Step
from aigrid.node.gateway.told import Told, aigrid_object, broken_object
from aigrid.node.mesh.routing.answer import Answer, Segment
from aigrid.protocol.errors import AigridError
from aigrid.protocol.inference import Finish

_encode = msgspec.json.Encoder().encode
_CALLED: Final = {
    "response_format": "text.format",
    "verbosity": "text.verbosity",
    "reasoning_effort": "reasoning.effort",
    "logprobs": "include",
    "messages.content": "input",
    "messages.tool_calls": "input",
}
_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponseSpelling:
    """One answer to `POST /v1/responses`; `echoed` are members that repeat the request."""

    media_type = EVENT_STREAM

    def __init__(self, echoed: Mapping[str, Any], request_id: str, created: int) -> None:
        self._named = {"id": f"resp_{request_id}", "object": "response", "created_at": created}
        # Repeated in several events, so encoded once.
        self._echoed = _encode(echoed)[1:]
        self._model = ""
        self._events = Events()
        self._output = Output(request_id, self._events)

    def error(self, error: AigridError, segments: Sequence[Segment]) -> bytes:
        """See `Spelling`."""
        return error_body(in_words_of(error, _called), segments)

    def whole(self, steps: Sequence[Step], told: Told) -> bytes:
        """See `Spelling`: the items that a stream would tell of."""
        finish = steps[-1].finish
        if finish is None:
            raise ValueError("the last step has no finish")
        self._model = told.answer.name
        for step in steps:
            self._output.step(step)
        self._output.close(_status(finish))
        return bytes(self._ended(finish, told))

    def begin(self, answer: Answer) -> bytes:
        """See `Spelling`."""
        self._model = answer.name
        begun = self._response("in_progress")
        return b"".join(
            self._events.event(f"response.{what}", response=begun)
            for what in ("created", "in_progress")
        )

    def step(self, step: Step) -> bytes:
        """See `Spelling`."""
        return self._output.step(step)

    def end(self, finish: Finish, told: Told) -> bytes:
        """See `Spelling`: the ends of all items, then that of the response."""
        status = _status(finish)
        data = self._output.close(status)
        return data + self._events.event(f"response.{status}", response=self._ended(finish, told))

    def comment(self, text: str) -> bytes:
        """See `Spelling`."""
        return comment(text)

    def failed(self, error: AigridError, segments: Sequence[Segment]) -> bytes:
        """See `Spelling`: the response as far as it came, then the error.

        `error` within the last event is what makes clients raise it; the members beside it are
        those that the interface names.
        """
        told = error_object(in_words_of(error, _called))
        data = b""
        if self._model:  # else no client knows of a response
            upcoming = self._events.upcoming
            self._output.close("incomplete")  # not sent: a call that was cut off must not look done
            self._events.upcoming = upcoming
            failure = {"code": told["code"], "message": told["message"]}
            data = self._events.event(
                "response.failed", response=self._response("failed", error=failure)
            )
        said = {name: told[name] for name in ("code", "message", "param")}
        aigrid = {"aigrid": broken_object(segments)} if segments else {}
        return data + self._events.event("error", **said, error=told, **aigrid)

    def _ended(self, finish: Finish, told: Told) -> msgspec.Raw:
        reason = _INCOMPLETE.get(finish.reason)
        return self._response(
            _status(finish),
            incomplete_details=None if reason is None else {"reason": reason},
            usage=_usage(finish),
            aigrid=aigrid_object(told),
        )

    def _response(self, status: str, **members: Any) -> msgspec.Raw:
        said = {
            **self._named,
            "model": self._model,
            "status": status,
            "output": self._output.items,
            "error": None,
            "incomplete_details": None,
            "usage": None,
            **members,
        }
        return msgspec.Raw(_encode(said)[:-1] + b"," + self._echoed)


def _status(finish: Finish) -> str:
    return "incomplete" if finish.reason in _INCOMPLETE else "completed"


def _usage(finish: Finish) -> dict[str, Any]:
    """Token counts; of those that clients expect and nobody knows here, 0."""
    return {
        "input_tokens": finish.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": finish.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
    }


def _called(name: str) -> str:
    """What a client said that travels under a name of chat's."""
    return _CALLED.get(name, name)
