"""Short ways to load and ask an `onnx_text` engine."""

from pathlib import Path
from typing import Any

from aigrid.engines.base import CancelToken, ModelSource
from aigrid.engines.onnx_text import OnnxTextEngine
from aigrid.protocol.inference import Finish, TextChunk, TextRequest, TokenLogprob

Answer = tuple[str, list[int], list[TokenLogprob], Finish]


def source(path: Path, *, cache: Path | None = None, **options: Any) -> ModelSource:
    return ModelSource("tiny", "gguf", {path.name: path}, "text-generation", options, cache)


def load(
    path: Path, *, cache: Path | None = None, threads: int = 1, **options: Any
) -> OnnxTextEngine:
    engine = OnnxTextEngine()
    engine.load(source(path, cache=cache, **options), threads=threads)
    return engine


def inside(engine: OnnxTextEngine) -> Any:
    """The loaded parts, for tests that break one of them."""
    assert engine._loaded is not None
    return engine._loaded


def stream(
    engine: OnnxTextEngine, cancel: CancelToken | None = None, **fields: Any
) -> tuple[list[TextChunk], Finish]:
    """The chunks of an answer and its end; greedy unless told."""
    request = TextRequest(**{"temperature": 0.0, **fields})
    *chunks, finish = engine.infer(request, cancel or CancelToken())
    assert isinstance(finish, Finish)
    texts = [chunk for chunk in chunks if isinstance(chunk, TextChunk)]
    assert texts == chunks
    assert finish.completion_tokens == sum(len(chunk.token_ids) for chunk in texts)
    return texts, finish


def ask(engine: OnnxTextEngine, cancel: CancelToken | None = None, **fields: Any) -> Answer:
    """Text, token ids, log-probabilities and Finish of a request; greedy unless told."""
    chunks, finish = stream(engine, cancel, **fields)
    return (
        "".join(chunk.text for chunk in chunks),
        [token for chunk in chunks for token in chunk.token_ids],
        [entry for chunk in chunks for entry in chunk.logprobs],
        finish,
    )
