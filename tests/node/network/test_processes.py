"""Against other processes: a peer that is killed, one that is frozen, and the library's own host."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import trio
from tests.node.network import nodes
from tests.patience import PATIENCE_SECONDS

from aigrid.node.network.transport import PeerAddress
from aigrid.protocol.errors import Code, RemoteError

pytestmark = pytest.mark.process
Spawn = Callable[[str, bytes, str], tuple[int, PeerAddress]]

OURS = """
import sys, time, trio
from aigrid.node.network.libp2p_transport import Libp2pTransport
async def echo(stream):
    while data := await stream.receive_some(65536):
        await stream.send_all(data)
async def main():
    node = Libp2pTransport(
        signing_seed=bytes.fromhex(sys.argv[1]),
        topics=frozenset(),
        now_ms=lambda: time.time_ns() // 1_000_000,
        listen=("/ip4/127.0.0.1/tcp/0",),
    )
    node.admit([sys.argv[2]])
    node.handle_stream("/test/echo/1", echo)
    async with node.running():
        print(node.peer_id, node.listen_addresses[0], flush=True)
        await trio.sleep_forever()
trio.run(main)
"""

STOCK = """
import logging, sys, trio
logging.disable(logging.CRITICAL)
from multiaddr import Multiaddr
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
from tests.node.network import nodes
listen = [Multiaddr("/ip4/127.0.0.1/tcp/0")]
async def main():
    host = new_host(key_pair=create_new_key_pair(bytes.fromhex(sys.argv[1])), listen_addrs=listen)
    async def echo(stream):
        await stream.write(await stream.read(1024))
        await stream.close()
    host.set_stream_handler(TProtocol("/test/echo/1"), echo)
    gossip = GossipSub([TProtocol("/meshsub/1.1.0")], 6, 4, 12, heartbeat_interval=1)
    pubsub = Pubsub(host, gossip, strict_signing=True)
    async with host.run(listen), background_trio_service(pubsub), background_trio_service(gossip):
        heard = await pubsub.subscribe("topic")
        address = str(host.get_transport_addrs()[0])
        print(host.get_id(), address, flush=True)
        message = await heard.get()
        await pubsub.publish("topic", b"heard " + message.data)
        await trio.sleep_forever()
trio.run(main)
"""


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    children = []

    def run(program: str, seed: bytes, friend: str) -> tuple[int, PeerAddress]:
        child = subprocess.Popen(
            [sys.executable, "-c", program, seed.hex(), friend], stdout=subprocess.PIPE, text=True
        )
        children.append(child)
        assert child.stdout is not None
        peer_id, address = child.stdout.readline().split()
        return child.pid, PeerAddress(peer_id, (address,))

    yield run
    for child in children:
        child.kill()
        child.communicate()


async def test_killed_peer_is_noticed_and_comes_back_on_a_new_port(
    start: nodes.Start, spawn: Spawn
) -> None:
    one, seed = await start(), nodes.new_seed()
    one.admit([nodes.peer_id_of_seed(seed)])
    pid, address = await trio.to_thread.run_sync(spawn, OURS, seed, one.peer_id)
    await one.connect(address)
    stream = await one.open_stream(address.peer_id, nodes.ECHO)
    await stream.send_all(b"x")
    await stream.receive_some(1)
    os.kill(pid, signal.SIGKILL)
    with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RemoteError) as caught:
        await stream.receive_some(1)
    assert caught.value.code is Code.CONNECTION_LOST
    await nodes.eventually(lambda: not one.connected())
    _, moved = await trio.to_thread.run_sync(spawn, OURS, seed, one.peer_id)
    assert moved.peer_id == address.peer_id
    with trio.fail_after(PATIENCE_SECONDS):
        await one.connect(moved)
    assert await nodes.ask(one, moved.peer_id, b"back") == b"back"


async def test_frozen_peer_costs_a_time_limit_and_nothing_else(
    start: nodes.Start, spawn: Spawn
) -> None:
    one, two, seed = await start(), await start(), nodes.new_seed()
    await nodes.befriend(one, two)
    one.admit([nodes.peer_id_of_seed(seed)])
    pid, address = await trio.to_thread.run_sync(spawn, OURS, seed, one.peer_id)
    await one.connect(address)
    os.kill(pid, signal.SIGSTOP)
    stream = None
    with trio.move_on_after(0.3):
        stream = await one.open_stream(address.peer_id, nodes.ECHO)
    assert stream is None
    assert await nodes.ask(one, two.peer_id, b"alive") == b"alive"
    os.kill(pid, signal.SIGCONT)
    with trio.fail_after(PATIENCE_SECONDS):
        assert await nodes.ask(one, address.peer_id, b"thawed") == b"thawed"


async def test_stock_library_host_as_member_echoes_and_gossips(
    start: nodes.Start, spawn: Spawn
) -> None:
    one, seed = await start(), nodes.new_seed()
    one.admit([nodes.peer_id_of_seed(seed)])
    _, address = await trio.to_thread.run_sync(spawn, STOCK, seed, "")
    await one.connect(address)
    assert await nodes.ask(one, address.peer_id, b"hello") == b"hello"
    async with one.subscribe("topic") as heard:
        mesh = one._library.gossip.mesh
        await nodes.eventually(lambda: mesh.get("topic"))
        await one.publish("topic", b"ping")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await heard.__anext__() == (address.peer_id, b"heard ping")
