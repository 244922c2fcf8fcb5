"""Any ONNX model on ONNX Runtime: tensors in and out, or a typed task where it has a mapping."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from aigrid.engines.base import (
    CancelToken,
    Estimate,
    ModelSource,
    Probe,
    check_options,
    model_file,
    wrong_task,
)
from aigrid.engines.counting import CountedEngine
from aigrid.engines.devices import devices
from aigrid.engines.onnx_check import check_onnx
from aigrid.engines.onnx_session import OnnxGraph
from aigrid.engines.tasks import TASKS, Tasks
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import InferChunk, InferRequest, TaskRequest, TensorRequest
from aigrid.protocol.limits import MIB

RUNTIME_BYTES: Final = 96 * MIB
SLOTS: Final = 2
REFUSES: Final = (
    "external data: a model must not name other files",
    "operators that neither ONNX nor its runtime has, and those that run code: unsafe",
    "training information, sparse or segmented tensors: not supported",
)


class OnnxEngine(CountedEngine):
    """One ONNX file, and what its task mapping needs beside it."""

    name = "onnx"

    def __init__(self) -> None:
        super().__init__()
        self._graph: OnnxGraph | None = None
        self._tasks: Tasks | None = None

    def probe(self) -> Probe:
        try:
            found, problem = version("onnxruntime"), ""
        except PackageNotFoundError:
            found, problem = "", "onnxruntime is not installed"
        tasks = ("tensor", *TASKS)
        return Probe(self.name, found, ("onnx",), tasks, devices(), problem, refuses=REFUSES)

    def estimate(self, source: ModelSource) -> Estimate:
        check_options(source)
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

    def answer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        if self._graph is None:
            raise EngineError("no model is loaded")
        if isinstance(request, TensorRequest):
            yield from self._graph.answer(request, cancel)
        elif not isinstance(request, TaskRequest):
            raise wrong_task(self.name, request)
        elif self._tasks is None:
            raise EngineError(
                "this model takes tensors only: it has no task mapping", Code.INVALID_REQUEST
            )
        else:
            yield from self._tasks.run(request, cancel)
