"""What a llama-family GGUF says about itself, checked against its tensors.

Whatever could change the arithmetic and is not understood is refused: an answer from a model that
was almost computed right is worse than none.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from aigrid.engines.gguf import INSTEAD, GgufFile, GgufTensor
from aigrid.engines.gguf_quant import check_supported
from aigrid.protocol.errors import Code, EngineError

EMBEDDING, HEAD, FINAL_NORM, ROPE_FACTORS = (
    "token_embd.weight",
    "output.weight",
    "output_norm.weight",
    "rope_freqs.weight",
)

# Whether neighbours in a head rotate together (writers order the rows of Q and K for it), or each
# element with the one half a head away.
_ARCHITECTURES: Final[Mapping[str, bool]] = MappingProxyType({"llama": True, "qwen2": False})

_KNOWN_KEYS: Final = frozenset(
    (
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.layer_norm_rms_epsilon",
        "attention.value_length",
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scaling.factor",
        "rope.scaling.finetuned",
        "rope.scaling.original_context_length",
        "rope.scaling.type",
        "tensor_data_layout",
        "vocab_size",
    )
)


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """The shape of the network; lengths in elements.

    `rope_scale` divides positions (linear scaling), 1.0 leaves them. `tied` says that the output
    head is the embedding, `biased` that queries, keys and values have a bias, `neighbours_rotate`
    which pairs of a head's elements the rotation turns.
    """

    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    context: int
    epsilon: float
    rope_base: float
    rope_scale: float
    tied: bool
    biased: bool
    neighbours_rotate: bool

    @property
    def kv_bytes_per_token(self) -> int:
        return self.layers * 2 * self.kv_heads * self.head_size * 4


def read_config(model: GgufFile) -> LlamaConfig:
    """Check a header and take the network's shape from it.

    Raises:
        EngineError: `unsupported_model` for what this engine cannot compute,
            `unsupported_quantisation` for a tensor type it cannot run.
    """
    kind = model.text("general.architecture")
    if kind not in _ARCHITECTURES:
        known = " and ".join(_ARCHITECTURES)
        raise _unsupported(f"architecture {kind!r} is not supported, only {known}; {INSTEAD}")
    _check_keys(model, kind)
    width = model.integer(f"{kind}.embedding_length", low=1, high=1 << 20)
    heads = model.integer(f"{kind}.attention.head_count", low=1, high=4096)
    kv_heads = model.integer(f"{kind}.attention.head_count_kv", heads, low=1, high=heads)
    head_size = model.integer(f"{kind}.attention.key_length", width // heads, low=1, high=4096)
    embedding = model.tensors.get(EMBEDDING)
    if embedding is None or len(embedding.dims) != 2:
        raise _unsupported(f"the tensor {EMBEDDING!r} is missing or not a matrix")
    config = LlamaConfig(
        layers=model.integer(f"{kind}.block_count", low=1, high=1024),
        width=width,
        hidden=model.integer(f"{kind}.feed_forward_length", low=1, high=1 << 24),
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        vocabulary=embedding.dims[1],
        context=model.integer(f"{kind}.context_length", low=1, high=1 << 24),
        epsilon=model.number(f"{kind}.attention.layer_norm_rms_epsilon"),
        rope_base=model.number(f"{kind}.rope.freq_base", 10000.0),
        rope_scale=_rope_scale(model, kind),
        tied=HEAD not in model.tensors,
        biased="blk.0.attn_q.bias" in model.tensors,
        neighbours_rotate=_ARCHITECTURES[kind],
    )
    _check_shape(model, kind, config)
    _check_tensors(model.tensors, config)
    return config


def rotary_tables(
    config: LlamaConfig, factors: npt.NDArray[np.float32] | None, positions: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Cosine and sine of every rotation, each (positions, head_size / 2).

    `factors` are the divisors of `rope_freqs.weight`, by which Llama 3.1 stretches its context.
    """
    steps = np.arange(0, config.head_size, 2, dtype=np.float64)
    frequencies = config.rope_base ** (-steps / config.head_size) / config.rope_scale
    if factors is not None:
        frequencies = frequencies / factors
    angles = np.outer(np.arange(positions, dtype=np.float64), frequencies)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def layer_matrices(config: LlamaConfig) -> Iterator[tuple[str, tuple[int, int]]]:
    """Name (without `blk.N.` and `.weight`) and (inputs, outputs) of a layer's matrices."""
    queries, keys = config.heads * config.head_size, config.kv_heads * config.head_size
    yield "attn_q", (config.width, queries)
    yield "attn_k", (config.width, keys)
    yield "attn_v", (config.width, keys)
    yield "attn_output", (queries, config.width)
    yield "ffn_gate", (config.width, config.hidden)
    yield "ffn_up", (config.width, config.hidden)
    yield "ffn_down", (config.hidden, config.width)


