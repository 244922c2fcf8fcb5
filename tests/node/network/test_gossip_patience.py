"""What is said in gossip costs its sender patience by what it costs us; honest peers have enough."""

import types
from typing import Any

import pytest
import trio
from libp2p.peer.id import ID
from libp2p.peer.peerstore import create_signed_peer_record
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from tests.node.network import nodes
from tests.node.network.test_gossip_dht import sign

from aigrid.node.network import compat
from aigrid.node.network.gate import Gate
from aigrid.node.network.gossip_patience import FloodError
from aigrid.node.network.gossip_wire import FrameBuffer
from aigrid.node.network.libp2p_gossip import Gossip
from aigrid.protocol.limits import LIMITS

TOPICS = tuple(f"topic/{number}" for number in range(17))  # all that a node listens on, and one
NOW_MS = 1_800_000_000_000  # by the clocks of both, however long it takes
BURST = LIMITS.gossip_provocations_max


class World:
    """Gossip of one node that listens on TOPICS, without a network, and a member that speaks."""

    def __init__(self) -> None:
        self.library = compat.build(nodes.new_seed(), lambda: (), frozenset(TOPICS))
        self.member = compat.build(nodes.new_seed(), lambda: ("/ip4/127.0.0.1/tcp/1",))
        self.gate = Gate(str(self.library.peer_id), open_to_strangers=True)
        gossip = Gossip(self.library, self.gate, lambda: NOW_MS)
        self._patience = gossip._patience
        pubsub: Any = self.library.pubsub
        pubsub._manager = types.SimpleNamespace(is_running=False)  # it starts no tasks
        self._wire = pubsub.continuously_read_stream.__self__
        for topic in TOPICS:
            pubsub.subscribed_topics_receive[topic] = object()
            self.library.gossip.mesh[topic] = set()

    async def hear(self, rpc: Any) -> None:
        await self._wire._take(rpc.SerializeToString(), self.member.peer_id)

    def left(self) -> float:
        now = trio.current_time()
        bucket = self._patience._buckets.of(str(self.member.peer_id), now)
        bucket.take(now, 0)
        return float(bucket._tokens)

    async def cost(self, rpc: Any) -> float:
        before = self.left()
        await self.hear(rpc)
        return before - self.left()

    def message(self, number: int, data: bytes = b"x") -> Any:
        made = rpc_pb2.Message(
            data=data,
            topicIDs=[TOPICS[0]],
            from_id=self.member.peer_id.to_bytes(),
            seqno=(NOW_MS * 1_000_000 + number).to_bytes(8, "big"),
        )
        sign(self.member, made)
        return made


@pytest.fixture
def world() -> World:
    return World()


def ids(count: int, first: int = 0) -> list[bytes]:
    """As go- and js-libp2p have them: PeerId and number, no text."""
    return [b"\xff" * 38 + number.to_bytes(8, "big") for number in range(first, first + count)]


def control(**parts: Any) -> Any:
    return rpc_pb2.RPC(control=rpc_pb2.ControlMessage(**parts))


def graft(*topics: str) -> Any:
    return control(graft=[rpc_pb2.ControlGraft(topicID=topic) for topic in topics])


def prune(*topics: str) -> Any:
    return control(prune=[rpc_pb2.ControlPrune(topicID=topic, backoff=60) for topic in topics])


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
    world.member = compat.build(nodes.new_seed(), lambda: ())  # it passes on what another wrote
    assert await world.cost(more) == 0
    assert world.gate.counts["gossip_refused"] == 16


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


async def test_an_answer_keeps_what_a_quiet_member_wrote_though_another_is_over_its_share(
    world: World, autojump_clock: Any
) -> None:
    """Several that are asked for come in one frame."""
    loud, sent = world.member, list[Any]()
    written = [world.message(number) for number in range(LIMITS.gossip_author_burst)]
    await world.hear(rpc_pb2.RPC(publish=written))
    world.member = compat.build(nodes.new_seed(), lambda: ())
    quiet = world.message(0)
    await world.hear(rpc_pb2.RPC(publish=[quiet]))

    def push(data: bytes, *, priority: bool) -> bool:
        sent.extend(map(rpc_pb2.RPC.FromString, FrameBuffer().feed(data)))
        return True

    asker = types.SimpleNamespace(push=push, max_message_size=1 << 20)
    world.library.pubsub.peer_queues[loud.peer_id] = asker
    for messages in (written, [written[0], quiet, written[1]]):
        answer = rpc_pb2.RPC(publish=messages, senderRecord=b"record")
        world.library.gossip.send_rpc(loud.peer_id, answer)
        assert list(answer.publish) == messages
    assert [len(rpc.publish) for rpc in sent] == [len(written), 1]
    assert sent[1] == rpc_pb2.RPC(publish=[quiet], senderRecord=b"record")
    assert world.gate.counts["gossip_held_back"] == 2


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


async def test_the_library_sees_each_topic_once_and_what_is_asked_together(
    world: World, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled: list[Any] = []
    for name in ("handle_ihave", "handle_iwant", "handle_graft", "handle_prune"):

        async def note(entry: Any, _peer: Any) -> None:
            handled.append(entry)

        assert callable(getattr(GossipSub, name))
        monkeypatch.setattr(world.library.gossip, name, note)
    message = world.message(1)
    world.library.gossip.mcache.put(message)
    held = message.from_id + message.seqno
    several = control(
        graft=[rpc_pb2.ControlGraft(topicID=TOPICS[0])] * 10,
        prune=[rpc_pb2.ControlPrune(topicID=TOPICS[1], backoff=each) for each in range(1, 9)],
        ihave=[rpc_pb2.ControlIHave(topicID=TOPICS[2], messageIDs=[each]) for each in ids(10)],
        iwant=[rpc_pb2.ControlIWant(messageIDs=[held])] * 10,
    )
    await world.hear(several)
    assert handled == [
        rpc_pb2.ControlIHave(topicID=TOPICS[2], messageIDs=ids(10)),
        rpc_pb2.ControlIWant(messageIDs=[held]),
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
