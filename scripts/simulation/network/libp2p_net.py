"""py-libp2p in virtual time: the transport of a node over `wires`, and what made runs differ.

Besides Trio's order and the global `random`, which `deterministic.run` seeds, there are

- sets of PeerIds and of streams, in whose order is sent, grafted and closed: their hashes are those
  of bytes and of places in memory, and differ by process;
- the wall clock, where the library still reads it (`steady_time` has the rest): it stands for
  virtual time;
- `secrets`, from which the DHT draws what it looks up to fill its table.

Keys of Noise and its ephemeral ones stay random: what is encrypted has the same length.
"""

import random
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import trio
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from scripts.simulation.network.wires import Wires

from aigrid.metagraph.branches import TOPICS
from aigrid.node.network.libp2p_transport import Libp2pTransport
from aigrid.node.network.tcp import parse_address
from aigrid.protocol.identity import Identity

START_SECONDS = 1_800_000_000.0


def transport(
    wires: Wires, identity: Identity, address: str, now_ms: Callable[[], int]
) -> Libp2pTransport:
    """The node's real transport, but for the sockets; `now_ms` is the node's own wall clock."""
    return Libp2pTransport(
        signing_seed=identity.seed,
        topics=TOPICS,
        now_ms=now_ms,
        listen=(address,),
        sockets=wires.sockets(identity.peer_id, parse_address(address).host),
    )


def virtual_ms() -> int:
    """A wall clock that is right, where there is no other."""
    return round((START_SECONDS + trio.current_time()) * 1000)


class _Seeded(random.Random):
    """What is used of `secrets`."""

    def token_bytes(self, count: int = 32) -> bytes:
        return self.randbytes(count)

    def randbelow(self, bound: int) -> int:
        return self.randrange(bound)

    def randbits(self, count: int) -> int:
        return self.getrandbits(count)


class _VirtualTime(types.ModuleType):
    """What is used of `time`, in virtual time since some day."""

    def __init__(self, real: types.ModuleType) -> None:
        super().__init__("time")
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def time(self) -> float:
        return START_SECONDS + trio.current_time()

    def monotonic(self) -> float:
        return trio.current_time()

    perf_counter = monotonic


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """See the module."""
    made = count()
    changes: list[tuple[Any, str, Any]] = [
        (ID, "__hash__", lambda one: int.from_bytes(one.to_bytes()[-7:], "big")),
        (NetStream, "__hash__", lambda one: one.__dict__.setdefault("_number", next(made))),
    ]
    stand_ins = {"time": _VirtualTime(sys.modules["time"]), "secrets": _Seeded(f"{seed}/secrets")}
    for module in [m for name, m in sorted(sys.modules.items()) if name.startswith("libp2p.")]:
        for name, stand_in in stand_ins.items():
            if vars(module).get(name) is sys.modules[name]:
                changes.append((module, name, stand_in))
    before = [(place, name, getattr(place, name)) for place, name, _ in changes]
    try:
        for place, name, value in changes:
            setattr(place, name, value)
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)
