"""Inputs of typed requests, as the worker of a model reads them: texts, tables, files.

No model is there: what would run one gives numbers of the right shape, made of what it is given.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
from scripts.fuzzing.target import Target, as_file
from scripts.fuzzing.trees import Tree
from tests.engines import bert_models

from aigrid.engines.base import CancelToken, ModelSource
from aigrid.engines.tasks import Tasks
from aigrid.engines.tasks.base import Array
from aigrid.protocol.errors import EngineError
from aigrid.protocol.inference import Finish, TaskChunk, TaskRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.task import (
    BytesInput,
    Feature,
    TableInput,
    TaskMapping,
    TaskOutput,
    TextInput,
)

Named = tuple[str, Tasks]
_LABELS = ("entailment", "contradiction")
_TEXT = TextInput("tokenizer.json", max_tokens=200, ids="x", mask="m")


class _Runner:
    """A model that puts out so many numbers for each row, or for each token of it."""

    def __init__(
        self, inputs: Mapping[str, Sequence[int | None]], count: int, *, each: bool = False
    ) -> None:
        self.inputs = inputs
        self.outputs = ("scores",)
        self._count = count
        self._each = each

    def run(self, feeds: Mapping[str, Array], cancel: CancelToken) -> Mapping[str, Array]:
        first = feeds["x"]
        assert first.size
        assert not np.isinf(first).any()
        kept = first.shape[:2] if self._each else first.shape[:1]
        numbers = np.nan_to_num(first[..., :1] if self._each else first.reshape(len(first), -1))
        size = int(np.prod(kept)) * self._count
        return {"scores": np.resize(np.sin(numbers), size).reshape(*kept, self._count)}


def tasks_of(
    task: str,
    count: int = 2,
    shape: Sequence[int | None] = (None, None),
    pooling: str = "none",
    **mapping: Any,
) -> Tasks:
    """A task of a model that puts out `count` numbers: for each token, if it classifies those."""
    said = TaskOutput(labels=_LABELS if count == 2 else (), pooling=pooling)  # type: ignore[arg-type]
    inputs = {"x": shape} | ({"m": shape} if "text" in mapping else {})
    files = {"tokenizer.json": _tokenizer()} if "text" in mapping else {}
    source = ModelSource("m", "onnx", files, task, mapping=TaskMapping(output=said, **mapping))
    each = task == "token-classification" or pooling != "none"
    return Tasks(source, _Runner(inputs, count, each=each))


@cache
def _tokenizer() -> Any:
    return as_file(bert_models.tokenizer().to_str().encode(), "tokenizer.json")


def ask_each(
    tasks: Iterable[Named],
    text: bytes,
    parameters: Mapping[str, str | float] = MappingProxyType({}),
) -> None:
    """Ask each for an answer in JSON. Raises what the last refused if all did: EngineError."""
    refused, answered = None, False
    for name, one in tasks:
        try:
            chunk, finish = one.run(TaskRequest(name, text, dict(parameters)), CancelToken())
        except EngineError as error:
            refused = error
            continue
        answered = True
        assert isinstance(chunk, TaskChunk)
        assert isinstance(finish, Finish)
        msgspec.json.decode(chunk.output)
    if refused is not None and not answered:
        raise refused


@cache
def _all() -> tuple[Named, ...]:
    columns = TableInput((Feature("a"), Feature("b", ("red", "blue"))))
    own = (
        ("tabular-classification", tasks_of("tabular-classification", table=columns)),
        ("tabular-regression", tasks_of("tabular-regression", 1, table=columns)),
        ("anomaly-detection", tasks_of("anomaly-detection", 1, table=columns)),
        (
            "anomaly-detection",
            tasks_of("anomaly-detection", 4, (None, 4), table=TableInput(window=4)),
        ),
        ("file-type-detection", tasks_of("file-type-detection", bytes=BytesInput(8, 8, 16))),
        ("text-classification", tasks_of("text-classification", text=_TEXT)),
        ("zero-shot-classification", tasks_of("zero-shot-classification", text=_TEXT)),
        ("token-classification", tasks_of("token-classification", text=_TEXT)),
        ("text-ranking", tasks_of("text-ranking", 1, text=_TEXT)),
    )
    vectors = tasks_of("feature-extraction", 5, pooling="mean", text=_TEXT)
    also = ("feature-extraction", "sentence-similarity", "text-ranking")
    return (*own, *((name, vectors) for name in also))


class _Asked(msgspec.Struct):
    input: msgspec.Raw
    parameters: dict[str, str | int | float | bool] = {}


def _input(data: bytes) -> None:
    """Every task is asked the same; parameters are left out for those that have none."""
    try:
        said = msgspec.json.decode(data, type=_Asked)
        told = dict(list(said.parameters.items())[: LIMITS.task_parameters_max])
    except (ValueError, RecursionError):
        said, told = _Asked(msgspec.Raw(data)), {}
    text = bytes(said.input)
    try:
        ask_each(_all(), text, told)
    except EngineError:
        ask_each(_all(), text)


_SAID: tuple[Any, ...] = (
    {"input": "the quick cat sat on a mat", "parameters": {"top_k": 1}},
    {"input": "A fox ran.", "parameters": {"aggregation_strategy": "average"}},
    {"input": ["the cat", "a dog ran", [2, 4, 6, 3]]},
    {"input": {"source": "the cat", "sentences": ["a dog", "the cat sat"]}},
    {"input": {"query": "cat", "documents": ["a dog", "the cat sat"]}},
    {
        "input": {"text": "the cat sat", "labels": ["cat", "dog"]},
        "parameters": {"multi_label": True, "hypothesis_template": "on {label}."},
    },
    {"input": [{"a": 1.5, "b": "red"}, {"a": None, "b": "blue"}], "parameters": {"threshold": 0.5}},
    {"input": [0, 1, 2.5, 3, 4, 5]},
    {"input": "data:application/octet-stream;base64,iVBORw0KGgoAAAANSUhEUg=="},
)
TARGETS = (
    Target(
        "task-inputs",
        lambda: Tree([json.dumps(one).encode() for one in _SAID]),
        _input,
        (EngineError,),
    ),
)
