"""OpenAI's answers: models, completions, chunks and errors as bytes. Pure translation.

Source: https://platform.openai.com/docs/api-reference/chat. Ours on top is the `aigrid` object:
in the body of a plain answer, in the last chunk of a stream, in what ends an answer that has begun
and failed, and in each listed model.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from aigrid.node.gateway.core import Listed
from aigrid.node.gateway.step import Step
from aigrid.node.mesh.routing.answer import Segment
from aigrid.node.mesh.routing.waiting import NotReadyError
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.inference import Finish, TokenLogprob

Whereabouts = Mapping[str, Mapping[str, Any]]  # by model id
_encode = msgspec.json.Encoder().encode
_LOGPROB_MIN = -9999.0
_PATIENCE_SECONDS = 60.0
_DONE = b"data: [DONE]\n\n"

_TYPES = {401: "authentication_error", 403: "permission_error", 409: "conflict_error"}


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error as OpenAI's clients read it: status, headers of its own, and body."""

    status: int
    headers: dict[str, str]
    body: bytes


def error_answer(
    error: AigridError, *, retry_after_seconds: float, segments: Sequence[Segment] = ()
) -> ErrorAnswer:
    """Translate an error; `retry_after_seconds` is for those that know no better.

    `segments` are of the answer that it ends.
    """
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
    return ErrorAnswer(info.http, headers, _error(error, segments))


def error_object(error: AigridError) -> dict[str, Any]:
    """The `error` member: what happened, then what to do about it.

    `progress` is there while a model is being loaded: on which `node`, how far in words (`text`),
    and as a number (`percent`) where there is one.
    """
    info = error.info
    if info.http in _TYPES:
        kind = _TYPES[info.http]
    elif info.http == 429:
        kind = "rate_limit_error"
    else:
        kind = "server_error" if info.http >= 500 else "invalid_request_error"
    message = error.message.strip()
    if message and message[-1] not in ".!?":
        message += "."
    param: str | None = getattr(error, "param", None)
    # Without a field to name, the message says itself what to send.
    says_all = error.code is Code.INVALID_REQUEST and param is None
    # Why it is no member, which a node says of itself, has a next step of its own.
    says_all |= error.code is Code.NOT_MEMBER and "`" in message
    if not says_all and info.next_step not in message:
        message = f"{message} {info.next_step}".lstrip()
    told = {"message": message, "type": kind, "param": param, "code": error.code.value}
    return {**told, "progress": error.progress} if isinstance(error, NotReadyError) else told


def model_object(listed: Listed, whereabouts: Whereabouts) -> dict[str, Any]:
    """One model; `aigrid` says which it is exactly, who has it, and how it stands."""
    view = listed.view
    return {
        "id": listed.listed_id,
        "object": "model",
        "created": view.created_ms // 1000,
        "owned_by": view.issuer,
        "aigrid": {
            "model": view.model,
            "name": view.name,
            "nodes": view.nodes,
            "state": view.state,
            "capabilities": view.capabilities,
            "context_tokens": view.context_tokens,
            **whereabouts.get(view.model, {}),
        },
    }


def model_list(listed: Iterable[Listed], whereabouts: Whereabouts) -> dict[str, Any]:
    """All models, in the order given."""
    return {"object": "list", "data": [model_object(entry, whereabouts) for entry in listed]}


def completion(
    *, completion_id: str, created: int, model: str, steps: Sequence[Step], segments: list[Segment]
) -> bytes:
    """A plain answer; the last step carries the finish."""
    finish = steps[-1].finish
    if finish is None:
        raise ValueError("the last step has no finish")
    entries = [entry for step in steps for entry in step.logprobs]
    return _encode(
        {
            "id": completion_id,
            "object": "chat.completion",
            "created": created,
            "model": model,
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "role": "assistant",
                        "content": "".join(step.text for step in steps),
                        "refusal": None,
                    },
                    "logprobs": _logprobs(entries) if entries else None,
                    "finish_reason": finish.reason,
                }
            ],
            "usage": _usage(finish),
            "aigrid": _aigrid(segments),
        }
    )


class ChunkEncoder:
    """Encodes the events of one stream; what does not change is encoded once."""

    def __init__(
        self, *, completion_id: str, created: int, model: str, include_usage: bool
    ) -> None:
        head = _encode(
            {
                "id": completion_id,
                "object": "chat.completion.chunk",
                "created": created,
                "model": model,
            }
        )
        self._head = b"data: " + head[:-1] + b',"choices":['
        self._choice = self._head + b'{"index":0,"delta":'
        usage = b',"usage":null' if include_usage else b""
        self._end = usage + b"}\n\n"
        self._tail = b"]" + self._end
        self._piece = self._choice + b'{"content":'
        self._piece_tail = b'},"logprobs":null,"finish_reason":null}' + self._tail
        self._include_usage = include_usage

    def role(self) -> bytes:
        """The first event: who speaks."""
        delta = b'{"role":"assistant","content":"","refusal":null},'
        return self._choice + delta + b'"logprobs":null,"finish_reason":null}' + self._tail

    def piece(self, step: Step) -> bytes:
        """A piece of the answer; nothing when the step holds none."""
        if not step.logprobs:
            return self._piece + _encode(step.text) + self._piece_tail if step.text else b""
        return b"".join(
            (
                self._piece,
                _encode(step.text),
                b'},"logprobs":',
                _encode(_logprobs(step.logprobs)),
                b',"finish_reason":null}',
                self._tail,
            )
        )

    def finish(self, finish: Finish, segments: list[Segment]) -> bytes:
        """Finish reason, usage where asked for, and the end mark; the last chunk has `aigrid`."""
        reason = (
            self._choice + b'{},"logprobs":null,"finish_reason":' + _encode(finish.reason) + b"}]"
        )
        aigrid = b',"aigrid":' + _encode(_aigrid(segments)) + b"}\n\n"
        if not self._include_usage:
            return reason + aigrid + _DONE
        usage = self._head + b'],"usage":' + _encode(_usage(finish))
        return reason + self._end + usage + aigrid + _DONE


def comment(text: str) -> bytes:
    """A sign of life that clients skip: how far a load is, which has no line breaks, if any is."""
    return b": loading: " + text.encode() + b"\n\n" if text else b": keepalive\n\n"


def error_event(error: AigridError, segments: Sequence[Segment] = ()) -> bytes:
    """The last event of a stream that failed; no end mark follows it."""
    return b"data: " + _error(error, segments) + b"\n\n"


def _error(error: AigridError, segments: Sequence[Segment]) -> bytes:
    body: dict[str, Any] = {"error": error_object(error)}
    if segments:
        body["aigrid"] = _aigrid(segments)
    return _encode(body)


def _usage(finish: Finish) -> dict[str, int]:
    return {
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
    }


def _aigrid(segments: Iterable[Segment]) -> dict[str, Any]:
    return {"segments": [msgspec.to_builtins(segment) for segment in segments]}


def _logprobs(entries: Iterable[TokenLogprob]) -> dict[str, Any]:
    return {
        "content": [
            {
                **_token(entry.token, entry.logprob),
                "top_logprobs": [_token(token, logprob) for _, token, logprob in entry.top],
            }
            for entry in entries
        ],
        "refusal": None,
    }


def _token(token: str, logprob: float) -> dict[str, Any]:
    # A token that is part of a character has no text of its own, so its bytes are not known here.
    known = "\ufffd" not in token
    return {
        "token": token,
        "logprob": max(_LOGPROB_MIN, logprob),
        "bytes": list(token.encode()) if known else None,
    }
