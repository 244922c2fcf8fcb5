"""Triton's own client writes what we read, and reads what we write."""

from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.utils import np_to_triton_dtype

from aigrid.node.gateway.open_inference.answers import infer_body
from aigrid.node.gateway.open_inference.infer_request import decode_infer
from aigrid.protocol.open_inference import HEAD_LENGTH

DTYPES = ["bool", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "text"]


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from(DTYPES))
    shape = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    count = int(np.prod(shape))
    if kind == "text":
        array = np.empty(count, object)
        array[:] = draw(st.lists(st.text(max_size=4), min_size=count, max_size=count))
        return array.reshape(shape)
    raw = draw(st.binary(min_size=count * np.dtype(kind).itemsize, max_size=64 * count))
    array = np.frombuffer(raw, kind if kind != "bool" else "u1", count).reshape(shape)
    if kind == "bool":
        return array % 2 == 1
    return np.nan_to_num(array, nan=0.0, posinf=1.0, neginf=-1.0) if kind[0] == "f" else array


def told(name: str, array: Any, *, binary: bool) -> triton.InferInput:
    tensor = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    return tensor.set_data_from_numpy(array, binary_data=binary)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("xyz"), arrays(), min_size=1), st.booleans(), st.booleans())
def test_arrays_come_back_as_they_went(given_, binary_in, binary_out):
    inputs = [told(name, array, binary=binary_in) for name, array in given_.items()]
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in given_]
    body, json_bytes = triton.InferenceServerClient.generate_request_body(
        inputs, outputs=outputs, request_id="7"
    )
    call = decode_infer(body, None if json_bytes is None else str(json_bytes))
    assert call.id == "7"
    assert call.asked.request.outputs == tuple(given_)
    answer, headers = infer_body(
        call, call.asked.request.inputs, name="m", version="v", segments=()
    )
    length = headers.get(HEAD_LENGTH)
    assert (length is not None) is binary_out
    result = triton.InferenceServerClient.parse_response_body(
        answer, header_length=None if length is None else int(length)
    )
    for name, array in given_.items():
        found = result.as_numpy(name)
        if array.dtype == object and binary_out:
            found = np.vectorize(bytes.decode, otypes=[object])(found)
        assert found.tolist() == array.tolist()
        assert found.dtype == array.dtype


def test_without_named_outputs_all_come_as_binary():
    body, json_bytes = triton.InferenceServerClient.generate_request_body(
        [told("x", np.ones((1, 2), "f4"), binary=True)]
    )
    call = decode_infer(body, str(json_bytes))
    assert call.is_binary("anything")
    assert not call.asked.parameters


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_bfloat16_travels_as_binary(dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.asarray([[1.5, -2.0]], ml_dtypes.bfloat16)
    tensor = triton.InferInput("x", array.shape, "BF16").set_data_from_numpy(array)
    body, json_bytes = triton.InferenceServerClient.generate_request_body([tensor])
    call = decode_infer(body, str(json_bytes))
    assert call.asked.request.inputs["x"].dtype == dtype
    answer, headers = infer_body(
        call, call.asked.request.inputs, name="m", version="v", segments=()
    )
    result = triton.InferenceServerClient.parse_response_body(
        answer, header_length=int(headers[HEAD_LENGTH])
    )
    assert result.as_numpy("x").astype("f4").tolist() == [[1.5, -2.0]]
