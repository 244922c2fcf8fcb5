"""What is said in gossip costs its sender patience by what it costs us; honest peers have enough."""

from typing import Any

import pytest
import trio
from libp2p.peer.id import ID
from libp2p.peer.peerstore import create_signed_peer_record
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from tests.node.network import nodes
from tests.node.network.gossip_world import (
    BURST,
    TOPICS,
    World,
    control,
    graft,
    ids,
    prune,
)
from tests.node.network.test_gossip_dht import sign

from aigrid.node.network import compat
from aigrid.node.network.gossip_patience import FloodError
from aigrid.protocol.limits import LIMITS


@pytest.fixture
def world() -> World:
    return World()


async def test_minutes_of_honest_gossip_leaves_patience_nearly_whole(
    world: World, autojump_clock: Any
) -> None:
    """20 nodes with a message a second each, all of them lost on the way here and asked for again.

    Every minute the member leaves all meshes and joins them again, as one that was disconnected.
    """
    record = world.member.host.peer_records.own()
    least = float(BURST)
    for second in range(300):
        if second % 60 == 0:
            subscriptions = [rpc_pb2.RPC.SubOpts(subscribe=True, topicid=t) for t in TOPICS]
            await world.hear(rpc_pb2.RPC(subscriptions=subscriptions, senderRecord=record))
            await world.hear(prune(*TOPICS))
            await world.hear(graft(*TOPICS))
        ihave = [rpc_pb2.ControlIHave(topicID=t, messageIDs=ids(60, second)) for t in TOPICS]
        await world.hear(control(ihave=ihave))
        for _ in TOPICS:
            await world.hear(control(iwant=[rpc_pb2.ControlIWant(messageIDs=ids(2, second))]))
        least = min(least, world.left())
        await trio.sleep(1)
    assert least > BURST / 2
    assert world.left() > BURST - LIMITS.gossip_provocations_per_second


async def test_honest_messages_cost_nothing(world: World, autojump_clock: Any) -> None:
    messages = [world.message(number, bytes(8192)) for number in range(20)]
    for message in messages * 2:  # a mesh brings each more than once
        assert await world.cost(rpc_pb2.RPC(publish=[message])) == 0


async def test_who_is_in_a_mesh_is_told_though_it_never_said_that_it_listens(
    world: World, autojump_clock: Any
) -> None:
    peer, (topic, other, *_) = world.member.peer_id, TOPICS
    await world.hear(graft(topic))
    gossip, pubsub = world.library.gossip, world.library.pubsub
    assert set(gossip._get_peers_to_send([topic], world.library.peer_id, ID(b"x"))) == {peer}
    await world.hear(prune(other))
    await world.hear(graft(other))  # before its time: it is refused
    assert peer not in pubsub.peer_topics.get(other, ())
    leave = rpc_pb2.RPC.SubOpts(subscribe=False, topicid=topic)
    await world.hear(rpc_pb2.RPC(subscriptions=[leave]))
    assert peer not in pubsub.peer_topics.get(topic, ())


async def test_entries_and_ids_cost_by_their_number(world: World, autojump_clock: Any) -> None:
    entry, each = LIMITS.gossip_control_counts, LIMITS.gossip_id_counts
    (topic, *_) = TOPICS
    have = rpc_pb2.ControlIHave(topicID=topic, messageIDs=ids(100))
    want = rpc_pb2.ControlIWant(messageIDs=ids(100))
    unwanted = rpc_pb2.ControlIDontWant(messageIDs=ids(100))
    px = rpc_pb2.ControlPrune(topicID=topic, peers=[rpc_pb2.PeerInfo(peerID=b"p")] * 10)
    for rpc, cost in (
        (control(ihave=[have]), entry + 100 * each),
        (control(iwant=[want, want]), 2 * (entry + 100 * each)),
        (control(idontwant=[unwanted]), entry + 100 * each),
        (control(prune=[px]), entry + 10 * each),
        (control(ihave=[rpc_pb2.ControlIHave(topicID="none of ours")]), entry),
    ):
        assert await world.cost(rpc) == pytest.approx(cost)


async def test_a_graft_that_has_to_be_answered_costs_more(
    world: World, autojump_clock: Any
) -> None:
    entry, (topic, *_) = LIMITS.gossip_control_counts, TOPICS
    for _ in range(2):  # it is taken in, and then it is in already
        assert await world.cost(graft(topic)) == pytest.approx(entry)
    assert world.library.gossip.mesh[topic] == {world.member.peer_id}
    assert await world.cost(prune(topic)) == pytest.approx(entry)
    assert await world.cost(graft(topic)) == pytest.approx(entry + 1)  # before its time
    assert await world.cost(graft(*[topic] * 20)) == pytest.approx(20 * entry + 1)
    both = control(
        graft=[rpc_pb2.ControlGraft(topicID=TOPICS[1])],
        prune=[rpc_pb2.ControlPrune(topicID=TOPICS[1])],
    )
    assert await world.cost(both) == pytest.approx(2 * entry)  # taken in, and gone again


