"""What a node keeps of connections that ended, of peers that left, and of messages that passed."""

import gc
import socket
import threading
from collections import Counter
from functools import partial
from typing import Any

import pytest
import trio
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.identity.update import update_peerstore_from_identify
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from multiaddr import Multiaddr
from tests.node.network import nodes
from tests.patience import PATIENCE_SECONDS
from trio.testing import MockClock

from aigrid.node.network import compat, forgetting, negotiation
from aigrid.node.network.libp2p_transport import Libp2pTransport
from aigrid.node.network.streams import RpcClient, RpcServer, Send
from aigrid.node.network.transport import RPC_PROTOCOL
from aigrid.protocol.limits import LIMITS

RECONNECTS = 100
PEERS = 1100  # the library keeps 1000


@pytest.fixture
def library() -> compat.Library:
    return compat.build(nodes.new_seed(), lambda: ("/ip4/127.0.0.1/tcp/1",))


@pytest.fixture
def peerstore(library: compat.Library) -> Any:
    return library.host.get_peerstore()


def some_peer(number: int = 0) -> Any:
    return compat.ID.from_base58(nodes.peer_id_of_seed((9000 + number).to_bytes(32, "big")))


def hear_of_many(peerstore: Any) -> None:
    for number in range(PEERS):
        peerstore.add_addrs(some_peer(number), [Multiaddr("/ip4/127.0.0.1/tcp/1")], 3600)


# Connections


def living() -> Counter[str]:
    """Objects of ours, of the library, and sockets and tasks, by type."""
    gc.collect()
    kinds = (type(o) for o in gc.get_objects())
    return Counter(
        f"{kind.__module__}.{kind.__qualname__}"
        for kind in kinds
        if str(kind.__module__).startswith(("aigrid.", "libp2p."))
        or issubclass(kind, (socket.socket, trio.lowlevel.Task, trio.Nursery, trio.SocketStream))
    )


async def echo(_peer_id: str, request: bytes, send: Send) -> None:
    await send(request)


async def abort(node: Libp2pTransport, _peer_id: str) -> None:
    for links in tuple(node._connections._links.values()):
        for link in links:
            link.muxer.die("aborted")
    await trio.lowlevel.checkpoint()


async def close(node: Libp2pTransport, peer_id: str) -> None:
    await node.disconnect(peer_id)


