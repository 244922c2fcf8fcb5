"""A short way to ask an engine for a typed task."""

import json
from typing import Any

import pytest

from aigrid.engines.base import CancelToken, Engine, ModelSource
from aigrid.engines.onnx import OnnxEngine
from aigrid.protocol.errors import EngineError
from aigrid.protocol.inference import Finish, TaskChunk, TaskRequest


def run(
    source: ModelSource, given: Any, *, engine: type[Engine] = OnnxEngine, **parameters: Any
) -> Any:
    """Load the model and ask it once; the output."""
    loaded = engine()
    loaded.load(source, threads=1)
    request = TaskRequest(source.task, json.dumps(given).encode(), parameters)
    *_, chunk, finish = loaded.infer(request, CancelToken())
    assert isinstance(chunk, TaskChunk)
    assert isinstance(finish, Finish)
    assert finish.reason == "stop"
    return json.loads(chunk.output)


def refused(source: ModelSource, given: Any, **parameters: Any) -> EngineError:
    """Why it is not answered."""
    with pytest.raises(EngineError) as info:
        run(source, given, **parameters)
    return info.value
