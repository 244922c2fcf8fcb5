"""An ONNX graph in a session of ONNX Runtime: requests of tensors, and runs for tasks.

Tensors are checked against what the model declares before they reach the runtime, so that a wrong
request is answered with what is wrong about it. Providers are asked for by name, as told in
`onnx_providers`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from aigrid.engines.base import Cancelled, CancelToken, Device
from aigrid.engines.onnx_providers import CPU_PROVIDER, open_session
from aigrid.engines.onnx_tensors import Declared, from_array, to_array
from aigrid.engines.tasks.base import Array
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import Finish, TensorChunk, TensorRequest
from aigrid.protocol.limits import LIMITS

_MESSAGE_MAX_CHARS: Final = 300


class OnnxGraph:
    """One loaded graph. A `Runner` for tasks.

    Attributes:
        place: of the device that it really runs on.
    """

    def __init__(
        self, path: Path, *, threads: int, device: Device | None = None, bound_bytes: int = 0
    ) -> None:
        """`device`: an accelerator to try first, of whose memory `bound_bytes` may be taken.

        Raises:
            EngineError: `unsupported_model` or `out_of_memory`.
        """
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = max(1, threads)
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # it never gives back what one large batch took
        options.log_severity_level = 3
        options.add_session_config_entry("session.load_model_format", "ONNX")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session, self.place = None, "cpu"
        if device is not None:
            session = _on_device(path, options, device, bound_bytes)
            self.place = "cpu" if session is None else device.place
        try:
            session = session or ort.InferenceSession(
                str(path), options, providers=[CPU_PROVIDER], enable_fallback=0
            )
        except Exception as error:  # boundary: an engine call
            raise _load_error(error, path) from error
        optional = session.get_overridable_initializers()
        self._session = session
        self._inputs = {
            item.name: Declared(item.name, item.type, tuple(item.shape))
            for item in (*session.get_inputs(), *optional)
        }
        self._optional = frozenset(item.name for item in optional)
        self._outputs = {item.name: item.type for item in session.get_outputs()}

    @property
    def inputs(self) -> Mapping[str, Sequence[int | None]]:
        """What has to be given: name -> shape, None for any size."""
        return {
            name: tuple(n if isinstance(n, int) and n >= 0 else None for n in declared.shape)
            for name, declared in self._inputs.items()
            if name not in self._optional
        }

    @property
    def outputs(self) -> Sequence[str]:
        """The outputs that are tensors, in the graph's order."""
        return [name for name, kind in self._outputs.items() if kind.startswith("tensor(")]

    def run(self, feeds: Mapping[str, Array], cancel: CancelToken) -> Mapping[str, Array]:
        """See `Runner.run`."""
        cast = {
            name: array.astype(self._inputs[name].dtype, copy=False)
            if self._inputs[name].dtype not in ("string", "")
            else array
            for name, array in feeds.items()
        }
        names = self.outputs
        return dict(zip(names, self._run(names, cast, cancel), strict=True))

    def answer(self, request: TensorRequest, cancel: CancelToken) -> Iterator[TensorChunk | Finish]:
        """Run a request of tensors."""
        feeds = self._feeds(request)
        wanted = self._wanted(request.outputs)
        try:
            arrays = self._run(wanted, feeds, cancel)
        except Cancelled:
            yield Finish("cancelled")
            return
        yield _answer(wanted, arrays)
        yield Finish("stop")

    def _run(
        self, wanted: Sequence[str], feeds: Mapping[str, Array], cancel: CancelToken
    ) -> Sequence[Array]:
        import onnxruntime as ort

        run_options = ort.RunOptions()
        run_options.log_severity_level = 3
        # No run is captured for replay. Left out, it would be looked up and not found, at each run.
        run_options.add_run_config_entry("gpu_graph_id", "-1")
        cancel.on_cancel(lambda: setattr(run_options, "terminate", True))
        if cancel.cancelled:
            raise Cancelled
        try:
            arrays: Sequence[Array] = self._session.run(list(wanted), dict(feeds), run_options)
        except Exception as error:  # boundary: an engine call
            if cancel.cancelled:
                raise Cancelled from None
            raise _run_error(error) from error
        return arrays

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


def _on_device(path: Path, options: Any, device: Device, bound_bytes: int) -> Any:
    """A session on an accelerator; None where that does not work. Raises `out_of_memory`."""
    try:
        return open_session(str(path), options, device, bound_bytes)
    except Exception as error:  # boundary: an engine call
        if _is_memory(error):
            raise _load_error(error, path) from error
        return None  # if the model is at fault, the processor says so


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


def _load_error(error: Exception, path: Path) -> EngineError:
    if _is_memory(error):
        return EngineError("not enough memory to load the model", Code.OUT_OF_MEMORY)
    # Whoever asked for the model reads this, and it is not for him where it lies on this machine.
    said = str(error).replace(str(path), path.name)
    return EngineError(f"ONNX Runtime refuses the model: {_said(said)}", Code.UNSUPPORTED_MODEL)


def _run_error(error: Exception) -> EngineError:
    if _is_memory(error):
        return EngineError("not enough memory for this request", Code.OUT_OF_MEMORY)
    if type(error).__name__ == "InvalidArgument":  # a shape or an index that the graph rejects
        return _invalid(f"the model does not accept these tensors: {_said(error)}")
    return EngineError(f"ONNX Runtime failed: {_said(error)}")


def _is_memory(error: Exception) -> bool:
    said = str(error).lower()
    words = ("bad_alloc", "failed to allocate", "out of memory", "available memory of")
    return isinstance(error, MemoryError) or any(word in said for word in words)


def _said(error: Exception | str) -> str:
    return " ".join(str(error).split())[:_MESSAGE_MAX_CHARS]


def _invalid(message: str) -> EngineError:
    return EngineError(message, Code.INVALID_REQUEST)


def _names(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:8])
    return shown + ", ..." if len(names) > 8 else shown or "none"
