"""OpenAI's answers: models, completions, chunks and errors as bytes. Pure translation.

Source: https://platform.openai.com/docs/api-reference/chat. Ours on top is the `aigrid` object:
in the body of a plain answer, in the last chunk of a stream, in what ends an answer that has begun
and failed, and in each listed model.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from aigrid.node.gateway.core import Listed
from aigrid.node.gateway.deltas import joined
from aigrid.node.gateway.http.errors import error_text
from aigrid.node.gateway.step import Step
from aigrid.node.gateway.told import aigrid_object
from aigrid.node.mesh.routing.answer import Answer, Segment
from aigrid.node.mesh.routing.waiting import NotReadyError
from aigrid.protocol.errors import AigridError
from aigrid.protocol.inference import Finish, TokenLogprob

Whereabouts = Mapping[str, Mapping[str, Any]]  # by model id
_encode = msgspec.json.Encoder().encode
_LOGPROB_MIN = -9999.0
_DONE = b"data: [DONE]\n\n"
EVENT_STREAM = "text/event-stream; charset=utf-8"

_TYPES = {401: "authentication_error", 403: "permission_error", 409: "conflict_error"}


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
    told = {
        "message": error_text(error),
        "type": kind,
        "param": getattr(error, "param", None),
        "code": error.code.value,
    }
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


class ChatSpelling:
    """One answer to `POST /v1/chat/completions`; of its events, what stays is encoded once."""

    media_type = EVENT_STREAM

    def __init__(
        self, *, completion_id: str, created: int, include_usage: bool = False, choices: int = 1
    ) -> None:
        self._id = completion_id
        self._created = created
        self._include_usage = include_usage
        self._count = choices
        self._end = (b',"usage":null' if include_usage else b"") + b"}\n\n"
        self._tail = b"]" + self._end
        self._delta_tail = b',"logprobs":null,"finish_reason":null}' + self._tail
        self._piece_tail = b"}" + self._delta_tail

    def error(self, error: AigridError, segments: Sequence[Segment]) -> bytes:
        """See `Spelling`."""
        return error_body(error, segments)

    def whole(self, answer: Answer, steps: Sequence[Step], segments: Sequence[Segment]) -> bytes:
        """See `Spelling`."""
        finish = steps[-1].finish
        if finish is None:
            raise ValueError("the last step has no finish")
        return _encode(
            {
                **self._named("chat.completion", answer),
                "choices": [_choice(number, steps) for number in range(self._count)],
                "usage": _usage(finish),
                "aigrid": aigrid_object(segments),
            }
        )

    def begin(self, answer: Answer) -> bytes:
        """See `Spelling`: the first event of each choice says who speaks."""
        head = _encode(self._named("chat.completion.chunk", answer))
        self._head = b"data: " + head[:-1] + b',"choices":['
        self._choices = [self._head + b'{"index":%d,"delta":' % n for n in range(self._count)]
        self._pieces = [choice + b'{"content":' for choice in self._choices]
        delta = b'{"role":"assistant","content":"","refusal":null}'
        return b"".join(choice + delta + self._delta_tail for choice in self._choices)

    def step(self, step: Step) -> bytes:
        """See `Spelling`."""
        piece = self._pieces[step.choice]
        if step.logprobs:
            data = b"".join(
                (
                    piece,
                    _encode(step.text),
                    b'},"logprobs":',
                    _encode(_logprobs(step.logprobs)),
                    b',"finish_reason":null}',
                    self._tail,
                )
            )
        else:
            data = piece + _encode(step.text) + self._piece_tail if step.text else b""
        for more in step.more:
            data += self._choices[step.choice] + more + self._delta_tail
        return data if step.ended is None else data + self._ended(step.choice, step.ended)

    def end(self, finish: Finish, segments: Sequence[Segment]) -> bytes:
        """See `Spelling`: reason, usage where asked for, end mark; `aigrid` in the last chunk."""
        aigrid = b',"aigrid":' + _encode(aigrid_object(segments)) + b"}\n\n"
        reason = b"" if self._count > 1 else self._ended(0, finish)  # else each choice had its own
        if self._include_usage:
            usage = self._head + b'],"usage":' + _encode(_usage(finish))
            return reason + usage + aigrid + _DONE
        if reason:
            return reason[: -len(self._end)] + aigrid + _DONE
        return self._head + b"]" + aigrid + _DONE

    def _ended(self, number: int, finish: Finish) -> bytes:
        reason = b'{},"logprobs":null,"finish_reason":' + _encode(finish.reason) + b"}"
        return self._choices[number] + reason + self._tail

    def comment(self, text: str) -> bytes:
        """See `Spelling`."""
        return comment(text)

    def failed(self, error: AigridError, segments: Sequence[Segment]) -> bytes:
        """See `Spelling`: the last event; no end mark follows it."""
        return b"data: " + error_body(error, segments) + b"\n\n"

    def _named(self, kind: str, answer: Answer) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": answer.name,
        }


def _choice(number: int, steps: Sequence[Step]) -> dict[str, Any]:
    """One choice of a plain answer."""
    own = [step for step in steps if step.choice == number]
    finish = next((step.ended for step in own if step.ended is not None), steps[-1].finish)
    entries = [entry for step in own for entry in step.logprobs]
    more = joined(piece for step in own for piece in step.more)
    content = "".join(step.text for step in own)
    spoken = content if content or "tool_calls" not in more else None
    return {
        "index": number,
        "message": {"role": "assistant", "content": spoken, "refusal": None, **more},
        "logprobs": _logprobs(entries) if entries else None,
        "finish_reason": None if finish is None else finish.reason,
    }


def comment(text: str) -> bytes:
    """A sign of life that clients skip: how far a load is, which has no line breaks, if any is."""
    return b": loading: " + text.encode() + b"\n\n" if text else b": keepalive\n\n"


def error_body(error: AigridError, segments: Sequence[Segment] = ()) -> bytes:
    """The body of an error; `aigrid` says who had begun to answer."""
    body: dict[str, Any] = {"error": error_object(error)}
    if segments:
        body["aigrid"] = aigrid_object(segments)
    return _encode(body)


def _usage(finish: Finish) -> dict[str, int]:
    return {
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
    }


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
