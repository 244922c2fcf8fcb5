"""Gossip among many nodes in virtual time: the run of the literature, on a node's own GossipSub.

    python scripts/bench/gossip_virtual.py [--nodes 250] [--sources 5] [--messages 60] [--seed 1]

Every node is a `Libp2pTransport` with its gate, Noise, muxer and GossipSub, on TCP in memory
(`scripts/simulation/network/wires.py`); the rest of a node is not there. All are members of one
grid, have dialed `--dials` others drawn at random, and listen on one topic. The sources publish in
turn, a message every `--every` seconds. Latencies are the network's alone: computing takes no
virtual time.

The measure is vyzo's simulation of GossipSub: 250 nodes, 5 sources, 60 messages, of which each
reached each of the nodes in less than 400 ms. Exit status 1: something was not delivered, or the
99th percentile is 400 ms or more. The same seed gives the same trace hash.
"""

import argparse
import hashlib
import json
import random
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import at_least, at_most, tell
from scripts.simulation import deterministic
from scripts.simulation.network.libp2p_net import repeatable, transport, virtual_ms
from scripts.simulation.network.spread import spread
from scripts.simulation.network.wires import Wires

from aigrid.node.network.libp2p_transport import Libp2pTransport
from aigrid.node.network.transport import PeerAddress
from aigrid.protocol.identity import Identity
from aigrid.protocol.messages import RECORDS_TOPIC

MESH_SECONDS = 6.0  # for the heartbeats that make the mesh, once all are connected
LAST_SECONDS = 5.0  # that the last message has
P99_MAX_SECONDS = 0.4
HEAD = struct.Struct(">Id")


