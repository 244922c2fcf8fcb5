"""Safetensors headers, read from files that nobody vouches for.

Source of the format: the README of huggingface/safetensors. A file is the length of its header
(8 bytes, little-endian), the header (a JSON object: name -> dtype, shape and place of the data),
and the data, of which every byte belongs to exactly one tensor. Nothing in it is code. The work is
bounded by the `safetensors_` limits; no tensor is allocated before its place is known to be good.
"""

import json
import math
import mmap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from aigrid.engines.gguf import Buffer
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS

BITS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8,
        "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16,
        "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
        "C64": 64,
    }
)  # fmt: skip
"""What an element of each type takes."""

_PRECISIONS: Final = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LENGTH_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class SafeTensor:
    """One tensor: row-major, `offset` from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """A checked header."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, SafeTensor]

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors.values())

    @property
    def precision(self) -> str:
        """The type that most of the weights have: "float32", "bfloat16", "f8_e4m3"...; or ""."""
        sizes = Counter[str]()
        for tensor in self.tensors.values():
            sizes[tensor.dtype] += tensor.size_bytes
        most = max(sizes, key=sizes.__getitem__, default="")
        return _PRECISIONS.get(most, most.lower())


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=2**53 - 1)], ...],
        Meta(max_length=LIMITS.tensor_rank_max),
    ]
    data_offsets: tuple[
        Annotated[int, Meta(ge=0, le=2**63 - 1)], Annotated[int, Meta(ge=0, le=2**63 - 1)]
    ]


# Typed, so that a header of nested lists is refused while it is read instead of being built first.
_names = msgspec.json.Decoder(dict[str, msgspec.Raw])
_entry = msgspec.json.Decoder(_Entry)
_metadata = msgspec.json.Decoder(dict[str, str])


def map_file(path: Path, *, access: int = mmap.ACCESS_READ) -> mmap.mmap:
    """Map a file; it is closed when nothing looks into it any more.

    Raises:
        EngineError: `unsafe_file` for an empty file, `model_file_missing` where there is none.
    """
    try:
        with path.open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=access)
    except ValueError:
        raise _unsafe("the safetensors file is empty") from None
    except OSError as error:
        raise EngineError(
            f"cannot read the safetensors file: {error.strerror}", Code.MODEL_FILE_MISSING
        ) from None


def parse(buffer: Buffer) -> SafetensorsFile:
    """Read and check a header.

    Raises:
        EngineError: `unsafe_file` where the file contradicts itself or a bound;
            `unsupported_quantisation` for a type whose size is not known.
    """
    view = memoryview(buffer).cast("B")
    size = int.from_bytes(view[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + size
    if len(view) < _LENGTH_BYTES or start > len(view):
        raise _unsafe(f"the header promises {size} bytes, the file has {len(view)}")
    if size > LIMITS.safetensors_header_max_bytes:
        raise _unsafe(
            f"a header of {size} bytes; {LIMITS.safetensors_header_max_bytes} are allowed"
        )
    raw = bytes(view[_LENGTH_BYTES:start])
    if raw[:1] != b"{":
        raise _unsafe("the header does not begin with an object")
    entries, metadata = _read(raw)
    tensors = _place(entries, start, len(view))
    return SafetensorsFile(MappingProxyType(metadata), MappingProxyType(tensors))


def array(buffer: Buffer, tensor: SafeTensor) -> npt.NDArray[np.float32]:
    """The values of a tensor as float32, exactly; of F32 a view into the buffer.

    Raises:
        EngineError: `unsupported_quantisation` for a type that is none of F32, F16 and BF16.
    """
    view = memoryview(buffer)[tensor.offset : tensor.offset + tensor.size_bytes]
    match tensor.dtype:
        case "F32":
            values = np.frombuffer(view, "<f4")
        case "F16":
            values = np.frombuffer(view, "<f2").astype(np.float32)
        case "BF16":  # the upper half of a float32
            values = (np.frombuffer(view, "<u2").astype(np.uint32) << 16).view(np.float32)
        case _:
            raise EngineError(
                f"tensor {tensor.name!r} is {tensor.dtype}; this engine reads F32, F16 and BF16",
                Code.UNSUPPORTED_QUANTISATION,
            )
    return values.reshape(tensor.shape)


def _read(raw: bytes) -> tuple[dict[str, _Entry], dict[str, str]]:
    try:
        found = _names.decode(raw)
        if len(found) > LIMITS.safetensors_tensors_max + 1:
            raise _unsafe(f"{len(found)} tensors; {LIMITS.safetensors_tensors_max} are allowed")
        metadata = _metadata.decode(found.pop("__metadata__", b"{}"))
        entries = {name: _entry.decode(entry) for name, entry in found.items()}
        # Of a name given twice each reader could believe another one. By now the header is known to
        # be flat and short, so building it a second time is cheap.
        json.loads(raw, object_pairs_hook=_distinct)
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as error:
        raise _unsafe(f"the header is not that of safetensors: {error}"[:300]) from None
    return entries, metadata


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name stands twice in it")


def _place(entries: Mapping[str, _Entry], start: int, end: int) -> dict[str, SafeTensor]:
    """Tensors with their places in the file: side by side from the header to the end."""
    tensors: dict[str, SafeTensor] = {}
    for name, entry in entries.items():
        bits = BITS.get(entry.dtype)
        if bits is None:
            raise EngineError(
                f"tensor {name[:100]!r} has the unknown type {entry.dtype[:32]!r}",
                Code.UNSUPPORTED_QUANTISATION,
            )
        begin, stop = entry.data_offsets
        if not begin <= stop <= end - start:
            raise _unsafe(f"tensor {name[:100]!r} does not lie within the file")
        if math.prod(entry.shape) * bits != (stop - begin) * 8:
            raise _unsafe(
                f"tensor {name[:100]!r} of type {entry.dtype} and shape {list(entry.shape)} "
                f"does not take {stop - begin} bytes"
            )
        tensors[name] = SafeTensor(name, entry.dtype, entry.shape, start + begin, stop - begin)
    reached = start
    for tensor in sorted(tensors.values(), key=lambda t: (t.offset, t.size_bytes)):
        if tensor.offset != reached:
            raise _unsafe(f"tensor {tensor.name[:100]!r} overlaps another, or leaves a gap before")
        reached += tensor.size_bytes
    if reached != end:
        raise _unsafe(f"{end - reached} bytes at the end belong to no tensor")
    return tensors


def _unsafe(message: str) -> EngineError:
    return EngineError(message, Code.UNSAFE_FILE)
