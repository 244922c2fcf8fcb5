"""The messages of OpenAI's chat: text as text, and what is more than text as it was sent. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from aigrid.protocol.errors import InvalidRequestError
from aigrid.protocol.inference import ChatMessage
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.more import packed

_NULL: Final = msgspec.Raw(b"null")
# What a message may be made of instead of content.
_INSTEAD: Final = ("tool_calls", "function_call", "audio", "refusal", "reasoning_content")


class Part(msgspec.Struct):
    """A part of a message's content."""

    type: str
    text: str | None = None


class Message(msgspec.Struct):
    """A message, as far as it is looked at."""

    role: Literal["system", "user", "assistant", "tool", "developer"]
    content: str | list[Part] | None = None


def messages_of(
    messages: Sequence[Message], members: Sequence[Mapping[str, msgspec.Raw]]
) -> tuple[ChatMessage, ...]:
    """`members` are all that each of them has, as it was sent.

    Raises:
        InvalidRequestError: too many, or one without content.
    """
    if not messages:
        raise _invalid("messages", "is empty")
    if len(messages) > LIMITS.messages_max:
        raise _invalid("messages", f"holds more than {LIMITS.messages_max} messages")
    return tuple(
        _message(message, own, f"messages[{number}]")
        for number, (message, own) in enumerate(zip(messages, members, strict=True))
    )


def _message(message: Message, own: Mapping[str, msgspec.Raw], where: str) -> ChatMessage:
    content = message.content
    if len(own) == 2 and isinstance(content, str):  # nothing but role and content
        return ChatMessage(message.role, content)
    more = {name: raw for name, raw in own.items() if name not in ("role", "content")}
    if isinstance(content, list) and content:
        texts = [part.text for part in content if part.type == "text"]
        if None in texts:
            number = next(n for n, p in enumerate(content) if p.type == "text" and p.text is None)
            raise _invalid(f"{where}.content[{number}].text", "is missing")
        if len(texts) < len(content):
            more["content"] = own["content"]
        text = "".join(text for text in texts if text is not None)
    elif isinstance(content, str):
        text = content
    elif any(name in more and more[name] != _NULL for name in _INSTEAD):
        text, more["content"] = "", _NULL
    else:
        raise _invalid(f"{where}.content", "is missing")
    return ChatMessage(message.role, text, packed(more, where))


def _invalid(param: str, what: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param} {what}.", param=param)
