"""Tables and series: what the library that trained the model says, the task says."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tests.engines.tasks import models
from tests.engines.tasks.models import IRIS, KINDS

from aigrid.engines.base import CancelToken, ModelSource
from aigrid.engines.onnx import OnnxEngine
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import Finish, TaskChunk, TaskRequest
from aigrid.protocol.task import TaskMapping, TaskOutput


def run(source: ModelSource, given, **parameters):
    engine = OnnxEngine()
    engine.load(source, threads=1)
    request = TaskRequest(source.task, json.dumps(given).encode(), parameters)
    chunk, finish = engine.infer(request, CancelToken())
    assert isinstance(chunk, TaskChunk)
    assert finish == Finish("stop")
    return json.loads(chunk.output)


def refused(source: ModelSource, given, **parameters) -> EngineError:
    with pytest.raises(EngineError) as info:
        run(source, given, **parameters)
    return info.value


def rows(x, names=IRIS):
    return [dict(zip(names, map(float, row), strict=True)) for row in x]


def test_classes_are_those_of_the_trained_forest(tmp_path):
    source, forest = models.classifier(tmp_path)
    x, _ = models.iris()
    answers = run(source, rows(x[::10]))
    expected = forest.predict_proba(x[::10])
    assert [a["label"] for a in answers] == [KINDS[n] for n in expected.argmax(axis=1)]
    assert np.allclose([a["score"] for a in answers], expected.max(axis=1), atol=1e-5)


def test_numbers_are_those_of_the_trained_line(tmp_path):
    source, line = models.regressor(tmp_path)
    x, _ = models.iris()
    answers = run(source, rows(x[::10, :3], IRIS[:3]))
    assert np.allclose(answers, line.predict(x[::10, :3]), atol=1e-4)


def test_an_outlier_is_an_anomaly_and_the_rest_is_not(tmp_path):
    source, forest = models.anomalies(tmp_path)
    x, _ = models.iris()
    probe = np.vstack([x[:5], [[40, 1, 40, 1]]]).astype(np.float32)
    answers = run(source, rows(probe))
    assert np.allclose([a["score"] for a in answers], forest.decision_function(probe), atol=1e-4)
    assert answers[-1]["anomaly"]
    assert answers[-1]["index"] == 5
    assert not all(a["anomaly"] for a in answers)
    assert all(a["anomaly"] for a in run(source, rows(probe), threshold=1.0))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "array of objects"),
        ([], "between 1 and"),
        ([{"sepal length": 1}], "lacks the column"),
        ([{**dict.fromkeys(IRIS, 1.0), "colour": 1}], "column 'colour'"),
        ([dict.fromkeys(IRIS, "long")], "is a number"),
    ],
)
def test_wrong_rows_are_refused_by_what_is_wrong(tmp_path, given, says):
    source, _ = models.classifier(tmp_path)
    error = refused(source, given)
    assert error.code is Code.INVALID_REQUEST
    assert says in error.message


def test_unknown_parameters_and_tasks_are_refused_by_name(tmp_path):
    source, _ = models.classifier(tmp_path)
    assert "`speed`" in refused(source, rows(models.iris()[0][:1]), speed=1).message
    engine = OnnxEngine()
    engine.load(source, threads=1)
    with pytest.raises(EngineError, match="does tabular-classification"):
        list(engine.infer(TaskRequest("translation", b'"x"'), CancelToken()))


def test_a_mapping_that_does_not_fit_the_model_is_refused_at_load(tmp_path):
    source, _ = models.classifier(tmp_path)
    mapping = source.mapping
    assert mapping is not None
    for wrong in (
        replace(source, task="translation"),
        replace(source, mapping=TaskMapping(output=mapping.output)),
        replace(source, mapping=TaskMapping(table=mapping.table, output=TaskOutput("z"))),
    ):
        with pytest.raises(EngineError) as info:
            OnnxEngine().load(wrong, threads=1)
        assert info.value.code is Code.UNSUPPORTED_MODEL
