"""Gossip frames in and out, and what a member can do with them."""

import hashlib
import inspect
import types
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.peerstore import env_to_send_in_RPC
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import PriorityQueue, RpcQueue
from libp2p.pubsub.utils import maybe_consume_signed_record
from libp2p.tools.anyio_service import background_trio_service
from tests.node.network import nodes
from tests.node.network.test_gossip_dht import in_mesh, inject, sign, signed
from tests.patience import PATIENCE_SECONDS

from aigrid.node.network import compat, gossip_wire, libp2p_gossip, negotiation
from aigrid.node.network.gossip_author import signed_by
from aigrid.node.network.gossip_queue import BoundedQueue
from aigrid.node.network.gossip_wire import FrameBuffer, FrameTooLargeError
from aigrid.protocol.limits import LIMITS


def lined_up(frames: list[bytes]) -> bytes:
    return b"".join(negotiation.encode_varint(len(each)) + each for each in frames)


@given(st.lists(st.binary(max_size=300), max_size=20), st.lists(st.integers(1, 200), max_size=50))
def test_however_the_bytes_are_cut_the_frames_are_the_same(
    frames: list[bytes], cuts: list[int]
) -> None:
    buffer, data, got = FrameBuffer(), lined_up(frames), list[bytes]()
    for size in cuts:
        got += buffer.feed(data[:size])
        data = data[size:]
    assert got + list(buffer.feed(data)) == frames


@given(st.binary(max_size=500))
def test_garbage_is_frames_or_too_large(data: bytes) -> None:
    try:
        got = list(FrameBuffer().feed(data))
    except FrameTooLargeError:
        return
    assert sum(map(len, got)) <= len(data)


@pytest.mark.parametrize(
    "head", [negotiation.encode_varint(LIMITS.gossip_frame_bytes + 1), b"\x80" * 10, b"\xff" * 9]
)
def test_a_length_over_the_limit_is_refused_before_anything_is_kept(head: bytes) -> None:
    with pytest.raises(FrameTooLargeError):
        list(FrameBuffer().feed(head))
    assert list(FrameBuffer().feed(negotiation.encode_varint(LIMITS.gossip_frame_bytes))) == []


def test_upstream_still_calls_what_was_replaced() -> None:
    def source(function: Any) -> str:
        return inspect.getsource(function)

    assert "await self.continuously_read_stream(stream)" in source(Pubsub.stream_handler)
    sends = "run_task(self.handle_sending_messages, peer_id, stream, queue)"
    assert sends in source(Pubsub._handle_new_peer)
    assert "await pubsub.write_msg(stream, rpc_msg)" in source(GossipSub.flush_pending_messages)
    assert "router.send_recent_messages(" in source(Pubsub._replay_recent_messages)
    assert "await self._emit_control_msgs(" in source(GossipSub.heartbeat)
    assert "self.send_rpc(" in source(GossipSub.emit_control_message)
    assert "await self.push_msg(self.my_id, msg)" in source(Pubsub.publish)


