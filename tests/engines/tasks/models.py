"""Small models, trained here, as files with their mappings."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.linear_model import LinearRegression

from aigrid.engines.base import ModelSource
from aigrid.protocol.task import Feature, TableInput, TaskMapping, TaskOutput

IRIS = ("sepal length", "sepal width", "petal length", "petal width")
KINDS = ("setosa", "versicolor", "virginica")


@cache
def iris() -> tuple[np.ndarray, np.ndarray]:
    data = load_iris()
    return data.data.astype(np.float32), data.target


def columns(*names: str) -> TableInput:
    return TableInput(tuple(Feature(name) for name in names))


def source(folder: Path, model: Any, task: str, mapping: TaskMapping) -> ModelSource:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return ModelSource("bafymodel", "onnx", {path.name: path}, task, mapping=mapping)


def classifier(folder: Path) -> tuple[ModelSource, RandomForestClassifier]:
    x, y = iris()
    forest = RandomForestClassifier(8, random_state=0).fit(x, y)
    model = to_onnx(forest, x[:1], options={"zipmap": False}, target_opset=17)
    mapping = TaskMapping(
        table=columns(*IRIS), output=TaskOutput(tensor="probabilities", labels=KINDS)
    )
    return source(folder, model, "tabular-classification", mapping), forest


def regressor(folder: Path) -> tuple[ModelSource, LinearRegression]:
    x, _ = iris()
    line = LinearRegression().fit(x[:, :3], x[:, 3])
    model = to_onnx(line, x[:1, :3], target_opset=17)
    mapping = TaskMapping(table=columns(*IRIS[:3]))
    return source(folder, model, "tabular-regression", mapping), line


def anomalies(folder: Path) -> tuple[ModelSource, IsolationForest]:
    x, _ = iris()
    forest = IsolationForest(n_estimators=16, random_state=0).fit(x)
    model = to_onnx(forest, x[:1], target_opset={"": 17, "ai.onnx.ml": 3})
    mapping = TaskMapping(
        table=columns(*IRIS),
        output=TaskOutput(tensor="scores", greater_is_anomalous=False),
    )
    return source(folder, model, "anomaly-detection", mapping), forest
