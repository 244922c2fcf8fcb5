"""OpenAI's answers: models, completions, chunks and errors as bytes. Pure translation.

Source: https://platform.openai.com/docs/api-reference/chat. Ours on top is the `aigrid` object:
in the body of a plain answer, in the last chunk of a stream, in what ends an answer that has begun
and failed, and in each listed model.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from aigrid.node.gateway.core import Listed
from aigrid.node.gateway.deltas import joined
from aigrid.node.gateway.http.errors import error_text, param_of
from aigrid.node.gateway.step import Step
from aigrid.node.gateway.told import Told, aigrid_object, unmet_object
from aigrid.node.mesh.routing.answer import Answer, Segment
from aigrid.protocol.errors import AigridError
from aigrid.protocol.inference import Finish, TokenLogprob

Whereabouts = Mapping[str, Mapping[str, Any]]  # by model id
_encode = msgspec.json.Encoder().encode
LOGPROB_MIN = -9999.0
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
        "param": param_of(error),
        "code": error.code.value,
    }
    progress = getattr(error, "progress", None)
    return told if progress is None else {**told, "progress": progress}


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


class ChoicesSpelling(ABC):
    """An answer made of choices; of its events, what stays is encoded once.

    A subclass says what a choice of a plain answer is, and what `begin` and `step` say.
    """

    media_type = EVENT_STREAM
    _kind = ""
    _chunk_kind = ""
    _member = b""  # of a choice of a chunk: what is new
    _nothing = b""  # its value where nothing is

    def __init__(
        self, *, answer_id: str, created: int, include_usage: bool = False, choices: int = 1
    ) -> None:
        self._id = answer_id
        self._created = created
        self._include_usage = include_usage
        self._count = self._open = choices
        self._last: tuple[int, Finish] | None = None  # of several choices the one that ended last
        self._end = (b',"usage":null' if include_usage else b"") + b"}\n\n"
        self._tail = b"]" + self._end
        self._piece_tail = b',"logprobs":null,"finish_reason":null}' + self._tail

    def error(self, error: AigridError, segments: Sequence[Segment]) -> bytes:
        """See `Spelling`."""
        return error_body(error, segments)

    def whole(self, steps: Sequence[Step], told: Told) -> bytes:
        """See `Spelling`."""
        finish = steps[-1].finish
        if finish is None:
            raise ValueError("the last step has no finish")
        own: list[list[Step]] = [[] for _ in range(self._count)]
        for step in steps:
            own[step.choice].append(step)
        return _encode(
            {
                **self._named(self._kind, told.answer),
                "choices": [
                    {"index": number, **self._choice(said), "finish_reason": _reason(said)}
                    for number, said in enumerate(own)
                ],
                "usage": usage_object(finish),
                "aigrid": aigrid_object(told),
            }
        )

    def begin(self, answer: Answer) -> bytes:
        """See `Spelling`: nothing is said yet."""
        head = _encode(self._named(self._chunk_kind, answer))
        self._head = b"data: " + head[:-1] + b',"choices":['
        self._choices = [
            self._head + b'{"index":%d,"%s":' % (number, self._member)
            for number in range(self._count)
        ]
        return b""

    def step(self, step: Step) -> bytes:
        """See `Spelling`."""
        data = self._piece(step)
        if step.ended is None:
            return data
        self._open -= 1
        if self._open:
            return data + self._ended(step.choice, step.ended)
        # `end` says it: clients expect a chunk without choices only where they asked for usage.
        self._last = step.choice, step.ended
        return data

    def end(self, finish: Finish, told: Told) -> bytes:
        """See `Spelling`: reason, usage where asked for, end mark; `aigrid` in the last chunk."""
        aigrid = b',"aigrid":' + _encode(aigrid_object(told)) + b"}\n\n"
        reason = self._ended(*(self._last or (0, finish)))
        if self._include_usage:
            usage = self._head + b'],"usage":' + _encode(usage_object(finish))
            return reason + usage + aigrid + _DONE
        return reason[: -len(self._end)] + aigrid + _DONE

    def comment(self, text: str) -> bytes:
        """See `Spelling`."""
        return comment(text)

    def failed(self, error: AigridError, segments: Sequence[Segment]) -> bytes:
        """See `Spelling`: the last event; no end mark follows it."""
        return b"data: " + error_body(error, segments) + b"\n\n"

    @abstractmethod
    def _choice(self, steps: Sequence[Step]) -> dict[str, Any]:
        """One choice of a plain answer, without its number and reason."""

    @abstractmethod
    def _piece(self, step: Step) -> bytes:
        """The events of a step, but for the end of its choice."""

    def _ended(self, number: int, finish: Finish) -> bytes:
        reason = b',"logprobs":null,"finish_reason":' + _encode(finish.reason) + b"}"
        return self._choices[number] + self._nothing + reason + self._tail

    def _named(self, kind: str, answer: Answer) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": answer.name,
        }


class ChatSpelling(ChoicesSpelling):
    """One answer to `POST /v1/chat/completions`."""

    _kind = "chat.completion"
    _chunk_kind = "chat.completion.chunk"
    _member = b"delta"
    _nothing = b"{}"

    def begin(self, answer: Answer) -> bytes:
        """See `Spelling`: the first event of each choice says who speaks."""
        super().begin(answer)
        self._pieces = [choice + b'{"content":' for choice in self._choices]
        delta = b'{"role":"assistant","content":"","refusal":null}'
        return b"".join(choice + delta + self._piece_tail for choice in self._choices)

    def _piece(self, step: Step) -> bytes:
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
            data = piece + _encode(step.text) + b"}" + self._piece_tail if step.text else b""
        for more in step.more:
            data += self._choices[step.choice] + more + self._piece_tail
        return data

    def _choice(self, steps: Sequence[Step]) -> dict[str, Any]:
        entries = [entry for step in steps for entry in step.logprobs]
        more = joined(piece for step in steps for piece in step.more)
        content = "".join(step.text for step in steps)
        spoken = content if content or "tool_calls" not in more else None
        return {
            "message": {"role": "assistant", "content": spoken, "refusal": None, **more},
            "logprobs": _logprobs(entries) if entries else None,
        }


def _reason(steps: Sequence[Step]) -> str | None:
    """How a choice ended; one of several says so itself."""
    ended = (step.ended for step in steps if step.ended is not None)
    finish = next(ended, steps[-1].finish)
    return None if finish is None else finish.reason


def comment(text: str) -> bytes:
    """A sign of life that clients skip: how far a load is, which has no line breaks, if any is."""
    return b": loading: " + text.encode() + b"\n\n" if text else b": keepalive\n\n"


def error_body(error: AigridError, segments: Sequence[Segment] = ()) -> bytes:
    """The body of an error; `aigrid` says who had begun to answer, and who gave no answer."""
    body: dict[str, Any] = {"error": error_object(error)}
    if told := unmet_object(error, segments):
        body["aigrid"] = told
    return _encode(body)


def usage_object(finish: Finish) -> dict[str, int]:
    """Token counts."""
    return {
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
    }


def _logprobs(entries: Iterable[TokenLogprob]) -> dict[str, Any]:
    return {
        "content": [
            {
                **token_object(entry.token, entry.logprob),
                "top_logprobs": [token_object(token, logprob) for _, token, logprob in entry.top],
            }
            for entry in entries
        ],
        "refusal": None,
    }


def token_object(token: str, logprob: float) -> dict[str, Any]:
    """A token with its log-probability."""
    # A token that is part of a character has no text of its own, so its bytes are not known here.
    known = "\ufffd" not in token
    return {
        "token": token,
        "logprob": max(LOGPROB_MIN, logprob),
        "bytes": list(token.encode()) if known else None,
    }
