"""OpenAI's embeddings: bytes in, a task request; a task's answer, bytes out.

Source: https://platform.openai.com/docs/api-reference/embeddings.
"""

import base64
import struct
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from aigrid.node.gateway.call import TaskCall
from aigrid.node.gateway.core import TaskAnswer
from aigrid.node.gateway.openai.fields import ABSENT, counted, parse
from aigrid.node.gateway.preferred import models_of, preferences_of
from aigrid.node.gateway.told import aigrid_object
from aigrid.node.gateway.vectors import no_vectors, vectors_of
from aigrid.protocol.errors import InvalidRequestError
from aigrid.protocol.inference import TaskRequest
from aigrid.protocol.limits import LIMITS

TASK: Final = "feature-extraction"
_encode = msgspec.json.Encoder().encode
_ID_LIMIT: Final = 2**31
_DIMENSIONS_MAX: Final = 2**31 - 1


class EmbeddingsBody(msgspec.Struct):
    """The body of a request for embeddings; what else stands there changes nothing."""

    input: str | list[Any]
    model: str = ""
    models: list[str] | None = None
    provider: msgspec.Raw = ABSENT
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    keep_alive: str | int | float | None = None


_DECODER: msgspec.json.Decoder[EmbeddingsBody] = msgspec.json.Decoder(EmbeddingsBody)


@dataclass(frozen=True, slots=True)
class EmbeddingsCall:
    """What a client asked for, of `count` texts; `as_base64`: little-endian float32 in base64."""

    call: TaskCall
    count: int
    as_base64: bool


def decode_embeddings(body: bytes) -> EmbeddingsCall:
    """Decode and check the body of `POST /v1/embeddings`.

    Raises:
        InvalidRequestError: whatever is wrong with it; `param` names the field where there is one.
    """
    parsed, _ = parse(body, _DECODER)
    texts = _texts(parsed.input)
    parameters = dict[str, str | int | float | bool]()
    size = counted(parsed.dimensions, "dimensions", _DIMENSIONS_MAX)
    if size is not None:
        parameters["dimensions"] = size  # only some servers can shorten vectors
    call = TaskCall(
        models=models_of(parsed.model, parsed.models),
        request=TaskRequest(TASK, _encode(texts), parameters),
        preferences=preferences_of(parsed.provider),
        keep_alive=parsed.keep_alive,
    )
    return EmbeddingsCall(call, len(texts), parsed.encoding_format == "base64")


def _texts(given: str | list[Any]) -> list[str] | list[list[int]]:
    """Texts, or for each its token ids; a text of its own is one of one."""
    if isinstance(given, str) or (given and all(type(entry) is int for entry in given)):
        given = [given]
    texts = all(isinstance(entry, str) for entry in given)
    if not texts and not all(isinstance(entry, list) for entry in given):
        raise InvalidRequestError(
            "`input` must be a text, an array of texts, or token ids.", param="input"
        )
    if not texts and not all(
        type(token) is int and 0 <= token < _ID_LIMIT for ids in given for token in ids
    ):
        raise InvalidRequestError("`input` has token ids that are none.", param="input")
    if not 0 < len(given) <= LIMITS.task_items_max or not all(given):
        raise InvalidRequestError(
            f"`input` must have 1 to {LIMITS.task_items_max} texts, none of them empty.",
            param="input",
        )
    return given


def embeddings_body(asked: EmbeddingsCall, found: TaskAnswer) -> bytes:
    """The answer as OpenAI's clients read it.

    Raises:
        EngineError: when the output is not one vector of equal length for each text.
    """
    vectors = vectors_of(found, asked.count)
    data = [
        {"object": "embedding", "index": n, "embedding": _spelled(vector, asked.as_base64)}
        for n, vector in enumerate(vectors)
    ]
    tokens = found.finish.prompt_tokens
    return _encode(
        {
            "object": "list",
            "data": data,
            "model": found.answer.name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "aigrid": aigrid_object(found.told),
        }
    )


def _spelled(vector: list[float], as_base64: bool) -> list[float] | str:  # noqa: FBT001
    if not as_base64:
        return vector
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    except OverflowError:  # a number that 32 bits do not hold
        raise no_vectors() from None
