"""What a node says in gossip: no more than others take, and so that it is heard."""

import types
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.pubsub.pb import rpc_pb2
from tests.node.network import nodes
from tests.node.network.gossip_world import TOPICS, World, control, graft, ids
from tests.node.network.test_gossip_dht import in_mesh
from tests.patience import PATIENCE_SECONDS

from aigrid.node.network import gossip_counts
from aigrid.node.network.gossip_heartbeat import sample
from aigrid.protocol.limits import LIMITS

AT_ONCE = LIMITS.gossip_messages_burst // 2  # of what others take at once, what is sent at once


@pytest.fixture
def world() -> World:
    return World()


def keep(world: World, count: int, size: int = 1) -> list[Any]:
    """The member has written so much just now."""
    messages = [world.message(number, bytes(size)) for number in range(count)]
    for message in messages:
        world.library.gossip.mcache.put(message)
    return messages


def wanting(messages: list[Any]) -> Any:
    wanted = [message.from_id + message.seqno for message in messages]
    return control(iwant=[rpc_pb2.ControlIWant(messageIDs=wanted)])


# Heartbeats


async def test_each_peer_is_told_what_is_meant_for_it(world: World) -> None:
    said = dict[Any, Any]()
    world.library.gossip.send_rpc = lambda peer, rpc, **_: said.update({peer: rpc.control})
    grafts = {number: [TOPICS[number]] for number in range(3)}
    prunes = {number: [TOPICS[number + 3]] for number in range(1, 4)}
    haves = {number: {TOPICS[number]: ids(number + 1)} for number in range(2, 5)}
    await world.library.gossip._emit_control_msgs(grafts, prunes, haves)
    assert said == {
        number: control(
            graft=[rpc_pb2.ControlGraft(topicID=one) for one in grafts.get(number, ())],
            prune=[rpc_pb2.ControlPrune(topicID=one) for one in prunes.get(number, ())],
            ihave=[
                rpc_pb2.ControlIHave(topicID=topic, messageIDs=those)
                for topic, those in haves.get(number, {}).items()
            ],
        ).control
        for number in range(5)
    }


async def test_of_however_much_is_written_a_peer_is_told_as_much_as_it_bears(
    world: World, autojump_clock: Any
) -> None:
    other = World()
    other.member = world.library  # whom it hears
    peer, least = other.library.peer_id, LIMITS.gossip_provocations_max * 1.0
    world.library.pubsub.peer_queues[peer] = types.SimpleNamespace(max_message_size=1 << 20)
    said = list[Any]()
    world.library.gossip.send_rpc = lambda _peer, rpc, **_: said.append(rpc)
    for second in range(60):
        haves = {peer: {topic: ids(2000, second * 2000) for topic in TOPICS}}
        await world.library.gossip._emit_control_msgs({}, {}, haves)
        gossip_counts.check(said[-1].SerializeToString())
        await other.hear(said[-1])
        least = min(least, other.left())
        await trio.sleep(1)
    assert least > LIMITS.gossip_provocations_max - LIMITS.gossip_provocations_per_second


@given(
    st.dictionaries(st.sampled_from(TOPICS), st.sets(st.binary(max_size=3)).map(sorted)),
    st.integers(0, 50),
)
def test_a_sample_is_of_what_there_is_and_no_more_than_it_may(
    told: dict[str, list[bytes]], most: int
) -> None:
    kept = sample(told, most)
    assert all(set(those) <= set(told[topic]) for topic, those in kept.items())
    assert sum(map(len, kept.values())) == min(most, sum(map(len, told.values())))


def test_a_sample_is_of_every_topic_and_another_each_time() -> None:
    """The first ones alone would always be of the same topics, and nobody would hear of the others."""
    told = {topic: ids(LIMITS.gossip_told_max) for topic in TOPICS}
    one, other = (sample(told, LIMITS.gossip_told_max) for _ in range(2))
    assert one != other
    assert one.keys() == told.keys()


# What is said again


