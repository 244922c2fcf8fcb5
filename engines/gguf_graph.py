"""Build an ONNX graph for plain onnxruntime from a llama-family GGUF, weights unchanged.

A quantised matrix becomes `MatMulNBits`, which computes `scale * (code - 2**(bits-1))`. A type with
a minimum, `scale * (code - zero) + minimum`, needs `minimum + scale * (2**(bits-1) - zero)` more
for each weight of a block: one small matrix product with the sum of the inputs over each block.

`graph_cache.GRAPH_VERSION` has to be raised whenever another graph would be built.

The graph computes one step of some sequences, a row for each: one new position of each of several,
or several of one, for the runtime's attention takes no others at once.

    embeddings      float32 [rows, S, width]    S new positions
    last_position   int32 [rows]                position of the last of them, of each row its own
    positions       int32 []                    number of positions of the longest row, with these
    cosine, sine    float32 [context, head/2]
    past.L.key      float32 [rows, kv_heads, context, head], likewise value; shared with
                    present.L.key
    -> logits       float32 [rows, 1, vocabulary]  after the last position
"""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from onnx import TensorProto, helper

from aigrid.engines import gguf_quant, progress
from aigrid.engines.gguf import Buffer, GgufFile
from aigrid.engines.gguf_quant import Blocks
from aigrid.engines.graph_cache import WEIGHTS_FILE
from aigrid.engines.graph_writer import GraphWriter
from aigrid.engines.llama import EMBEDDING, FINAL_NORM, HEAD, LlamaConfig, past_names

_MICROSOFT = "com.microsoft"


def build(
    model: GgufFile, config: LlamaConfig, buffer: Buffer, directory: Path, *, accuracy: int
) -> None:
    """Write `GRAPH_FILE` and `WEIGHTS_FILE` into an existing directory.

    Args:
        model: a header that `read_config` accepted.
        config: what it returned.
        buffer: the whole GGUF.
        directory: where to write; one matrix at a time is in memory.
        accuracy: `MatMulNBits` level: 4 rounds its *inputs* to 8 bits per block (as llama.cpp
            does), 1 keeps them float32. The weights are exact in both.
    """
    with (directory / WEIGHTS_FILE).open("wb") as stream:
        graph = _Graph(model, buffer, stream, accuracy)
        _declare(graph, config)
        _network(graph, config)
        graph.save(directory, "llama")


class _Graph(GraphWriter):
    """Nodes and weights as they are added."""

    def __init__(self, model: GgufFile, buffer: Buffer, stream: BinaryIO, accuracy: int) -> None:
        super().__init__(stream)
        self._model = model
        self._buffer = buffer
        self._accuracy = accuracy
        self._block_sums: dict[tuple[str, int], str] = {}

    def vector(self, *names: str) -> str:
        """One or more vectors, one after the other."""
        parts = [gguf_quant.raw_rows(self._buffer, self._model.tensors[name]) for name in names]
        return self.constant(names[0], gguf_quant.dense(np.concatenate(parts, -1), "F32")[0])

    def type_of(self, name: str) -> str:
        return self._model.tensors[name].type.name

    def matrix(self, source: str, names: list[str], label: str) -> str:
        """Multiply by one or more matrices of the same type, their outputs side by side."""
        kind = self.type_of(names[0])
        raw = np.concatenate(
            [gguf_quant.raw_rows(self._buffer, self._model.tensors[name]) for name in names]
        )
        if gguf_quant.is_blocked(kind):
            return self._blocked(source, gguf_quant.unpack(raw, kind), label)
        weights = self.constant(f"{label}.weight", gguf_quant.dense(raw, kind).T)
        return self.node("MatMul", [source, weights], [label])

    def _blocked(self, source: str, blocks: Blocks, label: str) -> str:
        rows, count, size = blocks.codes.shape
        codes = blocks.codes
        if blocks.bits == 4:
            codes = codes[..., 0::2] | (codes[..., 1::2] << np.uint8(4))
        scaled = self.node(
            "MatMulNBits",
            [
                source,
                self.constant(f"{label}.codes", codes),
                self.constant(f"{label}.scales", blocks.scales),
            ],
            [f"{label}.scaled" if blocks.minimum is not None else label],
            _MICROSOFT,
            K=count * size,
            N=rows,
            bits=blocks.bits,
            block_size=size,
            accuracy_level=self._accuracy,
        )
        if blocks.minimum is None:
            return scaled
        offsets = blocks.minimum + blocks.scales * np.float32((1 << blocks.bits - 1) - blocks.zero)
        shifted = self.node(
            "MatMul",
            [self._sums(source, count, size), self.constant(f"{label}.offsets", offsets.T)],
            [f"{label}.shifted"],
        )
        return self.node("Add", [scaled, shifted], [label])

    def _sums(self, source: str, count: int, size: int) -> str:
        """Sums over the blocks of an input, shared by all the matrices it meets."""
        if (source, size) not in self._block_sums:
            label = f"{source}.by{size}"
            shape = self.constant(f"{label}.shape", np.array([0, 0, count, size], np.int64))
            split = self.node("Reshape", [source, shape], [f"{label}.blocks"])
            self._block_sums[source, size] = self.node(
                "ReduceSum", [split, "last_axis"], [f"{label}.sums"], keepdims=0
            )
        return self._block_sums[source, size]


