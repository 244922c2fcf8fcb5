"""On which of its devices an engine puts a model: a decision over what was found."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from aigrid.engines.base import Device, Estimate
from aigrid.protocol.limits import LIMITS, MIB

CPU: Final = "cpu"
CONTEXT_BYTES: Final = 512 * MIB
"""What a runtime takes of an accelerator before there is a model."""

DRIVER_BYTES: Final = 1024 * MIB
"""What a driver and its libraries take of the machine's memory for that."""


def bound_bytes(estimate: Estimate, room: Mapping[str, int]) -> int:
    """What a worker may take of an accelerator, which the system does not bound.

    Twice the estimate and room for requests, but not more than models may have there.
    """
    wanted = 2 * estimate.memory_bytes + LIMITS.worker_headroom_bytes
    most = room.get(estimate.device, wanted)
    return max(estimate.memory_bytes, min(wanted, most))


def choose(
    usable: Iterable[Device], needed_bytes: Callable[[Device], int], room: Mapping[str, int]
) -> Device | None:
    """The accelerator with the most free memory that could ever hold the model; None: none.

    Args:
        usable: the accelerators that the engine can use here.
        needed_bytes: what the model would take of a device's memory.
        room: place -> bytes that this node has for models there; a place without is not bounded.
    """

    def fits(device: Device) -> bool:
        total = device.memory_total_bytes
        most = min(room.get(device.place, total), total) if total else room.get(device.place)
        return most is None or needed_bytes(device) <= most

    fitting = [device for device in usable if device.kind != CPU and fits(device)]
    return max(fitting, key=lambda d: (d.memory_free_bytes, -d.index), default=None)