@dataclass(frozen=True, slots=True)
class Options:
    """What a run depends on."""

    nodes: int
    sources: int
    messages: int
    dials: int
    every: float
    size: int
    latency_ms: str
    seed: int


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one run. `wanted` is what the other nodes should get; seconds are virtual, but for CPU's.

    Attributes:
        copies: bytes that gossip sent, by what one copy to each node takes.
        connect_cpu_seconds, gossip_cpu_seconds: of this process, until all were connected and the
            mesh made, and from there on.
    """

    nodes: int
    connections: int
    wanted: int
    delivered: int
    twice: int
    p50_seconds: float
    p99_seconds: float
    most_seconds: float
    copies: float
    connect_cpu_seconds: float
    gossip_cpu_seconds: float
    wall_seconds: float
    trace_hash: str

    @property
    def well(self) -> bool:
        return self.delivered == self.wanted and self.p99_seconds < P99_MAX_SECONDS


class _Grid:
    def __init__(self, options: Options) -> None:
        self._options = options
        self._rng = random.Random(f"{options.seed}/gossip")
        network_rng = random.Random(f"{options.seed}/network")
        self._wires = Wires(network_rng, spread(options.latency_ms), spread("0"))
        self._nodes: list[Libp2pTransport] = []
        self._addresses: list[PeerAddress] = []
        self._took_seconds: dict[tuple[int, int], float] = {}
        self._twice = 0
        self._digest = hashlib.sha256()

    async def run(self) -> Measured:
        began, cpu = time.perf_counter(), time.process_time()  # of the machine, for the report
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wires.run)
            await self._start(nursery)
            await self._connect(nursery)
            await trio.sleep(MESH_SECONDS)
            connected = time.process_time()
            sent_bytes = self._wires.bytes.total()
            await self._publish()
            await trio.sleep(LAST_SECONDS)
            gossiped = time.process_time()
            measured = self._measured(
                connect_cpu_seconds=round(connected - cpu, 2),
                gossip_cpu_seconds=round(gossiped - connected, 2),
                wall_seconds=round(time.perf_counter() - began, 1),
                sent_bytes=self._wires.bytes.total() - sent_bytes,
            )
            nursery.cancel_scope.cancel()
        return measured

    async def _start(self, nursery: trio.Nursery) -> None:
        for number in range(self._options.nodes):
            key = hashlib.sha256(f"{self._options.seed}/{number}".encode()).digest()
            identity, address = Identity(key), f"/ip4/10.0.{number >> 8}.{number & 255}/tcp/4001"
            node = transport(self._wires, identity, address, virtual_ms)
            await nursery.start(_keep, node)
            self._nodes.append(node)
            self._addresses.append(PeerAddress(identity.peer_id, (address,)))
        for node in self._nodes:
            node.admit(peer.peer_id for peer in self._addresses)

    async def _connect(self, nursery: trio.Nursery) -> None:
        for number, node in enumerate(self._nodes):
            listening = trio.Event()
            nursery.start_soon(self._listen, number, node, listening)
            await listening.wait()
        numbers = range(len(self._nodes))
        async with trio.open_nursery() as dialing:
            for number, node in enumerate(self._nodes):
                others = [n for n in numbers if n != number]
                for other in self._rng.sample(others, min(self._options.dials, len(others))):
                    dialing.start_soon(node.connect, self._addresses[other])

    async def _listen(self, number: int, node: Libp2pTransport, listening: trio.Event) -> None:
        async with node.subscribe(RECORDS_TOPIC) as messages:
            listening.set()
            async for _, data in messages:
                message, sent_at = HEAD.unpack_from(data)
                now = trio.current_time()
                self._twice += (message, number) in self._took_seconds
                self._took_seconds.setdefault((message, number), now - sent_at)
                self._digest.update(f"{message} {number} {now:.6f}\n".encode())

    async def _publish(self) -> None:
        options = self._options
        sources = self._rng.sample(self._nodes, options.sources)
        for message in range(options.messages):
            data = HEAD.pack(message, trio.current_time()).ljust(options.size, b".")
            await sources[message % len(sources)].publish(RECORDS_TOPIC, data)
            await trio.sleep(options.every)

    def _measured(self, *, sent_bytes: int, **figures: Any) -> Measured:
        options, took = self._options, sorted(self._took_seconds.values())
        self._digest.update(repr(self._wires.sent()).encode())
        wanted = options.messages * (options.nodes - 1)
        return Measured(
            nodes=options.nodes,
            connections=sum(len(node.connected()) for node in self._nodes) // 2,
            wanted=wanted,
            delivered=len(took),
            twice=self._twice,
            p50_seconds=_quantile(took, 0.5),
            p99_seconds=_quantile(took, 0.99),
            most_seconds=_quantile(took, 1.0),
            copies=round(sent_bytes / (wanted * options.size), 2),
            trace_hash=self._digest.hexdigest(),
            **figures,
        )


async def _keep(
    node: Libp2pTransport, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED
) -> None:
    async with node.running():
        task_status.started()
        await trio.sleep_forever()


def _quantile(ascending: Sequence[float], share: float) -> float:
    return round(ascending[int(share * (len(ascending) - 1))], 4) if ascending else float("inf")


def measure(options: Options) -> Measured:
    """One run, in virtual time."""
    with repeatable(options.seed):
        return deterministic.run(options.seed, _Grid(options).run)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    number = partial(parser.add_argument, type=int)
    number("--nodes", default=250)
    number("--sources", default=5)
    number("--messages", default=60)
    number("--dials", default=5)
    number("--size", default=1024, help="bytes of a message")
    number("--seed", default=1)
    parser.add_argument("--every", type=float, default=0.1, help="virtual seconds")
    parser.add_argument("--latency-ms", default="uniform:5-50", help="one way, drawn once per pair")
    parser.add_argument("--json", type=Path, help="where the figures go, too")
    arguments = parser.parse_args()
    said = vars(arguments).copy()
    to = said.pop("json")
    options = Options(**said)
    measured = measure(options)
    print(
        f"{measured.delivered} of {measured.wanted} to the {options.nodes - 1} others, "
        f"{measured.twice} twice; p50 {measured.p50_seconds * 1e3:.0f} ms, "
        f"p99 {measured.p99_seconds * 1e3:.0f} ms, most {measured.most_seconds * 1e3:.0f} ms"
    )
    print(f"{measured.connections} connections; {measured.copies} copies to each")
    cost = measured.gossip_cpu_seconds / max(1, measured.delivered)
    print(
        f"{measured.connect_cpu_seconds} CPU-s to connect, {measured.gossip_cpu_seconds} to gossip "
        f"({cost * 1e3:.2f} ms per delivery), {measured.wall_seconds} s of wall time"
    )
    print(f"trace {measured.trace_hash}")
    whole = at_least(1.0, of_value=True)
    tell("gossip in virtual time, delivered", [measured.delivered / measured.wanted], "", aim=whole)
    soon = at_most(P99_MAX_SECONDS, of_value=True)
    tell("gossip in virtual time, p99", [measured.p99_seconds], "s", aim=soon)
    tell("gossip in virtual time, CPU of a delivery", [cost], "s")
    if to is not None:
        found = {"options": asdict(options), "measured": asdict(measured), "well": measured.well}
        to.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 0 if measured.well else 1


if __name__ == "__main__":
    sys.exit(main())
