"""The starter model for vectors: real weights, real meanings, and its graph built here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from tests.engines.bert_models import Reference

from aigrid.engines.base import CancelToken, ModelSource
from aigrid.engines.onnx_encoder import OnnxEncoderEngine
from aigrid.node.mesh.shelf.starter import CATALOGUE
from aigrid.protocol.errors import EngineError
from aigrid.protocol.inference import Finish, TaskChunk, TaskRequest

pytestmark = pytest.mark.model
TEXTS = (
    "How do I reset my password?",
    "I forgot my login credentials, how can I recover access?",
    "The quick brown fox jumps over the lazy dog near the river bank.",
    "Naïve café: 你好, мир! 🌍",
)


@pytest.fixture(scope="module")
def source(minilm_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    starter = CATALOGUE["minilm"]
    assert starter.mapping
    cache = tmp_path_factory.mktemp("cache")
    return ModelSource(
        "bafyminilm", starter.format, minilm_files, starter.task, {}, cache, starter.mapping
    )


@pytest.fixture(scope="module")
def engine(source: ModelSource) -> OnnxEncoderEngine:
    engine = OnnxEncoderEngine()
    engine.load(source, threads=2)
    return engine


def ask(engine: OnnxEncoderEngine, task: str, given: Any) -> tuple[Any, Finish]:
    chunk, finish = engine.infer(TaskRequest(task, json.dumps(given).encode()), CancelToken())
    assert isinstance(chunk, TaskChunk)
    assert isinstance(finish, Finish)
    return json.loads(chunk.output), finish


def test_vectors_are_those_that_numpy_computes(
    engine: OnnxEncoderEngine, source: ModelSource
) -> None:
    found, finish = ask(engine, "feature-extraction", TEXTS)
    reference = Reference(source)
    for text, vector in zip(TEXTS, found, strict=True):
        assert np.allclose(vector, reference.vector(text), atol=1e-5)
    assert finish.prompt_tokens == sum(len(reference.tokenizer.encode(text).ids) for text in TEXTS)


def test_its_own_token_ids_mean_what_their_text_means(
    engine: OnnxEncoderEngine, source: ModelSource
) -> None:
    tokenizer = Reference(source).tokenizer
    ids = [tokenizer.encode(text).ids for text in TEXTS]
    assert ask(engine, "feature-extraction", ids) == ask(engine, "feature-extraction", TEXTS)
    of_another_vocabulary = [15339, 1917]  # "hello world" to OpenAI's models
    with pytest.raises(EngineError, match="send text"):
        ask(engine, "feature-extraction", [of_another_vocabulary])


def test_alike_means_alike(engine: OnnxEncoderEngine) -> None:
    given = {"source": TEXTS[0], "sentences": TEXTS[1:3]}
    (alike, unlike), _ = ask(engine, "sentence-similarity", given)
    assert alike == pytest.approx(0.6717, abs=1e-3)
    assert unlike == pytest.approx(-0.0045, abs=1e-3)
    documents = ["Cows eat grass.", "The Eiffel Tower is in Paris.", "Berlin lies in Germany."]
    given = {"query": "Where is the Eiffel Tower?", "documents": documents}
    scores, _ = ask(engine, "text-ranking", given)
    assert max(scores) == scores[1]


def test_what_it_takes_is_what_it_said(engine: OnnxEncoderEngine, source: ModelSource) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    ask(engine, "feature-extraction", ["word " * 300] * 64)
    grown = process.memory_info().rss - before
    assert grown < OnnxEncoderEngine().estimate(source).memory_bytes
