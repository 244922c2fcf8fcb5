"""Models behind a server of the Open Inference Protocol: contract, tensors, typed tasks."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engines.upstream.servers import DEADLY, PAIR, SUM, Server, tensor_source

from aigrid.engines.base import CancelToken, Endpoint, ModelSource
from aigrid.engines.contract import EngineContract
from aigrid.engines.onnx_tensors import array_of, tensor_of
from aigrid.engines.upstream.oip_tensors import tensors_of
from aigrid.engines.upstream.open_inference import OpenInferenceEngine
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import (
    Finish,
    InferRequest,
    TaskChunk,
    TaskRequest,
    Tensor,
    TensorChunk,
    TensorRequest,
    TextRequest,
)
from aigrid.protocol.limits import LIMITS, Limits
from aigrid.protocol.task import Feature, TableInput, TaskMapping
from aigrid.protocol.tensors import TensorSpec

# For a server that lets one wait, where a test does. A good one may be slower.
QUICK = replace(LIMITS, upstream_silence_seconds=0.3, upstream_connect_seconds=2.0)


def pairs(*rows: tuple[float, float]) -> TensorRequest:
    x = np.asarray(rows, "<f4")
    return TensorRequest({"x": Tensor("float32", x.shape, x.tobytes())})


class TestOpenInferenceEngine(EngineContract):
    engine = OpenInferenceEngine

    @pytest.fixture(params=["JSON", "binary"])
    def source(self, server: Server, request: pytest.FixtureRequest) -> ModelSource:
        server.binary = request.param == "binary"
        return tensor_source(server)

    @pytest.fixture
    def request_(self) -> InferRequest:
        return pairs((1, 2))

    @pytest.fixture
    def wrong_request(self) -> InferRequest:
        return TextRequest(prompt="words")

    @pytest.fixture
    def failing(self, server: Server) -> tuple[ModelSource, InferRequest]:
        """The server is well when it is asked first, and fails from then on."""
        return tensor_source(server), pairs((DEADLY, 0))


def loaded(server: Server, *, limits: Limits = LIMITS, **more: object) -> OpenInferenceEngine:
    engine = OpenInferenceEngine(limits)
    engine.load(tensor_source(server, **more), threads=1)
    server.said.clear()
    return engine


def failure(engine: OpenInferenceEngine, request: InferRequest) -> EngineError:
    with pytest.raises(EngineError) as caught:
        list(engine.infer(request, CancelToken()))
    return caught.value


@pytest.mark.parametrize("binary", [False, True])
def test_tensors_go_to_the_server_and_come_back(server, binary):
    server.binary = binary
    chunk, finish = loaded(server).infer(pairs((1, 2), (0.5, -4)), CancelToken())
    assert isinstance(chunk, TensorChunk)
    y = chunk.outputs["y"]
    assert (y.dtype, y.shape) == ("float32", (2, 1))
    assert np.frombuffer(y.data, "<f4").tolist() == [3.0, -3.5]
    assert finish == Finish("stop")
    (body,) = server.asked("/v2/models/adder/versions/3/infer")
    assert ("data" in body["inputs"][0]) is not binary


def test_a_mapping_makes_it_a_typed_task(server):
    mapping = TaskMapping(table=TableInput((Feature("a"), Feature("b"))))
    source = replace(tensor_source(server), task="tabular-regression", mapping=mapping)
    engine = OpenInferenceEngine()
    engine.load(source, threads=1)
    rows = json.dumps([{"a": 1, "b": 2}, {"a": 3, "b": 4}]).encode()
    chunk, _ = engine.infer(TaskRequest("tabular-regression", rows), CancelToken())
    assert isinstance(chunk, TaskChunk)
    assert json.loads(chunk.output) == [3.0, 7.0]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (TensorRequest({}), "input 'x' is missing"),
        (TensorRequest({"z": Tensor("int8", (1,), b"a")}), "no input 'z'"),
        (TensorRequest({"x": Tensor("int8", (1, 2), b"ab")}), "expected FP32 [?, 2]"),
        (TensorRequest({"x": Tensor("float32", (1, 3), bytes(12))}), "expected FP32 [?, 2]"),
        (TensorRequest(pairs((1, 2)).inputs, ("q",)), "no output 'q'"),
        (TensorRequest(pairs((1, 2)).inputs, ("y", "y")), "named twice"),
        (TaskRequest("tabular-regression", b"[]"), "tensors only"),
    ],
)
def test_a_wrong_request_does_not_reach_the_server(server, request_, said):
    engine = loaded(server)
    error = failure(engine, request_)
    assert error.code is Code.INVALID_REQUEST
    assert said in error.message
    assert server.said == []


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        ("hangs", Code.ENGINE_TIMEOUT),
        ("no json", Code.ENGINE_FAILED),
        ("another shape", Code.ENGINE_FAILED),
        ("redirects", Code.ENGINE_FAILED),
        ("endless header", Code.ENGINE_FAILED),
        ("fails", Code.ENGINE_FAILED),
    ],
)
def test_whatever_a_server_does_wrong_ends_in_a_typed_error(server, mode, code):
    engine = loaded(server, limits=QUICK if code is Code.ENGINE_TIMEOUT else LIMITS)
    server.mode = mode
    error = failure(engine, pairs((1, 2)))
    assert error.code is code
    assert "127.0.0.1" not in error.message


def test_what_the_server_declares_is_found_out(server):
    engine, endpoint = OpenInferenceEngine(), Endpoint(server.root)
    assert [served.name for served in engine.discover(endpoint, "")] == ["adder", "other"]
    (served,) = engine.discover(endpoint, "adder")
    assert (served.version, served.inputs, served.outputs) == ("3", (PAIR,), (SUM,))
    with pytest.raises(EngineError) as refused:
        engine.discover(endpoint, "multiplier")
    assert refused.value.code is Code.UNSUPPORTED_MODEL


SPECS = {"t": TensorSpec("t", "FP32", (-1, 2))}


@given(st.binary(max_size=200), st.integers(0, 250).map(str))
def test_any_bytes_are_tensors_or_a_typed_error(body, head_bytes):
    with pytest.raises(EngineError):
        tensors_of(body, head_bytes, SPECS, ["t"])


@pytest.mark.parametrize(
    "output",
    [
        {"shape": [1, 3], "data": [1, 2, 3]},
        {"shape": [2, 2], "data": [1, 2]},
        {"shape": [-1, 2], "data": []},
        {"shape": [2**40, 2], "data": [1]},
        {"shape": [1, 2], "data": [1, None]},
        {"shape": [1, 2], "data": [1, 1e39]},
        {"shape": [1, 2], "data": ["a", "b"]},
        {"shape": [1, 2], "datatype": "INT64", "data": [1, 2]},
        {"shape": [1, 2]},
        {"shape": [1, 2], "parameters": {"binary_data_size": 2**40}},
        {"shape": [1, 2], "name": "u", "data": [1, 2]},
    ],
)
def test_an_answer_that_is_not_what_was_declared_is_refused(output):
    body = json.dumps({"outputs": [{"name": "t", "datatype": "FP32", **output}]}).encode()
    with pytest.raises(EngineError) as refused:
        tensors_of(body, None, SPECS, ["t"])
    assert refused.value.code is Code.ENGINE_FAILED


def test_numbers_of_bfloat16_come_to_a_task_as_float32_and_go_rounded():
    array = np.asarray([[1.0, -2.5], [3.14159, 1e30]], "float32")
    found = array_of(tensor_of("t", array, "bfloat16"))
    assert found.dtype == "float32"
    assert np.allclose(found, array, rtol=2**-8)
    assert array_of(tensor_of("t", found, "bfloat16")).tolist() == found.tolist()
