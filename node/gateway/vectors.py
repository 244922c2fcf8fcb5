"""Embeddings out of a task's answer, in whatever dialect they were asked for. Pure."""

import msgspec

from aigrid.node.gateway.core import TaskAnswer
from aigrid.protocol.errors import Code, EngineError

_DECODER = msgspec.json.Decoder(list[list[float]])


def vectors_of(found: TaskAnswer, count: int) -> list[list[float]]:
    """One vector for each text, all of one length.

    Raises:
        EngineError: `engine_failed`, the output is something else.
    """
    try:
        vectors = _DECODER.decode(found.output)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        vectors = []
    lengths = {len(vector) for vector in vectors}
    if len(vectors) != count or len(lengths) != 1 or 0 in lengths:
        raise no_vectors()
    return vectors


def no_vectors() -> EngineError:
    """The error for another output."""
    return EngineError("The model did not answer with vectors.", Code.ENGINE_FAILED)
