"""Tensors in the Open Inference Protocol, version 2: arrays to a body and back. Pure.

Source: https://github.com/kserve/open-inference-protocol, its REST part and the extension for
binary tensors. Elements stand in row-major order; what is binary follows the JSON, in the order in
which the JSON names it, little-endian; a text there has its length in four bytes before it.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from aigrid.engines.onnx_tensors import Declared
from aigrid.engines.tasks.base import Array
from aigrid.protocol.errors import EngineError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.upstream import TensorSpec

_NUMPY: Final = {
    "BOOL": "bool", "BYTES": "string",
    "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "FP16": "float16", "FP32": "float32", "FP64": "float64",
}  # fmt: skip
_ONNX: Final = {"float16": "float16", "float32": "float", "float64": "double"}
_ABSENT: Final = msgspec.Raw()
_LENGTH: Final = struct.Struct("<I")
_encode = msgspec.json.Encoder().encode


class _Parameters(msgspec.Struct):
    binary_data_size: int | None = None


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    data: msgspec.Raw = _ABSENT
    parameters: _Parameters | None = None


class _Answer(msgspec.Struct):
    outputs: list[_Output]


_ANSWERS: msgspec.json.Decoder[_Answer] = msgspec.json.Decoder(_Answer)


def dtype_of(spec: TensorSpec) -> str:
    """The numpy name of a tensor's elements, or "string"."""
    return _NUMPY[spec.datatype]


def declared(spec: TensorSpec) -> Declared:
    """A tensor as requests are checked against it."""
    dtype = dtype_of(spec)
    shape = tuple(n if n >= 0 else None for n in spec.shape)
    return Declared(spec.name, f"tensor({_ONNX.get(dtype, dtype)})", shape)


def zeros(spec: TensorSpec) -> Array:
    """The smallest tensor that fits, of zeros or empty texts.

    Raises:
        EngineError: `engine_failed` for one that no request could carry.
    """
    shape = tuple(1 if n < 0 else n for n in spec.shape)
    dtype = dtype_of(spec)
    if _count(shape) * 8 > LIMITS.tensor_max_bytes:
        raise EngineError(f"input {spec.name!r} is larger than a request may be")
    return np.full(shape, "", object) if dtype == "string" else np.zeros(shape, dtype)


def body_of(
    feeds: Mapping[str, Array],
    specs: Mapping[str, TensorSpec],
    wanted: Sequence[str],
    *,
    binary: bool,
) -> tuple[bytes, dict[str, str]]:
    """What is posted, and the headers that say how to read it."""
    inputs, tail = [], []
    for name, array in feeds.items():
        entry: dict[str, Any] = {
            "name": name,
            "shape": array.shape,
            "datatype": specs[name].datatype,
        }
        if binary:
            data = _to_bytes(array)
            entry["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        else:
            entry["data"] = array.ravel().tolist()
        inputs.append(entry)
    outputs: list[dict[str, Any]] = [{"name": name} for name in wanted]
    if binary:
        outputs = [{**output, "parameters": {"binary_data": True}} for output in outputs]
    head = _encode({"inputs": inputs, "outputs": outputs})
    if not binary:
        return head, {}
    headers = {
        "Inference-Header-Content-Length": str(len(head)),
        "Content-Type": "application/octet-stream",
    }
    return b"".join((head, *tail)), headers


def arrays_of(
    body: bytes, head_bytes: int, specs: Mapping[str, TensorSpec], wanted: Iterable[str]
) -> dict[str, Array]:
    """The tensors of an answer, each as declared and as large as its shape says.

    `head_bytes` is the length of the JSON in front of binary data; 0 where all of it is JSON.

    Raises:
        EngineError: `engine_failed` for anything else.
    """
    head, tail = (body[:head_bytes], body[head_bytes:]) if head_bytes else (body, b"")
    try:
        found: dict[str, Array] = {}
        at = 0
        for output in _ANSWERS.decode(head).outputs:
            size = output.parameters.binary_data_size if output.parameters is not None else None
            data = tail[at : at + max(0, size)] if size is not None else None
            at += len(data or b"")
            if output.name in specs:
                found[output.name] = _array(output, specs[output.name], data)
        return {name: found[name] for name in wanted}
    except KeyError as error:
        raise EngineError(f"the server's answer lacks the output {error.args[0]!r}") from None
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise EngineError(f"the server's answer is not what it declared: {error}"[:200]) from None


def _array(output: _Output, spec: TensorSpec, data: bytes | None) -> Array:
    shape = tuple(output.shape)
    fits = len(shape) == len(spec.shape) and all(
        want in (-1, got) for want, got in zip(spec.shape, shape, strict=True)
    )
    if output.datatype != spec.datatype or not fits or any(n < 0 for n in shape):
        raise ValueError(f"{spec.name!r} is {output.datatype[:16]} {list(shape)[:16]}")
    dtype = dtype_of(spec)
    if (
        _count(shape) * (1 if dtype == "string" else np.dtype(dtype).itemsize)
        > LIMITS.tensor_max_bytes
    ):
        raise ValueError(f"{spec.name!r} is too large")
    if data is not None:
        flat = _from_bytes(data, dtype)
    elif output.data is not _ABSENT:
        flat = _from_json(output.data, dtype)
    else:
        raise ValueError(f"{spec.name!r} has no data")
    return flat.reshape(shape)  # which raises where the count is another


def _from_json(data: msgspec.Raw, dtype: str) -> Array:
    kind: Any = {"string": str, "bool": bool}.get(dtype, float if dtype.startswith("f") else int)
    try:
        flat = msgspec.json.decode(data, type=list[kind])
    except msgspec.ValidationError:
        # Elements may be nested as the shape says; then each is looked at by itself.
        flat = [msgspec.convert(element, kind) for element in _leaves(msgspec.json.decode(data))]
    if dtype == "string":
        return _texts(flat)
    return np.asarray(flat, dtype)


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, list):
        for element in value:
            yield from _leaves(element)
    else:
        yield value


def _to_bytes(array: Array) -> bytes:
    if array.dtype.kind in "OUS":
        texts = [str(text).encode() for text in array.ravel()]
        return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def _from_bytes(data: bytes, dtype: str) -> Array:
    if dtype != "string":
        return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).astype(dtype)
    texts, at = [], 0
    while at < len(data):
        try:
            (size,) = _LENGTH.unpack_from(data, at)
        except struct.error:
            raise ValueError("a text without its length") from None
        at += 4 + size
        if at > len(data):
            raise ValueError("a text that is cut off")
        texts.append(data[at - size : at].decode("utf-8", "replace"))
    return _texts(texts)


def _texts(values: list[str]) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _count(shape: Iterable[int]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count
