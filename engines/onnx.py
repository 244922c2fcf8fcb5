"""Any ONNX model on ONNX Runtime: tensors in and out, or a typed task where it has a mapping."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from aigrid.engines.base import (
    CancelToken,
    EngineStats,
    Estimate,
    ModelSource,
    Probe,
    model_file,
    wrong_task,
)
from aigrid.engines.devices import devices
from aigrid.engines.onnx_check import check_onnx
from aigrid.engines.onnx_session import OnnxGraph
from aigrid.engines.tasks import TASKS, Tasks
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import InferChunk, InferRequest, TaskRequest, TensorRequest
from aigrid.protocol.limits import MIB

RUNTIME_BYTES: Final = 96 * MIB
SLOTS: Final = 2


class OnnxEngine:
    """One ONNX file, and what its task mapping needs beside it."""

    name = "onnx"

    def __init__(self) -> None:
        self._graph: OnnxGraph | None = None
        self._tasks: Tasks | None = None
        self._stats = EngineStats()
        self._lock = threading.Lock()

    def probe(self) -> Probe:
        try:
            found, problem = version("onnxruntime"), ""
        except PackageNotFoundError:
            found, problem = "", "onnxruntime is not installed"
        return Probe(self.name, found, ("onnx",), ("tensor", *TASKS), devices(), problem)

    def estimate(self, source: ModelSource) -> Estimate:
        facts = check_onnx(model_file(source, "onnx"))
        # The runtime keeps the weights once more while it prepares them; then room for activations.
        return Estimate(
            RUNTIME_BYTES + 2 * facts.size_bytes + facts.size_bytes // 2,
            SLOTS,
            precision=facts.precision,
        )

    def load(self, source: ModelSource, *, threads: int) -> Estimate:
        estimate = self.estimate(source)
        self._graph = OnnxGraph(model_file(source, "onnx"), threads=threads)
        self._tasks = None if source.mapping is None else Tasks(source, self._graph)
        return estimate

    def infer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        if self._graph is None:
            raise EngineError("no model is loaded")
        answer: Iterator[InferChunk]
        if isinstance(request, TensorRequest):
            answer = self._graph.answer(request, cancel)
        elif not isinstance(request, TaskRequest):
            raise wrong_task(self.name, request)
        elif self._tasks is None:
            raise EngineError(
                "this model takes tensors only: it has no task mapping", Code.INVALID_REQUEST
            )
        else:
            answer = self._tasks.run(request, cancel)
        started = time.monotonic()
        self._count(requests=1, running=1)
        try:
            yield from answer
        finally:
            self._count(running=-1, busy_seconds=time.monotonic() - started)

    def stats(self) -> EngineStats:
        return self._stats

    def unload(self) -> None:
        """Nothing to flush."""

    def _count(self, *, requests: int = 0, running: int = 0, busy_seconds: float = 0.0) -> None:
        with self._lock:
            now = self._stats
            self._stats = replace(
                now,
                requests=now.requests + requests,
                running=now.running + running,
                busy_seconds=now.busy_seconds + busy_seconds,
            )
