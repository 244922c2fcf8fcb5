"""What a node says of its devices: free now, for models, reserved; and which engine uses which.

Decisions over what was found; `status` puts them into an answer.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from aigrid.engines.base import Device, Probe
from aigrid.node.mesh.pool.budget import HOST, Budget


def devices_report(
    devices: Sequence[Device], budget: Budget, reserved: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Every device; `memory_of` names whose budget counts there, null where no engine uses it."""
    return [
        {
            "device": device.place,
            "name": device.name,
            "unified": device.unified,
            "memory_total_bytes": device.memory_total_bytes,
            "memory_free_bytes": device.memory_free_bytes,
            "memory_of": (purse := _purse(device.place, budget)),
            "memory_budget_bytes": budget.purses.get(purse, 0) if purse else 0,
            "memory_reserved_bytes": reserved.get(purse, 0) if purse else 0,
        }
        for device in devices
    ]


def not_found(configured: Collection[str], devices: Sequence[Device]) -> list[str]:
    """Places that have a configured budget and are not here."""
    return sorted(set(configured) - {device.place for device in devices})


def not_on(probe: Probe, devices: Sequence[Device]) -> list[dict[str, str]]:
    """The devices that an engine does not use, and why; an engine with a problem uses none."""
    used = {device.place for device in probe.devices}
    if probe.problem or not used:
        return []
    return [
        {"device": device.place, "why": _why_not(probe, device)}
        for device in devices
        if device.place not in used
    ]


def _why_not(probe: Probe, device: Device) -> str:
    if device.kind in probe.lacks:
        return probe.lacks[device.kind]
    if probe.network:
        return "its models compute at their servers"
    if all(used.kind == HOST for used in probe.devices):
        return "it computes on the processor only"
    return "the engine does not use it"


def _purse(place: str, budget: Budget) -> str | None:
    if place in budget.purses:
        return place
    return HOST if place in budget.shared else None
