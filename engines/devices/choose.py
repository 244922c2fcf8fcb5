"""On which of its devices an engine puts a model: a decision over what was found."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from aigrid.engines.base import Device

CPU: Final = "cpu"


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
