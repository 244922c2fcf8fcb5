"""Tensors in the Open Inference Protocol, version 2: `Tensor` to a body and back. Pure.

Source: https://github.com/kserve/open-inference-protocol, its REST part, and Triton's extension for
binary tensors. Elements stand in row-major order; what is binary follows the JSON, in the order in
which the JSON names it, little-endian; a text there has its length in four bytes before it. Sizes
are checked against the shape before anything is built. BF16 travels as binary only.
"""

import math
import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Never

import msgspec
from msgspec import Meta

from aigrid.protocol.errors import InvalidRequestError
from aigrid.protocol.inference import Tensor
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.tensors import BY_DATATYPE, BY_DTYPE, TEXT, Element, texts, texts_of

HEAD_LENGTH: Final = "Inference-Header-Content-Length"
_ABSENT: Final = msgspec.Raw()
_LENGTH: Final = struct.Struct("<I")
_MANY: Final = (
    f"is too large: a body may have {LIMITS.tensor_elements_max} texts, or numbers as JSON; more "
    "numbers go as binary data"
)
_EMPTY_MAX_BYTES: Final = 256  # of the JSON of a tensor without elements


class TensorParameters(msgspec.Struct):
    """Of a tensor in a body; what else stands there does not change its meaning."""

    binary_data_size: int | None = None
    shared_memory_region: msgspec.Raw = _ABSENT


class WireTensor(msgspec.Struct):
    """A tensor in a body."""

    name: Annotated[str, Meta(min_length=1, max_length=LIMITS.tensor_name_max_chars)]
    datatype: str
    shape: Annotated[
        list[Annotated[int, Meta(ge=0, le=2**53 - 1)]], Meta(max_length=LIMITS.tensor_rank_max)
    ]
    data: msgspec.Raw = _ABSENT
    parameters: TensorParameters | None = None


def split(body: bytes, head_bytes: str | None) -> tuple[memoryview, memoryview]:
    """The JSON of a body and the binary data behind it, by the header `HEAD_LENGTH`.

    Raises:
        InvalidRequestError: it is no length, or longer than the body.
    """
    view = memoryview(body)
    if head_bytes is None:
        return view, view[len(view) :]
    told = head_bytes.strip()
    if not (told.isascii() and told.isdigit() and len(told) < 12) or int(told) > len(body):
        raise InvalidRequestError(
            f"{HEAD_LENGTH} must be the length of the JSON in a body of {len(body)} bytes.",
            param=HEAD_LENGTH,
        )
    return view[: int(told)], view[int(told) :]


def read(
    entries: Sequence[WireTensor], tail: memoryview, only: Collection[str] | None = None
) -> dict[str, Tensor]:
    """The tensors of a body, each as large as its shape says; of them those named in `only`.

    Raises:
        InvalidRequestError: what is wrong, and with which (`param`).
    """
    if len(entries) > LIMITS.tensors_max:
        raise InvalidRequestError(f"There are more than {LIMITS.tensors_max} tensors.")
    found: dict[str, Tensor] = {}
    at, left, few, seen = 0, LIMITS.tensor_max_bytes, LIMITS.tensor_elements_max, set[str]()
    for entry in entries:
        if entry.name in seen:
            _refuse(entry.name, "is there twice")
        seen.add(entry.name)
        told = entry.parameters or TensorParameters()
        if told.shared_memory_region is not _ABSENT:
            _refuse(entry.name, "is in shared memory, which does not reach other machines: send it")
        size, data = told.binary_data_size, None
        if size is not None:
            if not 0 <= size <= len(tail) - at:
                _refuse(entry.name, f"has {size} bytes of binary data; {len(tail) - at} are left")
            data, at = tail[at : at + size], at + size
        if only is None or entry.name in only:
            found[entry.name] = tensor = _tensor(entry, data, left, few)
            left -= len(tensor.data)
            if data is None or tensor.dtype == TEXT.dtype:
                few -= math.prod(tensor.shape)
    if at != len(tail):
        raise InvalidRequestError(
            f"{len(tail) - at} bytes follow the last binary tensor: the sizes do not add up."
        )
    return found