async def test_of_what_is_asked_for_as_much_is_sent_as_the_asker_takes(
    world: World, autojump_clock: Any
) -> None:
    messages, sent = keep(world, AT_ONCE), world.listens()
    await world.hear(wanting(messages))
    assert [list(frame.publish) for frame in sent] == [messages[: AT_ONCE // 2]]
    assert world.gate.counts["gossip_held_back"] == AT_ONCE - AT_ONCE // 2
    await world.hear(wanting(messages))
    assert len(sent) == 1
    await trio.sleep(1)
    await world.hear(wanting([*messages[-3:], *messages[-3:]]))
    assert list(sent[1].publish) == messages[-3:]


async def test_of_large_ones_as_many_as_fit_a_frame(world: World, autojump_clock: Any) -> None:
    messages, sent = keep(world, 20, LIMITS.gossip_max_bytes), world.listens()
    await world.hear(wanting(messages))
    count = LIMITS.gossip_wanted_bytes // messages[0].ByteSize()
    assert [list(frame.publish) for frame in sent] == [messages[:count]]


async def test_who_subscribes_is_told_no_more_than_it_takes_however_often(
    world: World, autojump_clock: Any
) -> None:
    """By the library each would have all of three seconds, whatever it can take."""
    messages, sent = keep(world, 3 * AT_ONCE), world.listens()
    gossip, peer = world.library.gossip, world.member.peer_id
    for _ in range(20):
        await gossip.send_recent_messages(peer, TOPICS[0])
    assert [list(frame.publish) for frame in sent] == [messages[: AT_ONCE // 2]]
    await gossip.send_recent_messages(peer, TOPICS[1])  # on which nothing was said
    assert len(sent) == 1


async def test_who_subscribes_is_told_what_fits_a_frame(world: World, autojump_clock: Any) -> None:
    messages, sent = keep(world, 20, LIMITS.gossip_max_bytes), world.listens()
    await world.library.gossip.send_recent_messages(world.member.peer_id, TOPICS[0])
    count = LIMITS.gossip_wanted_bytes // messages[0].ByteSize()
    assert [list(frame.publish) for frame in sent] == [messages[:count]]


async def test_nothing_that_the_library_writes_goes_past_what_a_peer_takes(
    world: World, autojump_clock: Any
) -> None:
    messages, sent = keep(world, AT_ONCE), world.listens()
    stream = types.SimpleNamespace(muxed_conn=types.SimpleNamespace(peer_id=world.member.peer_id))
    for message in messages:
        assert await world.library.pubsub.write_msg(stream, rpc_pb2.RPC(publish=[message]))
    assert len(sent) == AT_ONCE * 3 // 4
    own = rpc_pb2.Message(from_id=world.library.peer_id.to_bytes(), data=b"ours")
    world.library.gossip.send_rpc(world.member.peer_id, rpc_pb2.RPC(publish=[own]))
    assert list(sent[-1].publish) == [own]


async def test_what_is_said_before_a_stream_is_open_takes_nothing_from_what_goes_on_it(
    world: World, autojump_clock: Any
) -> None:
    gossip, peer, other = world.library.gossip, world.member.peer_id, World()
    await world.hear(graft(TOPICS[0]))
    messages = [other.message(number) for number in range(AT_ONCE)]
    for message in messages:
        await gossip.publish(other.member.peer_id, message)
    await gossip.send_recent_messages(peer, TOPICS[0])
    assert world.gate.counts["gossip_held_back"] == 0
    sent = world.listens()
    await gossip.send_recent_messages(peer, TOPICS[0])
    assert [len(frame.publish) for frame in sent] == [AT_ONCE // 2]


async def test_nothing_can_be_said_between_subscribing_and_the_replay(
    world: World, autojump_clock: Any
) -> None:
    """It would be replayed, and go to the mesh as well."""
    messages, sent = keep(world, 3), world.listens()
    replay = world.library.gossip.send_recent_messages(world.member.peer_id, TOPICS[0])
    replay.send(None)  # to where others may run
    assert [len(frame.publish) for frame in sent] == [len(messages)]
    replay.close()


# Our own


async def test_a_node_publishes_its_own_at_the_pace_of_an_author(
    world: World, autojump_clock: Any
) -> None:
    began, at_once = trio.current_time(), LIMITS.gossip_author_burst // 2
    for _ in range(at_once):
        await world.gossip.publish(TOPICS[0], b"x")
    assert trio.current_time() == began
    for _ in range(int(LIMITS.gossip_author_per_second)):
        await world.gossip.publish(TOPICS[0], b"x")
    assert trio.current_time() - began == pytest.approx(1, abs=0.1)


async def test_what_we_said_before_a_restart_is_not_taken_from_others(
    world: World, autojump_clock: Any
) -> None:
    message = World.message(types.SimpleNamespace(member=world.library), 1)  # type: ignore[arg-type]
    await world.hear(rpc_pb2.RPC(publish=[message]))
    cache = world.library.gossip.mcache
    assert cache.get(message.from_id + message.seqno) is None
    theirs = world.message(1)
    await world.hear(rpc_pb2.RPC(publish=[theirs]))
    assert cache.get(theirs.from_id + theirs.seqno) is not None


# Streams that end


@pytest.mark.parametrize("whose", [0, 1])
async def test_when_a_stream_of_one_side_ends_both_hear_each_other_again(
    pair: nodes.Pair, whose: int
) -> None:
    """Who opens it anew has forgotten what the other listens to, and was told on a stream that lives."""
    one, two = pair
    async with one.subscribe("topic") as at_one, two.subscribe("topic") as at_two:
        await in_mesh(one, two)
        await in_mesh(two, one)
        this, other = (one, two) if whose == 0 else (two, one)
        peers, peer = this._library.pubsub.peers, other._library.peer_id
        lost = peers[peer]
        await lost.reset()
        await this.publish("topic", b"into the void")
        await nodes.eventually(lambda: peers.get(peer) not in {None, lost})
        await in_mesh(one, two)
        await in_mesh(two, one)
        with trio.fail_after(PATIENCE_SECONDS):
            await one.publish("topic", b"of one")
            await two.publish("topic", b"of two")
            assert await after(b"into the void", at_two) == b"of one"
            assert await after(b"into the void", at_one) == b"of two"


async def after(skipped: bytes, heard: Any) -> bytes:
    while (data := (await heard.__anext__())[1]) == skipped:
        pass
    return bytes(data)


def test_limits_of_a_heartbeat_are_within_what_is_borne() -> None:
    entries = len(TOPICS) * LIMITS.gossip_control_counts
    said = LIMITS.gossip_told_max * LIMITS.gossip_id_counts
    assert entries + said < LIMITS.gossip_provocations_per_second
