"""GossipSub with several topics: who hears which, and that there are no others."""

from typing import Any

import pytest
import trio
from libp2p.pubsub.pb import rpc_pb2
from tests.node.network import nodes
from tests.node.network.test_gossip_dht import in_mesh, inject, signed
from tests.patience import PATIENCE_SECONDS

from aigrid.node.network import compat, negotiation
from aigrid.node.network.libp2p_transport import Libp2pTransport
from aigrid.protocol.limits import LIMITS


async def listens(node: Libp2pTransport, other: Libp2pTransport, topic: str) -> None:
    """Wait until `node` has heard that `other` listens on a topic."""
    topics = node._library.pubsub.peer_topics
    await nodes.eventually(lambda: other._library.peer_id in topics.get(topic, ()))


async def test_who_does_not_listen_on_a_topic_can_publish_to_it(start: nodes.Start) -> None:
    """And whoever listens passes it on to others that do, and to nobody else."""
    one, two, three = await start(), await start(), await start()
    await nodes.befriend(one, two)
    await nodes.befriend(two, three)
    one.admit([three.peer_id])
    three.admit([one.peer_id])
    async with (
        one.subscribe("topic") as at_one,
        two.subscribe("other") as at_two,
        three.subscribe("topic") as elsewhere,
        three.subscribe("other") as at_three,
    ):
        await listens(one, two, "other")
        mesh = two._library.gossip.mesh
        await nodes.eventually(lambda: three._library.peer_id in mesh.get("other", ()))
        await one.publish("other", b"first")
        await one.publish("other", b"second")
        with trio.fail_after(PATIENCE_SECONDS):
            for heard in (at_two, at_three):
                got = {await heard.__anext__() for _ in range(2)}
                assert got == {(one.peer_id, b"first"), (one.peer_id, b"second")}
        await three.publish("topic", b"end")  # two does not pass this on: it does not listen
        await two.publish("topic", b"of two")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await at_one.__anext__() == (two.peer_id, b"of two")
            assert await elsewhere.__anext__() == (two.peer_id, b"of two")


async def test_a_topic_left_and_joined_at_once_is_heard(pair: nodes.Pair) -> None:
    one, two = pair
    pubsub: Any = two._library.pubsub
    tell_all = pubsub.message_all_peers
    left, go_on, ended = trio.Event(), trio.Event(), trio.Event()

    async def slowly(raw: bytes, announce: Any = None) -> None:
        await tell_all(raw, announce=announce)
        if announce is not None and not announce.subscribe:
            left.set()
            await go_on.wait()

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def listen(*, task_status: Any) -> None:
            with scope:
                async with two.subscribe("topic"):
                    task_status.started()
                    await trio.sleep_forever()
            ended.set()

        await nursery.start(listen)
        pubsub.message_all_peers = slowly
        scope.cancel()
        await left.wait()
        nursery.start_soon(_set_later, go_on)
        async with two.subscribe("topic"):
            await ended.wait()
            assert "topic" in two._library.gossip.mesh
            assert "topic" in pubsub.topic_ids
    assert one.connected()


async def _set_later(event: trio.Event) -> None:
    for _ in range(10):
        await trio.lowlevel.checkpoint()
    event.set()


async def test_what_is_about_another_topic_is_neither_kept_nor_delivered(
    pair: nodes.Pair, hostile: nodes.Hostile
) -> None:
    _, two = pair
    two.admit([hostile.peer_id])
    gossip: Any = two._library.gossip
    async with two.subscribe("topic") as heard:
        muxer = await hostile.connect(two)
        await inject(
            muxer,
            about(hostile, 1, "topic", "junk"),
            about(hostile, 2, "junk"),
            about(hostile, 3, "topic", *(f"junk{n}" for n in range(10))),
            about(hostile, 4, "other", "topic"),
            signed(hostile.library, b"fine"),
        )
        with trio.fail_after(PATIENCE_SECONDS):
            assert await heard.__anext__() == (hostile.peer_id, b"fine")
        assert two.counters()["gossip_refused"] == 3  # the library itself leaves out the second
        many = about(hostile, 5, "topic", *(f"junk{n}" for n in range(1000)))
        await inject(muxer, many)  # more fields than a message has: nobody looks into it
        await nodes.eventually(lambda: two.counters()["gossip_refused"] == 4)
    for kept in (gossip.time_since_last_publish, gossip.fanout, gossip.recent_message_deliveries):
        assert set(kept) <= {"topic"}


async def test_subscriptions_to_other_topics_are_not_kept(
    pair: nodes.Pair, hostile: nodes.Hostile
) -> None:
    _, two = pair
    two.admit([hostile.peer_id])
    stream = await (await hostile.connect(two)).open_stream()
    await negotiation.select(stream, compat.MESHSUB_PROTOCOL)
    rpc = rpc_pb2.RPC()
    for topic in ("junk", *(f"junk{n}" for n in range(90)), "late"):
        rpc.subscriptions.add(subscribe=True, topicid=topic)
    data = rpc.SerializeToString()
    await stream.write(negotiation.encode_varint(len(data)) + data)
    topics = two._library.pubsub.peer_topics
    await nodes.eventually(lambda: hostile.library.peer_id in topics.get("late", ()))
    assert set(topics) <= nodes.TOPICS


async def test_publishing_to_a_topic_that_does_not_exist_is_refused(pair: nodes.Pair) -> None:
    one, two = pair
    async with one.subscribe("topic"), two.subscribe("topic"):
        await in_mesh(one, two)
        await one.publish("junk", b"data")
        # Afterwards the other's goodbye, about a topic that is left, may be refused as well.
        assert one.counters()["gossip_refused"] == 1


def about(hostile: nodes.Hostile, number: int, *topics: str) -> Any:
    """A message of a member on these topics, by the book apart from them."""
    message = rpc_pb2.Message(
        data=b"junk",
        topicIDs=list(topics),
        from_id=hostile.library.peer_id.to_bytes(),
        seqno=number.to_bytes(8, "big"),
    )
    private_key = hostile.library.host.get_private_key()
    message.signature = private_key.sign(b"libp2p-pubsub:" + message.SerializeToString())
    message.key = hostile.library.host.get_public_key().serialize()
    return message


@pytest.mark.parametrize("topic", ["topic", "other"])
async def test_a_member_hears_only_the_topics_it_listens_on(pair: nodes.Pair, topic: str) -> None:
    one, two = pair
    async with two.subscribe(topic) as heard:
        await listens(one, two, topic)
        for each in ("topic", "other", "late"):
            await one.publish(each, each.encode())
        await one.publish(topic, b"end")
        with trio.fail_after(PATIENCE_SECONDS):
            got = {(await heard.__anext__())[1] for _ in range(2)}
    assert got == {topic.encode(), b"end"}


async def test_what_a_member_does_not_want_is_of_a_version_that_is_not_spoken(
    pair: nodes.Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    heard: list[Any] = []

    async def handle(entry: Any, _sender: Any) -> None:
        heard.append(entry)

    monkeypatch.setattr(two._library.gossip, "handle_idontwant", handle)
    unwanted = [rpc_pb2.ControlIDontWant(messageIDs=[b"x"])] * LIMITS.gossip_control_max
    rpc = rpc_pb2.RPC(control=rpc_pb2.ControlMessage(idontwant=unwanted))
    await two._library.gossip.handle_rpc(rpc, one._library.peer_id)
    assert not heard