def _declare(graph: _Graph, config: LlamaConfig) -> None:
    """Inputs, outputs and shared constants."""
    half = config.head_size // 2
    past = ["rows", config.kv_heads, "context", config.head_size]
    values = helper.make_tensor_value_info
    graph.inputs += [
        values("embeddings", TensorProto.FLOAT, ["rows", "new", config.width]),
        values("last_position", TensorProto.INT32, ["rows"]),
        values("positions", TensorProto.INT32, []),
        values("cosine", TensorProto.FLOAT, ["context", half]),
        values("sine", TensorProto.FLOAT, ["context", half]),
    ]
    for name in past_names(config):
        graph.inputs.append(values(f"past.{name}", TensorProto.FLOAT, past))
        graph.outputs.append(values(f"present.{name}", TensorProto.FLOAT, past))
    graph.outputs.append(values("logits", TensorProto.FLOAT, ["rows", 1, config.vocabulary]))
    graph.constant("last_axis", np.array([-1], np.int64))


def _network(graph: _Graph, config: LlamaConfig) -> None:
    residual, update = "embeddings", ""
    for layer in range(config.layers):
        progress.told("building the graph", layer, config.layers)
        prefix = f"blk.{layer}."
        normed, residual = _norm(graph, config, residual, update, f"{prefix}attn_norm.weight")
        attended = _attention(graph, config, layer, normed)
        update = graph.matrix(attended, [f"{prefix}attn_output.weight"], f"{prefix}attn_output")
        normed, residual = _norm(graph, config, residual, update, f"{prefix}ffn_norm.weight")
        update = _feed_forward(graph, prefix, normed)
    normed, _ = _norm(graph, config, residual, update, FINAL_NORM)
    newest = graph.constant("newest", np.array([-1], np.int64))
    last = graph.node("Gather", [normed, newest], ["newest_hidden"], axis=1)
    head = graph.matrix(last, [EMBEDDING if config.tied else HEAD], "head")
    graph.node("Identity", [head], ["logits"])


def _norm(
    graph: _Graph, config: LlamaConfig, residual: str, update: str, name: str
) -> tuple[str, str]:
    """Add the update to the residual stream and normalise: (normalised, new residual)."""
    weight, output, epsilon = graph.vector(name), f"{name}.out", config.epsilon
    if not update:
        graph.node(
            "SimplifiedLayerNormalization",
            [residual, weight],
            [output],
            axis=-1,
            epsilon=epsilon,
            stash_type=1,
        )
        return output, residual
    added = f"{name}.residual"
    graph.node(
        "SkipSimplifiedLayerNormalization",
        [residual, update, weight],
        [output, "", "", added],
        _MICROSOFT,
        epsilon=epsilon,
    )
    return output, added


def _attention(graph: _Graph, config: LlamaConfig, layer: int, source: str) -> str:
    names = [f"blk.{layer}.attn_{part}" for part in "qkv"]
    if len({graph.type_of(f"{name}.weight") for name in names}) == 1:
        projected = [_project(graph, config, source, names, f"blk.{layer}.qkv"), "", ""]
    else:
        projected = [_project(graph, config, source, [name], f"{name}.out") for name in names]
    past = [f"past.{layer}.key", f"past.{layer}.value"]
    present = [f"present.{layer}.key", f"present.{layer}.value"]
    return graph.node(
        "GroupQueryAttention",
        [*projected, *past, "last_position", "positions", "cosine", "sine"],
        [f"blk.{layer}.attended", *present],
        _MICROSOFT,
        num_heads=config.heads,
        kv_num_heads=config.kv_heads,
        do_rotary=1,
        rotary_interleaved=int(config.neighbours_rotate),
    )


def _project(graph: _Graph, config: LlamaConfig, source: str, names: list[str], label: str) -> str:
    product = graph.matrix(source, [f"{name}.weight" for name in names], label)
    if not config.biased:
        return product
    bias = graph.vector(*(f"{name}.bias" for name in names))
    return graph.node("Add", [product, bias], [f"{label}.biased"])


def _feed_forward(graph: _Graph, prefix: str, source: str) -> str:
    names = [f"{prefix}ffn_gate.weight", f"{prefix}ffn_up.weight"]
    label = f"{prefix}ffn_"
    if graph.type_of(names[0]) == graph.type_of(names[1]):
        # One product for both: fewer nodes, which is what a single token's step is made of.
        both = graph.matrix(source, names, f"{label}in")
        gate, up = f"{label}gate", f"{label}up"
        graph.node("Split", [both], [gate, up], axis=-1, num_outputs=2)
    else:
        gate, up = (graph.matrix(source, [name], f"{name}.out") for name in names)
    gated = graph.node("QuickGelu", [gate], [f"{label}silu"], _MICROSOFT, alpha=1.0)
    hidden = graph.node("Mul", [gated, up], [f"{label}hidden"])
    return graph.matrix(hidden, [f"{prefix}ffn_down.weight"], f"{label}out")
