"""Which network the nodes of a run are on."""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from scripts.simulation.network.conditions import Conditions
from scripts.simulation.network.spread import Spread

from aigrid.node.network.memory_transport import MemoryTransport
from aigrid.node.network.transport import Transport
from aigrid.protocol.identity import Identity


@dataclass(frozen=True, slots=True)
class Net:
    """How its conditions and a node's transport are made, and what makes a run repeatable."""

    conditions: Callable[[random.Random, Spread, Spread], Conditions]
    transport: Callable[[Any, Identity, str, Callable[[], int]], Transport]
    repeatable: Callable[[int], AbstractContextManager[None]]


def net_of(name: str) -> Net:
    """One of `options.NETS`."""
    if name == "libp2p":
        from scripts.simulation.network import (
            libp2p_net,  # a second of imports
            wires,
        )

        return Net(wires.Wires, libp2p_net.transport, libp2p_net.repeatable)
    return Net(Conditions, _memory_transport, lambda _seed: nullcontext())


def _memory_transport(
    network: Conditions, identity: Identity, address: str, _now_ms: Callable[[], int]
) -> Transport:
    return MemoryTransport(network, identity.peer_id, address=address)
