"""Build an ONNX graph for onnxruntime from the safetensors of a BERT, weights as float32.

`bert.GRAPH_VERSION` has to be raised whenever another graph would be built. The graph:

    input_ids, attention_mask, token_type_ids   int64 [batch, tokens]
    -> last_hidden_state   float32 [batch, tokens, width], for a model without a head
    -> logits              float32 [batch, classes] or [batch, tokens, classes]

No output is called `embedding`: that name collides with
nodes which the runtime makes when it fuses others.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from aigrid.engines import progress, safetensors
from aigrid.engines.bert import BertConfig
from aigrid.engines.gguf import Buffer
from aigrid.engines.graph_cache import WEIGHTS_FILE
from aigrid.engines.graph_writer import MICROSOFT, GraphWriter
from aigrid.engines.safetensors import SafetensorsFile

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
HIDDEN, LOGITS = "last_hidden_state", "logits"


def build(file: SafetensorsFile, config: BertConfig, buffer: Buffer, directory: Path) -> None:
    """Write the graph and its weights into an existing directory.

    Args:
        file: a checked header that `bert.read_config` accepted.
        config: what it returned.
        buffer: the whole file; one matrix at a time is copied.
        directory: where to write.
    """
    with (directory / WEIGHTS_FILE).open("wb") as stream:
        _Builder(file, config, buffer, GraphWriter(stream)).write(directory)


class _Builder:
    def __init__(
        self, file: SafetensorsFile, config: BertConfig, buffer: Buffer, graph: GraphWriter
    ) -> None:
        self._file = file
        self._config = config
        self._buffer = buffer
        self._graph = graph

    def write(self, directory: Path) -> None:
        config, graph = self._config, self._graph
        self._declare()
        hidden = self._embeddings()
        mask = graph.node("Cast", [MASK], ["mask"], to=TensorProto.INT32)
        for layer in range(config.layers):
            progress.told("building the graph", layer, config.layers)
            hidden = self._layer(hidden, mask, f"{config.prefix}encoder.layer.{layer}.")
        if config.head == "sequence":
            hidden = self._first(hidden)
        if config.head:
            product = self._product(hidden, "classifier")
            graph.node("Add", [product, self._vector("classifier.bias")], [LOGITS])
        else:
            graph.node("Identity", [hidden], [HIDDEN])
        graph.save(directory, "bert")

    def _declare(self) -> None:
        graph, config = self._graph, self._config
        info = helper.make_tensor_value_info
        for name in (IDS, MASK, TYPES):
            graph.inputs.append(info(name, TensorProto.INT64, ["batch", "tokens"]))
        shape: list[str | int] = ["batch", "tokens", config.width]
        if config.head:
            shape = ["batch", config.classes]
            if config.head == "tokens":
                shape.insert(1, "tokens")
        name = LOGITS if config.head else HIDDEN
        graph.outputs.append(info(name, TensorProto.FLOAT, shape))
        graph.constant("zero", np.array(0, np.int64))

    def _embeddings(self) -> str:
        graph, at = self._graph, f"{self._config.prefix}embeddings."
        words = self._gathered(f"{at}word_embeddings.weight", IDS)
        types = self._gathered(f"{at}token_type_embeddings.weight", TYPES)
        shape = graph.node("Shape", [IDS], ["tokens.shape"], start=1, end=2)
        ones = graph.node(
            "ConstantOfShape",
            [shape],
            ["ones"],
            value=helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        )
        # Not `Range`: the runtime makes a slice of a look-up by one, and a slice cuts what is too
        # long where a look-up refuses it.
        order = graph.node("CumSum", [ones, "zero"], ["positions"], exclusive=1)
        positions = self._gathered(f"{at}position_embeddings.weight", order)
        summed = graph.node("Add", [words, types], ["words.types"])
        embedded = graph.node("Add", [summed, positions], ["embedded"])
        scale, shift = self._norm(f"{at}LayerNorm")
        return graph.node(
            "LayerNormalization",
            [embedded, scale, shift],
            ["embedded.normed"],
            axis=-1,
            epsilon=self._config.epsilon,
        )

    def _layer(self, hidden: str, mask: str, at: str) -> str:
        graph, config = self._graph, self._config
        parts = [f"{at}attention.self.{part}" for part in ("query", "key", "value")]
        weights = np.concatenate([self._array(f"{part}.weight") for part in parts])
        biases = np.concatenate([self._array(f"{part}.bias") for part in parts])
        attended = graph.node(
            "Attention",
            [
                hidden,
                graph.constant(f"{at}qkv", weights.T),
                graph.constant(f"{at}qkv.bias", biases),
                mask,
            ],
            [f"{at}attended"],
            MICROSOFT,
            num_heads=config.heads,
        )
        attended = self._product(attended, f"{at}attention.output.dense")
        hidden = self._join(attended, hidden, f"{at}attention.output")
        wide = self._product(hidden, f"{at}intermediate.dense")
        wide = self._activated(wide, f"{at}intermediate.dense")
        return self._join(self._product(wide, f"{at}output.dense"), hidden, f"{at}output")

    def _join(self, update: str, residual: str, at: str) -> str:
        """Add the update, with the bias of its last product, to the residual; normalise."""
        scale, shift = self._norm(f"{at}.LayerNorm")
        bias = self._vector(f"{at}.dense.bias")
        return self._graph.node(
            "SkipLayerNormalization",
            [update, residual, scale, shift, bias],
            [f"{at}.normed"],
            MICROSOFT,
            epsilon=self._config.epsilon,
        )

    def _activated(self, source: str, name: str) -> str:
        graph, bias = self._graph, self._vector(f"{name}.bias")
        result = [f"{name}.activated"]
        match self._config.activation:
            case "gelu":
                return graph.node("BiasGelu", [source, bias], result, MICROSOFT)
            case "relu":
                biased = graph.node("Add", [source, bias], [f"{name}.biased"])
                return graph.node("Relu", [biased], result)
        return graph.node("FastGelu", [source, bias], result, MICROSOFT)  # the one with tanh

    def _first(self, hidden: str) -> str:
        """The first token of each text through the pooler: [batch, width]."""
        graph, name = self._graph, f"{self._config.prefix}pooler.dense"
        first = graph.node("Gather", [hidden, "zero"], ["first"], axis=1)
        bias = self._vector(f"{name}.bias")
        biased = graph.node("Add", [self._product(first, name), bias], [f"{name}.biased"])
        return graph.node("Tanh", [biased], ["pooled"])

    def _product(self, source: str, name: str) -> str:
        weights = self._graph.constant(f"{name}.weight", self._array(f"{name}.weight").T)
        return self._graph.node("MatMul", [source, weights], [f"{name}.product"])

    def _gathered(self, name: str, rows: str) -> str:
        table = self._vector(name)
        return self._graph.node("Gather", [table, rows], [f"{name}.{rows}"])

    def _norm(self, name: str) -> tuple[str, str]:
        return self._vector(f"{name}.weight"), self._vector(f"{name}.bias")

    def _vector(self, name: str) -> str:
        return self._graph.constant(name, self._array(name))

    def _array(self, name: str) -> npt.NDArray[np.float32]:
        return safetensors.array(self._buffer, self._file.tensors[name])
