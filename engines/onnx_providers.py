"""Which of this machine's devices ONNX Runtime can use: its execution providers.

A runtime lists what it was built with, not what works here, and a stock one lists a provider that
would send tensors to somebody's cloud. So those of devices are named here, one is asked for only
where such a device is, and always by name; what a session runs on in the end it says itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, Final

from aigrid.engines.base import Device
from aigrid.engines.devices import hardware
from aigrid.protocol.limits import MIB

CPU_PROVIDER: Final = "CPUExecutionProvider"
DIRECTML: Final = "DmlExecutionProvider"
KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "CUDAExecutionProvider": "cuda",
        "MIGraphXExecutionProvider": "rocm",
        "ROCMExecutionProvider": "rocm",
        "CoreMLExecutionProvider": "metal",
        DIRECTML: "directml",
    }
)
"""Provider -> the kind of its devices; of two for one kind the first is better."""

_WHY_NOT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cuda": "the installed onnxruntime has no CUDA; install onnxruntime-gpu in its place",
        "rocm": "the installed onnxruntime has no ROCm; install AMD's build in its place",
        "metal": "the installed onnxruntime has no CoreML",
    }
)


def usable(available: Sequence[str], found: Iterable[Device]) -> tuple[Device, ...]:
    """The accelerators among `found` for which there is a provider."""
    kinds = {kind for provider, kind in KINDS.items() if provider in available}
    devices = [device for device in found if device.kind in kinds]
    if DIRECTML in available:  # Windows tells it which there are, and us nothing
        devices.append(Device("directml", "DirectML"))
    return tuple(devices)


def lacking(available: Sequence[str], found: Iterable[Device]) -> dict[str, str]:
    """Kind of device -> why it is not used, for those that are here and have no provider."""
    kinds = {kind for provider, kind in KINDS.items() if provider in available}
    here = {device.kind for device in found}
    return {kind: why for kind, why in _WHY_NOT.items() if kind in here - kinds}


def usable_here() -> tuple[Device, ...]:
    """The accelerators that the installed runtime has a provider for, as free as they are now."""
    import onnxruntime as ort

    available = ort.get_available_providers()
    # Without such a provider no driver is asked: most runtimes have none.
    return usable(available, hardware()) if KINDS.keys() & set(available) else ()


@cache
def tried() -> tuple[tuple[Device, ...], dict[str, str]]:
    """The processor and the accelerators on which a session really starts, and why not on others.

    For a short-lived child: each driver that is there gets a context.
    """
    import onnxruntime as ort

    host, *others = hardware()
    available = ort.get_available_providers()
    lacks, working = lacking(available, others), [host]
    for device in usable(available, others):
        if device.kind not in lacks and not _starts(device):
            lacks[device.kind] = (
                "its provider does not start: a library of it or a driver is missing"
            )
        if device.kind not in lacks:
            working.append(device)
    return tuple(working), lacks


def _starts(device: Device) -> bool:
    import onnxruntime as ort
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", value[:1], value[1:])
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        return open_session(model, options, device, 64 * MIB) is not None
    except Exception:  # noqa: BLE001 -- boundary: a driver
        return False


def open_session(model: str | bytes, options: Any, device: Device, bound_bytes: int) -> Any:
    """A session on an accelerator; None where its provider is not there or was left out.

    Raises whatever the runtime raises.
    """
    import onnxruntime as ort

    provider = provider_of(device, ort.get_available_providers())
    if provider is None:
        return None
    if provider == DIRECTML:
        options.enable_mem_pattern = False  # it takes no other sessions
    preload = getattr(ort, "preload_dlls", None)
    if provider == "CUDAExecutionProvider" and preload is not None:
        preload()  # of libraries that came as packages
    wanted = [(provider, options_of(provider, device.index, bound_bytes)), CPU_PROVIDER]
    session = ort.InferenceSession(model, options, providers=wanted, enable_fallback=0)
    # One whose libraries or driver are missing is left out without an error.
    return session if provider in session.get_providers() else None


def provider_of(device: Device, available: Sequence[str]) -> str | None:
    """The provider for a device, the best first."""
    ours = (provider for provider, kind in KINDS.items() if kind == device.kind)
    return next((provider for provider in ours if provider in available), None)


def options_of(provider: str, index: int, bound_bytes: int) -> dict[str, str]:
    """How a provider computes: with the precision that the model has, within a bound.

    Source: ONNX Runtime's documentation of each provider.
    """
    if provider == "CoreMLExecutionProvider":
        # Its older format computes with halves. Shapes that vary are faster on the processor.
        static = {"RequireStaticInputShapes": "1"}
        return {"ModelFormat": "MLProgram", "MLComputeUnits": "CPUAndGPU", **static}
    options = {"device_id": str(index)}
    if provider == "CUDAExecutionProvider":
        options["use_tf32"] = "0"  # 10 bits of a mantissa are not float32
    if provider in ("CUDAExecutionProvider", "ROCMExecutionProvider"):
        options["arena_extend_strategy"] = "kSameAsRequested"
        options["gpu_mem_limit"] = str(bound_bytes)
    return options
