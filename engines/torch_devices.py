"""The accelerators that torch sees, under the names that this package has for devices."""

from contextlib import suppress
from functools import cache
from typing import Any, Final

from aigrid.engines.base import Device
from aigrid.engines.devices import hardware

_KINDS: Final = {"mps": "metal"}


def kind() -> str:
    """The kind of accelerator that this torch was built for and sees; "cpu" for none."""
    import torch

    if not torch.accelerator.is_available():
        return "cpu"
    name = str(torch.accelerator.current_accelerator().type)
    if name == "cuda" and torch.version.hip:  # torch calls AMD's by the name of NVIDIA's
        return "rocm"
    return _KINDS.get(name, name)


def accelerators() -> tuple[Device, ...]:
    """As free as they are now: from their drivers, or else as torch tells."""
    if (ours := kind()) == "cpu":
        return ()
    return _seen(ours, hardware())


@cache
def tried() -> tuple[tuple[Device, ...], dict[str, str]]:
    """The processor and the accelerators that really compute, and why not the others.

    For a short-lived child: each accelerator gets a context.
    """
    host, *others = hardware()
    ours = kind()
    lacks = {
        device.kind: f"the installed torch sees no {device.kind}: it was built for something else"
        for device in others
        if device.kind != ours
    }
    working = [host]
    for device in _seen(ours, others) if ours != "cpu" else ():
        if problem := _problem(device):
            lacks[device.kind] = problem
        else:
            working.append(device)
    return tuple(working), lacks


def torch_device(device: Device | None) -> Any:
    """What torch calls it; None is the processor."""
    import torch

    if device is None:
        return torch.device("cpu")
    return torch.device(torch.accelerator.current_accelerator().type, device.index)


def bound_memory(device: Device, bound_bytes: int) -> None:
    """Let this process have no more of an accelerator, where torch can be told."""
    import torch

    place = torch_device(device)
    limit = getattr(getattr(torch, place.type, None), "set_per_process_memory_fraction", None)
    if limit is None or not device.memory_total_bytes or device.unified:
        return
    with suppress(RuntimeError, ValueError, TypeError):
        limit(min(1.0, bound_bytes / device.memory_total_bytes), place.index)


def _seen(ours: str, known: Any) -> tuple[Device, ...]:
    import torch

    told = {device.place: device for device in known if device.kind == ours}
    count = torch.accelerator.device_count()
    return tuple(told.get(f"{ours}:{n}") or _unknown(ours, n) for n in range(count))


def _unknown(ours: str, index: int) -> Device:
    """An accelerator of which only torch knows."""
    import torch

    free = total = 0
    with suppress(RuntimeError, NotImplementedError, AttributeError):  # not every backend tells
        free, total = torch.accelerator.get_memory_info(index)
    module = getattr(torch, torch.accelerator.current_accelerator().type, None)
    named = getattr(module, "get_device_name", None)
    name = str(named(index)) if named is not None else ours
    return Device(ours, name[:96], total, free, index)


def _problem(device: Device) -> str:
    """Why an accelerator does not compute, or ""."""
    import torch

    try:
        one = torch.ones(1, device=torch_device(device))
        computed = float((one + one).cpu()[0])
    except Exception as error:  # noqa: BLE001 -- boundary: a driver
        return f"torch does not compute on it: {type(error).__name__}"
    return "" if computed == 2.0 else "torch computes wrongly on it"
