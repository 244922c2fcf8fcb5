"""What a node says of itself in its NodeRecord."""

import functools
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version

import structlog

from aigrid.engines.base import Device, Probe
from aigrid.node.network.transport import Transport
from aigrid.node.settings.config import NodeConfig
from aigrid.node.workers.spawning import WorkerSpawner
from aigrid.protocol.errors import AigridError
from aigrid.protocol.kinds import DeviceClaim, EngineClaim, NodeBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import PROTOCOL_VERSION

log = structlog.get_logger()


def describe(
    config: NodeConfig,
    did: str,
    transport: Transport,
    probes: Sequence[Probe],
    branches: tuple[str, ...],
) -> NodeBody:
    """The node `did` with the engines that were probed; of nothing more than may be said."""
    sound = [probe for probe in probes if not probe.problem]
    return NodeBody(
        id=did,
        protocol_version=PROTOCOL_VERSION,
        software=_software(),
        addresses=transport.listen_addresses[: LIMITS.addresses_max],
        engines=tuple(EngineClaim(p.engine, p.version, p.formats) for p in sound)[
            : LIMITS.engines_max
        ],
        devices=tuple(
            DeviceClaim(d.kind, d.name[: LIMITS.name_max_chars], d.memory_total_bytes)
            for d in usable_devices(probes)
        )[: LIMITS.devices_max],
        region=config.region,
        branches=branches,
    )


@functools.cache
def _software() -> str:
    """Read from the installation once: a node looks at what it says every few seconds."""
    return f"aigrid-node {version('aigrid-node')} ({platform.system().lower()})"


def usable_devices(probes: Iterable[Probe]) -> tuple[Device, ...]:
    """The devices that some engine can use, as they were when they were probed."""
    found: dict[str, Device] = {}
    for probe in probes:
        # What the first one saw: the contexts that others make take memory meanwhile.
        for device in probe.devices if not probe.problem else ():
            found.setdefault(device.place, device)
    return tuple(found.values())[: LIMITS.devices_max]


async def find_devices(spawner: WorkerSpawner, usable: Iterable[Device]) -> tuple[Device, ...]:
    """Every device here, as free as it is now; and those that only engines know of."""
    try:
        found = {device.place: device for device in await spawner.devices()}
    except AigridError as error:
        log.warning("devices_not_found", code=error.code.value, reason=error.message)
        found = {}
    return tuple({**{device.place: device for device in usable}, **found}.values())
