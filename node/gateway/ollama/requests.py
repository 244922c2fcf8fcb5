"""Ollama's requests, decoded and checked: bytes in, a call or an error out. Pure.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md. A field that we do not know is
ignored; one that would change the meaning of the answer and that nobody here can honour is refused
by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from aigrid.node.gateway.call import TextCall
from aigrid.node.gateway.ollama.messages import Message, chat_messages
from aigrid.node.gateway.ollama.options import read
from aigrid.node.gateway.openai.fields import explain
from aigrid.node.outcome.no_json import no_json
from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.inference import TaskRequest, TextRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.more import RESERVED, packed

EMBEDDING: Final = "feature-extraction"
_DIMENSIONS_MAX: Final = 2**31 - 1
_Raws = dict[str, msgspec.Raw]
_encode = msgspec.json.Encoder().encode
_S = TypeVar("_S", bound="NamedBody")


class NamedBody(msgspec.Struct):
    """`name` is what older clients call `model`. Any member may be null, which says nothing."""

    model: str | None = None
    name: str | None = None
    keep_alive: str | int | float | None = None
    options: _Raws | None = None


class _Generating(NamedBody):
    stream: bool | None = None
    format: msgspec.Raw = msgspec.Raw()
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class ChatBody(_Generating):
    """The body of a chat request."""

    messages: list[Message] | None = None
    tools: msgspec.Raw = msgspec.Raw()


class GenerateBody(_Generating):
    """The body of a request to continue or answer a text."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[str] | None = None


class EmbedBody(NamedBody):
    """The body of both requests for embeddings."""

    input: str | list[str] | None = None
    prompt: str | None = None
    truncate: bool | None = None
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class EmbedCall:
    """Texts to vectors. `count` of them; `single`: the older endpoint, with one and one vector."""

    model: str
    request: TaskRequest
    count: int
    single: bool
    keep_alive: str | float | None


@dataclass(frozen=True, slots=True)
class TouchCall:
    """A request without a prompt: the model is to be loaded, or with `keep_alive` 0 to go."""

    model: str
    keep_alive: str | float | None
    unload: bool


def decode_chat(body: bytes) -> TextCall | TouchCall:
    """Decode and check the body of `POST /api/chat`.

    Raises:
        InvalidRequestError: whatever is wrong with it; `param` names the field where there is one.
    """
    parsed = _parse(body, ChatBody)
    if not parsed.messages:
        return _touch(parsed)
    tools = {} if _absent(parsed.tools) else {"tools": parsed.tools}
    return _text_call(parsed, {"messages": chat_messages(parsed.messages)}, tools)


def decode_generate(body: bytes) -> TextCall | TouchCall:
    """Decode and check the body of `POST /api/generate`.

    Raises:
        InvalidRequestError: as above.
    """
    parsed = _parse(body, GenerateBody)
    if parsed.template:
        raise _unsupported("template", "The model's own is used; with `raw` none is.")
    if parsed.context:
        raise _unsupported("context", "Send what was said before to /api/chat.")
    if not (parsed.prompt or parsed.images):
        return _touch(parsed)
    if parsed.raw or parsed.suffix:
        if parsed.images or parsed.system:
            raise InvalidRequestError(
                "`raw` and `suffix` go with neither `system` nor `images`.", param="raw"
            )
        more = {"suffix": msgspec.Raw(_encode(parsed.suffix))} if parsed.suffix else {}
        return _text_call(parsed, {"prompt": parsed.prompt or ""}, more)
    system = [Message("system", parsed.system)] if parsed.system else []
    asked = Message("user", parsed.prompt, images=parsed.images)
    return _text_call(parsed, {"messages": chat_messages([*system, asked])}, {})


