"""The ONNX engine: answers, and what it says about requests that are wrong."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.engines.onnx_models import endless, linear, model, onnx_source, save, value

from aigrid.engines.base import CancelToken, ModelSource
from aigrid.engines.contract import EngineContract
from aigrid.engines.onnx import OnnxEngine
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import (
    Finish,
    InferRequest,
    TaskRequest,
    Tensor,
    TensorChunk,
    TensorRequest,
    TextRequest,
)
from aigrid.protocol.task import Feature, TableInput, TaskMapping


def tensor(array: Any) -> Tensor:
    made = np.asarray(array)
    return Tensor(made.dtype.name, made.shape, made.tobytes())


def strings(shape: Sequence[int], *values: str) -> Tensor:
    return Tensor("string", tuple(shape), msgspec.msgpack.encode(values))


def load(path: Path, made: Any) -> OnnxEngine:
    engine = OnnxEngine()
    engine.load(onnx_source(save(path / "m.onnx", made)), threads=1)
    return engine


def run(engine: OnnxEngine, *outputs: str, **inputs: Tensor) -> dict[str, Tensor]:
    answer, finish = engine.infer(TensorRequest(inputs, outputs), CancelToken())
    assert finish == Finish("stop")
    assert isinstance(answer, TensorChunk)
    return answer.outputs


X = tensor(np.array([[1, 4, 9]], np.float32))


class TestOnnxEngine(EngineContract):
    engine = OnnxEngine

    @pytest.fixture
    def source(self, tmp_path: Path) -> ModelSource:
        return onnx_source(save(tmp_path / "m.onnx", linear()))

    @pytest.fixture
    def request_(self) -> InferRequest:
        return TensorRequest({"x": X})

    @pytest.fixture
    def wrong_request(self) -> InferRequest:
        return TextRequest(prompt="hello")

    @pytest.fixture
    def failing(self, tmp_path: Path) -> tuple[ModelSource, InferRequest]:
        """A regressor that answers with the root of what it is given."""
        root = model(
            [helper.make_node("Sqrt", ["x"], ["y"])],
            [value("x", ["batch", 1])],
            [value("y", ["batch", 1])],
        )
        source = onnx_source(save(tmp_path / "root.onnx", root))
        mapping = TaskMapping(table=TableInput((Feature("x"),)))
        request = TaskRequest("tabular-regression", b'[{"x": -1}]')
        return replace(source, task="tabular-regression", mapping=mapping), request


def test_all_outputs_come_unless_some_are_named(tmp_path: Path) -> None:
    engine = load(tmp_path, linear())
    assert run(engine, x=X) == {
        "y": tensor(np.array([[45, 59]], np.float32)),
        "z": tensor(np.array([[1, 2, 3]], np.float32)),
    }
    assert set(run(engine, "z", x=X)) == {"z"}


def test_a_batch_of_none_is_a_batch(tmp_path: Path) -> None:
    empty = tensor(np.zeros((0, 3), np.float32))
    assert run(load(tmp_path, linear()), "y", x=empty)["y"].shape == (0, 2)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({}, "input 'x' is missing (float32 [batch, 3])"),
        ({"x": X, "q": X}, "no input 'q'; the model has x"),
        (
            {"x": tensor(np.zeros((1, 4), np.float32))},
            "'x': expected float32 [batch, 3], got float32 [1, 4]",
        ),
        ({"x": tensor(np.zeros(3, np.float32))}, "got float32 [3]"),
        ({"x": tensor(np.zeros((1, 3), np.float64))}, "got float64 [1, 3]"),
        ({"x": Tensor("float32", (1, 3), b"\0" * 11)}, "needs 12 bytes, got 11"),
        ({"x": Tensor("float32", (-1, 3), b"")}, "not allowed"),
        ({"x": Tensor("string", (1, 3), b"")}, "got string [1, 3]"),
    ],
)
def test_a_wrong_input_is_named_with_what_was_expected(
    tmp_path: Path, inputs: dict[str, Tensor], says: str
) -> None:
    with pytest.raises(EngineError) as refused:
        run(load(tmp_path, linear()), **inputs)
    assert refused.value.code is Code.INVALID_REQUEST
    assert says in refused.value.message


@pytest.mark.parametrize("outputs", [("w",), ("y", "y")])
def test_a_wrong_output_is_named(tmp_path: Path, outputs: tuple[str, ...]) -> None:
    with pytest.raises(EngineError) as refused:
        run(load(tmp_path, linear()), *outputs, x=X)
    assert refused.value.code is Code.INVALID_REQUEST


def test_not_a_number_is_just_data(tmp_path: Path) -> None:
    root = run(load(tmp_path, linear()), "z", x=tensor(np.full((1, 3), -1, np.float32)))["z"]
    assert np.isnan(np.frombuffer(root.data, np.float32)).all()


def test_strings_go_in_and_out(tmp_path: Path) -> None:
    text = TensorProto.STRING
    made = model(
        [helper.make_node("Identity", ["s"], ["t"])],
        [value("s", [None, 2], text)],
        [value("t", [None, 2], text)],
    )
    engine = load(tmp_path, made)
    sent = strings((1, 2), "grüß", "")
    assert run(engine, s=sent) == {"t": sent}
    for wrong in (strings((1, 2), "one"), Tensor("string", (1, 2), b"\xc1")):
        with pytest.raises(EngineError) as refused:
            run(engine, s=wrong)
        assert refused.value.code is Code.INVALID_REQUEST


def test_scalars_and_halves_and_bools_keep_type_and_shape(tmp_path: Path) -> None:
    made = model(
        [helper.make_node("Identity", [a], [b]) for a, b in ("ao", "bp", "cq")],
        [
            value("a", [], TensorProto.INT64),
            value("b", [2], TensorProto.FLOAT16),
            value("c", [1], TensorProto.BOOL),
        ],
        [
            value("o", [], TensorProto.INT64),
            value("p", [2], TensorProto.FLOAT16),
            value("q", [1], TensorProto.BOOL),
        ],
    )
    sent = {
        "a": tensor(np.int64(5)),
        "b": tensor(np.array([1, 2], np.float16)),
        "c": tensor(np.array([True])),
    }
    engine = load(tmp_path, made)
    got = run(engine, **sent)
    assert [got[n] for n in "opq"] == list(sent.values())
    with pytest.raises(EngineError, match="0 or 1"):
        run(engine, **{**sent, "c": Tensor("bool", (1,), b"\2")})


def test_an_index_out_of_range_is_the_callers_mistake(tmp_path: Path) -> None:
    made = model(
        [helper.make_node("Gather", ["x", "i"], ["y"])],
        [value("x", [3]), value("i", [1], TensorProto.INT64)],
        [value("y", [1])],
    )
    with pytest.raises(EngineError) as refused:
        run(load(tmp_path, made), x=tensor(np.zeros(3, np.float32)), i=tensor(np.array([7])))
    assert refused.value.code is Code.INVALID_REQUEST


def test_a_runtime_failure_is_typed(tmp_path: Path) -> None:
    made = model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [value("x", [None]), value("shape", [2], TensorProto.INT64)],
        [value("y", [None, None])],
    )
    with pytest.raises(EngineError) as failed:
        run(
            load(tmp_path, made),
            x=tensor(np.zeros(3, np.float32)),
            shape=tensor(np.array([2, 2])),
        )
    assert failed.value.code is Code.ENGINE_FAILED


def test_a_terabyte_asked_for_is_out_of_memory(tmp_path: Path) -> None:
    made = model(
        [helper.make_node("ConstantOfShape", ["n"], ["y"])],
        [value("n", [1], TensorProto.INT64)],
        [value("y", [None])],
    )
    with pytest.raises(EngineError) as failed:
        run(load(tmp_path, made), n=tensor(np.array([1 << 46])))
    assert failed.value.code is Code.OUT_OF_MEMORY


def test_an_answer_beyond_the_bound_is_refused(tmp_path: Path) -> None:
    made = model(
        [helper.make_node("ConstantOfShape", ["n"], ["y"])],
        [value("n", [1], TensorProto.INT64)],
        [value("y", [None])],
    )
    with pytest.raises(EngineError, match="are allowed") as refused:
        run(load(tmp_path, made), n=tensor(np.array([10_000_000])))
    assert refused.value.code is Code.INVALID_REQUEST


def test_a_cancel_stops_a_loop_without_end(tmp_path: Path) -> None:
    engine = load(tmp_path, endless())
    cancel = CancelToken()
    threading.Timer(0.1, cancel.cancel).start()
    request = TensorRequest({"n": tensor(np.zeros(1, np.float32))})
    assert list(engine.infer(request, cancel)) == [Finish("cancelled")]


def test_a_graph_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    made = model(
        [helper.make_node("NoSuchOperator", ["x"], ["y"])], [value("x", [1])], [value("y", [1])]
    )
    with pytest.raises(EngineError) as refused:
        load(tmp_path, made)
    assert refused.value.code is Code.UNSUPPORTED_MODEL


def test_the_estimate_grows_with_the_file_and_names_the_precision(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", linear())
    estimate = OnnxEngine().estimate(onnx_source(path))
    assert estimate.precision == "float32"
    assert estimate.memory_bytes > 2 * path.stat().st_size