async def test_who_says_that_it_will_not_be_back_for_long_may_be_asked_again_after_minutes(
    world: World, autojump_clock: Any
) -> None:
    away = control(prune=[rpc_pb2.ControlPrune(topicID=TOPICS[0], backoff=2**62)])
    await world.hear(away)
    ends, peer = world.library.gossip.back_off[TOPICS[0]], world.member.peer_id
    await world.hear(prune(TOPICS[1]))
    a_minute = world.library.gossip.back_off[TOPICS[1]][peer]
    longer = ends[peer] - a_minute
    assert 500 <= longer <= LIMITS.gossip_back_off_seconds


async def test_what_is_refused_costs_by_what_it_takes_to_find_out(
    world: World, autojump_clock: Any
) -> None:
    forged = world.message(1)
    forged.data = b"y"
    assert await world.cost(rpc_pb2.RPC(publish=[forged] * 5)) == 5
    assert await world.cost(rpc_pb2.RPC(publish=[rpc_pb2.Message(topicIDs=TOPICS[:2])])) == 1
    fine = world.message(2)
    assert await world.cost(rpc_pb2.RPC(publish=[fine])) == 0
    left = (LIMITS.gossip_messages_burst - 7) / LIMITS.gossip_repeat_counts  # behind seven others
    for _ in range(int(left) // 500):
        assert await world.cost(rpc_pb2.RPC(publish=[fine] * 500)) == 0
    over = await world.cost(rpc_pb2.RPC(publish=[fine] * (int(left) % 500 + 22)))
    assert over == pytest.approx(22 * LIMITS.gossip_excess_counts)


async def test_what_an_author_writes_too_much_costs_the_author_and_no_forwarder(
    world: World, autojump_clock: Any
) -> None:
    burst = LIMITS.gossip_author_burst
    for number in range(0, burst, 128):
        fine = [world.message(each) for each in range(number, number + 128)]
        assert await world.cost(rpc_pb2.RPC(publish=fine)) == 0
    more = rpc_pb2.RPC(publish=[world.message(burst + each) for each in range(8)])
    assert await world.cost(more) == pytest.approx(8)
    large = world.message(burst + 8, bytes(8 * LIMITS.gossip_counted_bytes))
    assert await world.cost(rpc_pb2.RPC(publish=[large])) == pytest.approx(2 * 8 - 1)
    world.member = compat.build(nodes.new_seed(), lambda: ())  # it passes on what another wrote
    assert await world.cost(more) == 0
    assert world.gate.counts["gossip_refused"] == 17


async def test_what_others_say_again_costs_an_author_nothing_and_none_of_what_it_writes(
    world: World, autojump_clock: Any
) -> None:
    """A number from a clock that was once ahead, then all that the author said long ago."""
    hour = 3600 * 10**9
    author, other = world.member, compat.build(nodes.new_seed(), lambda: ())
    said = [world.message(hour), *(world.message(n - hour) for n in range(500))]
    fine = [world.message(number) for number in range(LIMITS.gossip_author_burst)]
    world.member = other
    assert await world.cost(rpc_pb2.RPC(publish=said)) == 0
    assert world.gate.counts["gossip_refused"] == len(said) - LIMITS.gossip_author_burst
    world.member = author
    assert await world.cost(rpc_pb2.RPC(publish=fine)) == 0
    assert world.gate.counts["gossip_refused"] == len(said) - LIMITS.gossip_author_burst


async def test_whose_clock_is_wrong_is_not_blamed_when_others_have_used_up_its_rate(
    world: World, autojump_clock: Any
) -> None:
    hour = 3600 * 10**9
    author, other = world.member, compat.build(nodes.new_seed(), lambda: ())
    said = [world.message(n - 2 * hour) for n in range(LIMITS.gossip_author_burst + 50)]
    behind = [world.message(n - hour) for n in range(LIMITS.gossip_author_burst + 3)]
    world.member = other
    assert await world.cost(rpc_pb2.RPC(publish=said)) == 0
    world.member = author
    assert await world.cost(rpc_pb2.RPC(publish=behind[:-3])) == 0
    assert await world.cost(rpc_pb2.RPC(publish=behind[-3:])) == pytest.approx(3)
    assert world.gate.counts["gossip_refused"] == 50 + len(behind)


async def test_forgeries_use_up_nothing_of_what_an_author_may_write(
    world: World, autojump_clock: Any
) -> None:
    forged = [world.message(number) for number in range(LIMITS.gossip_author_burst)]
    for message in forged:
        message.data = b"forged"
    fine = rpc_pb2.RPC(publish=[world.message(0)])
    author, world.member = world.member, compat.build(nodes.new_seed(), lambda: ())
    assert await world.cost(rpc_pb2.RPC(publish=forged)) == pytest.approx(len(forged))
    world.member = author
    assert await world.cost(fine) == 0
    assert world.gate.counts["gossip_refused"] == len(forged)


async def test_messages_of_whom_we_do_not_know_yet_cost_the_forwarder_little(
    world: World, autojump_clock: Any
) -> None:
    world.gate._open = False
    world.gate.admit(str(world.member.peer_id))
    stranger = compat.build(nodes.new_seed(), lambda: ())
    message = world.message(1)
    message.from_id = stranger.peer_id.to_bytes()
    sign(stranger, message)
    assert await world.cost(rpc_pb2.RPC(publish=[message])) == LIMITS.gossip_excess_counts


def record(world: World, number: int) -> bytes:
    address = compat.Multiaddr(f"/ip4/127.0.0.1/tcp/{number + 1}")
    key = world.member.host.get_private_key()
    made = create_signed_peer_record(world.member.peer_id, [address], key)
    return bytes(made.marshal_envelope())


async def test_a_record_of_the_sender_costs_when_it_is_another(
    world: World, autojump_clock: Any
) -> None:
    message = world.message(1)
    for number, said in enumerate([record(world, 1), record(world, 2)]):
        rpc = rpc_pb2.RPC(publish=[message], senderRecord=said)
        assert await world.cost(rpc) == LIMITS.gossip_record_counts, number
        assert await world.cost(rpc) == 0


async def test_records_that_change_without_end_are_a_flood(
    world: World, autojump_clock: Any
) -> None:
    seen = [world.message(1)]
    for number in range(BURST // LIMITS.gossip_record_counts):
        await world.hear(rpc_pb2.RPC(publish=seen, senderRecord=record(world, number)))
    with pytest.raises(FloodError):
        await world.hear(rpc_pb2.RPC(publish=seen, senderRecord=record(world, number + 1)))


async def test_of_ids_that_are_new_no_more_are_asked_for_than_may_be(
    world: World, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    async def emit(wanted: list[bytes], _peer: Any) -> None:
        asked.extend(wanted)

    monkeypatch.setattr(world.library.gossip, "emit_iwant", emit)
    known, new = ids(1000), ids(3000, 1000)
    for each in known:
        world.library.pubsub.seen_messages.add(each)
    hexed = [each.hex().encode() for each in new]  # as py-libp2p once wrote them
    halves = [
        rpc_pb2.ControlIHave(topicID=TOPICS[0], messageIDs=part)
        for part in (known + new[:100], hexed[:2000])
    ]
    await world.hear(control(ihave=halves))
    assert asked == new[: LIMITS.gossip_asked_max]


async def test_the_library_sees_each_topic_once(
    world: World, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled: list[Any] = []
    for name in ("handle_ihave", "handle_graft", "handle_prune"):

        async def note(entry: Any, _peer: Any) -> None:
            handled.append(entry)

        assert callable(getattr(GossipSub, name))
        monkeypatch.setattr(world.library.gossip, name, note)
    several = control(
        graft=[rpc_pb2.ControlGraft(topicID=TOPICS[0])] * 10,
        prune=[rpc_pb2.ControlPrune(topicID=TOPICS[1], backoff=each) for each in range(1, 9)],
        ihave=[rpc_pb2.ControlIHave(topicID=TOPICS[2], messageIDs=[each]) for each in ids(10)],
    )
    await world.hear(several)
    assert handled == [
        rpc_pb2.ControlIHave(topicID=TOPICS[2], messageIDs=ids(10)),
        rpc_pb2.ControlGraft(topicID=TOPICS[0]),
        rpc_pb2.ControlPrune(topicID=TOPICS[1], backoff=8),
    ]


@pytest.mark.parametrize(
    "rpc",
    [
        control(ihave=[rpc_pb2.ControlIHave(topicID=TOPICS[0], messageIDs=ids(5000))]),
        control(iwant=[rpc_pb2.ControlIWant(messageIDs=ids(5000))]),
    ],
    ids=["ihave", "iwant"],
)
async def test_others_have_their_turn_within_one_frame(
    world: World, autojump_clock: Any, rpc: Any
) -> None:
    turns = 0
    for each in ids(5000):
        world.library.pubsub.seen_messages.add(each)

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await trio.lowlevel.checkpoint()
        before = turns
        await world.hear(rpc)
        assert turns - before >= 5
        nursery.cancel_scope.cancel()
