"""Tensors as models declare them: the one table of element types, and what fits a declaration.

Source of the names: the Open Inference Protocol, version 2; onnx/onnx.proto3.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, get_args

import msgspec
from msgspec import Meta

from aigrid.protocol.inference import Tensor, TensorRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.names import PRINTABLE

TensorType = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BF16", "BYTES",
]  # fmt: skip
"""Names of the Open Inference Protocol, version 2; BYTES stands for text."""

Dimension = Annotated[int, Meta(ge=-1, le=2**31 - 1)]


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A tensor as a model declares it; a dimension of -1 may have any size."""

    name: Annotated[
        str, Meta(min_length=1, max_length=LIMITS.tensor_name_max_chars, pattern=PRINTABLE)
    ]
    datatype: TensorType
    shape: Annotated[tuple[Dimension, ...], Meta(max_length=LIMITS.tensor_rank_max)]


TensorSpecs = Annotated[tuple[TensorSpec, ...], Meta(max_length=LIMITS.tensors_max)]


@dataclass(frozen=True, slots=True)
class Element:
    """One type of elements, as everybody spells it.

    Attributes:
        datatype: in the Open Inference Protocol.
        dtype: in numpy, and so in `Tensor.dtype`; "string" for text.
        onnx: in "tensor(...)"; `onnx_number` is of `TensorProto.DataType`.
        item_bytes: of one; 0 where they differ.
        code: of the module `struct`; "" where it has none.
    """

    datatype: TensorType
    dtype: str
    onnx: str
    onnx_number: int
    item_bytes: int
    code: str = ""

    @property
    def is_float(self) -> bool:
        """Whether its values may be no numbers."""
        return self.datatype in ("FP16", "FP32", "FP64", "BF16")


TEXT: Final = Element("BYTES", "string", "string", 8, 0)
ELEMENTS: Final = (
    Element("BOOL", "bool", "bool", 9, 1, "?"),
    Element("UINT8", "uint8", "uint8", 2, 1, "B"),
    Element("UINT16", "uint16", "uint16", 4, 2, "H"),
    Element("UINT32", "uint32", "uint32", 12, 4, "I"),
    Element("UINT64", "uint64", "uint64", 13, 8, "Q"),
    Element("INT8", "int8", "int8", 3, 1, "b"),
    Element("INT16", "int16", "int16", 5, 2, "h"),
    Element("INT32", "int32", "int32", 6, 4, "i"),
    Element("INT64", "int64", "int64", 7, 8, "q"),
    Element("FP16", "float16", "float16", 10, 2, "e"),
    Element("FP32", "float32", "float", 1, 4, "f"),
    Element("FP64", "float64", "double", 11, 8, "d"),
    Element("BF16", "bfloat16", "bfloat16", 16, 2),
    TEXT,
)
BY_DATATYPE: Final[Mapping[str, Element]] = {one.datatype: one for one in ELEMENTS}
BY_DTYPE: Final[Mapping[str, Element]] = {one.dtype: one for one in ELEMENTS}
assert set(BY_DATATYPE) == set(get_args(TensorType))  # noqa: S101 -- of the table itself


@dataclass(frozen=True, slots=True)
class Misfit:
    """What is wrong with a request: the tensor, "" for none in particular, and why."""

    tensor: str
    reason: str


def misfit(
    request: TensorRequest, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Misfit | None:
    """Why a request is not for a model that declares this, or None; no data is looked at.

    Without `outputs` the model has not said which it has.
    """
    declared = {spec.name: spec for spec in inputs}
    for name in sorted(request.inputs.keys() - declared.keys()):
        return Misfit(name, f"there is no input {name!r}; the model has {_names(declared)}")
    for name, spec in declared.items():
        if name not in request.inputs:
            return Misfit(name, f"input {name!r} is missing ({spelled(spec)})")
        tensor = request.inputs[name]
        if tensor.dtype != BY_DATATYPE[spec.datatype].dtype or not fits(spec, tensor.shape):
            got = f"{_called(tensor.dtype)} {list(tensor.shape)}"
            return Misfit(name, f"input {name!r}: expected {spelled(spec)}, got {got}")
    known = {spec.name for spec in outputs}
    for name in request.outputs:
        if known and name not in known:
            return Misfit(name, f"there is no output {name!r}; the model has {_names(known)}")
    if len(set(request.outputs)) != len(request.outputs):
        return Misfit("", "an output is named twice")
    total = sum(len(tensor.data) for tensor in request.inputs.values())
    if total > LIMITS.tensor_max_bytes:
        return Misfit("", f"{total} bytes of tensors; {LIMITS.tensor_max_bytes} are allowed")
    return None


def fits(spec: TensorSpec, shape: Sequence[int]) -> bool:
    """Whether a tensor of this shape is what was declared."""
    return len(shape) == len(spec.shape) and all(
        want in (-1, got) for want, got in zip(spec.shape, shape, strict=True)
    )


def spelled(spec: TensorSpec) -> str:
    """Type and shape, for people: `FP32 [?, 2]`."""
    return f"{spec.datatype} [{', '.join('?' if n < 0 else str(n) for n in spec.shape)}]"


def zeros(specs: Iterable[TensorSpec], most_bytes: int) -> dict[str, Tensor] | None:
    """The smallest tensors that fit, of zeros or empty texts; None where they are larger."""
    made: dict[str, Tensor] = {}
    left = most_bytes
    for spec in specs:
        shape = tuple(size if size >= 0 else 1 for size in spec.shape)
        element = BY_DATATYPE[spec.datatype]
        left -= math.prod(shape) * max(1, element.item_bytes)
        if left < 0:
            return None
        empty = element is TEXT
        data = (
            texts([""] * math.prod(shape))
            if empty
            else bytes(math.prod(shape) * element.item_bytes)
        )
        made[spec.name] = Tensor(element.dtype, shape, data)
    return made


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[str]).decode


def texts(values: Sequence[str]) -> bytes:
    """The data of a tensor of text."""
    return _encode(values)


def texts_of(data: bytes) -> list[str]:
    """The elements of a tensor of text. Raises ValueError."""
    try:
        return _decode(data)
    except (ValueError, RecursionError):
        raise ValueError("the data of a string tensor is a msgpack array of strings") from None


def _called(dtype: str) -> str:
    element = BY_DTYPE.get(dtype)
    return dtype[:32] if element is None else element.datatype


def _names(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:8]) + (", ..." if len(ordered) > 8 else "") or "none"