async def test_reconnects_leave_nothing_behind(start: nodes.Start, nursery: trio.Nursery) -> None:
    """By either end, politely or not, dialed by either end: no object, socket or task stays."""
    rpc = {RPC_PROTOCOL: RpcServer(echo).serve}
    pair = await start(handlers=rpc), await start(handlers=rpc)
    clients = {node: RpcClient(node) for node in pair}
    for client in clients.values():
        await nursery.start(client.run)

    async def reconnect(times: int) -> None:
        for number in range(times):
            one, two = pair if number % 2 else pair[::-1]
            await nodes.befriend(one, two)
            for node, other in ((one, two), (two, one)):
                await clients[node].ask(other.peer_id, b"x", silence_seconds=PATIENCE_SECONDS)
            await (close, abort)[number // 2 % 2](one, two.peer_id)
            await nodes.eventually(lambda: not any(node.connected() for node in pair))
        await nodes.befriend(*pair)
        for node in pair:
            await nodes.eventually(partial(is_settled, node))

    await reconnect(10)
    before = living()
    await reconnect(RECONNECTS)
    await nodes.eventually(lambda: not grown(before))


def is_settled(node: Libp2pTransport) -> bool:
    """One connection, and the gossip runs over it."""
    library = node._library
    return len(library.swarm.get_connections()) == 1 == len(library.pubsub.peers)


def grown(before: Counter[str]) -> dict[str, int]:
    """Types of which there is more than one more for every ten reconnects."""
    more = living() - before
    return {kind: count for kind, count in more.items() if count >= RECONNECTS // 10}


# Peers


def test_own_keys_are_kept_however_many_peers_are_heard_of(
    library: compat.Library, peerstore: Any
) -> None:
    hear_of_many(peerstore)
    assert len(peerstore.peer_ids()) <= 1001
    assert library.host.get_public_key() == peerstore.pubkey(library.peer_id)
    assert library.host.get_private_key() is not None


async def test_answers_of_the_dht_do_not_silence_a_node(pair: nodes.Pair) -> None:
    """They may name more peers than the peerstore holds, some in each."""
    one, two = pair
    answer = Message(type=Message.FIND_NODE)
    for number in range(PEERS):
        named = answer.closerPeers.add(id=some_peer(number).to_bytes())
        named.addrs.append(Multiaddr("/ip4/127.0.0.1/tcp/1").to_bytes())

    async def name_many(stream: Any) -> None:
        data = answer.SerializeToString()
        await stream.write(negotiation.encode_varint(len(data)) + data)
        await stream.close()

    two._library.host.set_stream_handler(compat.KAD_PROTOCOL, name_many)
    await nodes.eventually(lambda: one._dht.holds(two._library.peer_id))
    await one.find_providers("key")
    peerstore = one._library.host.get_peerstore()
    assert peerstore.has_peer(some_peer(0))
    hear_of_many(peerstore)
    assert len(peerstore.peer_ids()) >= 1000
    async with two.subscribe("topic") as heard:
        await nodes.eventually(lambda: one._library.pubsub.peer_topics.get("topic"))
        await one.publish("topic", b"still here")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await heard.__anext__() == (one.peer_id, b"still here")


async def test_what_is_known_of_a_connected_peer_is_kept_too(pair: nodes.Pair) -> None:
    one, two = pair
    peerstore = one._library.host.get_peerstore()
    peer = two._library.peer_id
    await nodes.eventually(lambda: peerstore.has_peer(peer) and peerstore.get_protocols(peer))
    hear_of_many(peerstore)
    assert nodes.ECHO in peerstore.get_protocols(peer)
    assert [str(a).partition("/p2p/")[0] for a in peerstore.addrs(peer)] == list(
        two.listen_addresses
    )


def test_addresses_of_a_peer_are_bounded_and_the_first_stay(peerstore: Any) -> None:
    addresses = [Multiaddr(f"/ip4/127.0.0.1/tcp/{port}") for port in range(1, 1000)]
    for address in addresses:
        peerstore.add_addr(some_peer(), address, 3600)
    assert peerstore.addrs(some_peer()) == addresses[: LIMITS.addresses_max]


async def test_no_address_is_kept_that_a_peer_gives_no_more(pair: nodes.Pair) -> None:
    one, two = pair
    peerstore, peer = one._library.host.get_peerstore(), two._library.peer_id
    for port in range(1, 100):
        said = Identify(listen_addrs=[Multiaddr(f"/ip4/127.0.0.1/tcp/{port}").to_bytes()])
        await update_peerstore_from_identify(peerstore, peer, said)
    assert len(peerstore.addrs(peer)) == 1
    gc.collect()
    kept = {str(o) for o in gc.get_objects() if isinstance(o, Multiaddr)}
    assert not kept & {f"/ip4/127.0.0.1/tcp/{port}" for port in range(50, 99)}


async def test_nothing_is_kept_of_a_member_that_was_removed(pair: nodes.Pair) -> None:
    one, two = pair
    peerstore = one._library.host.get_peerstore()
    await nodes.eventually(lambda: peerstore.has_peer(two._library.peer_id))
    await one.remove(two.peer_id)
    assert not peerstore.has_peer(two._library.peer_id)
    await one.remove(two.peer_id)


# Gossip


def test_back_off_of_a_peer_that_left_is_kept_until_it_is_over(library: compat.Library) -> None:
    gossip, topic = library.gossip, "topic"
    gossip._add_back_off(some_peer(), topic, is_unsubscribe=False)
    gossip._add_back_off(some_peer(1), topic, is_unsubscribe=False)
    gossip.back_off[topic][some_peer(1)] = 1  # seconds since the epoch
    gossip.fanout_heartbeat()
    assert set(gossip.back_off[topic]) == {some_peer()}


def test_back_offs_of_those_that_left_are_bounded(library: compat.Library) -> None:
    gossip, left = library.gossip, range(LIMITS.rate_keys_max + 9)
    gossip.back_off["topic"] = {some_peer(number): 2**40 + number for number in reversed(left)}
    gossip.fanout_heartbeat()
    assert set(gossip.back_off["topic"]) == {some_peer(number) for number in left[9:]}


async def test_messages_that_passed_are_not_kept(pair: nodes.Pair) -> None:
    one, two = pair
    async with one.subscribe("topic"), two.subscribe("topic") as heard:
        await nodes.eventually(lambda: one._library.gossip.mesh["topic"])
        with trio.fail_after(PATIENCE_SECONDS):
            for number in range(50):
                await one.publish("topic", b"%d" % number)
                await heard.__anext__()
    for node in pair:
        assert not node._library.gossip.equivocation_detection
        assert len(node._library.pubsub.validation_cache.cache) <= 16


# What was seen


def test_a_host_starts_no_thread() -> None:
    before = threading.active_count()
    compat.build(nodes.new_seed(), lambda: ())
    assert threading.active_count() == before


async def test_what_was_seen_is_kept_since_it_came_last_and_no_longer(
    autojump_clock: MockClock,
) -> None:
    seen = forgetting.SeenMessages(10)
    assert seen.add(b"one")
    await trio.sleep(6)
    assert seen.add(b"two")
    assert seen.has(b"one")
    await trio.sleep(6)
    assert not seen.add(b"one")
    await trio.sleep(9)
    assert not seen.has(b"two")
    assert len(seen) == 1
