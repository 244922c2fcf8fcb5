"""Apple's own processors: one accelerator, in the machine's memory."""

import platform
import sys

from aigrid.engines.base import Device


def devices(host: Device) -> tuple[Device, ...]:
    """The accelerator of such a processor; elsewhere, or under emulation, none."""
    if sys.platform != "darwin" or platform.machine() != "arm64":
        return ()
    total, free = host.memory_total_bytes, host.memory_free_bytes
    return (Device("metal", host.name, total, free, unified=True),)
