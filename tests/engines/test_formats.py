"""What a file is, and which files never come near a runtime."""

import json
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tests.engines.gguf_writer import tiny_llama, write
from tests.engines.onnx_models import linear, model, save, value

from aigrid.engines.formats import detect, inspect
from aigrid.engines.onnx_check import check_onnx
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS


def named(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_files_are_known_by_content_whatever_their_name(tmp_path: Path) -> None:
    header = json.dumps({}).encode()
    with zipfile.ZipFile(tmp_path / "zip.onnx", "w") as archive:
        archive.writestr("data.pkl", b"")
    files = {
        "zip": tmp_path / "zip.onnx",
        "pickle": named(tmp_path / "p.gguf", pickle.dumps({"a": 1})),
        "onnx": save(tmp_path / "o.gguf", linear()),
        "safetensors": named(tmp_path / "s.onnx", len(header).to_bytes(8, "little") + header),
        "other": named(tmp_path / "x.onnx", b"hello, world"),
    }
    assert {kind: detect(path) for kind, path in files.items()} == {k: k for k in files}
    assert detect(named(tmp_path / "empty", b"")) == "other"
    for kind in ("zip", "pickle"):
        with pytest.raises(EngineError) as refused:
            inspect(files[kind])
        assert refused.value.code is Code.UNSAFE_FILE
    for kind in ("safetensors", "other"):
        with pytest.raises(EngineError) as refused:
            inspect(files[kind])
        assert refused.value.code is Code.UNSUPPORTED_MODEL


def test_what_is_missing_or_no_file_says_so(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(EngineError) as refused:
            inspect(path)
        assert refused.value.code is Code.MODEL_FILE_MISSING


def test_a_good_model_tells_its_precision(tmp_path: Path) -> None:
    path = save(tmp_path / "m", linear())
    assert inspect(path).precision == "float32"
    assert inspect(path).size_bytes == path.stat().st_size
    llama = inspect(write(tmp_path, tiny_llama(kind="Q4_1")))
    assert (llama.format, llama.precision) == ("gguf", "q4_1")


def _external(made: Any) -> None:
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def _external_hint_only(made: Any) -> None:
    made.graph.initializer[0].external_data.add(key="location", value="x")


def _in_attribute(change: Callable[[Any], None]) -> Any:
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), "t")
    change(tensor)
    return model([helper.make_node("Constant", [], ["y"], value=tensor)], [], [value("y", [2])])


def _mark_external(tensor: Any) -> None:
    tensor.data_location = TensorProto.EXTERNAL


def _huge(tensor: Any) -> None:
    tensor.ClearField("raw_data")
    tensor.dims[:] = [1 << 39]


def _in_branch(node: Any) -> Any:
    branch = helper.make_graph([node], "b", [], [value("o", [1])])
    return model(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        [value("c", [1], TensorProto.BOOL)],
        [value("y", [1])],
    )


def _nested(depth: int) -> Any:
    graph = helper.make_graph([], "g", [], [])
    for _ in range(depth):
        graph = helper.make_graph(
            [helper.make_node("If", ["c"], [], then_branch=graph)], "g", [], []
        )
    return helper.make_model(graph)


def _custom(made: Any) -> None:
    made.graph.node[0].domain = "evil.ops"


def _domain_only(made: Any) -> None:
    made.opset_import.add(domain="evil.ops", version=1)


def _negative(made: Any) -> None:
    made.graph.initializer[0].dims[:] = [-3, -2]


def _short(made: Any) -> None:
    made.graph.initializer[0].raw_data = b"\0" * 8


def _no_type(made: Any) -> None:
    made.graph.initializer[0].data_type = 0


