"""Short ways to load and ask an `onnx_text` engine."""

from aigrid.engines.base import CancelToken, ModelSource
from aigrid.engines.onnx_text import OnnxTextEngine
from aigrid.protocol.inference import Finish, TextChunk, TextRequest


def source(path, *, cache=None, **options):
    return ModelSource("tiny", "gguf", {path.name: path}, "text-generation", options, cache)


def load(path, *, cache=None, threads=1, **options):
    engine = OnnxTextEngine()
    engine.load(source(path, cache=cache, **options), threads=threads)
    return engine


def ask(engine, cancel=None, **fields):
    """Text, token ids, log-probabilities and Finish of a request; greedy unless told."""
    fields = {"temperature": 0.0} | fields
    text, ids, logprobs = "", [], []
    chunks = list(engine.infer(TextRequest(**fields), cancel or CancelToken()))
    assert isinstance(chunks[-1], Finish)
    for chunk in chunks[:-1]:
        assert isinstance(chunk, TextChunk)
        text += chunk.text
        ids += chunk.token_ids
        logprobs += chunk.logprobs
    assert chunks[-1].completion_tokens == len(ids)
    return text, ids, logprobs, chunks[-1]
