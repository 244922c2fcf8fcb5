"""Tensors of a request to arrays of the runtime and back, checked against what a model declares."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import Tensor, TensorChunk, TensorRequest, check_tensor
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.tensors import BY_DTYPE, ELEMENTS, TEXT, texts, texts_of

# The runtime's Python interface takes no bfloat16.
_NUMPY: Final = {one.onnx: one.dtype for one in ELEMENTS if one.dtype != "bfloat16"}
DTYPES: Final = frozenset(_NUMPY.values())


@dataclass(frozen=True, slots=True)
class Declared:
    """An input as the model declares it; a dimension is a number, a name, or None."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]

    @property
    def dtype(self) -> str:
        """The numpy name, or "" for what a request cannot carry."""
        inner = self.type.removeprefix("tensor(").removesuffix(")")
        return _NUMPY.get(inner, "") if self.type.startswith("tensor(") else ""

    def __str__(self) -> str:
        dims = ", ".join("?" if n is None else str(n) for n in self.shape)
        return f"{self.dtype or self.type} [{dims}]"

    def accepts(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == len(self.shape) and all(
            want == got
            for want, got in zip(self.shape, shape, strict=True)
            if isinstance(want, int) and want >= 0
        )


def feeds_of(
    request: TensorRequest, declared: Mapping[str, Declared], *, optional: Collection[str] = ()
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a request, all that a model needs; see `to_array`.

    Raises:
        EngineError: `invalid_request`, naming an input that is missing or one too many.
    """
    given, known = set(request.inputs), set(declared)
    if unknown := sorted(given - known):
        raise _invalid(f"there is no input {unknown[0]!r}; the model has {_names(known)}")
    if missing := sorted(known - given - set(optional)):
        raise _invalid(f"input {missing[0]!r} is missing ({declared[missing[0]]})")
    total = sum(len(tensor.data) for tensor in request.inputs.values())
    if total > LIMITS.tensor_max_bytes:
        raise _invalid(f"{total} bytes of tensors; {LIMITS.tensor_max_bytes} are allowed")
    return {name: to_array(tensor, declared[name]) for name, tensor in request.inputs.items()}


def wanted_of(
    request: TensorRequest, outputs: Mapping[str, str], tensors: Sequence[str]
) -> list[str]:
    """Names of the outputs that a request asks for, of `outputs` (name -> type) some are `tensors`.

    Raises:
        EngineError: `invalid_request`.
    """
    for name in request.outputs:
        if name not in outputs:
            raise _invalid(f"there is no output {name!r}; the model has {_names(set(tensors))}")
        if name not in tensors:
            raise _invalid(f"output {name!r} is {outputs[name]}, not a tensor")
    if len(set(request.outputs)) != len(request.outputs):
        raise _invalid("an output is named twice")
    wanted = list(request.outputs or tensors)
    if not wanted or len(wanted) > LIMITS.tensors_max:
        raise _invalid(f"name between 1 and {LIMITS.tensors_max} outputs")
    return wanted


def answer_of(names: Sequence[str], arrays: Sequence[npt.NDArray[Any] | None]) -> TensorChunk:
    """The answer to a request; an array that is None was left out by the model.

    Raises:
        EngineError: `invalid_request` where it is too large to be sent.
    """
    outputs = {
        name: from_array(name, array)
        for name, array in zip(names, arrays, strict=True)
        if array is not None
    }
    total = sum(len(tensor.data) for tensor in outputs.values())
    if total > LIMITS.tensor_max_bytes:
        raise _invalid(
            f"the answer has {total} bytes, {LIMITS.tensor_max_bytes} are allowed; "
            "name fewer outputs or send less at once"
        )
    return TensorChunk(outputs)


def to_array(tensor: Tensor, declared: Declared) -> npt.NDArray[Any]:
    """The array of an input; numbers are not copied.

    Raises:
        EngineError: `invalid_request`, naming the input, what was expected and what was got;
            `unsupported_model` where the model wants what no request can carry.
    """
    name = declared.name
    if not declared.dtype:
        raise EngineError(
            f"input {name!r} wants {declared.type}, which is not supported", Code.UNSUPPORTED_MODEL
        )
    got = f"{tensor.dtype[:32]} {list(tensor.shape)}"
    if tensor.dtype != declared.dtype or not declared.accepts(tensor.shape):
        raise _invalid(f"input {name!r}: expected {declared}, got {got}")
    try:
        array = array_of(tensor)
    except ValueError as error:
        raise _invalid(f"input {name!r}: {error}") from None
    if tensor.dtype == "bool" and array.view(np.uint8).max(initial=0) > 1:
        raise _invalid(f"input {name!r}: a bool is one byte, 0 or 1")
    return array


def array_of(tensor: Tensor) -> npt.NDArray[Any]:
    """The elements of a tensor; numbers are not copied, but bfloat16 becomes float32.

    Raises:
        ValueError: its data is not what its type and shape say.
    """
    element = BY_DTYPE.get(tensor.dtype)
    if element is None:
        raise ValueError(f"there is no type {tensor.dtype}")
    if element is TEXT:
        check_tensor(tensor, None)
        return _strings(tensor)
    check_tensor(tensor, element.item_bytes)
    if element.datatype == "BF16":  # the upper half of a float32
        wide = np.frombuffer(tensor.data, "<u2").astype("<u4") << 16
        return wide.view("<f4").reshape(tensor.shape)
    return np.frombuffer(tensor.data, np.dtype(tensor.dtype).newbyteorder("<")).reshape(
        tensor.shape
    )


def tensor_of(name: str, array: npt.NDArray[Any], dtype: str) -> Tensor:
    """The same as `from_array`, with elements of another type."""
    if dtype == "string":
        return from_array(name, array)
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(array, "<f4").view("<u4")
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return Tensor(dtype, array.shape, rounded.astype("<u2").tobytes())
    return from_array(name, array.astype(dtype, copy=False))


def from_array(name: str, array: npt.NDArray[Any]) -> Tensor:
    """A tensor of an answer.

    Raises:
        EngineError: `engine_failed` for a type that an answer cannot carry.
    """
    if array.dtype.kind in "OUS":
        return Tensor("string", array.shape, texts([str(x) for x in array.ravel()]))
    if array.dtype.name not in DTYPES:
        raise EngineError(f"output {name!r} is {array.dtype.name}, which is not supported")
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    # ascontiguousarray makes a scalar one-dimensional, so the shape is taken from the original.
    return Tensor(array.dtype.name, array.shape, little.tobytes())


def _strings(tensor: Tensor) -> npt.NDArray[Any]:
    values = texts_of(tensor.data)
    count = 1
    for n in tensor.shape:
        count *= n
    if len(values) != count:
        raise ValueError(f"{len(values)} strings for a shape of {count}")
    array = np.empty(count, dtype=object)
    array[:] = values
    return array.reshape(tensor.shape)


def _invalid(message: str) -> EngineError:
    return EngineError(message, Code.INVALID_REQUEST)


def _names(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:8])
    return shown + ", ..." if len(names) > 8 else shown or "none"
