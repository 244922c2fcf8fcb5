"""Frames of gossip that cost more than they bring: what is made of them, and when it is too much."""

from typing import Any

import pytest
import trio
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from libp2p.pubsub.pb import rpc_pb2
from tests.node.network import nodes
from tests.node.network.test_gossip_dht import signed
from tests.patience import PATIENCE_SECONDS

from aigrid.node.network import compat, gossip_wire, negotiation
from aigrid.node.network.gossip_counts import TooManyPartsError, check
from aigrid.node.network.libp2p_transport import Libp2pTransport
from aigrid.protocol.limits import LIMITS

FRAME = LIMITS.gossip_frame_bytes
PARTS = LIMITS.gossip_parts_max


def part(number: int, payload: bytes = b"") -> bytes:
    """A field of a message, with its tag and length."""
    return (
        negotiation.encode_varint(number << 3 | 2)
        + negotiation.encode_varint(len(payload))
        + payload
    )


def full_of(one: bytes, room: int = 40) -> bytes:
    return one * ((FRAME - room) // len(one))


FLOODS = {
    "messages": full_of(part(2)),
    "subscriptions": full_of(part(1)),
    "topics of a message": part(2, full_of(part(4))),
    "ihave": part(3, full_of(part(1))),
    "iwant": part(3, full_of(part(2))),
    "graft": part(3, full_of(part(3))),
    "prune": part(3, full_of(part(4))),
    "peers of a prune": part(3, part(4, full_of(part(2)))),
    "ids of one ihave": part(3, part(1, full_of(part(2)))),
    "ids of many controls": full_of(part(3, part(1, part(2) * 100))),
    "fields of a message that is fine": part(2, part(4, b"topic") + full_of(b"\x38\1")),
    "fields of many messages": full_of(part(2, part(4, b"topic") + b"\x38\1" * 16)),
    "fields of a prune": part(3, part(4, b"\x12\0" * 2040)),
    "empty ids of an ihave": part(3, part(1, part(2, b"an id") + part(2) * 4000)),
    "empty ids of an iwant": part(3, part(2, part(1) * 4000)),
    "empty ids that are not wanted": part(3, part(5, part(1) * 4000)),
    "a long id": part(3, part(1, part(2, bytes(LIMITS.gossip_id_bytes + 1)))),
    "a number instead of an id, and then a long one": part(
        3, part(2, b"\x08\1" + part(1, bytes(300)))
    ),
    "fields of an ihave that are no ids": part(3, part(1, b"\x18\1" * 2000)),
    "unknown fields": full_of(part(99)),
    "unknown fields beside a message": part(2, part(4, b"topic")) + part(99) * 20,
    "unknown control": part(3, part(99) * 20),
    "numbers": full_of(b"\x28\x00"),
    "groups": full_of(b"\x2b\x2c"),
    "a tag that some cut off": full_of(negotiation.encode_varint(1 << 32 | 2 << 3 | 2) + b"\0"),
    "a length beyond the end": b"\x12\x05",
    "a number without an end": b"\xff" * 11,
}


class Watched(bytes):
    """Counts how often a byte is looked at."""

    looks = 0

    def __getitem__(self, at: Any) -> Any:
        self.looks += 1
        return super().__getitem__(at)


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_in_one_frame_is_refused_after_counting_no_more_than_is_allowed(
    flood: str,
) -> None:
    frame = Watched(FLOODS[flood])
    with pytest.raises(TooManyPartsError):
        check(frame)
    assert frame.looks <= 30 * PARTS


def test_what_honest_nodes_send_passes() -> None:
    """The most that they send: all they may answer with, all ids, the greeting, px of others."""
    topics = [f"records/{n}" for n in range(40)]
    message = rpc_pb2.Message(
        data=b"x" * 200,
        from_id=bytes(38),
        seqno=bytes(8),
        topicIDs=["records"],
        signature=bytes(64),
        key=bytes(36),
    )
    control = rpc_pb2.ControlMessage(
        ihave=[rpc_pb2.ControlIHave(topicID=t, messageIDs=[b"6" * 92] * 60) for t in topics],
        iwant=[rpc_pb2.ControlIWant(messageIDs=[b"6" * 92] * 2000)],
        graft=[rpc_pb2.ControlGraft(topicID=t) for t in topics],
        prune=[
            rpc_pb2.ControlPrune(topicID=t, peers=[rpc_pb2.PeerInfo(peerID=b"p")] * 12, backoff=60)
            for t in topics
        ],
    )
    for rpc in (
        rpc_pb2.RPC(publish=[message] * (LIMITS.gossip_wanted_bytes // message.ByteSize())),
        rpc_pb2.RPC(control=control, senderRecord=bytes(500)),
        rpc_pb2.RPC(
            subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=t) for t in topics],
            senderRecord=bytes(500),
        ),
        rpc_pb2.RPC(),
    ):
        check(rpc.SerializeToString())


@given(st.lists(st.sampled_from(list(FLOODS.values())).map(lambda f: f[:60]), max_size=4))
def test_what_passes_and_can_be_parsed_has_as_many_parts_as_were_counted(
    pieces: list[bytes],
) -> None:
    frame = b"".join(pieces)
    try:
        check(frame)
        rpc = rpc_pb2.RPC.FromString(frame)
    except (TooManyPartsError, DecodeError):
        return
    assert len(rpc.publish) + len(rpc.subscriptions) <= PARTS


async def gossip_stream(node: Libp2pTransport, hostile: nodes.Hostile) -> Any:
    stream = await (await hostile.connect(node)).open_stream()
    await negotiation.select(stream, compat.MESHSUB_PROTOCOL)
    return stream


def lined(frame: bytes) -> bytes:
    return negotiation.encode_varint(len(frame)) + frame


async def test_a_refused_frame_is_never_parsed_and_the_next_is_heard(
    pair: nodes.Pair, hostile: nodes.Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, two = pair
    two.admit([hostile.peer_id])
    parsed: list[int] = []

    class Counting:
        @staticmethod
        def FromString(data: bytes) -> Any:
            parsed.append(len(data))
            return rpc_pb2.RPC.FromString(data)

    async with two.subscribe("topic") as heard:
        stream = await gossip_stream(two, hostile)
        monkeypatch.setattr(gossip_wire, "rpc_pb2", type("pb", (), {"RPC": Counting}))
        good = rpc_pb2.RPC(publish=[signed(hostile.library, b"good")]).SerializeToString()
        await stream.write(lined(part(2) * (PARTS + 1)) + lined(good))
        with trio.fail_after(PATIENCE_SECONDS):
            assert await heard.__anext__() == (hostile.peer_id, b"good")
    assert max(parsed) == len(good)
    assert two.counters()["gossip_refused"] == 1
    assert two.counters()["protocol_broken"] == 0


def subscription(topic: str, *, subscribe: bool) -> bytes:
    return part(1, rpc_pb2.RPC.SubOpts(subscribe=subscribe, topicid=topic).SerializeToString())


def control(**parts: Any) -> bytes:
    data: bytes = rpc_pb2.RPC(control=rpc_pb2.ControlMessage(**parts)).SerializeToString()
    return data


IDS = [b"%092d" % number for number in range(200)]
ENDLESS = {
    "frames with too many parts": part(2) * (PARTS + 1),
    "messages about nothing": part(2) * 100,
    "messages about another topic": part(2, part(4, b"other")) * 100,
    "subscriptions": subscription("topic", subscribe=True) + subscription("topic", subscribe=False),
    "subscriptions to nothing": subscription("nothing", subscribe=True),
    "empty frames": b"",
    "frames that cannot be parsed": part(1, part(2, b"\xff")),
    "grafts": control(graft=[rpc_pb2.ControlGraft(topicID="topic")] * 100),
    "one graft each": control(graft=[rpc_pb2.ControlGraft(topicID="topic")]),
    "grafts of another topic": control(graft=[rpc_pb2.ControlGraft(topicID="other")]),
    "prunes": control(prune=[rpc_pb2.ControlPrune(topicID="topic", backoff=1 << 62)]),
    "ids": control(ihave=[rpc_pb2.ControlIHave(topicID="topic", messageIDs=IDS)]),
    "ids that are asked for": control(iwant=[rpc_pb2.ControlIWant(messageIDs=IDS)]),
    "ids that are not wanted": control(idontwant=[rpc_pb2.ControlIDontWant(messageIDs=IDS)]),
    "empty ids": control(iwant=[rpc_pb2.ControlIWant(messageIDs=[b""])]),
    "frames of unknown fields": part(99) * 10,
}


async def say_often(stream: Any, frame: bytes) -> None:
    for _ in range(3 * LIMITS.gossip_provocations_max):
        await stream.write(frame)
    await stream.read(1)


async def floods(pair: nodes.Pair, hostile: nodes.Hostile, frame: bytes) -> None:
    """Say it often; it must end the connection, and no other."""
    one, two = pair
    two.admit([hostile.peer_id])
    async with two.subscribe("topic"):
        stream = await gossip_stream(two, hostile)
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(compat.MuxedStreamError):
            await say_often(stream, lined(frame))
        await nodes.eventually(lambda: two.counters()["protocol_broken"] == 1)
        await nodes.eventually(lambda: two.connected() == {one.peer_id})
    assert await nodes.ask(one, two.peer_id, b"alive") == b"alive"


@pytest.mark.parametrize("flood", ENDLESS)
async def test_a_flood_of_frames_ends_the_connection_and_no_other(
    flood: str, pair: nodes.Pair, hostile: nodes.Hostile
) -> None:
    await floods(pair, hostile, ENDLESS[flood])


async def test_a_flood_of_forged_messages_ends_the_connection(
    pair: nodes.Pair, hostile: nodes.Hostile
) -> None:
    forged = signed(hostile.library, b"said")
    forged.data = b"not said"
    await floods(pair, hostile, part(2, forged.SerializeToString()))


async def test_a_flood_of_messages_that_were_seen_ends_the_connection(
    pair: nodes.Pair, hostile: nodes.Hostile
) -> None:
    """Far over the rate at which a mesh brings them."""
    seen = part(2, signed(hostile.library, b"again").SerializeToString())
    await floods(pair, hostile, seen * 500)


async def test_of_a_frame_the_last_word_on_each_topic_counts(
    pair: nodes.Pair, hostile: nodes.Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each new subscription starts three tasks of the library."""
    _, two = pair
    two.admit([hostile.peer_id])
    pubsub: Any = two._library.pubsub
    handled: list[tuple[str, bool]] = []
    really = pubsub.handle_subscription

    def counted(peer: Any, said: Any) -> None:
        if str(peer) == hostile.peer_id:
            handled.append((said.topicid, said.subscribe))
        really(peer, said)

    async with two.subscribe("topic"):
        monkeypatch.setattr(pubsub, "handle_subscription", counted)
        stream = await gossip_stream(two, hostile)
        both = subscription("topic", subscribe=False) + subscription("topic", subscribe=True)
        one_off = subscription("late", subscribe=True) + subscription("late", subscribe=False)
        await stream.write(lined((both + one_off) * 100))
        await nodes.eventually(lambda: len(handled) >= 2)
        peer = hostile.library.peer_id
        assert sorted(handled) == [("late", False), ("topic", True)]
        assert peer in pubsub.peer_topics["topic"]
        assert peer not in pubsub.peer_topics.get("late", ())
