"""What hardware is here, as far as it can be known without importing a runtime.

    driver, /sys, sysctl -> `Card`s -> those that the environment leaves visible -> `Device`s

Nothing here raises: what does not answer is not there, and memory of 0 bytes means unknown.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from aigrid.engines.base import Device
from aigrid.engines.devices import amd, apple, nvidia
from aigrid.engines.devices.cards import as_devices, visible
from aigrid.engines.devices.choose import CONTEXT_BYTES, DRIVER_BYTES, bound_bytes, choose
from aigrid.engines.devices.host import cpu, cpu_name, memory, resident_bytes, threads

__all__ = [
    "CONTEXT_BYTES",
    "DRIVER_BYTES",
    "accelerators",
    "bound_bytes",
    "choose",
    "cpu",
    "cpu_name",
    "devices",
    "hardware",
    "memory",
    "resident_bytes",
    "threads",
]


def devices() -> tuple[Device, ...]:
    """The processor: where an engine runs that uses no accelerator."""
    return (cpu(),)


def hardware() -> tuple[Device, ...]:
    """The processor and every accelerator that the environment leaves visible, as it is now."""
    host = cpu()
    return (host, *accelerators(host, os.environ))


def accelerators(
    host: Device, environment: Mapping[str, str], *, system: Path = Path("/sys")
) -> tuple[Device, ...]:
    """Accelerators, numbered as their runtimes number them.

    That is in the order of the bus, among those that the runtimes' variables leave visible.
    """
    cuda = environment.get("CUDA_VISIBLE_DEVICES")
    found = visible(amd.cards(system), environment.get("ROCR_VISIBLE_DEVICES"))
    return (
        *as_devices("cuda", visible(nvidia.cards(), cuda), host),
        # AMD's runtime listens to NVIDIA's variable where its own is not set.
        *as_devices("rocm", visible(found, environment.get("HIP_VISIBLE_DEVICES", cuda)), host),
        *apple.devices(host),
    )
