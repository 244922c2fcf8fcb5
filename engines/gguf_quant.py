"""The block formats of GGUF tensors, unpacked with numpy.

Source: `ggml-quants.c` and `ggml-common.h` of ggml-org/ggml. A quantised row is a run of blocks of
32 weights; each block has one scale and, in some types, one minimum.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from aigrid.engines.gguf import Buffer, GgufTensor
from aigrid.protocol.errors import Code, EngineError

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

BLOCK = 32


@dataclass(frozen=True, slots=True)
class Blocks:
    """Weights as `scale * (code - zero) + minimum`.

    Attributes:
        codes: (rows, blocks, 32), each below 2**bits.
        scales: (rows, blocks).
        minimum: (rows, blocks), or None where the type has none.
    """

    codes: Bytes
    scales: Floats
    minimum: Floats | None
    zero: int
    bits: int

    def dense(self) -> Floats:
        """The weights, (rows, blocks * 32)."""
        weights = self.codes.astype(np.float32)
        if self.zero:
            weights -= self.zero
        weights *= self.scales[..., None]
        if self.minimum is not None:
            weights += self.minimum[..., None]
        return weights.reshape(len(weights), -1)


def raw_rows(buffer: Buffer, tensor: GgufTensor) -> Bytes:
    """The bytes of a tensor as (rows, bytes of a row), without copying."""
    data = np.frombuffer(buffer, np.uint8, tensor.size_bytes, tensor.offset)
    row_bytes = tensor.dims[0] // tensor.type.elements * tensor.type.size_bytes
    return data.reshape(-1, row_bytes)


def is_blocked(type_name: str) -> bool:
    """Whether a type is quantised in blocks that `unpack` knows."""
    return type_name in _BLOCKED


def unpack(raw: Bytes, type_name: str) -> Blocks:
    """Split rows of a quantised type; `raw` as from `raw_rows`."""
    size, reader = _BLOCKED[type_name]
    return reader(raw.reshape(len(raw), -1, size))


def dense(raw: Bytes, type_name: str) -> Floats:
    """Rows as float32, for every type that `check_supported` lets through."""
    plain = _PLAIN.get(type_name)
    return plain(raw) if plain is not None else unpack(raw, type_name).dense()


def check_supported(tensor: GgufTensor) -> None:
    """Raise `unsupported_quantisation` for a type that cannot be run exactly."""
    if tensor.type.name not in _BLOCKED and tensor.type.name not in _PLAIN:
        raise EngineError(
            f"tensor {tensor.name!r} is of type {tensor.type.name}; "
            f"supported are {', '.join([*_PLAIN, *_BLOCKED])}",
            Code.UNSUPPORTED_QUANTISATION,
        )


def _half(blocks: Bytes, start: int) -> Floats:
    """The float16 at byte `start` of each block."""
    pair = np.ascontiguousarray(blocks[:, :, start : start + 2])
    return pair.view("<f2")[..., 0].astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """Low halves are the first 16 weights of a block, high halves the other 16."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _q4_0(blocks: Bytes) -> Blocks:
    return Blocks(_nibbles(blocks[:, :, 2:]), _half(blocks, 0), None, zero=8, bits=4)


def _q4_1(blocks: Bytes) -> Blocks:
    return Blocks(_nibbles(blocks[:, :, 4:]), _half(blocks, 0), _half(blocks, 2), zero=0, bits=4)


def _q8_0(blocks: Bytes) -> Blocks:
    # The sign bit flipped is the same as 128 added: int8 becomes uint8 around 128.
    return Blocks(blocks[:, :, 2:] ^ np.uint8(128), _half(blocks, 0), None, zero=128, bits=8)


def _bfloat16(raw: Bytes) -> Floats:
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


_BLOCKED: Final[Mapping[str, tuple[int, Callable[[Bytes], Blocks]]]] = MappingProxyType(
    {"Q4_0": (18, _q4_0), "Q4_1": (20, _q4_1), "Q8_0": (34, _q8_0)}
)
_PLAIN: Final[Mapping[str, Callable[[Bytes], Floats]]] = MappingProxyType(
    {
        "F32": lambda raw: raw.view("<f4").astype(np.float32, copy=False),
        "F16": lambda raw: raw.view("<f2").astype(np.float32),
        "BF16": _bfloat16,
    }
)
