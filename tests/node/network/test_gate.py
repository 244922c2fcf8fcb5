"""Members only: what strangers, members, admitted and removed peers can do."""

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamError
from tests.node.network import nodes
from tests.patience import PATIENCE_SECONDS

from aigrid.node.network import compat, connections, gate, negotiation
from aigrid.node.network.libp2p_transport import Libp2pTransport
from aigrid.node.network.muxed_stream import MuxedStream
from aigrid.node.network.muxer import Muxer
from aigrid.node.network.transport import PeerAddress, PeerChange, Stream
from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.limits import LIMITS


def limits(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    monkeypatch.setattr(gate, "LIMITS", dataclasses.replace(LIMITS, **changes))


async def open_lobby(muxer: Muxer) -> MuxedStream:
    stream = await muxer.open_stream()
    await negotiation.select(stream, nodes.LOBBY)
    return stream


async def test_stranger_is_offered_the_lobby_alone(
    pair: nodes.Pair, hostile: nodes.Hostile
) -> None:
    _, two = pair
    muxer = await hostile.connect(two)
    assert await hostile.protocols(muxer) == {nodes.LOBBY, compat.IDENTIFY_PROTOCOL}
    for protocol in (nodes.ECHO, compat.MESHSUB_PROTOCOL, compat.KAD_PROTOCOL):
        assert not await hostile.is_served(muxer, protocol)
    assert await hostile.is_served(muxer, nodes.LOBBY)


async def test_stranger_is_asked_for_nothing_and_told_no_address(
    pair: nodes.Pair, hostile: nodes.Hostile
) -> None:
    one, two = pair
    muxer = await hostile.connect(two)
    stream = await muxer.open_stream()
    await negotiation.select(stream, compat.IDENTIFY_PROTOCOL)
    length = (await stream.read(1))[0]
    said = Identify()
    said.ParseFromString(await stream.read(length))
    assert set(said.protocols) == {nodes.LOBBY, compat.IDENTIFY_PROTOCOL}
    assert not said.listen_addrs
    assert not said.signedPeerRecord
    await two.publish("topic", b"secret")
    await nodes.ask(one, two.peer_id, b"some time later")
    assert not [s for s in muxer.streams.values() if not s.is_initiator]
    identity = hostile.library.peer_id
    assert identity not in two._library.pubsub.peers
    assert not two._dht.holds(identity)


async def test_plaintext_and_tls_are_not_spoken(pair: nodes.Pair) -> None:
    _, two = pair
    for protocol in ("/plaintext/2.0.0", "/secio/1.0.0", "/tls/1.0.0"):
        raw = await nodes.raw_connection(two)
        with pytest.raises(RemoteError, match="does not serve"):
            await negotiation.select(raw, protocol)
        await raw.close()


async def test_dialing_and_streams_to_strangers_are_refused(start: nodes.Start) -> None:
    one, two = await start(), await start()
    with pytest.raises(RemoteError) as caught:
        await one.connect(nodes.address(two))
    assert caught.value.code is Code.NOT_MEMBER
    with pytest.raises(RemoteError) as caught:
        await one.open_stream(two.peer_id, nodes.ECHO)
    assert caught.value.code is Code.NOT_MEMBER
    assert one.counters()["outbound_refused"] == 2


async def test_peers_that_may_be_dialled_are_forgotten_when_there_are_many(
    start: nodes.Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, peers_known_max=3)
    one = await start()
    named = [nodes.peer_id_of_seed(nodes.new_seed()) for _ in range(10)]
    for peer_id in named:
        one.allow_dial(peer_id)
    assert [one._gate.may_dial(peer_id) for peer_id in named] == [False] * 7 + [True] * 3


async def test_joiner_is_admitted_on_the_connection_it_has(start: nodes.Start) -> None:
    host, joiner = await start(), await start()
    joiner.allow_dial(host.peer_id)
    await joiner.connect(nodes.address(host))
    assert await nodes.ask(joiner, host.peer_id, b"let me in", nodes.LOBBY) == b"let me in"
    with pytest.raises(RemoteError) as caught:
        await joiner.open_stream(host.peer_id, nodes.ECHO)
    assert caught.value.code is Code.NOT_MEMBER
    async with host.subscribe("topic") as heard, joiner.subscribe("topic"):
        host.admit([joiner.peer_id])
        await trio.testing.wait_all_tasks_blocked(0.01)  # its first tries to reach us are refused
        joiner.admit([host.peer_id])
        assert await nodes.ask(joiner, host.peer_id, b"member") == b"member"
        assert await nodes.ask(host, joiner.peer_id, b"both ways") == b"both ways"
        topic = host._library.gossip.mesh
        await nodes.eventually(lambda: joiner._library.peer_id in topic.get("topic", ()))
        await joiner.publish("topic", b"hello")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await heard.__anext__() == (joiner.peer_id, b"hello")
    assert host.counters()["connections_opened"] == 1
    await nodes.eventually(lambda: host._dht.holds(joiner._library.peer_id))


async def test_removed_member_is_cut_off_at_once(pair: nodes.Pair) -> None:
    one, two = pair
    async with two.subscribe("topic") as heard, one.subscribe("topic"):
        await nodes.eventually(lambda: one._library.peer_id in two._library.pubsub.peers)
        stream = await one.open_stream(two.peer_id, nodes.ECHO)
        await stream.send_all(b"x")
        await stream.receive_some(1)
        with trio.fail_after(PATIENCE_SECONDS):
            await two.remove(one.peer_id)
            with pytest.raises(RemoteError):
                await stream.receive_some(1)
        assert two.connected() == frozenset()
        assert one._library.peer_id not in two._library.pubsub.peers
        await nodes.eventually(lambda: not one.connected())
        await one.connect(nodes.address(two))
        with pytest.raises(RemoteError) as caught:
            await one.open_stream(two.peer_id, nodes.ECHO)
        assert caught.value.code is Code.NOT_MEMBER
        await one.publish("topic", b"ghost")
        with trio.move_on_after(0.2):
            pytest.fail(f"heard {await heard.__anext__()}")


async def test_handler_of_a_removed_member_is_cancelled(start: nodes.Start) -> None:
    cancelled = trio.Event()

    async def compute(stream: Stream) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    one, two = await start(), await start(handlers={"/test/compute/1": compute})
    await nodes.befriend(one, two)
    await one.open_stream(two.peer_id, "/test/compute/1")
    await two.remove(one.peer_id)
    with trio.fail_after(PATIENCE_SECONDS):
        await cancelled.wait()


async def test_stranger_has_few_streams_and_a_flood_ends_it(
    pair: nodes.Pair, hostile: nodes.Hostile
) -> None:
    _, two = pair
    muxer = await hostile.connect(two)
    held = [await open_lobby(muxer) for _ in range(LIMITS.stranger_streams_max)]
    with pytest.raises((MuxedStreamError, RemoteError)):
        await open_lobby(muxer)
    assert held
    with trio.fail_after(PATIENCE_SECONDS):
        while muxer.dead is None:
            with suppress(MuxedStreamError, MuxedConnUnavailable, RemoteError):
                await open_lobby(muxer)
    assert two.counters()["streams_refused"] >= LIMITS.stranger_refusals_max


async def test_stranger_stream_ends_with_its_time(
    monkeypatch: pytest.MonkeyPatch, pair: nodes.Pair, hostile: nodes.Hostile
) -> None:
    limits(monkeypatch, stranger_stream_seconds=0.1)
    _, two = pair
    stream = await open_lobby(await hostile.connect(two))
    with trio.fail_after(LIMITS.stranger_stream_seconds), pytest.raises(MuxedStreamError):
        await stream.read(1)


async def test_stranger_stream_carries_little(
    pair: nodes.Pair, hostile: nodes.Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, stranger_stream_seconds=2 * PATIENCE_SECONDS)
    _, two = pair
    stream = await open_lobby(await hostile.connect(two))
    carried = 0
    with trio.fail_after(PATIENCE_SECONDS), suppress(MuxedStreamError):
        while True:
            await stream.write(b"x" * LIMITS.join_max_bytes)
            carried += len(await stream.read(LIMITS.join_max_bytes))
    assert carried <= LIMITS.stranger_stream_max_bytes


async def test_stranger_leaves_when_its_time_is_up(
    monkeypatch: pytest.MonkeyPatch, pair: nodes.Pair, hostile: nodes.Hostile
) -> None:
    limits(monkeypatch, stranger_seconds=0.1)
    _, two = pair
    muxer = await hostile.connect(two)
    with trio.fail_after(LIMITS.stranger_seconds):
        await muxer.event_closed.wait()
    assert two.counters()["strangers_expired"] == 1


async def test_lurking_strangers_do_not_keep_a_newcomer_out(
    pair: nodes.Pair,
    new_hostile: Callable[[], nodes.Hostile],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits(monkeypatch, stranger_seconds=2 * PATIENCE_SECONDS)
    _, two = pair
    lurkers = [await new_hostile().connect(two) for _ in range(40)]
    await nodes.eventually(lambda: sum(m.dead is None for m in lurkers) <= LIMITS.strangers_max)
    newcomer = new_hostile()
    assert await newcomer.is_served(await newcomer.connect(two), nodes.LOBBY)
    assert two.counters()["strangers_evicted"] == 40 + 1 - LIMITS.strangers_max


async def test_idle_raw_connections_do_not_keep_a_newcomer_out(
    pair: nodes.Pair, hostile: nodes.Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = dataclasses.replace(LIMITS, pre_auth_seconds=2 * PATIENCE_SECONDS)
    monkeypatch.setattr(connections, "LIMITS", patient)
    one, two = pair
    idle = [await nodes.raw_connection(two) for _ in range(300)]
    with trio.fail_after(PATIENCE_SECONDS):
        muxer = await hostile.connect(two)
        assert await hostile.is_served(muxer, nodes.LOBBY)
    assert await nodes.ask(one, two.peer_id, b"alive") == b"alive"
    assert two.counters()["pre_auth_evicted"] > 200
    for connection in idle:
        await connection.close()


async def test_who_waits_for_having_broken_the_protocol_makes_room_as_others_do(
    pair: nodes.Pair,
) -> None:
    _, two = pair
    table = two._connections
    for _ in range(10):
        table._penance.broke("127.0.0.1", trio.current_time())
    idle = [await nodes.raw_connection(two) for _ in range(2 * LIMITS.pre_auth_per_ip_max)]
    evicted = len(idle) - LIMITS.pre_auth_per_ip_max
    await nodes.eventually(lambda: two.counters()["pre_auth_evicted"] == evicted)
    assert len(table._handshakes) == LIMITS.pre_auth_per_ip_max, "while they wait, too"
    for connection in idle:
        await connection.close()


async def test_silent_connections_take_no_turn_of_honest_nodes_of_their_address(
    pair: nodes.Pair, new_hostile: Callable[[], nodes.Hostile]
) -> None:
    _, two = pair
    penance = two._connections._penance
    for _ in range(3):
        penance.broke("127.0.0.1", trio.current_time())
    first = penance._hosts["127.0.0.1"].turn
    silent = [await nodes.raw_connection(two) for _ in range(2 * LIMITS.pre_auth_per_ip_max)]
    await nodes.eventually(lambda: two.counters()["pre_auth_evicted"] > 0)
    assert penance._hosts["127.0.0.1"].turn == first, "none of them had a turn"
    with trio.fail_after(PATIENCE_SECONDS):
        for _ in range(2):
            honest = new_hostile()
            assert await honest.is_served(await honest.connect(two), nodes.LOBBY)
    for connection in silent:
        await connection.close()


async def test_open_node_serves_everybody(start: nodes.Start, hostile: nodes.Hostile) -> None:
    node = await start(open_to_strangers=True)
    muxer = await hostile.connect(node)
    assert await hostile.is_served(muxer, nodes.ECHO)
    assert hostile.peer_id not in node.members


async def test_events_tell_of_first_and_last_connection(start: nodes.Start) -> None:
    one, two = await start(), await start()
    async with two.events() as events:
        await nodes.befriend(one, two)
        await one.disconnect(two.peer_id)
        with trio.fail_after(PATIENCE_SECONDS):
            seen = [await events.receive() for _ in range(2)]
    assert [(e.change, e.peer_id) for e in seen] == [
        (PeerChange.CONNECTED, one.peer_id),
        (PeerChange.DISCONNECTED, one.peer_id),
    ]


async def test_both_dialing_at_once_leaves_them_connected(start: nodes.Start) -> None:
    for _ in range(5):
        one, two = await start(), await start()
        one.admit([two.peer_id])
        two.admit([one.peer_id])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.connect, nodes.address(two))
            nursery.start_soon(two.connect, nodes.address(one))
        assert await nodes.ask(one, two.peer_id, b"a") == b"a"
        assert await nodes.ask(two, one.peer_id, b"b") == b"b"
        await gossiping(one, two)


async def gossiping(one: Libp2pTransport, two: Libp2pTransport) -> None:
    await nodes.eventually(lambda: one._library.peer_id in two._library.pubsub.peers)
    await nodes.eventually(lambda: two._library.peer_id in one._library.pubsub.peers)


async def test_unreachable_and_wrong_peers_are_typed_errors(start: nodes.Start) -> None:
    one, two = await start(), await start()
    other = nodes.peer_id_of_seed(nodes.new_seed())
    one.admit([other])
    for addresses in ((), ("/ip4/127.0.0.1/tcp/1",), ("rubbish",), two.listen_addresses):
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RemoteError) as caught:
            await one.connect(PeerAddress(other, addresses))
        assert caught.value.code is Code.UNREACHABLE
    for wrong in ("", "nonsense", one.peer_id):
        with pytest.raises(RemoteError):
            await one.connect(PeerAddress(wrong, two.listen_addresses))


async def test_first_address_that_answers_wins(start: nodes.Start) -> None:
    one, two = await start(), await start()
    one.admit([two.peer_id])
    dead = ("/ip4/192.0.2.1/tcp/9", "/ip4/127.0.0.1/tcp/1")
    with trio.fail_after(PATIENCE_SECONDS):
        await one.connect(PeerAddress(two.peer_id, (*dead, *two.listen_addresses)))
