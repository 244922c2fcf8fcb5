"""Small models of numbers for programs that need many of them, and asking one over HTTP."""

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from scripts.nodes import NodeProcess

TASK = "tabular-regression"
COLUMNS = ("a", "b", "c", "d")
MAPPING = {"table": {"features": [{"name": name} for name in COLUMNS]}, "output": {"tensor": "y"}}


def write_regressor(path: Path, *, seed: int, width: int = 64, layers: int = 1) -> None:
    """An ONNX file of layers of width x width float32 numbers, like no other of another seed."""
    rng, names = np.random.default_rng(seed), ["first", *(f"w{n}" for n in range(layers)), "last"]
    shapes = [(len(COLUMNS), width), *[(width, width)] * layers, (width, 1)]
    weights = [
        numpy_helper.from_array((rng.standard_normal(shape) / width).astype(np.float32), name)
        for name, shape in zip(names, shapes, strict=True)
    ]
    between = ["x", *(f"h{n}" for n in range(len(names) - 1)), "y"]
    nodes = [
        helper.make_node("MatMul", [between[n], name], [between[n + 1]])
        for n, name in enumerate(names)
    ]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size])]
        for name, size in (("x", len(COLUMNS)), ("y", 1))
    ]
    graph = helper.make_graph(nodes, "regressor", *ends, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())


def publish(node: NodeProcess, path: Path, name: str) -> int:
    """Offer a regressor; the bytes of memory that its engine says it takes."""
    mapping = path.with_suffix(".json")
    mapping.write_text(json.dumps(MAPPING))
    said = node.cli(
        *("publish", str(path), "--name", name, "--capability", TASK),
        *("--task-mapping", str(mapping), "--yes"),
    )
    return int(said["said"]["memory_bytes"])


@dataclass(frozen=True)
class Reply:
    """`status` 0 where none came, `code` the error's; `retry_after` seconds, or None."""

    status: int
    seconds: float
    code: str = ""
    message: str = ""
    retry_after: float | None = None


def ask(gateway: str, model: str, *, rows: int = 1, timeout_seconds: float = 60.0) -> Reply:
    """One request on a connection of its own."""
    row = dict.fromkeys(COLUMNS, 0.5)
    body = json.dumps({"model": model, "input": [row] * rows})
    began = time.perf_counter()
    connection = http.client.HTTPConnection(urlsplit(gateway).netloc, timeout=timeout_seconds)
    try:
        kind = {"Content-Type": "application/json"}
        connection.request("POST", f"/aigrid/v1/tasks/{TASK}", body, kind)
        response = connection.getresponse()
        data = response.read()
        after = response.getheader("retry-after")
    except (OSError, http.client.HTTPException) as error:
        return Reply(0, time.perf_counter() - began, type(error).__name__)
    finally:
        connection.close()
    seconds = time.perf_counter() - began
    said: Mapping[str, str] = {}
    if response.status != http.HTTPStatus.OK:
        said = json.loads(data).get("error", {})
    return Reply(
        response.status,
        seconds,
        str(said.get("code", "")),
        str(said.get("message", "")),
        None if after is None else float(after),
    )
