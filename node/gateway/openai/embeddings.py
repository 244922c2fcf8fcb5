"""OpenAI's embeddings: bytes in, a task request; a task's answer, bytes out.

Source: https://platform.openai.com/docs/api-reference/embeddings.
"""

import base64
import struct
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from aigrid.node.gateway.core import TaskAnswer
from aigrid.node.gateway.told import aigrid_object
from aigrid.protocol.errors import Code, EngineError, InvalidRequestError
from aigrid.protocol.inference import TaskRequest
from aigrid.protocol.limits import LIMITS

TASK: Final = "feature-extraction"
_encode = msgspec.json.Encoder().encode
_ID_LIMIT: Final = 2**31
_DIMENSIONS_MAX: Final = 2**31 - 1
_vectors = msgspec.json.Decoder(list[list[float]])


class EmbeddingsBody(msgspec.Struct):
    """The body of a request for embeddings."""

    model: str
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    keep_alive: str | int | float | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingsCall:
    """What a client asked for; `as_base64` for little-endian float32 in base64.

    `keep_alive` is Ollama's field, as it was sent.
    """

    model: str
    request: TaskRequest
    count: int
    as_base64: bool
    keep_alive: str | float | None = None


def decode_embeddings(body: bytes) -> EmbeddingsCall:
    """Decode and check the body of `POST /v1/embeddings`.

    Raises:
        InvalidRequestError: whatever is wrong with it; `param` names the field where there is one.
    """
    try:
        parsed = msgspec.json.decode(body, type=EmbeddingsBody)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidRequestError(f"The body is not a request for embeddings: {error}.") from None
    if not 0 < len(parsed.model) <= LIMITS.model_field_max_chars:
        raise InvalidRequestError("`model` must name a model.", param="model")
    texts = _texts(parsed.input)
    parameters = dict[str, str | int | float | bool]()
    if parsed.dimensions is not None:
        if not 1 <= parsed.dimensions <= _DIMENSIONS_MAX:
            raise InvalidRequestError("`dimensions` must be 1 or more.", param="dimensions")
        parameters["dimensions"] = parsed.dimensions  # only some servers can shorten vectors
    request = TaskRequest(TASK, _encode(texts), parameters)
    return EmbeddingsCall(
        parsed.model, request, len(texts), parsed.encoding_format == "base64", parsed.keep_alive
    )


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


def embeddings_body(call: EmbeddingsCall, found: TaskAnswer) -> bytes:
    """The answer as OpenAI's clients read it.

    Raises:
        EngineError: when the output is not one vector of equal length for each text.
    """
    try:
        vectors = _vectors.decode(found.output)
    except msgspec.DecodeError:
        vectors = []
    if len(vectors) != call.count or len({len(vector) for vector in vectors}) != 1:
        raise EngineError("The model did not answer with vectors.", Code.ENGINE_FAILED)
    data = [
        {"object": "embedding", "index": n, "embedding": _spelled(vector, call.as_base64)}
        for n, vector in enumerate(vectors)
    ]
    tokens = found.finish.prompt_tokens
    return _encode(
        {
            "object": "list",
            "data": data,
            "model": found.answer.name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "aigrid": aigrid_object(found.segments),
        }
    )


def _spelled(vector: list[float], as_base64: bool) -> list[float] | str:  # noqa: FBT001
    if not as_base64:
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
