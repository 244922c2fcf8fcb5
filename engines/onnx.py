"""Any ONNX model on ONNX Runtime: tensors in and out, or a typed task where it has a mapping."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from aigrid.engines.base import (
    CancelToken,
    Device,
    Estimate,
    ModelSource,
    Probe,
    check_options,
    model_file,
    wrong_task,
)
from aigrid.engines.counting import CountedEngine
from aigrid.engines.devices import CONTEXT_BYTES, DRIVER_BYTES, bound_bytes, choose, cpu
from aigrid.engines.onnx_check import check_onnx
from aigrid.engines.onnx_providers import tried, usable_here
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
    preimports = ("onnxruntime", "aigrid.engines.hf_tokenizer")

    def __init__(self) -> None:
        super().__init__()
        self._graph: OnnxGraph | None = None
        self._tasks: Tasks | None = None
        self._chosen: tuple[Device | None] | None = None

    def probe(self) -> Probe:
        formats, tasks = ("onnx",), ("tensor", *TASKS)
        try:
            import onnxruntime as ort
        except (ImportError, OSError) as error:
            problem = f"onnxruntime cannot be used: {error}"[:300]
            return Probe(self.name, "", formats, tasks, (cpu(),), problem, refuses=REFUSES)
        places, lacks = tried()
        return Probe(
            self.name, ort.__version__, formats, tasks, places, lacks=lacks, refuses=REFUSES
        )

    def estimate(self, source: ModelSource) -> Estimate:
        check_options(source)
        facts = check_onnx(model_file(source, "onnx"))
        # The runtime keeps the weights once more while it prepares them; then room for activations.
        size = facts.size_bytes
        on_host = Estimate(RUNTIME_BYTES + 2 * size + size // 2, SLOTS, precision=facts.precision)
        return self._placed(source, on_host, size + size // 2)

    def load(self, source: ModelSource, *, threads: int) -> Estimate:
        estimate = self.estimate(source)
        path = model_file(source, "onnx")
        self._graph = graph = self._open(source, path, threads, estimate)
        self._tasks = None if source.mapping is None else Tasks(source, graph)
        return self._real(source, graph, estimate)

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

    def _placed(self, source: ModelSource, on_host: Estimate, device_bytes: int) -> Estimate:
        """The estimate for where the model goes, which takes so much of an accelerator.

        That is chosen once: who was told one device shall not find the model on another.
        """
        taken = CONTEXT_BYTES + device_bytes
        if self._chosen is None:
            self._chosen = (choose(usable_here(), lambda _: taken, source.room),)
        (device,) = self._chosen
        if device is None:
            return on_host
        beside = on_host.memory_bytes + DRIVER_BYTES
        return replace(on_host, memory_bytes=taken, device=device.place, host_bytes=beside)

    def _open(self, source: ModelSource, path: Path, threads: int, estimate: Estimate) -> OnnxGraph:
        (device,) = self._chosen or (None,)
        bound = bound_bytes(estimate, source.room)
        return OnnxGraph(path, threads=threads, device=device, bound_bytes=bound)

    def _real(self, source: ModelSource, graph: OnnxGraph, estimate: Estimate) -> Estimate:
        """The estimate for where the graph runs in the end."""
        if graph.place == estimate.device:
            return estimate
        self._chosen = (None,)
        return self.estimate(source)
