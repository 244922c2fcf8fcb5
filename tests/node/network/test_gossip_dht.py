"""Gossip and DHT among members, and what strangers cannot do to either."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import trio
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.pubsub.pb import rpc_pb2
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamError,
    MuxedStreamReset,
)
from multiaddr import Multiaddr
from tests.node.network import nodes
from tests.patience import PATIENCE_SECONDS
from trio.testing import MockClock

from aigrid.node.network import compat, libp2p_gossip, negotiation
from aigrid.node.network.dht_places import Places
from aigrid.node.network.gate import Gate
from aigrid.node.network.libp2p_dht import Dht, collect, usable
from aigrid.node.network.libp2p_transport import Libp2pTransport
from aigrid.node.network.muxer import Muxer
from aigrid.node.network.transport import PeerAddress
from aigrid.protocol.errors import RemoteError
from aigrid.protocol.limits import LIMITS


async def in_mesh(node: Libp2pTransport, *others: Libp2pTransport) -> None:
    """Wait until `node` forwards what it publishes to all of the others."""
    peers = {o._library.peer_id for o in others}
    await nodes.eventually(lambda: peers <= set(node._library.gossip.mesh.get("topic", ())))


async def test_message_reaches_members_once_and_not_its_publisher(start: nodes.Start) -> None:
    one, two, three = await start(), await start(), await start()
    await nodes.befriend(one, two)
    await nodes.befriend(two, three)
    one.admit([three.peer_id])
    three.admit([one.peer_id])
    async with one.subscribe("topic") as at_one, two.subscribe("topic"):
        async with three.subscribe("topic") as at_three:
            await in_mesh(two, one, three)
            await in_mesh(one, two)
            await one.publish("topic", b"first")
            await one.publish("topic", b"second")
            await three.publish("topic", b"answer")
            with trio.fail_after(PATIENCE_SECONDS):
                got = [await at_three.__anext__() for _ in range(2)]
                assert await at_one.__anext__() == (three.peer_id, b"answer")
    assert sorted(got) == [(one.peer_id, b"first"), (one.peer_id, b"second")]


async def test_oversized_message_is_refused_before_it_is_sent(pair: nodes.Pair) -> None:
    with pytest.raises(ValueError):
        await pair[0].publish("topic", b"x" * (LIMITS.gossip_max_bytes + 1))


async def test_undrained_subscription_drops_the_oldest(
    monkeypatch: pytest.MonkeyPatch, pair: nodes.Pair
) -> None:
    monkeypatch.setattr(libp2p_gossip, "LIMITS", replace(LIMITS, gossip_waiting_max=4))
    one, two = pair
    async with one.subscribe("topic"), two.subscribe("topic") as heard:
        await in_mesh(one, two)
        for i in range(10):
            await one.publish("topic", str(i).encode())
        await nodes.eventually(lambda: two.counters()["gossip_dropped"] == 6)
        assert [(await heard.__anext__())[1] for _ in range(4)] == [b"6", b"7", b"8", b"9"]


async def in_tables(one: Libp2pTransport, two: Libp2pTransport) -> None:
    await nodes.eventually(lambda: one._dht.holds(two._library.peer_id))
    await nodes.eventually(lambda: two._dht.holds(one._library.peer_id))


def signed(library: compat.Library, data: bytes) -> Any:
    """A message as `Pubsub.publish` would build it."""
    message = rpc_pb2.Message(
        data=data, topicIDs=["topic"], from_id=library.peer_id.to_bytes(), seqno=b"\0" * 8
    )
    sign(library, message)
    return message


def sign(library: compat.Library, message: Any) -> None:
    for field in ("key", "signature"):
        message.ClearField(field)
    signature = library.host.get_private_key().sign(b"libp2p-pubsub:" + message.SerializeToString())
    message.key = library.host.get_public_key().serialize()
    message.signature = signature


async def inject(muxer: Muxer, *messages: Any) -> None:
    stream = await muxer.open_stream()
    await negotiation.select(stream, compat.MESHSUB_PROTOCOL)
    data = rpc_pb2.RPC(publish=list(messages)).SerializeToString()
    await stream.write(negotiation.encode_varint(len(data)) + data)


async def test_message_by_a_stranger_is_dropped_though_a_member_forwards_it(
    pair: nodes.Pair, hostile: nodes.Hostile, new_hostile: Callable[[], nodes.Hostile]
) -> None:
    one, two = pair
    two.admit([hostile.peer_id])
    stranger = new_hostile().library
    forged = signed(stranger, b"forged")
    forged.from_id = one._library.peer_id.to_bytes()
    async with two.subscribe("topic") as heard:
        await inject(
            await hostile.connect(two),
            signed(stranger, b"stranger"),
            forged,
            signed(hostile.library, b"x" * (LIMITS.gossip_max_bytes + 1)),
            signed(hostile.library, b"member"),
        )
        with trio.fail_after(PATIENCE_SECONDS):
            assert await heard.__anext__() == (hostile.peer_id, b"member")
        with trio.move_on_after(0.1):
            pytest.fail(f"heard {await heard.__anext__()}")
    assert two.counters()["gossip_refused"] == 3


async def test_provider_is_found_with_its_addresses(start: nodes.Start) -> None:
    one, two, three = await start(), await start(), await start()
    for node in (two, three):
        await nodes.befriend(one, node)
        await in_tables(one, node)
    two.admit([three.peer_id])
    three.admit([two.peer_id])
    await one.provide("model")
    await two.provide("model")
    found = await three.find_providers("model")
    assert {p.peer_id: p.addresses for p in found} == {
        one.peer_id: one.listen_addresses,
        two.peer_id: two.listen_addresses,
    }
    assert await three.find_providers("unknown") == ()


def test_a_provider_is_kept_at_its_name_too() -> None:
    said = ["/dns4/node.example/tcp/1", "/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.1/udp/1/quic-v1"]
    assert usable(map(Multiaddr, said)) == ("/dns/node.example/tcp/1", "/ip4/192.0.2.1/tcp/1")


async def test_many_strangers_near_a_key_do_not_hide_the_members(
    start: nodes.Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await start(), await start()
    await nodes.befriend(one, two)
    await in_tables(one, two)
    await one.provide("model")
    strangers = [
        compat.ID.from_base58(nodes.peer_id_of_seed(nodes.new_seed()))
        for _ in range(2 * LIMITS.dht_queries_max)
    ]

    async def closest(*_args: object) -> list[Any]:
        return [*strangers, one._library.peer_id]

    monkeypatch.setattr(two._library.dht.peer_routing, "find_closest_peers_network", closest)
    assert [peer.peer_id for peer in await two.find_providers("model")] == [one.peer_id]


async def test_members_that_are_gone_do_not_keep_the_others_from_being_asked(
    start: nodes.Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await start(), await start()
    await nodes.befriend(one, two)
    await in_tables(one, two)
    await one.provide("model")

    async def lost(*_args: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(two._library.dht.peer_routing, "find_closest_peers_network", lost)
    assert [peer.peer_id for peer in await two.find_providers("model")] == [one.peer_id]


async def test_hints_name_peers_that_are_not_known_as_members(start: nodes.Start) -> None:
    one, two, three = await start(), await start(), await start()
    for node in (two, three):
        await nodes.befriend(one, node)
        await in_tables(one, node)
    await two.provide("model")
    (found,) = await three.find_providers("model")
    assert (found.peer_id, found.addresses) == (two.peer_id, two.listen_addresses)
    assert two.peer_id not in three.members


async def test_dht_alone_and_with_dead_peers_answers_in_time(start: nodes.Start) -> None:
    one = await start()
    with trio.fail_after(PATIENCE_SECONDS):
        await one.provide("model")
        assert [p.peer_id for p in await one.find_providers("model")] == [one.peer_id]
        assert await one.find_providers("unknown") == ()


async def hold(muxer: Muxer, question: bytes = b"") -> None:
    """A DHT stream, at once another when it ends; what is asked on it without end, if anything."""
    while muxer.dead is None:
        with suppress(*LOST):
            stream = await muxer.open_stream()
            await negotiation.select(stream, compat.KAD_PROTOCOL)
            while question:
                await stream.write(question)
            await stream.read(1)
        await trio.lowlevel.checkpoint()


LOST = (MuxedConnUnavailable, MuxedStreamError, RemoteError)
FIND_NODE = Message(type=Message.MessageType.FIND_NODE, key=b"\x12\x20" + bytes(32))
ASKED = negotiation.encode_varint(FIND_NODE.ByteSize()) + FIND_NODE.SerializeToString()


@pytest.mark.parametrize("question", [b"", ASKED], ids=["idle", "paced"])
@pytest.mark.parametrize("in_all", [LIMITS.dht_streams_max, 6])
async def test_members_that_hold_dht_streams_keep_nobody_out(
    start: nodes.Start,
    new_hostile: Callable[[], nodes.Hostile],
    nursery: trio.Nursery,
    question: bytes,
    in_all: int,
) -> None:
    """Twelve of them took all that the library serves; with 6, ours are full."""
    held, one, two = await start(), await start(), await start()
    held._dht._places = Places(LIMITS.dht_streams_per_peer_max, in_all)
    for node in (one, two):
        await nodes.befriend(node, held)
        await in_tables(node, held)
    for holder in [new_hostile() for _ in range(3)]:
        held.admit([holder.peer_id])
        muxer = await holder.connect(held)
        for _ in range(LIMITS.dht_streams_per_peer_max):
            nursery.start_soon(hold, muxer, question)
    places: Any = held._dht._places
    await nodes.eventually(lambda: len(places._taken) >= min(in_all, 12))
    await one.provide("model")
    assert [peer.peer_id for peer in await two.find_providers("model")] == [one.peer_id]
    assert (held.counters()["dht_evicted"] > 0) == (in_all == 6)
    assert len(places._taken) <= in_all


async def test_who_takes_dht_streams_without_end_and_asks_nothing_is_cut_off(
    pair: nodes.Pair, new_hostile: Callable[[], nodes.Hostile], nursery: trio.Nursery
) -> None:
    """Each makes room by having the other's ended: endless work, for nothing."""
    _, held = pair
    held._dht._places = Places(1, 1)
    impatient = replace(LIMITS, mux_provocations_per_second=0.0)  # however slow this machine is
    muxers = []
    for holder in (new_hostile(), new_hostile()):
        held.admit([holder.peer_id])
        muxers.append(await holder.connect(held))
    await nodes.eventually(lambda: len(held.connected()) == 3)
    links: Any = held._connections._links
    for (link,) in links.values():
        link.muxer.session._manners._limits = impatient
    for muxer in muxers:
        nursery.start_soon(hold, muxer, b"")
    await nodes.eventually(lambda: any(muxer.dead is not None for muxer in muxers))
    await nodes.eventually(lambda: held.counters()["protocol_broken"] == 1)
    borne = LIMITS.mux_provocations_max // LIMITS.mux_useless_stream_counts
    assert held.counters()["dht_evicted"] <= 2 * (borne + 1)


