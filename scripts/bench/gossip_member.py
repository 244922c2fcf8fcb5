"""One process of `gossip.py`: a host that publishes, listens, and says what reached it.

    python scripts/bench/gossip_member.py stock|ours NUMBER '{"rate": ..}' [PROFILE]

Lines of JSON: it prints its address; reads the addresses of all and which of them to dial; prints
"ready" once it is connected and subscribed; reads when to begin, on the monotonic clock that all
processes of a machine share; prints what it sent, got and spent. cProfile writes to PROFILE.
"""

import cProfile
import json
import logging
import os
import resource
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import structlog
import trio

from aigrid.node.daemon import wall_ms
from aigrid.node.network.libp2p_transport import Libp2pTransport
from aigrid.node.network.transport import PeerAddress
from aigrid.protocol.identity import Identity

TOPIC = "records"
HEAD = struct.Struct("!dIQ")  # when it was published, by whom, its number
DRAIN_SECONDS = 5.0  # what comes later than that is lost
CONNECT_SECONDS = 60.0
LISTEN = "/ip4/127.0.0.1/tcp/0"

Publish = Callable[[bytes], Awaitable[None]]


class Heard:
    """What reached this process. Each message counts once, and our own do not."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.latencies_ms: dict[tuple[int, int], float] = {}
        self.twice = 0

    def take(self, data: bytes) -> None:
        sent_at, publisher, sequence = HEAD.unpack_from(data)
        if publisher == self.number:
            return
        if (publisher, sequence) in self.latencies_ms:
            self.twice += 1
        else:
            self.latencies_ms[publisher, sequence] = (time.monotonic() - sent_at) * 1e3


def identity(number: int) -> Identity:
    return Identity(number.to_bytes(32, "big", signed=False))


@asynccontextmanager
async def ours(number: int, heard: Heard) -> AsyncIterator[Publish]:
    """As the node sets it up: everybody is a member of one grid."""
    node = Libp2pTransport(
        signing_seed=identity(number + 1).seed,
        topics=frozenset({TOPIC}),
        now_ms=wall_ms,
        listen=(LISTEN,),
    )
    async with node.running(), trio.open_nursery() as nursery:
        say(node.listen_addresses[0])
        everybody, dialed = await asked()
        peers = [PeerAddress(identity(n + 1).peer_id, (at,)) for n, at in enumerate(everybody)]
        node.admit(peer.peer_id for peer in peers)
        with trio.fail_after(CONNECT_SECONDS):
            for other in dialed:
                await node.connect(peers[other])

        async def listen() -> None:
            async with node.subscribe(TOPIC) as messages:
                async for _, data in messages:
                    heard.take(data)

        async def publish(data: bytes) -> None:
            await node.publish(TOPIC, data)

        nursery.start_soon(listen)
        yield publish
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def stock(number: int, heard: Heard) -> AsyncIterator[Publish]:
    """py-libp2p as it is shipped, with what it must be told to lose nothing on purpose.

    Its spam protection drops above ten messages a second, and its heartbeat of two minutes would
    never fill the mesh. Degrees as ours.
    """
    from libp2p import new_host
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.custom_types import TProtocol
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from libp2p.pubsub.gossipsub import GossipSub
    from libp2p.pubsub.pubsub import Pubsub
    from libp2p.tools.anyio_service import background_trio_service
    from multiaddr import Multiaddr

    logging.getLogger("libp2p").setLevel(logging.CRITICAL)  # ours pays for no log lines, either
    host = new_host(key_pair=create_new_key_pair(identity(number + 1).seed))
    gossip = GossipSub(
        protocols=[TProtocol("/meshsub/1.2.0"), TProtocol("/meshsub/1.1.0")],
        degree=6,
        degree_low=4,
        degree_high=12,
        heartbeat_interval=1,
        spam_protection_enabled=False,
    )
    pubsub = Pubsub(host, gossip, strict_signing=True)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(host.run(listen_addrs=[Multiaddr(LISTEN)]))
        for service in (pubsub, gossip):
            await stack.enter_async_context(background_trio_service(service))
        nursery = await stack.enter_async_context(trio.open_nursery())
        say(str(host.get_addrs()[0]))
        everybody, dialed = await asked()
        with trio.fail_after(CONNECT_SECONDS):
            for other in dialed:
                at = everybody[other].partition("/p2p/")[0]
                await host.connect(
                    info_from_p2p_addr(Multiaddr(f"{at}/p2p/{identity(other + 1).peer_id}"))
                )
        messages = await pubsub.subscribe(TOPIC)

        async def listen() -> None:
            async for message in messages:
                heard.take(message.data)

        async def publish(data: bytes) -> None:
            await pubsub.publish(TOPIC, data)

        nursery.start_soon(listen)
        yield publish
        nursery.cancel_scope.cancel()


def say(what: Any) -> None:
    print(json.dumps(what), flush=True)


async def asked() -> Any:
    return json.loads(await trio.to_thread.run_sync(sys.stdin.readline))


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def run(way: str, number: int, load: dict[str, float], profile: str) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    heard = Heard(number)
    async with {"ours": ours, "stock": stock}[way](number, heard) as publish:
        say("ready")
        begin = float(await asked())
        await trio.sleep(begin - time.monotonic())
        profiler = cProfile.Profile(time.process_time)
        if profile:
            profiler.enable()
        before = cpu_seconds()
        sent = await publish_all(publish, number, load, begin)
        end = begin + load["seconds"] + DRAIN_SECONDS
        await trio.sleep(max(0.0, end - time.monotonic()))
        used = cpu_seconds() - before
        if profile:
            profiler.disable()
            profiler.dump_stats(profile)
        latencies = [round(each, 2) for each in heard.latencies_ms.values()]
        say({"sent": sent, "cpu": used, "latencies_ms": latencies, "twice": heard.twice})
        os._exit(0)  # what happens while a grid of these goes down is not measured


async def publish_all(publish: Publish, number: int, load: dict[str, float], begin: float) -> int:
    """At the given pace, each process a part of a period after the last; how many were sent."""
    body = os.urandom(int(load["size"]) - HEAD.size)
    phase = number / load["processes"] / load["rate"]
    count = int(load["rate"] * load["seconds"])
    for sequence in range(count):
        due = begin + phase + sequence / load["rate"]
        await trio.sleep(max(0.0, due - time.monotonic()))
        await publish(HEAD.pack(time.monotonic(), number, sequence) + body)
    return count


if __name__ == "__main__":
    _, which, place, what, *rest = sys.argv
    trio.run(run, which, int(place), json.loads(what), rest[0] if rest else "")
