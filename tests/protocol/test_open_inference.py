"""Tensors to a body of the Open Inference Protocol and back, and what hostile bodies come to."""

import json
import math
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.protocol.errors import InvalidRequestError
from aigrid.protocol.inference import Tensor, TensorRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.open_inference import WireTensor, read, split, write
from aigrid.protocol.tensors import ELEMENTS, TEXT, TensorSpec, misfit, texts, zeros

NUMBERS = [one for one in ELEMENTS if one.code]


def _values(element: Any) -> st.SearchStrategy[Any]:
    if element is TEXT:
        return st.text(max_size=5)
    if element.datatype == "BOOL":
        return st.booleans()
    if element.is_float:
        width = 8 * element.item_bytes
        return st.floats(width=width, allow_nan=False, allow_infinity=False)
    info = np.iinfo(element.dtype)
    return st.integers(int(info.min), int(info.max))


@st.composite
def _tensors(draw: st.DrawFn) -> Tensor:
    element = draw(st.sampled_from([*NUMBERS, TEXT]))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    count = math.prod(shape)
    values = draw(st.lists(_values(element), min_size=count, max_size=count))
    data = texts(values) if element is TEXT else struct.pack(f"<{count}{element.code}", *values)
    return Tensor(element.dtype, shape, data)


def _read(entries: list[dict[str, Any]], tail: bytes = b"") -> dict[str, Tensor]:
    decoded = msgspec.json.decode(json.dumps(entries), type=list[WireTensor])
    return read(decoded, memoryview(tail))


@given(st.dictionaries(st.sampled_from("abcd"), _tensors(), max_size=3), st.data())
def test_what_is_written_is_read_again(tensors, data):
    binary = data.draw(st.fixed_dictionaries({name: st.booleans() for name in tensors}))
    entries, tail = write(tensors, binary=binary.__getitem__)
    entries = msgspec.json.decode(msgspec.json.encode(entries))
    if data.draw(st.booleans()):
        for entry in entries:
            if "data" in entry and len(entry["shape"]) > 1:
                flat = np.empty(len(entry["data"]), object)
                flat[:] = entry["data"]
                entry["data"] = flat.reshape(entry["shape"]).tolist()
    assert _read(entries, b"".join(tail)) == tensors


@given(st.binary(max_size=300), st.text(max_size=12) | st.integers(-5, 400).map(str))
def test_any_bytes_are_tensors_or_a_typed_error(body, told):
    try:
        head, tail = split(body, told)
        read(msgspec.json.decode(head, type=list[WireTensor]), tail)
    except (InvalidRequestError, msgspec.DecodeError, UnicodeDecodeError):
        return


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "name": st.sampled_from(["a", "b", ""]),
                "datatype": st.sampled_from(["FP32", "BYTES", "BOOL", "INT8", "BF16", "FP128"]),
                "shape": st.lists(st.integers(-1, 3) | st.just(2**40), max_size=4),
            },
            optional={
                "data": st.recursive(
                    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
                    lambda inner: st.lists(inner, max_size=3),
                    max_leaves=8,
                ),
                "parameters": st.fixed_dictionaries(
                    {}, optional={"binary_data_size": st.integers(-2, 30) | st.just(2**62)}
                ),
            },
        ),
        max_size=3,
    ),
    st.binary(max_size=30),
)
def test_entries_that_are_made_up_are_tensors_as_large_as_they_say_or_a_typed_error(entries, tail):
    try:
        found = _read(entries, tail)
    except (InvalidRequestError, msgspec.DecodeError):
        return
    write(found, binary=lambda _: True)


F = {"name": "t", "datatype": "FP32", "shape": [2]}


