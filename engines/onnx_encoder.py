"""Encoders of text from safetensors on ONNX Runtime: the graph is built here, without torch.

A model has one `*.safetensors`, its `config.json`, and what its task mapping needs beside them. The
graph's inputs and outputs are those of `bert_graph`.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from aigrid.engines import safetensors
from aigrid.engines.base import Estimate, ModelSource, Probe, check_options, model_file
from aigrid.engines.bert import GRAPH_VERSION, BertConfig, read_config, shapes
from aigrid.engines.graph_cache import GRAPH_FILE, built, discard
from aigrid.engines.onnx import RUNTIME_BYTES, SLOTS, OnnxEngine
from aigrid.engines.onnx_session import OnnxGraph
from aigrid.engines.small_files import read_json
from aigrid.engines.tasks import Tasks
from aigrid.engines.tasks.tokens import BATCH_TOKENS
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.task import TextInput

FORMAT: Final = "safetensors"
CONFIG_FILE: Final = "config.json"
TASKS: Final = (
    "feature-extraction",
    "sentence-similarity",
    "text-ranking",
    "text-classification",
    "zero-shot-classification",
    "token-classification",
)
REFUSES: Final = (
    "architectures other than BERT's encoders: their graph is not known here",
    "weights in several files: not supported",
)


class OnnxEncoderEngine(OnnxEngine):
    """One BERT, with or without a head for classes."""

    name = "onnx_encoder"

    def probe(self) -> Probe:
        return replace(
            super().probe(), formats=(FORMAT,), tasks=("tensor", *TASKS), refuses=REFUSES
        )

    def estimate(self, source: ModelSource) -> Estimate:
        check_options(source)
        file, config, _ = _open(source)
        weights = 4 * sum(math.prod(shape) for shape in shapes(config).values())
        # For each token of a batch: the widest layer before and after its activation, a few rows of
        # the model's width, and its row of attention scores in each head, before and after softmax.
        row = 2 * config.hidden + 6 * config.width + 2 * config.heads * _longest(source, config)
        # The weights twice: the runtime keeps them once more while it prepares them.
        work = SLOTS * 4 * BATCH_TOKENS * row
        memory = RUNTIME_BYTES + 2 * weights + work
        on_host = Estimate(memory, SLOTS, config.positions, file.precision)
        return self._placed(source, on_host, weights + work)

    def load(self, source: ModelSource, *, threads: int) -> Estimate:
        estimate = self.estimate(source)
        graph = _graph(source, lambda path: self._open(source, path, threads, estimate))
        self._graph = graph
        self._tasks = None if source.mapping is None else Tasks(source, graph)
        return self._real(source, graph, estimate)


def _open(source: ModelSource) -> tuple[safetensors.SafetensorsFile, BertConfig, Any]:
    path = model_file(source, FORMAT)
    if CONFIG_FILE not in source.files:
        raise EngineError(
            f"a model in format {FORMAT} needs its {CONFIG_FILE}", Code.UNSUPPORTED_MODEL
        )
    mapped = safetensors.map_file(path)
    file = safetensors.parse(mapped)
    return file, read_config(read_json(source.files[CONFIG_FILE]), file), mapped


def _graph(source: ModelSource, open_: Callable[[Path], OnnxGraph]) -> OnnxGraph:
    """Open the graph, built anew if need be."""
    file, config, mapped = _open(source)
    key = _key(mapped, source.files[CONFIG_FILE])

    def build(directory: Path) -> None:
        # It imports `onnx`, which takes as long as loading a model that is already built.
        from aigrid.engines import bert_graph

        bert_graph.build(file, config, mapped, directory)

    def attempt() -> OnnxGraph:
        with built(build, cache=source.cache_directory, key=key) as directory:
            return open_(directory / GRAPH_FILE)

    try:
        return attempt()
    except EngineError as error:
        if source.cache_directory is None or error.code is Code.OUT_OF_MEMORY:
            raise
    # A cached graph may have been damaged since it was written; a new one says for certain.
    discard(source.cache_directory, key)
    return attempt()


def _key(weights: Any, config: Path) -> str:
    """The name of a graph: what it was built from, and how."""
    digest = hashlib.sha256(weights)
    digest.update(config.read_bytes())
    return f"bert-{digest.hexdigest()}-v{GRAPH_VERSION}"


def _longest(source: ModelSource, config: BertConfig) -> int:
    """How many tokens a text has at most."""
    text = None if source.mapping is None else source.mapping.text
    said = text.max_tokens if isinstance(text, TextInput) else 0
    return min(said or config.positions, config.positions)
