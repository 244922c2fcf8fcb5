"""The block formats of GGUF tensors, unpacked with numpy.

Source: `ggml-quants.c` and `ggml-common.h` of ggml-org/ggml. A quantised row is a run of blocks of
32 or 16 weights; each block has one scale and, in some types, one minimum. In the K types 256
weights lie together, and the scales and minima of their blocks are small integers, times one float
for them all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from aigrid.engines.gguf import INSTEAD, Buffer, GgufTensor
from aigrid.protocol.errors import Code, EngineError

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
_FOUR: Final = np.uint8(4)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Weights as `scale * (code - zero) + minimum`.

    Attributes:
        codes: (rows, blocks, weights of a block), each below 2**bits.
        scales: (rows, blocks).
        minimum: (rows, blocks), or None where the type has none.
        zero: the code of the minimum, or of 0 where there is none.
    """

    codes: Bytes
    scales: Floats
    minimum: Floats | None
    zero: int
    bits: int

    def dense(self) -> Floats:
        """The weights, (rows, columns)."""
        weights = self.codes.astype(np.float32)
        if self.zero:
            weights -= self.zero
        weights *= self.scales[..., None]
        if self.minimum is not None:
            weights += self.minimum[..., None]
        return weights.reshape(len(weights), -1)


_Reader = Callable[[Bytes], tuple[Bytes, Floats, Floats | None]]


@dataclass(frozen=True, slots=True)
class _Form:
    """How a type is unpacked: `read` gives codes, scales and minima of (rows, units, unit_bytes).

    `block` weights share a scale; their codes take `bits` each, the fewest of 4 and 8 that hold
    them: the runtime's products are as quick for 4 as for 2, and it has none for 3, 5 and 6. Codes
    lie around the middle of their range, with a minimum too: where the runtime rounds inputs, what
    that costs grows with the distance from the middle.
    """

    unit_bytes: int
    block: int
    bits: int
    zero: int
    has_minimum: bool
    read: _Reader


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
    form, rows = _BLOCKED[type_name], len(raw)
    codes, scales, minimum = form.read(raw.reshape(rows, -1, form.unit_bytes))
    return Blocks(
        codes.reshape(rows, -1, form.block),
        scales.reshape(rows, -1),
        None if minimum is None else minimum.reshape(rows, -1),
        form.zero,
        form.bits,
    )


def dense(raw: Bytes, type_name: str) -> Floats:
    """Rows as float32, for every type that `check_supported` lets through."""
    if type_name == "Q8_0":  # what most embeddings have: a row of it is wanted for each token
        units = raw.reshape(len(raw), -1, 34)
        weights: Floats = units[:, :, 2:].view(np.int8) * _half(units, 0)
        return weights.reshape(len(raw), -1)
    plain = _PLAIN.get(type_name)
    return plain(raw) if plain is not None else unpack(raw, type_name).dense()


def unpacked_bytes(tensor: GgufTensor) -> int:
    """What a tensor takes in a graph: float32 for plain types and for scales and minima."""
    elements = tensor.size_bytes // tensor.type.size_bytes * tensor.type.elements
    form = _BLOCKED.get(tensor.type.name)
    if form is None:
        return elements * 4
    return elements * form.bits // 8 + elements // form.block * (8 if form.has_minimum else 4)


def check_supported(tensor: GgufTensor) -> None:
    """Raise `unsupported_quantisation` for a type that cannot be run exactly."""
    if tensor.type.name not in _BLOCKED and tensor.type.name not in _PLAIN:
        raise EngineError(
            f"tensor {tensor.name!r} is of type {tensor.type.name}, which onnx_text does not run, "
            f"only {', '.join([*_PLAIN, *_BLOCKED])}; {INSTEAD}",
            Code.UNSUPPORTED_QUANTISATION,
        )


def _half(units: Bytes, start: int) -> Floats:
    """The float16 at byte `start` of each unit, (rows, units, 1)."""
    pair = np.ascontiguousarray(units[:, :, start : start + 2])
    return pair.view("<f2").astype(np.float32)


def _fields(packed: Bytes, width: int, bits: int) -> Bytes:
    """Fields of 1, 2 or 4 bits, packed in groups of `width` bytes.

    A group holds first the lowest bits of each of its bytes, then the next ones of each, and so on.
    """
    groups = packed.reshape(*packed.shape[:2], -1, 1, width)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    fields: Bytes = (groups >> shifts) & np.uint8((1 << bits) - 1)
    return fields.reshape(*packed.shape[:2], -1)


def _q4_0(units: Bytes) -> tuple[Bytes, Floats, None]:
    return _fields(units[:, :, 2:], 16, 4), _half(units, 0), None


def _q4_1(units: Bytes) -> tuple[Bytes, Floats, Floats]:
    return _fields(units[:, :, 4:], 16, 4), _half(units, 0), _half(units, 2)