@pytest.mark.parametrize(
    ("entry", "tail", "said"),
    [
        ({**F, "data": [1, 2, 3]}, b"", "3 elements"),
        ({**F, "data": [1]}, b"", "1 elements"),
        ({**F, "data": [1, "2"]}, b"", "no array of 2 FP32"),
        ({**F, "data": [1, None]}, b"", "no array of 2 FP32"),
        ({**F, "data": [1, 1e39]}, b"", "no FP32 can be"),
        ({**F, "data": {"a": 1, "b": 2}}, b"", "no array"),
        ({**F, "datatype": "UINT8", "data": [1, 256]}, b"", "no UINT8 can be"),
        ({**F, "datatype": "BOOL", "data": [1, 0]}, b"", "no array of 2 BOOL"),
        ({**F, "datatype": "BF16", "data": [1, 0]}, b"", "binary data only"),
        ({**F, "datatype": "FP31", "data": [1, 0]}, b"", "no datatype"),
        ({**F, "shape": [2**31, 2**31], "data": [1]}, b"", "too large"),
        ({**F, "shape": [2**53 - 1] * 16, "data": []}, b"", "too large"),
        ({**F, "shape": [LIMITS.tensor_max_bytes], "data": [1]}, b"", "too large"),
        ({**F, "shape": [2, 1], "data": [[1, 2], []]}, b"", "3 elements"),
        (F, b"", "either"),
        ({**F, "data": [1, 2], "parameters": {"binary_data_size": 8}}, bytes(8), "either"),
        ({**F, "parameters": {"binary_data_size": -1}}, b"", "-1 bytes"),
        ({**F, "parameters": {"binary_data_size": 9}}, bytes(8), "9 bytes"),
        ({**F, "parameters": {"binary_data_size": 4}}, bytes(4), "4 bytes"),
        ({**F, "parameters": {"binary_data_size": 8}}, bytes(9), "do not add up"),
        ({**F, "parameters": {"shared_memory_region": "r"}}, b"", "shared memory"),
        (
            {**F, "datatype": "BOOL", "parameters": {"binary_data_size": 2}},
            b"\x01\x02",
            "neither 0 nor 1",
        ),
        (
            {**F, "datatype": "BYTES", "parameters": {"binary_data_size": 5}},
            b"\xff\xff\xff\xffa",
            "cut off",
        ),
        (
            {**F, "datatype": "BYTES", "parameters": {"binary_data_size": 3}},
            b"\0\0\0",
            "without its length",
        ),
        (
            {**F, "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 5}},
            b"\1\0\0\0\xff",
            "UTF-8",
        ),
        (
            {**F, "datatype": "BYTES", "parameters": {"binary_data_size": 4}},
            bytes(4),
            "1 elements",
        ),
    ],
)
def test_a_tensor_that_is_not_what_it_says_is_refused_by_name(entry, tail, said):
    with pytest.raises(InvalidRequestError, match=said) as refused:
        _read([entry], tail)
    assert refused.value.param in ("t", None)


def test_a_name_stands_for_one_tensor():
    with pytest.raises(InvalidRequestError, match="twice"):
        _read([{**F, "data": [1, 2]}, {**F, "data": [1, 2]}])


def test_many_small_tensors_are_together_no_larger_than_one_may_be():
    size = LIMITS.tensor_max_bytes // 8
    entry = {"datatype": "UINT8", "shape": [size], "parameters": {"binary_data_size": size}}
    entries = [{"name": f"t{n}", **entry} for n in range(9)]
    with pytest.raises(InvalidRequestError, match="too large"):
        _read(entries, bytes(9 * size))


def test_what_is_looked_at_one_by_one_is_no_more_than_a_moments_work():
    half = LIMITS.tensor_elements_max // 2 + 1
    entries = [
        {"name": name, "datatype": "BYTES", "shape": [half],
         "parameters": {"binary_data_size": 4 * half}}
        for name in "ab"
    ]  # fmt: skip
    with pytest.raises(InvalidRequestError, match=r"'b' is too large.*binary data"):
        _read(entries, bytes(8 * half))
    numbers = Tensor("uint8", (2 * half,), bytes(2 * half))
    with pytest.raises(InvalidRequestError, match="binary data"):
        write({"t": numbers}, binary=lambda _: False)
    write({"t": numbers}, binary=lambda _: True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_cannot_say_is_refused_and_travels_as_binary(value):
    tensor = {"t": Tensor("float32", (1,), struct.pack("<f", value))}
    with pytest.raises(InvalidRequestError, match="binary_data"):
        write(tensor, binary=lambda _: False)
    entries, tail = write(tensor, binary=lambda _: True)
    assert _read(entries, b"".join(tail)) == tensor


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("float32", (2,), b"1234"),
        Tensor("string", (2,), texts(["a"])),
        Tensor("string", (1,), b"\xc1"),
        Tensor("object", (1,), b"12345678"),
    ],
)
def test_a_tensor_that_is_none_is_not_written(tensor):
    with pytest.raises(ValueError, match=r"."):
        write({"t": tensor}, binary=lambda _: True)


SPEC = TensorSpec("x", "FP32", (-1, 2))


@pytest.mark.parametrize(
    ("request_", "tensor", "said"),
    [
        (TensorRequest({}), "x", "is missing (FP32 [?, 2])"),
        (TensorRequest({"z": Tensor("int8", (1,), b"a")}), "z", "no input 'z'"),
        (TensorRequest({"x": Tensor("int8", (1, 2), b"ab")}), "x", "got INT8 [1, 2]"),
        (TensorRequest({"x": Tensor("float32", (1, 3), bytes(12))}), "x", "expected FP32 [?, 2]"),
        (TensorRequest({"x": Tensor("float32", (2,), bytes(8))}), "x", "expected FP32 [?, 2]"),
        (TensorRequest({"x": Tensor("float32", (1, 2), bytes(8))}, ("q",)), "q", "no output"),
        (TensorRequest({"x": Tensor("float32", (1, 2), bytes(8))}, ("y", "y")), "", "twice"),
    ],
)
def test_a_request_that_does_not_fit_is_told_what_would(request_, tensor, said):
    found = misfit(request_, (SPEC,), (TensorSpec("y", "FP32", (-1,)),))
    assert found is not None
    assert found.tensor == tensor
    assert said in found.reason


def test_the_smallest_tensors_that_fit():
    (made,) = (zeros([TensorSpec("t", "FP16", (-1, 3, -1))], 6) or {}).values()
    assert made == Tensor("float16", (1, 3, 1), bytes(6))
    assert zeros([TensorSpec("t", "BYTES", (-1,))], 1) == {"t": Tensor("string", (1,), texts([""]))}
    assert zeros([TensorSpec("t", "FP32", (2**30, 2**30))], LIMITS.tensor_max_bytes) is None
    assert misfit(TensorRequest({"t": made}), (TensorSpec("t", "FP16", (-1, 3, -1)),), ()) is None