def past_names(config: LlamaConfig) -> list[str]:
    """`L.key` and `L.value` of each layer, in order: the buffers that a step goes on from."""
    return [f"{layer}.{part}" for layer in range(config.layers) for part in ("key", "value")]


def _check_keys(model: GgufFile, kind: str) -> None:
    prefix = f"{kind}."
    for key, value in model.metadata.items():
        name = key.removeprefix(prefix)
        # Files of the llama architecture may state the experts they do not have.
        absent = name.startswith("expert") and value == 0
        if name == key or name in _KNOWN_KEYS or absent:
            continue
        raise _unsupported(f"the model's setting {key} is not supported; {INSTEAD}")


def _rope_scale(model: GgufFile, kind: str) -> float:
    scaling = model.text(f"{kind}.rope.scaling.type", "none")
    if scaling not in {"none", "linear"}:
        raise _unsupported(f"rotary scaling {scaling!r} is not supported; {INSTEAD}")
    factor = model.number(f"{kind}.rope.scaling.factor", 1.0) if scaling == "linear" else 1.0
    # Writers put 0 for "not scaled".
    return factor or 1.0


def _check_shape(model: GgufFile, kind: str, config: LlamaConfig) -> None:
    size = config.head_size
    if model.integer(f"{kind}.attention.value_length", size, high=4096) != size:
        raise _unsupported(f"keys and values of different lengths are not supported; {INSTEAD}")
    if model.integer(f"{kind}.rope.dimension_count", size, high=4096) != size:
        raise _unsupported(f"rotating only a part of each head is not supported; {INSTEAD}")
    if model.integer(f"{kind}.vocab_size", config.vocabulary, high=1 << 24) != config.vocabulary:
        raise _unsupported("the vocabulary's size is not that of the embedding")
    if size % 16:
        raise _unsupported(f"heads of {size} elements are not supported, only multiples of 16")
    if config.heads % config.kv_heads:
        raise _unsupported(f"{config.heads} heads cannot share {config.kv_heads} keys")
    if config.epsilon <= 0 or config.rope_base <= 0 or config.rope_scale <= 0:
        raise _unsupported("epsilon, rotary base and rotary scale must be above zero")


def _check_tensors(tensors: Mapping[str, GgufTensor], config: LlamaConfig) -> None:
    wanted: dict[str, tuple[int, ...]] = {
        EMBEDDING: (config.width, config.vocabulary),
        FINAL_NORM: (config.width,),
    }
    if not config.tied:
        wanted[HEAD] = (config.width, config.vocabulary)
    if ROPE_FACTORS in tensors:
        wanted[ROPE_FACTORS] = (config.head_size // 2,)
    for layer in range(config.layers):
        for norm in ("attn_norm", "ffn_norm"):
            wanted[f"blk.{layer}.{norm}.weight"] = (config.width,)
        for name, dims in layer_matrices(config):
            wanted[f"blk.{layer}.{name}.weight"] = dims
            if config.biased and name in {"attn_q", "attn_k", "attn_v"}:
                wanted[f"blk.{layer}.{name}.bias"] = dims[1:]
    for name, expected in wanted.items():
        tensor = tensors.get(name)
        if tensor is None:
            raise _unsupported(f"the tensor {name!r} is missing")
        if tensor.dims != expected:
            raise _unsupported(f"tensor {name!r} has the shape {tensor.dims}, not {expected}")
        check_supported(tensor)
        if len(expected) == 1 and tensor.type.name != "F32":
            raise _unsupported(f"tensor {name!r} must be of type F32")
    extra = next((name for name in tensors if name not in wanted), None)
    if extra is not None:
        raise _unsupported(f"the tensor {extra!r} has no place in this model")


def _unsupported(message: str) -> EngineError:
    return EngineError(message, Code.UNSUPPORTED_MODEL)
