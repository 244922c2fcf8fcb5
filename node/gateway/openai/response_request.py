"""OpenAI's request for a response, decoded and checked: bytes in, `ResponseCall` or an error out.

Source: https://platform.openai.com/docs/api-reference/responses/create. Nothing is kept here, so
what would name an earlier response is refused; tools and formats go on in chat's words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from aigrid.node.gateway.call import TextCall
from aigrid.node.gateway.openai.fields import (
    ABSENT,
    Fields,
    Members,
    Refused,
    call_of,
    counted,
    explain,
    further,
    invalid,
    parse,
    refuse,
    sampled,
    unsupported,
)
from aigrid.node.gateway.openai.response_input import messages_of
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.more import RESERVED, is_neutral

_LOGPROBS: Final = "message.output_text.logprobs"
# Of the others there is nothing here, and so nothing to include.
_INCLUDED: Final = {
    _LOGPROBS,
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
}
_WHOLE: Final = "names nothing, for no responses are kept here: send the whole input"
_NEWER: Final = "is of /v1/chat/completions: use max_output_tokens"
_REFUSED: Final[Refused] = {
    "previous_response_id": ((), _WHOLE),
    "conversation": ((), _WHOLE),
    "prompt": ((), "names a template, and none are kept here: send input and instructions"),
    "background": ((False,), "is not supported, for no responses are kept here: leave it out"),
    "messages": ((), "is of /v1/chat/completions: use input"),
    "max_tokens": ((), _NEWER),
    "max_completion_tokens": ((), _NEWER),
    "n": ((1,), "is of /v1/chat/completions: ask several times"),
    "best_of": ((1,), "is not supported: ask several times, and choose"),
    "logprobs": ((False,), f"is of /v1/chat/completions: include {_LOGPROBS}"),
    "functions": (([],), "is deprecated: use tools"),
    "function_call": (("none", "auto"), "is deprecated: use tool_choice"),
}
# What is said in other words, or means nothing where nothing is kept and no tools are built in.
_KNOWN: Final = RESERVED | {
    *("background", "conversation", "include", "input", "instructions", "max_output_tokens"),
    *("max_tool_calls", "metadata", "previous_response_id", "reasoning", "store", "text"),
    *("tool_choice", "tools", "truncation"),
}
_NULL: Final = msgspec.Raw(b"null")
_CHOICES: Final = ("none", "auto", "required")


class _Text(msgspec.Struct):
    format: msgspec.Raw = ABSENT
    verbosity: str | None = None


class _Reasoning(msgspec.Struct):
    effort: str | None = None
    summary: str | None = None


class ResponseBody(Fields, kw_only=True):
    """What is read of the body of a request for a response."""

    input: str | list[msgspec.Raw]
    instructions: str | None = None
    max_output_tokens: int | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: msgspec.Raw = ABSENT
    parallel_tool_calls: bool | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    metadata: dict[str, str] | None = None


class _Tool(msgspec.Struct):
    """Of `tools` and of `tool_choice`."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: msgspec.Raw = ABSENT
    strict: bool | None = None
    mode: str | None = None
    tools: list[msgspec.Raw] = []


class _Format(msgspec.Struct):
    type: str
    name: str | None = None
    description: str | None = None
    schema: msgspec.Raw = ABSENT
    strict: bool | None = None


_DECODER: msgspec.json.Decoder[ResponseBody] = msgspec.json.Decoder(ResponseBody)
_TOOL: msgspec.json.Decoder[_Tool] = msgspec.json.Decoder(_Tool)
_FORMAT: msgspec.json.Decoder[_Format] = msgspec.json.Decoder(_Format)
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class ResponseCall:
    """What a client asked for; `echoed` are the members of the answer that repeat it."""

    call: TextCall
    echoed: Mapping[str, Any]


def decode_response(body: bytes) -> ResponseCall:
    """Decode and check the body of `POST /v1/responses`.

    Raises:
        InvalidRequestError: whatever is wrong with it; `param` names the field where there is one.
    """
    parsed, members = parse(body, _DECODER)
    refuse(members, _REFUSED)
    if unknown := set(parsed.include or ()) - _INCLUDED:
        raise invalid("include", f"holds {min(unknown)[:64]!r}, which is none of what there is")
    tops = counted(parsed.top_logprobs, "top_logprobs", LIMITS.top_logprobs_max, least=0) or 0
    request = msgspec.structs.replace(
        sampled(parsed),
        messages=messages_of(parsed.input, parsed.instructions),
        max_tokens=counted(parsed.max_output_tokens, "max_output_tokens", LIMITS.max_tokens_max),
        top_logprobs=tops if _LOGPROBS in (parsed.include or ()) else None,
        more=_more(parsed, members),
    )
    return ResponseCall(call_of(parsed, request), _echoed(parsed, request, tops))


