"""What an ONNX file says of itself, beside what the onnx library reads in it."""

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.engines.onnx_models import linear, save
from tests.engines.tasks import models

from aigrid.engines.metadata import read
from aigrid.engines.metadata.onnx_model import onnx_facts
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.task import TableInput, TaskMapping, TaskOutput, TextInput
from aigrid.protocol.tensors import TensorSpec


def kind(value: onnx.ValueInfoProto) -> tuple[str, list[int]]:
    tensor = value.type.tensor_type
    sizes = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
    return value.name, sizes


@pytest.mark.parametrize("make", [models.classifier, models.regressor, models.anomalies])
def test_tensors_are_those_that_the_library_reads(tmp_path: Path, make) -> None:
    make(tmp_path)
    path = tmp_path / "model.onnx"
    graph = onnx.load(path).graph
    facts = onnx_facts(path)
    assert [(s.name, list(s.shape)) for s in facts.inputs if s] == [kind(v) for v in graph.input]
    assert [(s.name, list(s.shape)) for s in facts.outputs if s] == [kind(v) for v in graph.output]
    assert facts.operators >= {node.op_type for node in graph.node}


def test_weights_that_are_listed_as_inputs_are_none(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [2.0])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["n"]), value("w", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, ["n"])],
        [weight],
    )
    path = save(tmp_path / "m.onnx", helper.make_model(graph))
    assert onnx_facts(path).inputs == [TensorSpec("x", "FP32", (-1,))]


def test_a_classifier_of_scikit_learn_needs_no_mapping(tmp_path: Path) -> None:
    models.classifier(tmp_path)
    draft = read(tmp_path / "model.onnx")
    assert draft.task == "tabular-classification"
    assert isinstance(draft.mapping, TaskMapping)
    assert isinstance(draft.mapping.table, TableInput)
    assert [f.name for f in draft.mapping.table.features] == ["x0", "x1", "x2", "x3"]
    assert draft.mapping.output == TaskOutput("probabilities", ("0", "1", "2"))


def test_a_regressor_is_known_and_an_outlier_detector_is_not_guessed(tmp_path: Path) -> None:
    for make, task in ((models.regressor, "tabular-regression"), (models.anomalies, "")):
        folder = tmp_path / make.__name__
        folder.mkdir()
        make(folder)
        assert read(folder / "model.onnx").task == task


def test_a_file_may_bring_its_own_mapping(tmp_path: Path) -> None:
    model = linear()
    mapping = TaskMapping(text=TextInput(max_tokens=9))
    helper.set_model_props(
        model,
        {
            "aigrid.mapping": msgspec.json.encode(mapping).decode(),
            "aigrid.task": "text-classification",
            "license": "mit",
            "language": "en, de",
        },
    )
    draft = read(save(tmp_path / "m.onnx", model))
    assert (draft.mapping, draft.task) == (mapping, "text-classification")
    assert (draft.license_id, draft.languages) == ("MIT", ("en", "de"))
    assert draft.origins["mapping"] == "metadata_props"


def test_a_property_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    model = linear()
    helper.set_model_props(model, {"aigrid.mapping": '{"text": 7}'})
    with pytest.raises(EngineError, match=r"aigrid\.mapping") as refused:
        read(save(tmp_path / "m.onnx", model))
    assert refused.value.code is Code.UNSUPPORTED_MODEL


def test_what_somebody_says_it_is_for_takes_the_place_of_what_it_looks_like(tmp_path) -> None:
    models.classifier(tmp_path)
    draft = read(tmp_path / "model.onnx", task="anomaly-detection")
    assert draft.task == "anomaly-detection"
    assert draft.mapping is msgspec.UNSET
    assert draft.origins["task"] == "--capability"


def test_labels_that_no_mapping_takes_are_not_guessed_around(tmp_path: Path) -> None:
    models.classifier(tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "classlabels_int64s":
                attribute.name = "classlabels_strings"
                attribute.type = onnx.AttributeProto.STRINGS
                del attribute.ints[:]
                attribute.strings.extend([b"a\x1b[2J", b"b", b"c"])
    draft = read(save(tmp_path / "bad.onnx", model))
    assert draft.task == ""


def test_every_prefix_and_flip_ends_in_a_typed_error_or_a_draft(tmp_path: Path) -> None:
    models.classifier(tmp_path)
    whole = (tmp_path / "model.onnx").read_bytes()
    rng = np.random.default_rng(4)
    for n in range(300):
        data = bytearray(whole)
        if n % 3:
            data[rng.integers(len(data))] ^= int(rng.integers(1, 256))
        else:
            del data[rng.integers(len(data)) :]
        path = tmp_path / "m.onnx"
        path.write_bytes(data)
        try:
            onnx_facts(path)
        except (EngineError, ValueError):
            continue