async def test_whose_dht_stream_makes_room_for_another_is_told(
    pair: nodes.Pair, new_hostile: Callable[[], nodes.Hostile]
) -> None:
    """It would wait for an answer until it gave up."""
    _, held = pair
    held._dht._places = Places(1, 1)
    streams = []
    for asker in (new_hostile(), new_hostile()):
        held.admit([asker.peer_id])
        streams.append(await (await asker.connect(held)).open_stream())
        await negotiation.select(streams[-1], compat.KAD_PROTOCOL)
    with trio.fail_after(PATIENCE_SECONDS), pytest.raises(MuxedStreamReset):
        await streams[0].read(1)
    assert held.counters()["dht_evicted"] == 1


async def test_keys_are_told_at_a_pace(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what others take of one, half of the messages that two for each key would be."""
    library, told = compat.build(nodes.new_seed(), lambda: ()), []

    async def provide(_key: bytes) -> None:
        told.append(trio.current_time())

    monkeypatch.setattr(library.dht.provider_store, "provide", provide)
    dht = Dht(library, Gate(str(library.peer_id), open_to_strangers=False))
    burst, per_second = LIMITS.dht_messages_burst / 4, LIMITS.dht_messages_per_second / 4
    for _ in range(2):
        told.clear()
        await trio.sleep(burst / per_second)
        began = trio.current_time()
        for number in range(LIMITS.provide_keys_max):
            await dht.provide(f"key {number}")
        for count, at in enumerate(told, 1):
            assert at - began == pytest.approx(max(0, count - burst) / per_second, abs=0.01)


async def test_dht_keeps_no_values_and_speaks_its_own_protocol(pair: nodes.Pair) -> None:
    one, _ = pair
    handlers = set(one._library.host.multiselect.handlers)
    assert compat.KAD_PROTOCOL in handlers
    assert not [h for h in handlers if "ipfs/kad" in h]
    with pytest.raises(Exception):  # noqa: B017
        await one._library.dht.put_value("/aigrid/x", b"v")


async def test_subscription_made_during_the_greeting_is_told(start: nodes.Start) -> None:
    one, two = await start(), await start()
    pubsub: Any = one._library.pubsub
    hello = pubsub.get_hello_packet

    def hello_then_subscribe() -> Any:
        packet = hello()
        pubsub.subscribed_topics_receive["late"] = object()
        return packet

    pubsub.get_hello_packet = hello_then_subscribe
    await nodes.befriend(one, two)
    topics = two._library.pubsub.peer_topics
    await nodes.eventually(lambda: one._library.peer_id in topics.get("late", ()))


async def test_reader_with_a_time_limit_can_read_on(pair: nodes.Pair) -> None:
    one, two = pair
    async with one.subscribe("topic"), two.subscribe("topic") as heard:
        await in_mesh(one, two)
        with trio.move_on_after(0.01):
            await heard.__anext__()
        await one.publish("topic", b"late")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await heard.__anext__() == (one.peer_id, b"late")


async def test_publishing_is_best_effort_whatever_the_library_raises(
    monkeypatch: pytest.MonkeyPatch, pair: nodes.Pair
) -> None:
    async def fail(*_args: object) -> None:
        raise KeyError("a peer that left")

    one, _ = pair
    monkeypatch.setattr(one._library.pubsub, "publish", fail)
    await one.publish("topic", b"data")
    assert one.counters()["tasks_failed"] == 1


def test_a_liar_in_the_dht_neither_crowds_out_members_nor_moves_them() -> None:
    def provider(peer_id: str, address: str) -> Any:
        return compat.PeerInfo(peer_id, [compat.Multiaddr(address)])

    found: dict[str, PeerAddress] = {}
    here, nowhere = "/ip4/127.0.0.1/tcp/7", "/ip4/192.0.2.1/tcp/7"
    collect(found, [provider("early", here)], {"early", "late"}.__contains__)
    lies = [provider("early", nowhere), *(provider(f"false{n}", nowhere) for n in range(500))]
    collect(found, lies, {"early", "late"}.__contains__)
    collect(found, [provider("late", here)], {"early", "late"}.__contains__)
    assert len(found) == LIMITS.dht_providers_max + 1
    assert found["early"].addresses == (here, nowhere)
    assert found["late"].addresses == (here,)
