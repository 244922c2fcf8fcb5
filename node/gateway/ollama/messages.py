"""Ollama's messages as those that engines take: pictures, and calls of tools. Pure.

Ollama's tool calls have no ids, and arguments that are objects; OpenAI's, which engines behind
servers take, have ids, and arguments that are JSON text.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from aigrid.protocol.errors import InvalidRequestError
from aigrid.protocol.inference import ChatMessage
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.more import packed

_encode = msgspec.json.Encoder().encode
# How base64 of each kind of picture begins: the kind is not said.
_PICTURES: Final = {"/9j/": "jpeg", "R0lGOD": "gif", "UklGR": "webp", "iVBORw": "png"}


class Function(msgspec.Struct):
    """Which function is called, and with what."""

    name: str
    arguments: dict[str, msgspec.Raw] = {}


class ToolCall(msgspec.Struct):
    """A call that the model has asked for."""

    function: Function
    id: str | None = None


class Message(msgspec.Struct):
    """One turn as Ollama's clients send it; what a model thought earlier is not told it again."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    images: list[str] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


def chat_messages(messages: Sequence[Message]) -> tuple[ChatMessage, ...]:
    """The same turns.

    Raises:
        InvalidRequestError: there are none, or too many.
    """
    if not 0 < len(messages) <= LIMITS.messages_max:
        raise InvalidRequestError(
            f"`messages` must have 1 to {LIMITS.messages_max} of them.", param="messages"
        )
    calls = _Calls()
    return tuple(_message(message, calls) for message in messages)


class _Calls:
    """Gives calls the ids that their answers refer to."""

    def __init__(self) -> None:
        self._number = 0
        self._open: deque[tuple[str, str]] = deque()  # name of a function, id of the call

    def asked(self, call: ToolCall) -> str:
        self._number += 1
        id_ = call.id or f"call_{self._number}"
        self._open.append((call.function.name, id_))
        return id_

    def answered(self, name: str | None) -> str:
        """The first call of that name that has no answer yet; of any, if none has it."""
        found = next((one for one in self._open if name in (None, one[0])), None)
        if found is None:
            found = self._open[0] if self._open else ("", f"call_{self._number}")
        if found in self._open:
            self._open.remove(found)
        return found[1]


def _message(message: Message, calls: _Calls) -> ChatMessage:
    content, more = message.content or "", dict[str, Any]()
    if message.images:
        text = [{"type": "text", "text": content}] if content else []
        more["content"] = [*text, *(_picture(one) for one in message.images)]
    if message.tool_calls:
        more["tool_calls"] = [
            {
                "id": calls.asked(call),
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": _encode(call.function.arguments).decode(),
                },
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        more["tool_call_id"] = message.tool_call_id or calls.answered(message.tool_name)
    return ChatMessage(message.role, content, packed(more, "messages"))


def _picture(base64: str) -> dict[str, Any]:
    if not base64.startswith("data:"):
        kind = next((kind for start, kind in _PICTURES.items() if base64.startswith(start)), "png")
        base64 = f"data:image/{kind};base64,{base64}"
    return {"type": "image_url", "image_url": {"url": base64}}
