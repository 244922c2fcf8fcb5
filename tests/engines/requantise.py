"""Writes a GGUF anew with other types, as llama.cpp's own tool would choose them."""

import struct
from pathlib import Path

import gguf as public
import numpy as np
from tests.engines.gguf_writer import PUBLIC, TYPES, Gguf, Tensor, pack, text

from aigrid.engines.gguf import GgufFile, GgufTensor, parse

# For rows that are no multiple of 256. For Q2_K and Q3_K llama.cpp takes a type that is refused.
NARROW = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def requantise(path: Path, kind: str, made: Path) -> Path:
    """Round every matrix of a file to `kind`, the name of a type or Q4_K_M, into the file `made`."""
    buffer = path.read_bytes()
    model = parse(buffer)
    layers = model.integer("llama.block_count", high=1000)
    tensors = []
    for name, tensor in model.tensors.items():
        data = buffer[tensor.offset : tensor.offset + tensor.size_bytes]
        number = TYPES[tensor.type.name]
        if len(tensor.dims) == 2:
            wanted = _mixed(name, layers) if kind == "Q4_K_M" else kind
            if tensor.dims[0] % 256:
                wanted = NARROW.get(wanted, wanted)
            data = pack(_weights(data, tensor), wanted)
            number = TYPES[wanted]
        tensors.append(Tensor(name, tensor.dims, number, data))
    made.write_bytes(_with_keys_of(buffer, model, tensors).build())
    return made


def _weights(data: bytes, tensor: GgufTensor) -> np.ndarray:
    rows = np.frombuffer(data, np.uint8).reshape(tensor.dims[1], -1)
    return public.quants.dequantize(rows, PUBLIC(TYPES[tensor.type.name]))


def _mixed(name: str, layers: int) -> str:
    """More bits for what matters more: the embedding, and values and sums of half of the layers."""
    if not name.startswith("blk."):
        return "Q6_K"
    _, number, part, _ = name.split(".")
    layer, eighth = int(number), layers // 8
    more = layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
    return "Q6_K" if more and part in {"attn_v", "ffn_down"} else "Q4_K"


def _with_keys_of(buffer: bytes, model: GgufFile, tensors: list[Tensor]) -> Gguf:
    first = next(iter(model.tensors.values()))
    # The keys end where the first tensor is described.
    end = buffer.index(text(first.name) + struct.pack("<I", len(first.dims)))
    return Gguf(tensors=tensors, key_count=len(model.metadata), extra_keys=buffer[24:end])
