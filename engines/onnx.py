"""Any ONNX model with tensors in and tensors out, on ONNX Runtime.

Tensors are checked against what the model declares before they reach the runtime, so that a wrong
request is answered with what is wrong about it. The CPU provider is asked for by name: a stock
runtime lists others that would send data elsewhere.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from aigrid.engines.base import (
    CancelToken,
    EngineStats,
    Estimate,
    ModelSource,
    Probe,
    wrong_task,
)
from aigrid.engines.devices import devices
from aigrid.engines.onnx_check import check_onnx
from aigrid.engines.onnx_tensors import Declared, from_array, to_array
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import Finish, InferChunk, InferRequest, TensorChunk, TensorRequest
from aigrid.protocol.limits import LIMITS, MIB

PROVIDERS: Final = ("CPUExecutionProvider",)
RUNTIME_BYTES: Final = 96 * MIB
SLOTS: Final = 2
_MESSAGE_MAX_CHARS: Final = 300


class OnnxEngine:
    """One ONNX file. Takes any task: what the tensors mean is the caller's affair."""

    name = "onnx"

    def __init__(self) -> None:
        self._session: Any = None
        self._inputs: dict[str, Declared] = {}
        self._optional: frozenset[str] = frozenset()
        self._outputs: dict[str, str] = {}
        self._stats = EngineStats()
        self._lock = threading.Lock()

    def probe(self) -> Probe:
        try:
            found, problem = version("onnxruntime"), ""
        except PackageNotFoundError:
            found, problem = "", "onnxruntime is not installed"
        return Probe(self.name, found, ("onnx",), (), devices(), problem)

    def estimate(self, source: ModelSource) -> Estimate:
        facts = check_onnx(_only_file(source))
        # The runtime keeps the weights once more while it prepares them; then room for activations.
        return Estimate(
            RUNTIME_BYTES + 2 * facts.size_bytes + facts.size_bytes // 2,
            SLOTS,
            precision=facts.precision,
        )

    def load(self, source: ModelSource, *, threads: int) -> Estimate:
        estimate = self.estimate(source)
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = max(1, threads)
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # it never gives back what one large batch took
        options.log_severity_level = 3
        options.add_session_config_entry("session.load_model_format", "ONNX")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = ort.InferenceSession(
                str(_only_file(source)), options, providers=list(PROVIDERS)
            )
        except Exception as error:  # boundary: an engine call
            raise _load_error(error) from error
        optional = session.get_overridable_initializers()
        self._inputs = {
            item.name: Declared(item.name, item.type, tuple(item.shape))
            for item in (*session.get_inputs(), *optional)
        }
        self._optional = frozenset(item.name for item in optional)
        self._outputs = {item.name: item.type for item in session.get_outputs()}
        self._session = session
        return estimate

    def infer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        if not isinstance(request, TensorRequest):
            raise wrong_task(self.name, request)
        if self._session is None:
            raise EngineError("no model is loaded")
        started = time.monotonic()
        self._count(requests=1, running=1)
        try:
            outputs = self._run(request, cancel)
        finally:
            self._count(running=-1, busy_seconds=time.monotonic() - started)
        if outputs is None:
            yield Finish("cancelled")
            return
        yield outputs
        yield Finish("stop")

    def stats(self) -> EngineStats:
        return self._stats

    def unload(self) -> None:
        """Nothing to flush."""

    def _run(self, request: TensorRequest, cancel: CancelToken) -> TensorChunk | None:
        import onnxruntime as ort

        feeds = self._feeds(request)
        wanted = self._wanted(request.outputs)
        run_options = ort.RunOptions()
        run_options.log_severity_level = 3
        cancel.on_cancel(lambda: setattr(run_options, "terminate", True))
        if cancel.cancelled:
            return None
        try:
            arrays = self._session.run(wanted, feeds, run_options)
        except Exception as error:  # boundary: an engine call
            if cancel.cancelled:
                return None
            raise _run_error(error) from error
        return _answer(wanted, arrays)

    def _feeds(self, request: TensorRequest) -> dict[str, Any]:
        given, known = set(request.inputs), set(self._inputs)
        if unknown := sorted(given - known):
            raise _invalid(f"there is no input {unknown[0]!r}; the model has {_names(known)}")
        if missing := sorted(known - given - self._optional):
            raise _invalid(f"input {missing[0]!r} is missing ({self._inputs[missing[0]]})")
        total = sum(len(tensor.data) for tensor in request.inputs.values())
        if total > LIMITS.tensor_max_bytes:
            raise _invalid(f"{total} bytes of tensors; {LIMITS.tensor_max_bytes} are allowed")
        return {
            name: to_array(tensor, self._inputs[name]) for name, tensor in request.inputs.items()
        }

    def _wanted(self, names: Sequence[str]) -> list[str]:
        tensors = {name for name, kind in self._outputs.items() if kind.startswith("tensor(")}
        for name in names:
            if name not in self._outputs:
                raise _invalid(f"there is no output {name!r}; the model has {_names(tensors)}")
            if name not in tensors:
                raise _invalid(f"output {name!r} is {self._outputs[name]}, not a tensor")
        if len(set(names)) != len(names):
            raise _invalid("an output is named twice")
        wanted = list(names) or [name for name in self._outputs if name in tensors]
        if not wanted or len(wanted) > LIMITS.tensors_max:
            raise _invalid(f"name between 1 and {LIMITS.tensors_max} outputs")
        return wanted

    def _count(self, *, requests: int = 0, running: int = 0, busy_seconds: float = 0.0) -> None:
        with self._lock:
            now = self._stats
            self._stats = replace(
                now,
                requests=now.requests + requests,
                running=now.running + running,
                busy_seconds=now.busy_seconds + busy_seconds,
            )


def _only_file(source: ModelSource) -> Any:
    if source.format != "onnx" or len(source.files) != 1:
        raise EngineError(
            f"an ONNX model is one file, this one has {len(source.files)}", Code.UNSUPPORTED_MODEL
        )
    return next(iter(source.files.values()))


def _answer(names: Sequence[str], arrays: Sequence[Any]) -> TensorChunk:
    outputs = {
        name: from_array(name, array)
        for name, array in zip(names, arrays, strict=True)
        if array is not None
    }
    total = sum(len(tensor.data) for tensor in outputs.values())
    if total > LIMITS.tensor_max_bytes:
        raise _invalid(
            f"the answer has {total} bytes, {LIMITS.tensor_max_bytes} are allowed; "
            "name fewer outputs or send less at once"
        )
    return TensorChunk(outputs)


def _load_error(error: Exception) -> EngineError:
    if _is_memory(error):
        return EngineError("not enough memory to load the model", Code.OUT_OF_MEMORY)
    return EngineError(f"ONNX Runtime refuses the model: {_said(error)}", Code.UNSUPPORTED_MODEL)


def _run_error(error: Exception) -> EngineError:
    if _is_memory(error):
        return EngineError("not enough memory for this request", Code.OUT_OF_MEMORY)
    if type(error).__name__ == "InvalidArgument":  # a shape or an index that the graph rejects
        return _invalid(f"the model does not accept these tensors: {_said(error)}")
    return EngineError(f"ONNX Runtime failed: {_said(error)}")


def _is_memory(error: Exception) -> bool:
    said = str(error).lower()
    return isinstance(error, MemoryError) or "bad_alloc" in said or "failed to allocate" in said


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:_MESSAGE_MAX_CHARS]


def _invalid(message: str) -> EngineError:
    return EngineError(message, Code.INVALID_REQUEST)


def _names(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:8])
    return shown + ", ..." if len(names) > 8 else shown or "none"