def _q5(units: Bytes) -> Bytes:
    """A bit of each weight, then four of each."""
    codes = _fields(units[:, :, :4], 1, 1) << _FOUR | _fields(units[:, :, 4:], 16, 4)
    return codes + np.uint8(128 - 16)


def _q5_0(units: Bytes) -> tuple[Bytes, Floats, None]:
    return _q5(units[:, :, 2:]), _half(units, 0), None


def _q5_1(units: Bytes) -> tuple[Bytes, Floats, Floats]:
    return _q5(units[:, :, 4:]), _half(units, 0), _half(units, 2)


def _q8_0(units: Bytes) -> tuple[Bytes, Floats, None]:
    # The sign bit flipped is the same as 128 added: int8 becomes uint8 around 128.
    return units[:, :, 2:] ^ np.uint8(128), _half(units, 0), None


def _q2_k(units: Bytes) -> tuple[Bytes, Floats, Floats]:
    both = units[:, :, :16]
    scales, minimum = _half(units, 80) * (both & 15), _half(units, 82) * (both >> 4)
    return _fields(units[:, :, 16:80], 32, 2) + np.uint8(8 - 2), scales, -minimum


def _q3_k(units: Bytes) -> tuple[Bytes, Floats, None]:
    # A high bit that is not set takes 4 away: the two bits below it, 0 to 3, become -4 to -1.
    codes = _fields(units[:, :, :32], 32, 1) << np.uint8(2) | _fields(units[:, :, 32:96], 32, 2)
    low, high = _fields(units[:, :, 96:104], 8, 4), _fields(units[:, :, 104:108], 4, 2)
    scales = (low | high << _FOUR).astype(np.float32) - 32
    return codes + np.uint8(8 - 4), _half(units, 108) * scales, None


def _scales_and_minima(units: Bytes) -> tuple[Floats, Floats]:
    """The head of Q4_K and Q5_K: two float16, then 8 scales and 8 minima of 6 bits in 12 bytes.

    Four bytes end in the first four scales, four in the first four minima. Of the others the lower
    four bits are in the last four bytes, the upper two at the top of the bytes before.
    """
    first, second, last = (units[:, :, start : start + 4] for start in (4, 8, 12))
    scales = np.concatenate([first & 63, last & 15 | first >> 6 << 4], -1)
    minima = np.concatenate([second & 63, last >> 4 | second >> 6 << 4], -1)
    return _half(units, 0) * scales, -(_half(units, 2) * minima)


def _q4_k(units: Bytes) -> tuple[Bytes, Floats, Floats]:
    return _fields(units[:, :, 16:], 32, 4), *_scales_and_minima(units)


def _q5_k(units: Bytes) -> tuple[Bytes, Floats, Floats]:
    codes = _fields(units[:, :, 16:48], 32, 1) << _FOUR | _fields(units[:, :, 48:], 32, 4)
    return codes + np.uint8(128 - 16), *_scales_and_minima(units)


def _q6_k(units: Bytes) -> tuple[Bytes, Floats, None]:
    codes = _fields(units[:, :, 128:192], 32, 2) << _FOUR | _fields(units[:, :, :128], 64, 4)
    scales = np.ascontiguousarray(units[:, :, 192:208]).view(np.int8)
    return codes + np.uint8(128 - 32), _half(units, 208) * scales, None


def _bfloat16(raw: Bytes) -> Floats:
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


_BLOCKED: Final[Mapping[str, _Form]] = MappingProxyType(
    {
        "Q4_0": _Form(18, 32, 4, 8, has_minimum=False, read=_q4_0),
        "Q4_1": _Form(20, 32, 4, 0, has_minimum=True, read=_q4_1),
        "Q5_0": _Form(22, 32, 8, 128, has_minimum=False, read=_q5_0),
        "Q5_1": _Form(24, 32, 8, 112, has_minimum=True, read=_q5_1),
        "Q8_0": _Form(34, 32, 8, 128, has_minimum=False, read=_q8_0),
        "Q2_K": _Form(84, 16, 4, 6, has_minimum=True, read=_q2_k),
        "Q3_K": _Form(110, 16, 4, 8, has_minimum=False, read=_q3_k),
        "Q4_K": _Form(144, 32, 4, 0, has_minimum=True, read=_q4_k),
        "Q5_K": _Form(176, 32, 8, 112, has_minimum=True, read=_q5_k),
        "Q6_K": _Form(210, 16, 8, 128, has_minimum=False, read=_q6_k),
    }
)
_PLAIN: Final[Mapping[str, Callable[[Bytes], Floats]]] = MappingProxyType(
    {
        "F32": lambda raw: raw.view("<f4").astype(np.float32, copy=False),
        "F16": lambda raw: raw.view("<f2").astype(np.float32),
        "BF16": _bfloat16,
    }
)