@pytest.mark.parametrize(
    ("function", "digest"),
    [
        (Pubsub.continuously_read_stream, "ac0c4ad87ca39288"),
        (Pubsub.push_msg, "1531483ab4d77674"),
        (Pubsub.handle_sending_messages, "4eb0b978f9c4b142"),
        (Pubsub.write_msg, "ee86b14b4181afff"),
        (GossipSub.publish, "b978282af46297f7"),
        (GossipSub.send_rpc, "9829bb1473a299fb"),
        (GossipSub.send_recent_messages, "10e4dc4bd29ec41b"),
        (GossipSub.handle_iwant, "cae61a447ac52c39"),
        (GossipSub._emit_control_msgs, "31b209cca3155276"),
        (maybe_consume_signed_record, "11b2181c27d75df4"),
        (env_to_send_in_RPC, "9fea9d702c187d22"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_upstream_still_does_what_ours_stands_in_for(function: Any, digest: str) -> None:
    """Another digest: upstream has changed it. See what it does now, and whether ours has to."""
    assert hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16] == digest


def test_upstream_still_queues_as_we_do() -> None:
    assert set(vars(RpcQueue())) == {"max_message_size", "_queue", "_notify", "_closed"}
    assert set(vars(PriorityQueue())) == {"max_size", "_non_priority", "_priority"}
    assert PriorityQueue().pop() is None


async def test_what_follows_an_announced_giant_is_not_read(
    pair: nodes.Pair, hostile: nodes.Hostile
) -> None:
    _, two = pair
    two.admit([hostile.peer_id])
    async with two.subscribe("topic"):
        stream = await (await hostile.connect(two)).open_stream()
        await negotiation.select(stream, compat.MESHSUB_PROTOCOL)
        await stream.write(negotiation.encode_varint(LIMITS.gossip_frame_bytes + 1))
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(compat.MuxedStreamError):
            await stream.read(1)


async def test_a_signature_is_verified_once_per_message(
    pair: nodes.Pair,
    hostile: nodes.Hostile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verified: list[bytes] = []

    def counted(message: Any, author: Any) -> bool:
        verified.append(message.data)
        return signed_by(message, author)

    monkeypatch.setattr(libp2p_gossip, "signed_by", counted)
    _, two = pair
    two.admit([hostile.peer_id])
    message = signed(hostile.library, b"again and again")
    forged = rpc_pb2.Message.FromString(message.SerializeToString())
    forged.data = b"of the same id"
    async with two.subscribe("topic") as heard:
        muxer = await hostile.connect(two)
        await inject(muxer, forged, *[message] * 50, forged)
        last = signed(hostile.library, b"last")
        last.seqno = b"\1" * 8
        last.signature = bytes(64)
        await inject(muxer, last)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await heard.__anext__() == (hostile.peer_id, b"again and again")
        await nodes.eventually(lambda: b"last" in verified)
        with trio.move_on_after(0.05):
            pytest.fail(f"heard {await heard.__anext__()}")
    # The forgery came first and hid nothing; behind the message itself nobody looked at it again.
    assert verified == [b"of the same id", b"again and again", b"last"]
    assert two.counters()["gossip_refused"] == 2


async def test_an_author_that_is_no_peer_id_costs_nothing(
    pair: nodes.Pair, hostile: nodes.Hostile
) -> None:
    """Spelling 64 KiB as a PeerId takes seconds, and 1 MiB minutes."""
    _, two = pair
    two.admit([hostile.peer_id])
    async with two.subscribe("topic") as heard:
        long = rpc_pb2.Message(data=b"x", topicIDs=["topic"], from_id=b"\1" * 500_000)
        await inject(
            await hostile.connect(two),
            long,
            rpc_pb2.Message(data=b"x", topicIDs=["topic"]),
            signed(hostile.library, b"fine"),
        )
        with trio.fail_after(PATIENCE_SECONDS):
            assert await heard.__anext__() == (hostile.peer_id, b"fine")
    assert two.counters()["gossip_refused"] == 2


async def test_a_frame_with_a_forged_record_of_its_sender_is_refused_whole(
    pair: nodes.Pair, hostile: nodes.Hostile
) -> None:
    _, two = pair
    two.admit([hostile.peer_id])
    record = hostile.library.host.peer_records.own()
    forged = record[:-1] + bytes([record[-1] ^ 1])
    async with two.subscribe("topic") as heard:
        stream = await (await hostile.connect(two)).open_stream()
        await negotiation.select(stream, compat.MESHSUB_PROTOCOL)
        for number, each in enumerate((record, forged, record, forged, record)):
            message = signed(hostile.library, b"%d" % number)
            message.seqno = bytes([number] * 8)
            sign(hostile.library, message)
            await stream.write(
                gossip_wire.framed(rpc_pb2.RPC(publish=[message], senderRecord=each))
            )
        with trio.fail_after(PATIENCE_SECONDS):
            assert [(await heard.__anext__())[1] for _ in range(3)] == [b"0", b"2", b"4"]
    assert two.counters()["gossip_refused"] == 2


async def test_who_subscribes_a_little_late_is_told_what_was_said_before(
    pair: nodes.Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    monkeypatch.setattr(one._library.gossip.mcache, "shift", lambda: None)  # as if no time passed
    async with one.subscribe("topic"):
        await one.publish("topic", b"early")
        async with two.subscribe("topic") as heard:
            with trio.fail_after(PATIENCE_SECONDS):
                assert await heard.__anext__() == (one.peer_id, b"early")


async def test_stock_py_libp2p_gossips_with_us_both_ways(start: nodes.Start) -> None:
    node = await start(open_to_strangers=True)
    at = compat.Multiaddr(node.listen_addresses[0])
    host = new_host(key_pair=create_new_key_pair(nodes.new_seed()))
    gossip = GossipSub(
        [TProtocol("/meshsub/1.2.0"), TProtocol("/meshsub/1.1.0")], 6, 4, 12, heartbeat_interval=1
    )
    pubsub = Pubsub(host, gossip)
    async with (
        host.run(listen_addrs=[compat.Multiaddr(nodes.LOCAL[0])]),
        background_trio_service(pubsub),
        background_trio_service(gossip),
        node.subscribe("topic") as at_ours,
    ):
        await host.connect(compat.PeerInfo(node._library.peer_id, [at]))
        at_stock = await pubsub.subscribe("topic")
        with trio.fail_after(PATIENCE_SECONDS):
            await pubsub.wait_for_mesh(node._library.peer_id, "topic", PATIENCE_SECONDS)
            await nodes.eventually(lambda: host.get_id() in node._library.gossip.mesh["topic"])
            for number in range(50):
                await node.publish("topic", b"%d" % number)
                assert (await at_stock.get()).data == b"%d" % number
            for number in range(10):  # more in a second are spam to stock
                await pubsub.publish("topic", b"%d" % number)
                assert await at_ours.__anext__() == (str(host.get_id()), b"%d" % number)


async def test_one_frame_is_built_for_all_peers(
    start: nodes.Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = await start(), await start(), await start()
    for node in (two, three):
        await nodes.befriend(one, node)
    two.admit([three.peer_id])
    three.admit([two.peer_id])
    built: list[int] = []
    really = gossip_wire.framed

    def is_told(peer: Any) -> bool:
        """What was said before it subscribed: or it would be sent this once more."""
        return "topic" in one._library.pubsub._replayed_recent_topics.get(peer, ())

    def counted(rpc: Any) -> bytes:
        built.extend(len(message.data) for message in rpc.publish)
        return really(rpc)

    async with one.subscribe("topic"), two.subscribe("topic") as at_two:
        async with three.subscribe("topic") as at_three:
            await in_mesh(one, two, three)
            for node in (two, three):
                await nodes.eventually(partial(is_told, node._library.peer_id))
            monkeypatch.setattr(gossip_wire, "framed", counted)
            await one.publish("topic", b"x" * 1234)
            with trio.fail_after(PATIENCE_SECONDS):
                for heard in (at_two, at_three):
                    assert await heard.__anext__() == (one.peer_id, b"x" * 1234)
            # Who passes it on finds nobody who lacks it: it came from the one other peer it has.
            assert built == [1234]


async def test_many_at_once_all_arrive(pair: nodes.Pair, hostile: nodes.Hostile) -> None:
    """The library drops what is over 32 before the writer has its turn."""
    one, two = pair
    two.admit([hostile.peer_id])
    one.admit([hostile.peer_id])
    count = 2 * LIMITS.gossip_queue_max
    async with one.subscribe("topic") as at_one, two.subscribe("topic") as at_two:
        await in_mesh(one, two)
        await in_mesh(two, one)
        for number in range(count):
            await one.publish("topic", b"%d" % number)
        passed_on = [signed(hostile.library, b"") for _ in range(100)]
        for number, message in enumerate(passed_on):
            message.seqno = number.to_bytes(8, "big")
            sign(hostile.library, message)
        await inject(await hostile.connect(two), *passed_on)
        with trio.fail_after(PATIENCE_SECONDS):
            got = [await at_two.__anext__() for _ in range(count + 100)]
            assert sorted(int(d) for p, d in got if p == one.peer_id) == list(range(count))
            assert {await at_one.__anext__() for _ in range(100)} == {(hostile.peer_id, b"")}


async def test_a_queue_takes_what_arrives_from_several_peers_at_once(pair: nodes.Pair) -> None:
    one, two = pair
    queues: Any = one._library.pubsub.peer_queues
    peer = two._library.peer_id
    await nodes.eventually(lambda: peer in queues)
    await nodes.eventually(lambda: queues[peer]._queue.max_size == LIMITS.gossip_queue_max)
    taken = [queues[peer].push(lined_up([b""])) for _ in range(LIMITS.gossip_queue_max + 1)]
    assert taken == [True] * LIMITS.gossip_queue_max + [False]


async def test_what_waits_for_a_peer_is_bounded_by_bytes_too(pair: nodes.Pair) -> None:
    one, two = pair
    queues: Any = one._library.pubsub.peer_queues
    peer = two._library.peer_id
    await nodes.eventually(lambda: peer in queues)
    await nodes.eventually(lambda: isinstance(queues[peer]._queue, BoundedQueue))
    frame = bytes(LIMITS.gossip_frame_bytes)
    room = LIMITS.gossip_queue_bytes // len(frame)
    assert room < LIMITS.gossip_queue_max
    taken = [queues[peer].push(frame) for _ in range(room + 1)]
    assert taken == [True] * room + [False]


@given(st.lists(st.integers(0, 2 * LIMITS.gossip_queue_bytes) | st.none(), max_size=60))
def test_a_queue_knows_what_waits_in_it(sizes: list[int | None]) -> None:
    """None takes something out. One alone has room whatever its size."""
    library = PriorityQueue()
    library.push(rpc_pb2.RPC(senderRecord=b"12"))
    queue, waiting = BoundedQueue(library), [4]
    for size in sizes:
        if size is None:
            assert (queue.pop() is None) == (not waiting)
            waiting = waiting[1:]
            continue
        entry = types.SimpleNamespace(ByteSize=lambda size=size: size)
        fits = not waiting or sum(waiting) + size <= LIMITS.gossip_queue_bytes
        assert queue.push(entry) == fits
        if fits:
            waiting.append(size)
    assert (len(queue), queue.size_bytes) == (len(waiting), sum(waiting))


async def test_all_that_the_library_writes_goes_through_the_queue_of_the_peer(
    pair: nodes.Pair,
) -> None:
    """Two tasks that write to one stream would mingle their frames when its window is full."""
    one, two = pair
    pubsub: Any = one._library.pubsub
    peer = two._library.peer_id
    await nodes.eventually(lambda: peer in pubsub.peer_queues)
    queue = RpcQueue()
    pubsub.peer_queues[peer] = queue
    rpc = rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid="late")])
    assert await pubsub.write_msg(pubsub.peers[peer], rpc)
    assert await queue.pop() == gossip_wire.framed(rpc)
    queue.close()
    assert not await pubsub.write_msg(pubsub.peers[peer], rpc)


async def test_a_queue_is_written_in_pieces_of_bounded_size() -> None:
    queue = RpcQueue()
    for size in (10, 20, gossip_wire.WRITE_BYTES, 30):
        queue.push(bytes(size))
    queue.push(rpc_pb2.RPC())
    sizes = [len(gossip_wire._joined(await queue.pop(), queue)) for _ in range(2)]
    assert sizes == [30 + gossip_wire.WRITE_BYTES, 31]
    assert not len(queue)


async def test_a_writer_that_fails_leaves_no_peer_that_nobody_writes_to(pair: nodes.Pair) -> None:
    one, two = pair
    pubsub: Any = one._library.pubsub
    peer = two._library.peer_id
    await nodes.eventually(lambda: peer in pubsub.peer_queues)
    first = pubsub.peer_queues[peer]
    first.push(types.SimpleNamespace(ByteSize=lambda: 1))  # neither bytes nor an RPC
    # It is connected still, so the library opens another stream, with another queue.
    await nodes.eventually(lambda: pubsub.peer_queues.get(peer) not in {None, first})
