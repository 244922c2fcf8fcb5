"""Writes GGUF files for tests: whole, tiny llama models, and what no honest writer would make."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf as public
import numpy as np
from tests.engines.k_quants import pack_k

PUBLIC = public.GGMLQuantizationType
TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8}
TYPES |= {"Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "BF16": 30}
U8, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 5, 6, 7, 8, 9, 10
CHATML = (
    "{% for message in messages %}{% if message['role'] == 'tool' %}"
    "{{ raise_exception('no tools here') }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def value(item: Any) -> bytes:
    """Type and bytes of a value: str, bool, int (u32), float (f32), or a list of one of them."""
    if isinstance(item, bytes):
        return item
    if isinstance(item, bool):
        return struct.pack("<IB", BOOL, item)
    if isinstance(item, int):
        return struct.pack("<II", U32, item)
    if isinstance(item, float):
        return struct.pack("<If", F32, item)
    if isinstance(item, str):
        return struct.pack("<I", STRING) + text(item)
    if isinstance(item[0], str):
        return struct.pack("<IIQ", ARRAY, STRING, len(item)) + b"".join(map(text, item))
    return struct.pack(f"<IIQ{len(item)}i", ARRAY, I32, len(item), *item)


@dataclass
class Tensor:
    """`dims` as in the file; what is None is filled in honestly."""

    name: str
    dims: tuple
    kind: int
    data: bytes
    offset: int | None = None


@dataclass
class Gguf:
    metadata: dict = field(default_factory=dict)
    tensors: list = field(default_factory=list)
    magic: bytes = b"GGUF"
    version: int = 3
    tensor_count: int | None = None
    key_count: int | None = None
    alignment: int = 32
    extra_keys: bytes = b""

    def build(self) -> bytes:
        count = len(self.tensors) if self.tensor_count is None else self.tensor_count
        keys = len(self.metadata) if self.key_count is None else self.key_count
        head = self.magic + struct.pack("<IQQ", self.version, count, keys)
        head += b"".join(text(key) + value(item) for key, item in self.metadata.items())
        head += self.extra_keys
        body, size = [], 0
        for tensor in self.tensors:
            offset = size if tensor.offset is None else tensor.offset
            head += text(tensor.name) + struct.pack("<I", len(tensor.dims))
            head += struct.pack(f"<{len(tensor.dims)}Q", *tensor.dims)
            head += struct.pack("<IQ", tensor.kind, offset)
            body += [tensor.data, bytes(-len(tensor.data) % self.alignment)]
            size += len(body[-2]) + len(body[-1])
        return head + bytes(-len(head) % self.alignment) + b"".join(body)


def pack(weights: np.ndarray, kind: str) -> bytes:
    """Store a matrix (rows, columns) as a tensor type; rounding is whatever comes out."""
    if kind == "F32":
        return weights.astype("<f4").tobytes()
    if kind == "F16":
        return weights.astype("<f2").tobytes()
    if kind == "BF16":
        return (weights.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    if kind.endswith("_K"):
        return pack_k(weights, kind)
    if kind.startswith("Q5_"):
        return public.quants.quantize(weights.astype(np.float32), PUBLIC(TYPES[kind])).tobytes()
    blocks = weights.reshape(-1, 32)
    least, most = blocks.min(1, keepdims=True), blocks.max(1, keepdims=True)
    furthest = np.where(-least > most, least, most)
    scale = {"Q8_0": np.abs(furthest) / 127, "Q4_0": furthest / -8, "Q4_1": (most - least) / 15}
    half = np.where(scale[kind] == 0, 1, scale[kind]).astype("<f2")
    head = [half.view(np.uint8)]
    if kind == "Q8_0":
        codes = np.clip(np.round(blocks / half), -127, 127).astype(np.int8).view(np.uint8)
        return np.concatenate([*head, codes], axis=1).tobytes()
    minimum = -8 * half.astype(np.float64)
    if kind == "Q4_1":
        minimum = least.astype("<f2")
        head.append(minimum.view(np.uint8))
    codes = np.clip(np.round((blocks - minimum) / half), 0, 15).astype(np.uint8)
    return np.concatenate([*head, codes[:, :16] | codes[:, 16:] << 4], axis=1).tobytes()


def unpack(data: bytes, kind: str, columns: int) -> np.ndarray:
    """The weights that are stored: the simple types straight from the format's text, one block
    after the other, the others as the public package reads them.
    """
    if kind in {"F32", "F16"}:
        return np.frombuffer(data, "<f4" if kind == "F32" else "<f2").reshape(-1, columns)
    if kind == "BF16":
        wide = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(-1, columns)
    if kind not in {"Q4_0", "Q4_1", "Q8_0"}:
        elements, size = public.GGML_QUANT_SIZES[PUBLIC(TYPES[kind])]
        rows = np.frombuffer(data, np.uint8).reshape(-1, columns // elements * size)
        return public.quants.dequantize(rows, PUBLIC(TYPES[kind]))
    size = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20}[kind]
    weights = []
    for start in range(0, len(data), size):
        block = data[start : start + size]
        (scale,) = struct.unpack_from("<e", block)
        if kind == "Q8_0":
            weights += [scale * code for code in struct.unpack_from("<32b", block, 2)]
            continue
        codes = [byte & 15 for byte in block[-16:]] + [byte >> 4 for byte in block[-16:]]
        if kind == "Q4_0":
            weights += [scale * (code - 8) for code in codes]
        else:
            (minimum,) = struct.unpack_from("<e", block, 2)
            weights += [scale * code + minimum for code in codes]
    return np.array(weights, np.float64).reshape(-1, columns)


def byte_letters() -> list[str]:
    """The letters of the 256 bytes, in the order of the bytes."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters, spare = [], 256
    for byte in range(256):
        letters.append(chr(byte) if byte in printable else chr(spare))
        spare += byte not in printable
    return letters


MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w"]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = [*SPECIALS, *byte_letters(), *("".join(merge.split(" ")) for merge in MERGES)]
ENDING = 2


@dataclass(frozen=True)
class Shape:
    """Lengths of a model; the queries and keys of one head have `head_size` elements."""

    layers: int = 2
    width: int = 64
    hidden: int = 96
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 16


TINY, WIDE = Shape(), Shape(width=256, hidden=512, head_size=64)


def tokenizer_metadata(**changes: Any) -> dict:
    kinds = [3] * len(SPECIALS) + [1] * (len(TOKENS) - len(SPECIALS))
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": ENDING,
        "tokenizer.chat_template": CHATML,
    } | changes


def llama_metadata(shape: Shape = TINY, kind: str = "llama") -> dict:
    return {
        "general.architecture": kind,
        f"{kind}.block_count": shape.layers,
        f"{kind}.context_length": 128,
        f"{kind}.embedding_length": shape.width,
        f"{kind}.feed_forward_length": shape.hidden,
        f"{kind}.attention.head_count": shape.heads,
        f"{kind}.attention.head_count_kv": shape.kv_heads,
        f"{kind}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{kind}.rope.dimension_count": shape.head_size,
        f"{kind}.rope.freq_base": 10000.0,
    }


def tiny_llama(
    kind: str = "F32",
    *,
    seed: int = 0,
    head: str | None = None,
    factors: bool = False,
    kinds: dict[str, str] | None = None,
    metadata: dict[str, Any] | None = None,
    without: Sequence[str] = (),
    architecture: str = "llama",
    biases: bool = False,
    shape: Shape | None = None,
) -> Gguf:
    """A random model. `head` is the type of a separate head; `kinds` overrides types by name.

    Without a `shape` it is wide enough for the K types if there is one.
    """
    rng = np.random.default_rng(seed)
    used = (kind, head or "", *(kinds or {}).values())
    if shape is None:
        shape = WIDE if any(name.endswith("_K") for name in used) else TINY
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    # Sums over more inputs would make the softmax of a random model a choice of one.
    spread = 0.2 * (TINY.width / shape.width) ** 0.5
    tensors = []

    def add(name: str, rows: int, columns: int, wanted: str, spread: float) -> None:
        wanted = (kinds or {}).get(name, wanted)
        data = pack(rng.normal(0, spread, (rows, columns)), wanted)
        tensors.append(Tensor(f"{name}.weight", (columns, rows), TYPES[wanted], data))

    def vector(name: str, mean: float, size: int) -> None:
        data = rng.normal(mean, 0.1, size).astype("<f4").tobytes()
        tensors.append(Tensor(name, (size,), TYPES["F32"], data))

    add("token_embd", len(TOKENS), shape.width, kind, 1)
    for layer in range(shape.layers):
        prefix = f"blk.{layer}."
        vector(f"{prefix}attn_norm.weight", 1, shape.width)
        add(f"{prefix}attn_q", queries, shape.width, kind, spread)
        add(f"{prefix}attn_k", keys, shape.width, kind, spread)
        add(f"{prefix}attn_v", keys, shape.width, kind, spread)
        if biases:
            for part, size in (("q", queries), ("k", keys), ("v", keys)):
                vector(f"{prefix}attn_{part}.bias", 0.2, size)
        add(f"{prefix}attn_output", shape.width, queries, kind, spread)
        vector(f"{prefix}ffn_norm.weight", 1, shape.width)
        add(f"{prefix}ffn_gate", shape.hidden, shape.width, kind, spread)
        add(f"{prefix}ffn_up", shape.hidden, shape.width, kind, spread)
        add(f"{prefix}ffn_down", shape.width, shape.hidden, kind, spread)
    vector("output_norm.weight", 1, shape.width)
    if head is not None:
        add("output", len(TOKENS), shape.width, head, 0.5)
    if factors:
        data = np.linspace(1, 4, shape.head_size // 2).astype("<f4").tobytes()
        tensors.append(Tensor("rope_freqs.weight", (shape.head_size // 2,), TYPES["F32"], data))
    whole = llama_metadata(shape, architecture) | tokenizer_metadata() | (metadata or {})
    whole = {key: item for key, item in whole.items() if key not in without}
    return Gguf(whole, [tensor for tensor in tensors if tensor.name not in without])


def write(directory: Path, model: Gguf, name: str = "tiny.gguf") -> Path:
    path = directory / name
    path.write_bytes(model.build())
    return path
