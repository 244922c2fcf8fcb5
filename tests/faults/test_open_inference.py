"""Triton's unmodified client, a node's gateway, and an ONNX model on another node."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.http as triton
from onnx import TensorProto, helper
from scripts.nodes import NodeProcess, wait_for
from scripts.offers import offers
from tests.engines.onnx_models import linear, model, save, value
from tests.faults.test_tasks import grid
from tests.patience import PATIENCE_SECONDS
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from aigrid.engines.base import CancelToken, Endpoint, ModelSource
from aigrid.engines.onnx_tensors import array_of
from aigrid.engines.upstream.open_inference import OpenInferenceEngine
from aigrid.protocol.inference import Tensor, TensorChunk, TensorRequest
from aigrid.protocol.upstream import Upstream

__all__ = ["grid"]  # the fixture: two nodes for all tests here
pytestmark = pytest.mark.process
Grid = tuple[NodeProcess, NodeProcess]
KINDS = {
    "f2": TensorProto.FLOAT16,
    "f8": TensorProto.DOUBLE,
    "u1": TensorProto.UINT8,
    "i8": TensorProto.INT64,
    "?": TensorProto.BOOL,
    "O": TensorProto.STRING,
}


def many() -> Any:
    """Every input comes out again, of each kind that travels its own way."""
    names = [f"in_{n}" for n in range(len(KINDS))]
    nodes = [helper.make_node("Identity", [name], [f"out_{name}"]) for name in names]
    inputs = [value(name, ["n"], kind) for name, kind in zip(names, KINDS.values(), strict=True)]
    outputs = [
        value(f"out_{name}", ["n"], kind) for name, kind in zip(names, KINDS.values(), strict=True)
    ]
    return model(nodes, inputs, outputs)


def publish(grid: Grid, path: Path, name: str) -> str:
    asked, holder = grid
    given = (str(path), "--capability", "reinforcement-learning", "--name", name)
    found = str(holder.cli("publish", *given)["model"])
    wait_for(
        lambda: name in [one["name"] for one in offers(asked)],
        timeout_seconds=PATIENCE_SECONDS,
        what=f"the offer of {name}",
    )
    return found


def told(name: str, array: Any, *, binary: bool) -> triton.InferInput:
    tensor = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    return tensor.set_data_from_numpy(array, binary_data=binary)


def connected(node: NodeProcess) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(node.gateway.removeprefix("http://"))


def test_triton_s_client_gets_what_the_runtime_computes(grid: Grid, tmp_path: Path) -> None:
    asked, holder = grid
    path = save(tmp_path / "model.onnx", linear())
    model_id = publish(grid, path, "org/linear:1")
    x = np.asarray([[1, 2, 3], [0.5, 4, 9]], "f4")
    y, z = ort.InferenceSession(str(path)).run(["y", "z"], {"x": x})
    client = connected(asked)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("org/linear:1")
    metadata = client.get_model_metadata("org/linear:1")
    assert metadata["versions"] == [model_id]
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    assert [one["name"] for one in metadata["outputs"]] == ["y", "z"]
    for binary in (True, False):
        outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("z", "y")]
        found = client.infer(
            "org/linear:1", [told("x", x, binary=binary)], outputs=outputs, request_id="7"
        )
        assert found.get_response()["id"] == "7"
        assert found.get_response()["parameters"]["aigrid_node"] == holder.peer_id
        assert np.array_equal(found.as_numpy("y"), y)
        assert np.array_equal(found.as_numpy("z"), z)
    all_of_it = client.infer("org/linear:1", [told("x", x, binary=True)], model_version=model_id)
    assert np.array_equal(all_of_it.as_numpy("y"), y)
    large = np.arange(1_500_000, dtype="f4").reshape(-1, 3)  # larger than a frame, both ways
    found = client.infer("org/linear:1", [told("x", large, binary=True)])
    assert np.array_equal(found.as_numpy("z"), np.sqrt(large))
    for wrong, said in ((x[:, :2], "expected FP32"), (x.astype("f8"), "expected FP32")):
        with pytest.raises(InferenceServerException, match=said):
            client.infer("org/linear:1", [told("x", wrong, binary=True)])
    with pytest.raises(InferenceServerException, match="binary_data"):
        client.infer(
            "org/linear:1",
            [told("x", -x, binary=False)],
            outputs=[triton.InferRequestedOutput("z", binary_data=False)],
        )


def test_a_gateway_is_a_server_to_our_own_engine(grid: Grid, tmp_path: Path) -> None:
    path = save(tmp_path / "model.onnx", linear(lambda m: setattr(m, "model_version", 3)))
    model_id = publish(grid, path, "org/linear:3")
    endpoint, engine = Endpoint(grid[0].gateway), OpenInferenceEngine()
    (served,) = engine.discover(endpoint, "org/linear:3")
    assert served.version == model_id
    upstream = Upstream("did:key:z6Mk", served.name, model_id, served.inputs, served.outputs)
    source = ModelSource(
        "bafy", "open_inference", {}, "tensor", upstream=upstream, endpoint=endpoint
    )
    engine.load(source, threads=1)
    x = np.asarray([[1, 2, 3]], "<f4")
    request = TensorRequest({"x": Tensor("float32", (1, 3), x.tobytes())}, ("z",))
    chunk, _ = engine.infer(request, CancelToken())
    assert isinstance(chunk, TensorChunk)
    assert np.array_equal(array_of(chunk.outputs["z"]), np.sqrt(x))


def test_every_kind_of_tensor_travels(grid: Grid, tmp_path: Path) -> None:
    publish(grid, save(tmp_path / "model.onnx", many()), "many")
    client = connected(grid[0])
    values: list[Any] = [1, 0, 1]
    arrays = {f"in_{n}": np.asarray(values, kind) for n, kind in enumerate(KINDS) if kind != "O"}
    arrays[f"in_{len(KINDS) - 1}"] = np.asarray(["é", "", 'zwei, "drei"'], object)
    for binary in (True, False):
        inputs = [told(name, array, binary=binary) for name, array in arrays.items()]
        outputs = [triton.InferRequestedOutput(f"out_{n}", binary_data=binary) for n in arrays]
        found = client.infer("many", inputs, outputs=outputs)
        for name, array in arrays.items():
            back = found.as_numpy(f"out_{name}")
            if array.dtype == object and binary:
                back = np.vectorize(bytes.decode, otypes=[object])(back)
            assert back.dtype == array.dtype
            assert back.tolist() == array.tolist()


def test_an_orchestrator_loads_and_unloads(grid: Grid, tmp_path: Path) -> None:
    holder = grid[1]
    publish(
        grid,
        save(tmp_path / "model.onnx", linear(lambda m: setattr(m, "model_version", 7))),
        "orchestrated",
    )
    client = connected(holder)

    def state() -> str:
        index = client.get_model_repository_index()
        return next(str(one["state"]) for one in index if one["name"] == "orchestrated")

    client.unload_model("orchestrated")
    assert state() == "UNAVAILABLE"
    client.load_model("orchestrated")
    assert state() == "READY"
    client.unload_model("orchestrated")
    assert state() == "UNAVAILABLE"
    with pytest.raises(InferenceServerException, match="does not hold"):
        client.load_model("nothing")
