"""The input of OpenAI's responses as messages of a chat. Pure.

Source: https://platform.openai.com/docs/api-reference/responses/create. What is more than text goes
on in the words of `POST /v1/chat/completions`, which is what engines know: see `protocol.more`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

import msgspec

from aigrid.node.gateway.openai.fields import ABSENT, explain, invalid, unsupported
from aigrid.protocol.errors import InvalidRequestError
from aigrid.protocol.inference import ChatMessage
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.more import packed

_Role = Literal["system", "user", "assistant", "tool", "developer"]
_TEXTS: Final = frozenset({"input_text", "output_text", "text"})
S = TypeVar("S", bound=msgspec.Struct)


class _Kind(msgspec.Struct):
    type: str | None = None


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    file_data: str | None = None
    filename: str | None = None
    input_audio: msgspec.Raw = ABSENT


class _Message(msgspec.Struct):
    role: Literal["system", "user", "assistant", "developer"]
    content: str | list[_Part]


class _Call(msgspec.Struct):
    call_id: str
    name: str
    arguments: str


class _Output(msgspec.Struct):
    call_id: str
    output: str | list[_Part]


@dataclass(slots=True)
class _Turn:
    """A message in the making; `parts` where its content is more than text."""

    role: _Role
    text: str
    parts: list[dict[str, Any]] | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)
    call_id: str = ""

    def message(self, where: str) -> ChatMessage:
        more: dict[str, Any] = {}
        if self.parts is not None:
            more["content"] = self.parts
        if self.calls:
            more["tool_calls"] = self.calls
            if not self.text and self.parts is None:
                more["content"] = None
        if self.call_id:
            more["tool_call_id"] = self.call_id
        return ChatMessage(self.role, self.text, packed(more, where))


def messages_of(
    said: str | Sequence[msgspec.Raw], instructions: str | None
) -> tuple[ChatMessage, ...]:
    """`said`: the input as text, or its items as they were sent.

    Calls of tools that follow upon each other, or upon what the model said, are of one message.

    Raises:
        InvalidRequestError: whatever is wrong with it; `param` names the item.
    """
    turns = [_Turn("system", instructions)] if instructions else []
    if isinstance(said, str):
        turns.append(_Turn("user", said))
    elif not said:
        raise invalid("input", "is empty")
    elif len(said) > LIMITS.messages_max:
        raise invalid("input", f"holds more than {LIMITS.messages_max} items")
    else:
        for number, raw in enumerate(said):
            _add(turns, raw, f"input[{number}]")
    if not turns:
        raise invalid("input", "has no message")
    return tuple(turn.message("input") for turn in turns)


def _add(turns: list[_Turn], raw: msgspec.Raw, where: str) -> None:
    match _decoded(raw, _Kind, where).type:
        case None | "message":
            message = _decoded(raw, _Message, where)
            turns.append(_turn(message.role, message.content, f"{where}.content"))
        case "function_call":
            call = _decoded(raw, _Call, where)
            if not turns or turns[-1].role != "assistant":
                turns.append(_Turn("assistant", ""))
            function = {"name": call.name, "arguments": call.arguments}
            turns[-1].calls.append({"id": call.call_id, "type": "function", "function": function})
        case "function_call_output":
            output = _decoded(raw, _Output, where)
            turn = _turn("tool", output.output, f"{where}.output")
            turn.call_id = output.call_id
            turns.append(turn)
        case "reasoning":
            pass  # models do not read what they thought in earlier turns
        case "item_reference":
            raise unsupported(f"{where}.type", "names what was not kept: send the item itself")
        case _:
            raise unsupported(
                f"{where}.type",
                "is none of message, function_call, function_call_output and reasoning",
            )


def _decoded(raw: msgspec.Raw, kind: type[S], where: str) -> S:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise explain(str(error), where) from None


def _turn(role: _Role, content: str | list[_Part], where: str) -> _Turn:
    if isinstance(content, str):
        return _Turn(role, content)
    parts = [_chat_part(part, f"{where}[{number}]") for number, part in enumerate(content)]
    text = "".join(part.get("text", "") for part in parts)
    only_text = all(part["type"] == "text" for part in parts)
    return _Turn(role, text, None if only_text else parts)


def _chat_part(part: _Part, where: str) -> dict[str, Any]:
    """A part of a message as chat has it."""
    if part.type in _TEXTS:
        return {"type": "text", "text": _there(part.text, f"{where}.text")}
    match part.type:
        case "refusal":
            return {"type": "text", "text": _there(part.refusal, f"{where}.refusal")}
        case "input_image":
            image = {"url": _held(part.image_url, f"{where}.image_url")}
            if part.detail is not None:
                image["detail"] = part.detail
            return {"type": "image_url", "image_url": image}
        case "input_file":
            file = {"file_data": _held(part.file_data, f"{where}.file_data")}
            if part.filename is not None:
                file["filename"] = part.filename
            return {"type": "file", "file": file}
        case "input_audio" if part.input_audio != ABSENT:
            return {"type": "input_audio", "input_audio": part.input_audio}
    raise unsupported(
        f"{where}.type", "is none of input_text, input_image, input_file and input_audio"
    )


def _there(value: str | None, where: str) -> str:
    if value is None:
        raise invalid(where, "is missing")
    return value


def _held(value: str | None, where: str) -> str:
    """What could have been named by the id of a file."""
    if value is None:
        raise InvalidRequestError(
            f"{where} is missing: no files are kept here, so send its content.", param=where
        )
    return value
