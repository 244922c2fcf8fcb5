"""What a model says, as the items of OpenAI's responses and the events that tell of them. Pure.

Source: https://platform.openai.com/docs/api-reference/responses-streaming. Text, refusals and
thoughts each come as an item of one part, which ends where something else begins; calls of tools
stay open until the answer ends, for their pieces may be mixed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from aigrid.node.gateway.openai.answers import token_object
from aigrid.node.gateway.step import Step
from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.inference import TokenLogprob

_encode = msgspec.json.Encoder().encode
_DONE: Final = "completed"


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _CallDelta(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    """What is known of the further members of a piece."""

    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_CallDelta] | None = None


_DELTA: msgspec.json.Decoder[_Delta] = msgspec.json.Decoder(_Delta)


@dataclass(frozen=True, slots=True)
class _Channel:
    """One way to speak: the type of its items, of their part, and the member that holds the text.

    `further` are members of the part beside these.
    """

    item: str
    id_prefix: str
    part: str
    member: str
    further: tuple[str, ...] = ()


_TEXT: Final = _Channel("message", "msg", "output_text", "text", ("annotations", "logprobs"))
_REFUSAL: Final = _Channel("message", "msg", "refusal", "refusal")
_REASONING: Final = _Channel("reasoning", "rs", "reasoning_text", "text")


class Events:
    """Numbered events; `upcoming` is the number of the next."""

    def __init__(self) -> None:
        self.upcoming = 0

    def number(self) -> int:
        """Take the next number."""
        self.upcoming += 1
        return self.upcoming - 1

    def event(self, kind: str, **members: Any) -> bytes:
        """One event, of which `kind` is name and type."""
        data = _encode({"type": kind, "sequence_number": self.number(), **members})
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


@dataclass(slots=True)
class _Spoken:
    """An item that is being spoken; `head` is what each of its deltas begins with."""

    channel: _Channel
    item: dict[str, Any]
    at: dict[str, Any]
    head: bytes
    pieces: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def part(self) -> dict[str, Any]:
        """As far as it is said."""
        rest: dict[str, Any] = {name: [] for name in self.channel.further}
        if self.logprobs:
            rest["logprobs"] = list(self.logprobs)
        return {"type": self.channel.part, self.channel.member: "".join(self.pieces), **rest}


@dataclass(slots=True)
class _Call:
    item: dict[str, Any]
    at: dict[str, Any]
    pieces: list[str] = field(default_factory=list)


class Output:
    """The items of one answer, in the order in which they began.

    Attributes:
        items: as JSON objects; complete once closed.
    """

    def __init__(self, request_id: str, events: Events) -> None:
        self.items: list[dict[str, Any]] = []
        self._request_id = request_id
        self._events = events
        self._spoken: _Spoken | None = None
        self._calls: dict[int, _Call] = {}

    def step(self, step: Step) -> bytes:
        """The events of a step.

        Raises:
            RemoteError: `protocol_violation`, what it says beside its text is of no known form.
        """
        deltas = [_delta(more) for more in step.more]
        data = b""
        for delta in deltas:  # models think first; within a step the order is not known
            data += self._speak(_REASONING, delta.reasoning_content or delta.reasoning or "")
        data += self._speak(_TEXT, step.text, step.logprobs)
        for delta in deltas:
            data += self._speak(_REFUSAL, delta.refusal or "")
            for position, call in enumerate(delta.tool_calls or ()):
                data += self._call(position if call.index is None else call.index, call)
        return data

    def close(self, status: str) -> bytes:
        """The events that end what is open; `status` is that of what was being said."""
        data = b""
        if not self.items:
            data += self._begin(_TEXT)
        data += self._end(status)
        for call in self._calls.values():
            call.item |= {"arguments": "".join(call.pieces), "status": status}
            data += self._events.event(
                "response.function_call_arguments.done",
                **call.at,
                name=call.item["name"],
                arguments=call.item["arguments"],
            )
            data += self._item_event("done", call.item, call.at["output_index"])
        self._calls = {}
        return data

    def _speak(self, channel: _Channel, text: str, logprobs: Iterable[TokenLogprob] = ()) -> bytes:
        if not text and not logprobs:
            return b""
        data = b""
        if self._spoken is None or self._spoken.channel is not channel:
            data = self._end(_DONE) + self._begin(channel)
        spoken = self._spoken
        if spoken is None:
            raise RuntimeError("nothing is being spoken")
        spoken.pieces.append(text)
        tail = b""
        if channel is _TEXT:
            entries = [_logprob(entry) for entry in logprobs]
            spoken.logprobs += entries
            tail = b',"logprobs":' + _encode(entries)
        number = self._events.number()
        return data + b'%b%d,"delta":%b%b}\n\n' % (spoken.head, number, _encode(text), tail)

    def _begin(self, channel: _Channel) -> bytes:
        item_id = self._id(channel.id_prefix)
        index = len(self.items)
        item: dict[str, Any] = {"id": item_id, "type": channel.item, "status": "in_progress"}
        if channel.item == "message":
            item["role"] = "assistant"
        else:
            item["summary"] = []
        item["content"] = []
        at = {"item_id": item_id, "output_index": index, "content_index": 0}
        kind = f"response.{channel.part}.delta"
        members = _encode({"type": kind, **at})[:-1]
        head = b'event: %b\ndata: %b,"sequence_number":' % (kind.encode(), members)
        self._spoken = _Spoken(channel, item, at, head)
        data = self._item_event("added", item, index)
        self.items.append(item)
        part = self._spoken.part()
        return data + self._events.event("response.content_part.added", **at, part=part)

    def _end(self, status: str) -> bytes:
        """Of what is being spoken, if anything is."""
        spoken, self._spoken = self._spoken, None
        if spoken is None:
            return b""
        part = spoken.part()
        spoken.item |= {"status": status, "content": [part]}
        said = {name: value for name, value in part.items() if name not in ("type", "annotations")}
        event = self._events.event
        return b"".join(
            (
                event(f"response.{spoken.channel.part}.done", **spoken.at, **said),
                event("response.content_part.done", **spoken.at, part=part),
                self._item_event("done", spoken.item, spoken.at["output_index"]),
            )
        )

    def _call(self, number: int, said: _CallDelta) -> bytes:
        function = said.function or _Function()
        data = b""
        call = self._calls.get(number)
        if call is None:
            data += self._end(_DONE)
            item = {
                "id": self._id("fc"),
                "type": "function_call",
                "status": "in_progress",
                "call_id": said.id or self._id("call"),
                "name": function.name or "",
                "arguments": "",
            }
            index = len(self.items)
            call = self._calls[number] = _Call(item, {"item_id": item["id"], "output_index": index})
            data += self._item_event("added", item, index)
            self.items.append(item)
        elif not call.item["name"]:
            call.item["name"] = function.name or ""
        if function.arguments:
            call.pieces.append(function.arguments)
            data += self._events.event(
                "response.function_call_arguments.delta", **call.at, delta=function.arguments
            )
        return data

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._request_id}_{len(self.items)}"

    def _item_event(self, what: str, item: dict[str, Any], index: int) -> bytes:
        return self._events.event(f"response.output_item.{what}", output_index=index, item=item)


def _delta(more: bytes) -> _Delta:
    try:
        return _DELTA.decode(more)
    except (ValueError, RecursionError):
        raise RemoteError(
            "The answer has calls of tools that are of no known form.", Code.PROTOCOL_VIOLATION
        ) from None


def _logprob(entry: TokenLogprob) -> dict[str, Any]:
    tops = [_token(token, logprob) for _, token, logprob in entry.top]
    return {**_token(entry.token, entry.logprob), "top_logprobs": tops}


def _token(token: str, logprob: float) -> dict[str, Any]:
    """As in chat, but that bytes which are not known are none."""
    said = token_object(token, logprob)
    return {**said, "bytes": said["bytes"] or []}