def _more(parsed: ResponseBody, members: Members) -> bytes:
    """What only some engines take, in chat's words."""
    more: dict[str, msgspec.Raw | bytes] = {
        name: raw for name, raw in members.items() if name not in _KNOWN
    }
    if parsed.tools:
        more["tools"] = _encode(_tools(parsed.tools, "tools"))
    if not is_neutral(parsed.tool_choice, ()):
        more["tool_choice"] = _encode(_tool_choice(parsed.tool_choice))
    if parsed.text is not None:
        if not is_neutral(parsed.text.format, ()):
            more["response_format"] = _encode(_format(parsed.text.format))
        if parsed.text.verbosity is not None:
            more["verbosity"] = _encode(parsed.text.verbosity)
    if parsed.reasoning is not None and parsed.reasoning.effort is not None:
        more["reasoning_effort"] = _encode(parsed.reasoning.effort)
    return further(more, ())


def _tools(tools: Sequence[msgspec.Raw], where: str) -> list[dict[str, Any]]:
    return [
        _function(_decoded(raw, _TOOL, f"{where}[{number}]"), f"{where}[{number}]")
        for number, raw in enumerate(tools)
    ]


def _function(tool: _Tool, where: str) -> dict[str, Any]:
    """A tool, or the choice of one, as chat has it."""
    if tool.type != "function":
        raise unsupported(f"{where}.type", "is not function, and no tools are built in here")
    if tool.name is None:
        raise invalid(f"{where}.name", "is missing")
    return {"type": "function", "function": _said(tool, _FUNCTION)}


def _tool_choice(raw: msgspec.Raw) -> str | dict[str, Any]:
    if bytes(raw).startswith(b'"'):
        choice: str = msgspec.json.decode(raw)
        if choice not in _CHOICES:
            raise invalid("tool_choice", f"is none of {', '.join(_CHOICES)}")
        return choice
    tool = _decoded(raw, _TOOL, "tool_choice")
    if tool.type == "allowed_tools":
        allowed = {"mode": tool.mode or "auto", "tools": _tools(tool.tools, "tool_choice.tools")}
        return {"type": "allowed_tools", "allowed_tools": allowed}
    return _function(tool, "tool_choice")


def _format(raw: msgspec.Raw) -> dict[str, Any]:
    form = _decoded(raw, _FORMAT, "text.format")
    if form.type != "json_schema":
        return {"type": form.type}
    return {"type": "json_schema", "json_schema": _said(form, _SCHEMA)}


_FUNCTION: Final = ("name", "description", "parameters", "strict")
_SCHEMA: Final = ("name", "description", "schema", "strict")


def _said(struct: msgspec.Struct, names: Sequence[str]) -> dict[str, Any]:
    """Those of the fields that say something."""
    found = {name: getattr(struct, name) for name in names}
    return {name: value for name, value in found.items() if value not in (None, ABSENT, _NULL)}


def _decoded(raw: msgspec.Raw, decoder: msgspec.json.Decoder[Any], where: str) -> Any:
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise explain(str(error), where) from None


def _echoed(parsed: ResponseBody, request: TextRequest, top_logprobs: int) -> dict[str, Any]:
    text = parsed.text or _Text()
    form = {"type": "text"} if is_neutral(text.format, ()) else text.format
    reasoning = parsed.reasoning or _Reasoning()
    chosen = "auto" if is_neutral(parsed.tool_choice, ()) else parsed.tool_choice
    return {
        "background": False,
        "instructions": parsed.instructions,
        "max_output_tokens": parsed.max_output_tokens,
        "metadata": parsed.metadata or {},
        "parallel_tool_calls": parsed.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": reasoning.effort, "summary": None},
        "store": False,
        "temperature": request.temperature,
        "text": {"format": form}
        if text.verbosity is None
        else {"format": form, "verbosity": text.verbosity},
        "tool_choice": chosen,
        "tools": parsed.tools or [],
        "top_logprobs": top_logprobs,
        "top_p": request.top_p,
        "truncation": "disabled",
    }
