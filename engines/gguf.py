"""GGUF headers, read from files that nobody vouches for.

Source of the format: the `gguf.md` of ggml-org/ggml; versions 2 and 3, little-endian. Nothing is
allocated from a count in the file before the bytes that it promises are known to be there, so the
work is bounded by the size of the file and by the `gguf_` limits.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS

INSTEAD: Final = "the engine llama_cpp may: pip install 'aigrid-node[llama_cpp]'"
"""What to say of a sound file that `onnx_text` does not run."""

Buffer = bytes | bytearray | mmap.mmap | memoryview
Scalar = str | int | float | bool
MetadataValue = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class TensorType:
    """A storage type: `elements` consecutive weights of a row are packed in `size_bytes`."""

    name: str
    elements: int
    size_bytes: int


TENSOR_TYPES: Final[Mapping[int, TensorType]] = MappingProxyType(
    {
        number: TensorType(name, elements, size)
        for number, name, elements, size in (
            (0, "F32", 1, 4),
            (1, "F16", 1, 2),
            (2, "Q4_0", 32, 18),
            (3, "Q4_1", 32, 20),
            (6, "Q5_0", 32, 22),
            (7, "Q5_1", 32, 24),
            (8, "Q8_0", 32, 34),
            (9, "Q8_1", 32, 40),
            (10, "Q2_K", 256, 84),
            (11, "Q3_K", 256, 110),
            (12, "Q4_K", 256, 144),
            (13, "Q5_K", 256, 176),
            (14, "Q6_K", 256, 210),
            (15, "Q8_K", 256, 292),
            (16, "IQ2_XXS", 256, 66),
            (17, "IQ2_XS", 256, 74),
            (18, "IQ3_XXS", 256, 98),
            (19, "IQ1_S", 256, 50),
            (20, "IQ4_NL", 32, 18),
            (21, "IQ3_S", 256, 110),
            (22, "IQ2_S", 256, 82),
            (23, "IQ4_XS", 256, 136),
            (24, "I8", 1, 1),
            (25, "I16", 1, 2),
            (26, "I32", 1, 4),
            (27, "I64", 1, 8),
            (28, "F64", 1, 8),
            (29, "IQ1_M", 256, 56),
            (30, "BF16", 1, 2),
            (34, "TQ1_0", 256, 54),
            (35, "TQ2_0", 256, 66),
            (39, "MXFP4", 32, 17),
            (40, "NVFP4", 64, 36),
            (41, "Q1_0", 128, 18),
        )
    }
)


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor: `dims` as in the file (fastest first), `offset` from the start of the file."""

    name: str
    dims: tuple[int, ...]
    type: TensorType
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A checked header.

    The typed getters raise `unsupported_model` for a key that is missing or of another type.
    """

    version: int
    metadata: Mapping[str, MetadataValue]
    tensors: Mapping[str, GgufTensor]

    def text(self, key: str, default: str | None = None) -> str:
        value = self.metadata.get(key, default)
        if not isinstance(value, str):
            raise _wrong(key, "a string", value)
        return value

    def integer(self, key: str, default: int | None = None, *, low: int = 0, high: int) -> int:
        value = self.metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _wrong(key, f"an integer in [{low}, {high}]", value)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.metadata.get(key, default)
        if type(value) not in {int, float} or not math.isfinite(value):  # type: ignore[arg-type]
            raise _wrong(key, "a finite number", value)
        return float(value)  # type: ignore[arg-type]

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.metadata.get(key, default)
        if not isinstance(value, bool):
            raise _wrong(key, "a boolean", value)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.metadata.get(key)
        # Arrays have one type in the file, so the first item speaks for all.
        if not isinstance(value, tuple) or not value or not isinstance(value[0], str):
            raise _wrong(key, "a list of strings", value)
        return value  # type: ignore[return-value]

    def integers(self, key: str) -> tuple[int, ...]:
        value = self.metadata.get(key)
        if not isinstance(value, tuple) or not value or type(value[0]) is not int:
            raise _wrong(key, "a list of integers", value)
        return value  # type: ignore[return-value]


def map_file(path: Path) -> mmap.mmap:
    """Map a file for reading; it is closed when nothing looks into it any more.

    Raises:
        EngineError: `unsafe_file` for an empty file, `model_file_missing` where there is none.
    """
    try:
        with path.open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise _unsafe("the GGUF file is empty") from None
    except OSError as error:
        raise EngineError(
            f"cannot read the GGUF file: {error.strerror}", Code.MODEL_FILE_MISSING
        ) from None


def release(mapped: mmap.mmap) -> None:
    """Stop counting the pages read so far as ours; those still needed come back by themselves."""
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def parse(buffer: Buffer) -> GgufFile:
    """Read and check a header.

    Raises:
        EngineError: `unsafe_file` where the file contradicts itself or a bound;
            `unsupported_model` for another version or byte order; `unsupported_quantisation` for a
            tensor type whose size is not known.
    """
    cursor = _Cursor(memoryview(buffer))
    if cursor.take(4) != b"GGUF":
        raise _unsafe("this is not a GGUF file: the magic number is missing")
    version = cursor.scalar(_U32)
    if version not in {2, 3}:
        raise EngineError(
            f"GGUF version {version:#x} is not supported, only 2 and 3 in little-endian order",
            Code.UNSUPPORTED_MODEL,
        )
    tensor_count, key_count = cursor.scalar(_U64), cursor.scalar(_U64)
    if tensor_count > LIMITS.gguf_tensors_max or key_count > LIMITS.gguf_keys_max:
        raise _unsafe(f"{tensor_count} tensors and {key_count} keys are more than is allowed")
    metadata = _read_metadata(cursor, key_count)
    infos = [_read_tensor(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if (
        type(alignment) is not int
        or not 8 <= alignment <= LIMITS.gguf_alignment_max
        or alignment & (alignment - 1)
    ):
        raise _unsafe(f"alignment {alignment!r} is not a power of two in range")
    data_start = -(-cursor.position // alignment) * alignment
    tensors = _place(infos, data_start, alignment, len(cursor.view))
    return GgufFile(version, MappingProxyType(metadata), MappingProxyType(tensors))


_QUOTED_CHARS: Final = 40  # of which each may be ten, as `repr` writes it
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: Final = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: _U32,
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    10: _U64,
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}


class _Cursor:
    """A position in the header that never leaves the file."""

    __slots__ = ("items", "position", "text_bytes", "view")

    def __init__(self, view: memoryview) -> None:
        self.view = view.cast("B")
        self.position = 0
        self.items = 0
        self.text_bytes = 0

    def take(self, size: int) -> bytes:
        start = self.reserve(size)
        return bytes(self.view[start : start + size])

    def reserve(self, size: int) -> int:
        """Step over `size` bytes and return where they start."""
        start = self.position
        if size > len(self.view) - start:
            raise _unsafe(f"the header promises {size} bytes at {start}, where the file ends")
        self.position = start + size
        return start

    def scalar(self, form: struct.Struct) -> int:
        value: int = form.unpack_from(self.view, self.reserve(form.size))[0]
        return value

    def string(self, limit: int) -> str:
        return self.strings(1, limit)[0]

    def strings(self, count: int, limit: int) -> list[str]:
        """Read `count` strings; a vocabulary has 100,000, so this loop makes no calls of ours."""
        view, end, position = self.view, len(self.view), self.position
        unpack = _U64.unpack_from
        found: list[str] = []
        try:
            for _ in range(count):
                start = position + 8
                position = start + unpack(view, position)[0]
                if position > end or position - start > limit:
                    raise _unsafe(f"a string of {position - start} bytes is not allowed here")
                found.append(str(view[start:position], "utf-8"))
        except struct.error:
            raise _unsafe("the file ends within its header") from None
        except UnicodeDecodeError:
            raise _unsafe("a string in the header is not UTF-8") from None
        # In memory text takes up to four times its bytes.
        self.text_bytes += position - self.position
        if self.text_bytes > LIMITS.gguf_text_max_bytes:
            raise _unsafe(f"the header holds more than {LIMITS.gguf_text_max_bytes} bytes of text")
        self.position = position
        return found

    def boolean(self) -> bool:
        value = self.take(1)[0]
        if value > 1:
            raise _unsafe(f"{value} is not a boolean")
        return value == 1

    def value(self, kind: int) -> MetadataValue:
        if kind == _STRING:
            return self.string(LIMITS.gguf_string_max_bytes)
        if kind == _BOOL:
            return self.boolean()
        if kind == _ARRAY:
            return self.array()
        form = _SCALARS.get(kind)
        if form is None:
            raise _unsafe(f"{kind} is not a type of metadata")
        return self.scalar(form)

    def array(self) -> tuple[Scalar, ...]:
        kind, count = self.scalar(_U32), self.scalar(_U64)
        self.items += min(count, LIMITS.gguf_items_max + 1)
        if count > LIMITS.gguf_array_items_max or self.items > LIMITS.gguf_items_max:
            raise _unsafe(f"a list of {count} items is longer than is allowed")
        if kind == _STRING:
            return tuple(self.strings(count, LIMITS.gguf_string_max_bytes))
        if kind == _BOOL:
            return tuple([self.boolean() for _ in range(count)])
        form = _SCALARS.get(kind)
        if form is None:
            raise _unsafe(f"a list of type {kind} is not allowed")
        start = self.reserve(count * form.size)
        return struct.unpack_from(f"<{count}{form.format[1:]}", self.view, start)


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, MetadataValue]:
    metadata: dict[str, MetadataValue] = {}
    for _ in range(count):
        key = cursor.string(LIMITS.gguf_key_max_bytes)
        if key in metadata:
            raise _unsafe(f"the key {quoted(key)} stands twice in the header")
        metadata[key] = cursor.value(cursor.scalar(_U32))
    return metadata


def _read_tensor(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string(LIMITS.gguf_key_max_bytes)
    rank = cursor.scalar(_U32)
    if not 1 <= rank <= LIMITS.gguf_rank_max:
        raise _unsafe(f"tensor {quoted(name)} has {rank} dimensions")
    dims = tuple([cursor.scalar(_U64) for _ in range(rank)])
    return name, dims, cursor.scalar(_U32), cursor.scalar(_U64)


def _place(
    infos: list[tuple[str, tuple[int, ...], int, int]], start: int, alignment: int, end: int
) -> dict[str, GgufTensor]:
    """Tensors with their places in the file, each inside it and apart from the others."""
    tensors: dict[str, GgufTensor] = {}
    for name, dims, number, relative in infos:
        kind = TENSOR_TYPES.get(number)
        if kind is None:
            raise EngineError(
                f"tensor {quoted(name)} has the type {number}, whose size is unknown here, so no "
                "engine gets it: update aigrid-node, or store the model in another type",
                Code.UNSUPPORTED_QUANTISATION,
            )
        if name in tensors:
            raise _unsafe(f"the tensor {quoted(name)} stands twice in the header")
        if 0 in dims or dims[0] % kind.elements:
            raise _unsafe(f"tensor {quoted(name)} of type {kind.name} cannot have the shape {dims}")
        size = math.prod(dims) // kind.elements * kind.size_bytes
        if relative % alignment:
            raise _unsafe(f"tensor {quoted(name)} is not aligned to {alignment} bytes")
        if start + relative + size > end:
            raise _unsafe(f"tensor {quoted(name)} does not lie within the file")
        tensors[name] = GgufTensor(name, dims, kind, start + relative, size)
    previous_end = start
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
        if tensor.offset < previous_end:
            raise _unsafe(f"tensor {quoted(tensor.name)} overlaps another")
        previous_end = tensor.offset + tensor.size_bytes
    return tensors


def quoted(text: str) -> str:
    """The begin of what a file says, in quotation marks, for a message of what is wrong with it."""
    return repr(text[:_QUOTED_CHARS])


def _unsafe(message: str) -> EngineError:
    return EngineError(message, Code.UNSAFE_FILE)


def _wrong(key: str, wanted: str, value: object) -> EngineError:
    found = "missing" if value is None else f"a {type(value).__name__}"
    if isinstance(value, int | float):
        found = repr(value)
    return EngineError(f"the model's {key} must be {wanted}, it is {found}", Code.UNSUPPORTED_MODEL)
