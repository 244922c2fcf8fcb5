"""OpenAI's chat request, decoded and checked: bytes in, a call or an error out.

Source: https://platform.openai.com/docs/api-reference/chat/create. What we have no field for is
passed on as it was sent, to engines that take it: see `protocol.more`.
"""

from typing import Final

import msgspec

from aigrid.node.gateway.openai.fields import (
    ChoicesCall,
    ChoicesFields,
    Members,
    Refused,
    choices_call,
    counted,
    further,
    invalid,
    parse,
    refuse,
    sampled,
)
from aigrid.node.gateway.openai.messages import Message, messages_of
from aigrid.protocol.limits import LIMITS

_LISTED: msgspec.json.Decoder[list[Members]] = msgspec.json.Decoder(list[Members])
_REFUSED: Final[Refused] = {
    "functions": (([],), "is deprecated: use tools"),
    "function_call": (("none", "auto"), "is deprecated: use tool_choice"),
    "best_of": ((1,), "is not supported: use n, and choose"),
}


class ChatBody(ChoicesFields, kw_only=True):
    """What is read of the body of a chat request."""

    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


_DECODER: msgspec.json.Decoder[ChatBody] = msgspec.json.Decoder(ChatBody)


def decode_chat(body: bytes) -> ChoicesCall:
    """Decode and check the body of `POST /v1/chat/completions`.

    Raises:
        InvalidRequestError: whatever is wrong with it; `param` names the field where there is one.
    """
    parsed, members = parse(body, _DECODER)
    refuse(members, _REFUSED)
    request = msgspec.structs.replace(
        sampled(parsed),
        messages=messages_of(parsed.messages, _LISTED.decode(members["messages"])),
        max_tokens=_max_tokens(parsed),
        top_logprobs=_top_logprobs(parsed),
        more=further(members),
    )
    return choices_call(parsed, request, choices=counted(parsed.n, "n", LIMITS.choices_max) or 1)


def _max_tokens(parsed: ChatBody) -> int | None:
    newer = counted(parsed.max_completion_tokens, "max_completion_tokens", LIMITS.max_tokens_max)
    if newer is not None:
        return newer
    return counted(parsed.max_tokens, "max_tokens", LIMITS.max_tokens_max)


def _top_logprobs(parsed: ChatBody) -> int | None:
    if not parsed.logprobs:
        if parsed.top_logprobs:
            raise invalid("top_logprobs", "needs logprobs to be true")
        return None
    return counted(parsed.top_logprobs or 0, "top_logprobs", LIMITS.top_logprobs_max, least=0)
