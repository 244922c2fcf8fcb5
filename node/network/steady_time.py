"""What py-libp2p tells durations by: a clock that nobody sets.

It takes readings of the wall clock from each other. Where that was set back by an hour, whoever had
been pruned from a mesh was not let in again for an hour more and heard nothing meanwhile, and a
member that had told all the hints that it may had its streams reset for as long. Where it was set
forward, addresses and hints ended at once. On Linux it stands still while the machine sleeps, by
which hints and addresses are kept longer, then.

Only modules that tell nothing but durations by it are given this clock: `pubsub` numbers messages
by the wall's, and `peer_record` its records. In `kad_dht` there is the age of a value besides; we
keep no values.
"""

import time
import types
from typing import Any, Final

import libp2p.kad_dht.kad_dht
import libp2p.kad_dht.provider_store
import libp2p.kad_dht.routing_table
import libp2p.peer.peerdata
import libp2p.pubsub.gossipsub
import trio

MODULES: Final = (
    libp2p.kad_dht.kad_dht,
    libp2p.kad_dht.provider_store,
    libp2p.kad_dht.routing_table,
    libp2p.peer.peerdata,
    libp2p.pubsub.gossipsub,
)
_START_SECONDS: Final = 1_000_000_000.0  # the library takes what is near to zero for never


def now_seconds() -> float:
    """Trio's time. Before it runs, the beginning: once it runs, that is long past."""
    try:
        return _START_SECONDS + trio.current_time()
    except RuntimeError:
        return _START_SECONDS


class _SteadyTime(types.ModuleType):
    """The module `time`, but for what the library reads of it."""

    time = staticmethod(now_seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


_STEADY: Final = _SteadyTime("time")


def without_the_wall_clock() -> None:
    """From now on durations in the library are Trio's."""
    for module in MODULES:
        module.time = _STEADY
