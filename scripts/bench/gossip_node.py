"""One process of `gossip.py`: a host that publishes, listens and reports. Lines of JSON both ways.

    python -m scripts.bench.gossip_node KIND NUMBER LOAD

It says its `address`; is told whom to `dial`, and says that it is `ready`; is told when to `begin`,
by the monotonic clock that all processes share, and in the end says what it `sent`, `got` and used.
"""

import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from aigrid.protocol.identity import Identity

TOPIC = "aigrid/bench"
LOCAL = "/ip4/127.0.0.1/tcp/0"
DRAIN_SECONDS = 5.0
HEAD_BYTES = 16  # when it was published, by whom, its number


@dataclass(frozen=True)
class Load:
    """Of each process: so many messages, of so many bytes."""

    processes: int
    per_second: float
    message_bytes: int
    seconds: float


@dataclass(frozen=True)
class Host:
    """What either kind can do; `messages` are those of all publishers, in whatever order."""

    address: str
    dial: Callable[[str, str], Awaitable[None]]
    publish: Callable[[bytes], Awaitable[None]]
    messages: Callable[[], AbstractAsyncContextManager[AsyncIterator[bytes]]]


def identity(number: int) -> Identity:
    return Identity(number.to_bytes(32, "big"))


@asynccontextmanager
async def ours(number: int, of: int) -> AsyncIterator[Host]:
    """The transport as a node makes it, all others members."""
    from aigrid.node.network.libp2p_transport import Libp2pTransport
    from aigrid.node.network.transport import PeerAddress

    seed = identity(number).seed
    transport = Libp2pTransport(signing_seed=seed, topics=frozenset({TOPIC}), listen=(LOCAL,))
    transport.admit(identity(other).peer_id for other in range(of))

    async def dial(peer_id: str, address: str) -> None:
        await transport.connect(PeerAddress(peer_id, (address,)))

    async def publish(data: bytes) -> None:
        await transport.publish(TOPIC, data)

    @asynccontextmanager
    async def messages() -> AsyncIterator[AsyncIterator[bytes]]:
        async with transport.subscribe(TOPIC) as arriving:
            yield (data async for _, data in arriving)

    async with transport.running():
        yield Host(transport.listen_addresses[0], dial, publish, messages)


@asynccontextmanager
async def stock(number: int, _of: int) -> AsyncIterator[Host]:
    """py-libp2p as it is shipped, but for the numbers of its mesh and heartbeat: those of `ours`.

    Its limit of ten messages a second from a peer is off, too: this load is above it.
    """
    from libp2p import new_host
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from libp2p.pubsub.gossipsub import GossipSub
    from libp2p.pubsub.pubsub import Pubsub
    from libp2p.tools.anyio_service import background_trio_service
    from multiaddr import Multiaddr

    listen = [Multiaddr(LOCAL)]
    host = new_host(key_pair=create_new_key_pair(identity(number).seed), listen_addrs=listen)
    gossip = GossipSub(
        protocols=["/meshsub/1.2.0", "/meshsub/1.1.0"],
        degree=6,
        degree_low=4,
        degree_high=12,
        heartbeat_interval=1,
        spam_protection_enabled=False,
    )
    pubsub = Pubsub(host, gossip)

    async def dial(peer_id: str, address: str) -> None:
        await host.connect(info_from_p2p_addr(Multiaddr(f"{address}/p2p/{peer_id}")))

    async def publish(data: bytes) -> None:
        await pubsub.publish(TOPIC, data)

    @asynccontextmanager
    async def messages() -> AsyncIterator[AsyncIterator[bytes]]:
        subscription = await pubsub.subscribe(TOPIC)
        yield (bytes(message.data) async for message in subscription)

    async with (
        host.run(listen_addrs=listen),
        background_trio_service(pubsub),
        background_trio_service(gossip),
    ):
        await pubsub.wait_until_ready()
        address = str(host.get_addrs()[0]).partition("/p2p/")[0]
        yield Host(address, dial, publish, messages)


KINDS = {"ours": ours, "stock": stock}


class Heard:
    """What came of others, each message once, and how old it was."""

    def __init__(self, number: int) -> None:
        self._own = number
        self._seen: set[bytes] = set()
        self.ages_ms: list[float] = []

    async def listen(self, arriving: AsyncIterator[bytes]) -> None:
        async for data in arriving:
            now = time.monotonic_ns()
            head = data[:HEAD_BYTES]
            if head not in self._seen and int.from_bytes(head[8:12], "big") != self._own:
                self._seen.add(head)
                self.ages_ms.append((now - int.from_bytes(head[:8], "big")) / 1e6)


async def publish_all(host: Host, number: int, begin: float, load: Load) -> int:
    """Evenly, each process at moments of its own; how many."""
    body = os.urandom(load.message_bytes - HEAD_BYTES)
    begin += random.Random(number).random() / load.per_second
    count = int(load.seconds * load.per_second)
    for sequence in range(count):
        await trio.sleep(max(0.0, begin + sequence / load.per_second - time.monotonic()))
        made = time.monotonic_ns().to_bytes(8, "big")
        await host.publish(made + number.to_bytes(4, "big") + sequence.to_bytes(4, "big") + body)
    return count


async def run(kind: str, number: int, load: Load) -> None:
    async with KINDS[kind](number, load.processes) as host:
        say(address=host.address)
        for peer_id, address in (await told())["dial"]:
            await host.dial(peer_id, address)
        heard = Heard(number)
        async with host.messages() as arriving, trio.open_nursery() as nursery:
            nursery.start_soon(heard.listen, arriving)
            say(ready=True)
            begin = float((await told())["begin"])
            await trio.sleep(max(0.0, begin - time.monotonic()))
            before = time.process_time()
            sent = await publish_all(host, number, begin, load)
            end = begin + load.seconds + DRAIN_SECONDS
            await trio.sleep(max(0.0, end - time.monotonic()))
            used = time.process_time() - before
            say(sent=sent, cpu_seconds=used, ages_ms=[round(age, 2) for age in heard.ages_ms])
            os._exit(0)  # how long a host takes to close is not asked


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def told() -> dict[str, Any]:
    return dict(json.loads(await trio.to_thread.run_sync(sys.stdin.readline)))


def main(kind: str, number: str, load: str) -> None:
    trio.run(run, kind, int(number), Load(**json.loads(load)))


if __name__ == "__main__":
    main(*sys.argv[1:])
