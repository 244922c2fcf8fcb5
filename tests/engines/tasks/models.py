"""Small models, trained here, as files with their mappings."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from aigrid.engines.base import ModelSource
from aigrid.protocol.task import (
    Feature,
    ImageInput,
    TableInput,
    TaskMapping,
    TaskOutput,
    TextInput,
)

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


GOOD = ("good", "great", "lovely", "fine")
BAD = ("bad", "awful", "dull", "broken")
NEUTRAL = ("the", "film", "was", "and", "very")


def reviews() -> tuple[list[str], list[int]]:
    """Short texts, and whether each is kind."""
    texts = [
        f"the film was {a} and very {b}" for words in (GOOD, BAD) for a in words for b in words
    ]
    return texts, [0] * 16 + [1] * 16


def sentiment(folder: Path) -> ModelSource:
    """Bag of words and logistic regression, as a graph over token ids."""
    words = ("[UNK]", *NEUTRAL, *GOOD, *BAD)
    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    texts, kinds = reviews()
    bags = np.zeros((len(texts), len(words)), np.float32)
    for row, text in enumerate(texts):
        np.add.at(bags[row], tokenizer.encode(text).ids, 1)
    line = LogisticRegression().fit(bags, kinds)
    weights = np.stack([-line.coef_[0] / 2, line.coef_[0] / 2], axis=1).astype(np.float32)
    bias = np.array([-line.intercept_[0] / 2, line.intercept_[0] / 2], np.float32)
    nodes = [
        helper.make_node("Gather", ["w", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["m", "last"], ["mask"]),
        helper.make_node("Mul", ["rows", "mask"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["sums"], keepdims=0),
        helper.make_node("Add", ["sums", "b"], ["logits"]),
    ]
    held = {"w": weights, "b": bias, "last": np.array([2]), "middle": np.array([1])}
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    made = graph(nodes, ids, "logits", held)
    mapping = TaskMapping(
        text=TextInput(tokenizer="tokenizer.json", max_tokens=64),
        output=TaskOutput(labels=("kind", "unkind"), activation="softmax"),
    )
    found = source(folder, made, "text-classification", mapping)
    found.files["tokenizer.json"] = folder / "tokenizer.json"  # type: ignore[index]
    return found


def digits(folder: Path) -> tuple[ModelSource, np.ndarray, np.ndarray]:
    """Handwritten digits of 8 x 8 pixels; the source, pictures of 0 to 255, and what they show."""
    data = load_digits()
    x, y = (data.data / 16).astype(np.float32), data.target
    line = LogisticRegression(max_iter=500).fit(x, y)
    nodes = [
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    held = {
        "w": line.coef_.T.astype(np.float32),
        "b": line.intercept_.astype(np.float32),
    }
    shape = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 1, 8, 8])
    mapping = TaskMapping(
        image=ImageInput(width=8, height=8, channels="gray"),
        output=TaskOutput(labels=tuple("0123456789"), activation="softmax", top=3),
    )
    made = graph(nodes, [shape], "logits", held)
    pictures = np.round(data.images * 255 / 16).astype(np.uint8)
    return source(folder, made, "image-classification", mapping), pictures, y


def graph(nodes: list[Any], inputs: list[Any], output: str, held: dict[str, np.ndarray]) -> Any:
    out = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(array, name) for name, array in held.items()]
    graph = helper.make_graph(nodes, "g", inputs, [out], initializer=tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def wave(cycles: int = 20, *, noise: float = 0.02, seed: int = 0) -> np.ndarray:
    """A sine of 20 values a cycle, with a little noise."""
    t = np.arange(cycles * 20)
    return np.sin(t * 2 * np.pi / 20) + np.random.default_rng(seed).normal(0, noise, len(t))


def autoencoder(folder: Path, *, window: int = 16, shape: tuple[Any, ...] = ()) -> ModelSource:
    """Principal components of a wave's windows: what is no such wave comes out as another.

    `shape` is what the input is declared as, [batch, window] unless told.
    """
    views = np.lib.stride_tricks.sliding_window_view(wave(), window)
    pca = PCA(3).fit(views)
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["rows"]),
        helper.make_node("Sub", ["rows", "mean"], ["centred"]),
        helper.make_node("MatMul", ["centred", "in"], ["kept"]),
        helper.make_node("MatMul", ["kept", "out"], ["back"]),
        helper.make_node("Add", ["back", "mean"], ["again"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Reshape", ["again", "shape"], ["y"]),
    ]
    held = {
        "flat": np.array([-1, window]),
        "mean": pca.mean_.astype(np.float32),
        "in": pca.components_.T.astype(np.float32),
        "out": pca.components_.astype(np.float32),
    }
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape or ["batch", window])
    mapping = TaskMapping(table=TableInput(window=window), output=TaskOutput(threshold="0.05"))
    return source(folder, graph(nodes, [x], "y", held), "anomaly-detection", mapping)