def write(
    tensors: Mapping[str, Tensor], *, binary: Callable[[str], bool]
) -> tuple[list[dict[str, Any]], list[bytes]]:
    """What stands in the JSON, and the binary data behind it.

    Raises:
        InvalidRequestError: JSON was asked for that cannot carry it.
        ValueError: a tensor whose data is not what its type and shape say.
    """
    entries: list[dict[str, Any]] = []
    tail: list[bytes] = []
    few = LIMITS.tensor_elements_max
    for name, tensor in tensors.items():
        element = BY_DTYPE.get(tensor.dtype)
        if element is None:
            raise ValueError(f"{name!r} is of type {tensor.dtype}")
        values = _checked(name, element, tensor)
        if values is not None or not binary(name):
            few -= math.prod(tensor.shape)
            if few < 0:
                _refuse(name, _MANY)
        entry: dict[str, Any] = {
            "name": name, "datatype": element.datatype, "shape": tensor.shape,
        }  # fmt: skip
        if binary(name):
            data = tensor.data if values is None else _to_binary(values)
            entry["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        else:
            entry["data"] = _to_json(name, element, tensor) if values is None else values
        entries.append(entry)
    return entries, tail


def _tensor(entry: WireTensor, data: memoryview | None, left: int, few: int) -> Tensor:
    """With `left` bytes at most, and `few` elements of those that are looked at one by one."""
    name, element = entry.name, BY_DATATYPE.get(entry.datatype)
    if element is None:
        _refuse(name, f"has no datatype of the protocol: {', '.join(BY_DATATYPE)}")
    count = math.prod(entry.shape)
    needed = count * max(1, element.item_bytes)
    if needed > left:
        _refuse(name, f"is too large: all together may have {LIMITS.tensor_max_bytes} bytes")
    if count > few and (data is None or element is TEXT):
        _refuse(name, _MANY)
    if (data is None) == (entry.data is _ABSENT):
        _refuse(name, "has either `data` or a `binary_data_size`")
    if element is TEXT:
        values = _from_json(entry, str, count) if data is None else _from_binary(name, data)
        if len(values) != count:
            _refuse(name, f"has {len(values)} elements; its shape says {count}")
        raw = texts(values)
        if len(raw) > left:
            _refuse(name, f"is too large: all together may have {LIMITS.tensor_max_bytes} bytes")
    elif data is None:
        raw = _packed(entry, element, count)
    else:
        raw = bytes(data)
        if len(raw) != needed:
            _refuse(name, f"has {len(raw)} bytes; its datatype and shape say {needed}")
        if element.datatype == "BOOL" and raw.translate(None, b"\0\1"):
            _refuse(name, "has a BOOL that is neither 0 nor 1")
    return Tensor(element.dtype, tuple(entry.shape), raw)


def _packed(entry: WireTensor, element: Element, count: int) -> bytes:
    if not element.code:
        _refuse(entry.name, f"is {element.datatype}, which travels as binary data only")
    # Elements of numbers are told apart by commas: so many, before any is built.
    commas = memoryview(entry.data).tobytes().count(b",")
    if commas + 1 != count and (count or len(memoryview(entry.data)) > _EMPTY_MAX_BYTES):
        _refuse(entry.name, f"has {commas + 1} elements; its shape says {count}")
    kind: type = bool if element.code == "?" else float if element.is_float else int
    values = _from_json(entry, kind, count)
    if len(values) != count:
        _refuse(entry.name, f"has {len(values)} elements; its shape says {count}")
    try:
        return struct.pack(f"<{count}{element.code}", *values)
    except (struct.error, OverflowError):
        _refuse(entry.name, f"has a number that no {element.datatype} can be")


def _from_json(entry: WireTensor, kind: type, count: int) -> list[Any]:
    """The elements; they may be nested as the shape says."""
    try:
        flat: list[Any] = msgspec.json.decode(entry.data, type=list[kind])  # type: ignore[valid-type]
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        try:
            flat = []
            _flatten(msgspec.json.decode(entry.data), entry.shape, flat)
            flat = msgspec.convert(flat, list[kind])  # type: ignore[valid-type]
        except (msgspec.DecodeError, RecursionError, UnicodeError, ValueError) as error:
            said = str(error).partition(" - at")[0]
            _refuse(entry.name, f"has data that is no array of {count} {entry.datatype}: {said}")
    return flat


def _flatten(value: Any, shape: Sequence[int], into: list[Any]) -> None:
    if not shape:
        into.append(value)
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        raise ValueError("it is not nested as the shape says")
    for one in value:
        _flatten(one, shape[1:], into)


def _from_binary(name: str, data: memoryview) -> list[str]:
    found: list[str] = []
    at, end = 0, len(data)
    while at < end:
        if end - at < _LENGTH.size:
            _refuse(name, "has a text without its length")
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if size > end - at:
            _refuse(name, "has a text that is cut off")
        try:
            found.append(str(data[at : at + size], "utf-8"))
        except UnicodeDecodeError:
            _refuse(name, "has BYTES that are no text in UTF-8: send them as base64")
        at += size
    return found


def _to_binary(values: Iterable[str]) -> bytes:
    encoded = [value.encode() for value in values]
    return b"".join(part for one in encoded for part in (_LENGTH.pack(len(one)), one))


def _to_json(name: str, element: Element, tensor: Tensor) -> Sequence[Any]:
    if not element.code:
        _refuse(name, f"is {element.datatype}: ask for it with `binary_data`")
    values = struct.unpack(f"<{math.prod(tensor.shape)}{element.code}", tensor.data)
    if element.is_float and not all(map(math.isfinite, values)):
        _refuse(name, "holds what is no number in JSON (NaN or infinite): ask with `binary_data`")
    return values


def _checked(name: str, element: Element, tensor: Tensor) -> list[str] | None:
    """The elements of a text, None for numbers. Raises ValueError."""
    count = math.prod(tensor.shape)
    if element is TEXT:
        values = texts_of(tensor.data)
        if len(values) != count:
            raise ValueError(f"{name!r} has {len(values)} elements; its shape says {count}")
        return values
    if len(tensor.data) != count * element.item_bytes:
        raise ValueError(f"{name!r} has {len(tensor.data)} bytes, not what its shape says")
    return None


def _refuse(name: str, what: str) -> Never:
    raise InvalidRequestError(f"Tensor {name[:64]!r} {what}.", param=name[:64])