def decode_embed(body: bytes, *, single: bool) -> EmbedCall:
    """Decode and check the body of `POST /api/embed`, or of the older `POST /api/embeddings`.

    Raises:
        InvalidRequestError: as above.
    """
    parsed = _parse(body, EmbedBody)
    given = (parsed.prompt if single else parsed.input) or []
    called = "prompt" if single else "input"
    texts = [given] if isinstance(given, str) else given
    if not 0 < len(texts) <= LIMITS.task_items_max or not all(texts):
        raise InvalidRequestError(
            f"`{called}` must have 1 to {LIMITS.task_items_max} texts, none of them empty.",
            param=called,
        )
    if parsed.truncate is False:
        raise _unsupported("truncate", "What is too long for the model is cut: leave it out.")
    parameters = dict[str, str | int | float | bool]()
    if parsed.dimensions is not None:
        # Only some servers can shorten vectors.
        parameters["dimensions"] = _dimensions(parsed.dimensions)
    request = TaskRequest(EMBEDDING, _encode(texts), parameters)
    return EmbedCall(_model(parsed), request, len(texts), single, parsed.keep_alive)


def _dimensions(said: int) -> int:
    if not 1 <= said <= _DIMENSIONS_MAX:
        raise InvalidRequestError(
            f"`dimensions` must be from 1 to {_DIMENSIONS_MAX}.", param="dimensions"
        )
    return said


def decode_show(body: bytes) -> str:
    """Which model the body of `POST /api/show` names.

    Raises:
        InvalidRequestError: as above.
    """
    return _model(_parse(body, NamedBody))


def _text_call(parsed: _Generating, prompt: Mapping[str, Any], more: _Raws) -> TextCall:
    fields, options = read(parsed.options or {})
    members = {**options, **more, **_answer_form(parsed.format), **_thinking(parsed.think)}
    return TextCall(
        models=(_model(parsed),),
        request=TextRequest(
            **prompt,
            **fields,
            top_logprobs=_top_logprobs(parsed),
            more=packed({n: one for n, one in members.items() if n not in RESERVED}),
        ),
        stream=parsed.stream is not False,
        keep_alive=parsed.keep_alive,
    )


def _answer_form(said: msgspec.Raw) -> _Raws:
    """`format` as `response_format`: JSON, or a schema that it is of."""
    if _absent(said) or bytes(said) == b'""':
        return {}
    if bytes(said) == b'"json"':
        return {"response_format": msgspec.Raw(b'{"type":"json_object"}')}
    if not bytes(said).startswith(b"{"):
        raise InvalidRequestError('`format` must be "json" or a JSON Schema.', param="format")
    schema = {"name": "answer", "strict": True, "schema": said}
    form = {"type": "json_schema", "json_schema": schema}
    return {"response_format": msgspec.Raw(_encode(form))}


def _thinking(said: bool | str | None) -> _Raws:  # noqa: FBT001 - what the field can be
    """Whether, and how much, the model should think first; False is what happens anyway."""
    if not said:
        return {}
    effort = "medium" if said is True else said
    return {"reasoning_effort": msgspec.Raw(_encode(effort))}


def _top_logprobs(parsed: _Generating) -> int | None:
    if not parsed.logprobs:
        return None
    count = parsed.top_logprobs or 0
    if not 0 <= count <= LIMITS.top_logprobs_max:
        raise InvalidRequestError(
            f"`top_logprobs` must be from 0 to {LIMITS.top_logprobs_max}.", param="top_logprobs"
        )
    return count


def _touch(parsed: NamedBody) -> TouchCall:
    kept = parsed.keep_alive
    unload = kept == 0 or (isinstance(kept, str) and kept.strip("0hms. ") == "" and "0" in kept)
    return TouchCall(_model(parsed), kept, unload)


def _model(parsed: NamedBody) -> str:
    model = parsed.model or parsed.name or ""
    if not 0 < len(model) <= LIMITS.model_field_max_chars:
        raise InvalidRequestError("`model` must name a model.", param="model")
    return model


def _parse(body: bytes, kind: type[_S]) -> _S:
    try:
        body.decode()  # msgspec checks only the strings that it keeps
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise explain(str(error)) from None
    except (ValueError, RecursionError) as error:  # DecodeError and UnicodeDecodeError, too
        raise InvalidRequestError(
            f"The body is no JSON: {no_json(body, error)}. Send one JSON object."
        ) from None


def _absent(raw: msgspec.Raw) -> bool:
    return bytes(raw) in (b"", b"null", b"[]")


def _unsupported(param: str, what: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"`{param}` is not supported. {what}", Code.UNSUPPORTED_PARAMETER, param=param
    )
