"""Small ONNX models, made here."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from aigrid.engines.base import ModelSource


def save(path: Path, model: Any) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def onnx_source(path: Path, **options: str | float) -> ModelSource:
    return ModelSource("bafyonnx", "onnx", {"model.onnx": path}, "tabular", options)


def model(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    *,
    initializers: Sequence[Any] = (),
    domains: Sequence[tuple[str, int]] = (("", 17),),
    change: Callable[[Any], None] = lambda _: None,
    **more: Any,
) -> Any:
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=initializers)
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid(*d) for d in domains], ir_version=8, **more
    )
    change(made)
    return made


def value(
    name: str, shape: Sequence[int | str | None] | None, kind: int = TensorProto.FLOAT
) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def linear(change: Callable[[Any], None] = lambda _: None) -> Any:
    """y = x @ w + b for x of (batch, 3), and z = sqrt(x)."""
    weights = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "w")
    bias = numpy_helper.from_array(np.ones(2, dtype=np.float32), "b")
    return model(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["y"]),
            helper.make_node("Sqrt", ["x"], ["z"]),
        ],
        [value("x", ["batch", 3])],
        [value("y", ["batch", 2]), value("z", ["batch", 3])],
        initializers=[weights, bias],
        change=change,
    )


def endless() -> Any:
    """A loop of 2**62 steps over `n`."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Add", ["sum", "sum"], ["more"]),
        ],
        "body",
        [
            value("i", [], TensorProto.INT64),
            value("going", [], TensorProto.BOOL),
            value("sum", [None]),
        ],
        [value("still", [], TensorProto.BOOL), value("more", [None])],
    )
    return model(
        [helper.make_node("Loop", ["steps", "", "n"], ["out"], body=body)],
        [value("n", [None])],
        [value("out", [None])],
        initializers=[numpy_helper.from_array(np.int64(2**62), "steps")],
    )
