"""Series, and rows whose numbers or shapes are unusual."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.engines.tasks import models
from tests.engines.tasks.asking import refused, run
from tests.engines.tasks.models import IRIS, columns

from aigrid.engines.base import CancelToken
from aigrid.engines.onnx import OnnxEngine
from aigrid.protocol.errors import Code
from aigrid.protocol.inference import TaskChunk, TaskRequest
from aigrid.protocol.task import TaskOutput

SHAPES: list[tuple[Any, ...]] = [
    ("batch", 16),
    (1, 16),
    ("batch", 16, 1),
    ("batch", 1, 16),
    (1, 1, 16),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_jump_in_a_series_is_found_where_it_is(tmp_path: Path, shape: tuple[Any, ...]) -> None:
    source = models.autoencoder(tmp_path, shape=shape)
    series = models.wave(8, seed=1)
    series[90:94] += 1.5
    found = run(source, series.tolist())
    assert [one["index"] for one in found] == list(range(len(series) - 15))
    odd = [one["index"] for one in found if one["anomaly"]]
    assert odd
    assert all(90 - 16 < n < 94 for n in odd)
    assert not any(one["anomaly"] for one in run(source, models.wave(8, seed=2).tolist()))


def test_a_series_that_is_too_short_is_refused(tmp_path: Path) -> None:
    source = models.autoencoder(tmp_path)
    for given in ([1.0] * 15, [], [1.0] * 65_537, ["a"], [None] * 16, {"x": 1}):
        assert refused(source, given).code is Code.INVALID_REQUEST


def test_the_windows_of_a_long_series_are_not_all_there_at_once(tmp_path: Path) -> None:
    # 65,409 windows of 128 values are 33 MB, of 16,384 values they would be three gigabytes.
    source = models.autoencoder(tmp_path, window=128)
    engine, sizes = OnnxEngine(), []
    engine.load(source, threads=1)
    assert engine._tasks is not None
    task: Any = engine._tasks._tasks["anomaly-detection"]
    runner = task.runner

    class Spy:
        inputs = runner.inputs

        def run(self, feeds: Any, cancel: CancelToken) -> Any:
            sizes.append(next(iter(feeds.values())).size)
            return runner.run(feeds, cancel)

    task.runner = Spy()
    series = json.dumps([0.0] * 65_536).encode()
    chunk, _ = engine.infer(TaskRequest(source.task, series), CancelToken())
    assert isinstance(chunk, TaskChunk)
    assert len(json.loads(chunk.output)) == 65_409
    assert len(sizes) > 1
    assert max(sizes) <= 1 << 20


@pytest.mark.parametrize("value", [10**400, 1e39, -1e300])
def test_a_number_beyond_the_models_own_is_the_askers_fault(tmp_path: Path, value: float) -> None:
    source, _ = models.regressor(tmp_path)
    row = dict.fromkeys(IRIS[:3], 1.0)
    error = refused(source, [{**row, IRIS[1]: value}])
    assert error.code is Code.INVALID_REQUEST
    assert IRIS[1] in error.message
    if value != 10**400:  # which is no number to the reader of the series
        series = refused(models.autoencoder(tmp_path), [value] * 16)
        assert "32 bits" in series.message


def test_an_autoencoder_of_rows_scores_what_it_cannot_repeat(tmp_path: Path) -> None:
    source = models.autoencoder(tmp_path, window=4)
    mapping = msgspec.structs.replace(source.mapping, table=columns(*IRIS))  # type: ignore[type-var]
    rows = np.lib.stride_tricks.sliding_window_view(models.wave(2), 4)[:3]
    given = [dict(zip(IRIS, map(float, row), strict=True)) for row in [*rows, [1, -1, 1, -1]]]
    scores = [one["score"] for one in run(replace(source, mapping=mapping), given)]
    assert max(scores[:3]) < 0.05 < scores[3]


def test_a_model_of_classes_scores_no_anomalies(tmp_path: Path) -> None:
    source, _ = models.classifier(tmp_path)
    mapping = msgspec.structs.replace(  # type: ignore[type-var]
        source.mapping, output=TaskOutput(tensor="probabilities")
    )
    x, _ = models.iris()
    row = [dict(zip(IRIS, map(float, x[0]), strict=True))]
    error = refused(replace(source, task="anomaly-detection", mapping=mapping), row)
    assert error.code is Code.UNSUPPORTED_MODEL
    assert "3 numbers for each row" in error.message