HOSTILE = {
    "external data": lambda: linear(_external),
    "external data, half said": lambda: linear(_external_hint_only),
    "external data in an attribute": lambda: _in_attribute(_mark_external),
    "a tensor of terabytes": lambda: _in_attribute(_huge),
    "custom operators": lambda: linear(_custom),
    "a custom domain": lambda: linear(_domain_only),
    "a custom operator in a branch": lambda: _in_branch(
        helper.make_node("Shell", [], ["o"], domain="evil")
    ),
    "a custom operator with a name of any length": lambda: _in_branch(
        helper.make_node("S" * 3000, [], ["o"], domain="e" * 3000)
    ),
    "an operator that reads files": lambda: _in_branch(
        helper.make_node("EPContext", [], ["o"], domain="com.microsoft")
    ),
    "negative sizes": lambda: linear(_negative),
    "too little data": lambda: linear(_short),
    "no type": lambda: linear(_no_type),
    "branches in branches": lambda: _nested(LIMITS.onnx_depth_max + 1),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_model_is_refused_before_a_runtime_sees_it(tmp_path: Path, what: str) -> None:
    with pytest.raises(EngineError) as refused:
        check_onnx(save(tmp_path / "m.onnx", HOSTILE[what]()))
    assert refused.value.code is Code.UNSAFE_FILE
    assert len(refused.value.message) < 400


def test_two_graphs_are_not_one(tmp_path: Path) -> None:
    # A parser would merge them; which operators there are must not depend on the parser.
    data = linear().SerializeToString() + linear().SerializeToString()
    with pytest.raises(EngineError) as refused:
        check_onnx(named(tmp_path / "m.onnx", data))
    assert refused.value.code is Code.UNSAFE_FILE


def test_a_repeated_operator_type_hides_nothing(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["a", "b"], ["c"]).SerializeToString()
    evil = onnx.NodeProto(op_type="EPContext", domain="com.microsoft").SerializeToString()
    graph = b"\x0a" + len(evil + node).to_bytes(1, "big") + evil + node
    data = b"\x08\x08\x3a" + len(graph).to_bytes(1, "big") + graph
    onnx.ModelProto.FromString(data)
    with pytest.raises(EngineError) as refused:
        check_onnx(named(tmp_path / "m.onnx", data))
    assert refused.value.code is Code.UNSAFE_FILE


def test_functions_of_the_file_itself_are_allowed(tmp_path: Path) -> None:
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    made = model(
        [helper.make_node("Twice", ["x"], ["y"], domain="mine")],
        [value("x", [1])],
        [value("y", [1])],
        domains=(("", 17), ("mine", 1)),
        functions=[function],
    )
    assert check_onnx(save(tmp_path / "m.onnx", made)).nodes == 2


@pytest.mark.parametrize("kind", ["float32", "int64", "float16", "bool", "uint8"])
@pytest.mark.parametrize("raw", [True, False])
def test_every_way_to_store_a_tensor_is_read_like_onnx_does(
    tmp_path: Path, kind: str, raw: bool
) -> None:
    array = np.zeros((5, 7), kind)
    number = helper.np_dtype_to_tensor_dtype(array.dtype)
    stored = helper.make_tensor(
        "t", number, array.shape, array.tobytes() if raw else array.ravel(), raw=raw
    )
    made = model([], [], [value("t", [5, 7], number)], initializers=[stored])
    facts = check_onnx(save(tmp_path / "m.onnx", made))
    assert (facts.weight_bytes, facts.precision) == (array.nbytes, kind)


GOOD = linear().SerializeToString()


@given(st.data())
@settings(max_examples=100)
def test_a_damaged_file_raises_nothing_but_engine_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    bad = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(bad)))
    path = named(tmp_path_factory.getbasetemp() / "damaged.onnx", bytes(bad[:cut]))
    with suppress(EngineError):
        check_onnx(path)
    with suppress(EngineError):
        inspect(path)


@pytest.mark.parametrize("size", [4, 24, 100, 400])
def test_a_broken_gguf_is_unsafe_and_nothing_else(tmp_path: Path, size: int) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(tiny_llama().build()[:size])
    with pytest.raises(EngineError) as refused:
        inspect(path)
    assert refused.value.code is Code.UNSAFE_FILE
