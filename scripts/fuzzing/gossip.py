"""Frames of GossipSub as a member may send them, up to where the library takes over."""

from collections.abc import Coroutine, Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

import base58
from google.protobuf.message import DecodeError
from libp2p.pubsub.pb import rpc_pb2
from scripts.fuzzing import vectors
from scripts.fuzzing.mutations import mutated
from scripts.fuzzing.protobufs import Protobuf
from scripts.fuzzing.target import RefusedError, Target

from aigrid.node.network import gossip_counts
from aigrid.node.network.gate import Gate
from aigrid.node.network.gossip_author import PEER_ID_BYTES_MAX, author_of, signed_by
from aigrid.node.network.gossip_control import GossipControl, SayAgain
from aigrid.node.network.gossip_patience import Patience
from aigrid.node.network.gossip_wire import FrameBuffer, FrameTooLargeError
from aigrid.node.network.negotiation import encode_varint
from aigrid.protocol import messages
from aigrid.protocol.errors import RemoteError
from aigrid.protocol.identity import Identity
from aigrid.protocol.limits import LIMITS

_TOPICS = ("records", "records/text")
_KNOWN_ID = b"a message that is in the cache"
_SENDER = Identity(bytes([7]) * 32)
_PREFIX = b"libp2p-pubsub:"


class _Library:
    """What `GossipControl` stands in front of: a router that notes what it is let through."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.mesh: dict[str, set[Any]] = {}
        self.mcache = {_KNOWN_ID: rpc_pb2.Message(data=b"x" * 1000)}

    async def handle_rpc(self, rpc: Any, sender: Any) -> None:
        self.seen.append(rpc.control)


class _Endless(Patience):
    """Bears all, and lets nobody wait."""

    def bear(self, peer: Any, times: float = 1) -> None:
        assert times >= 0

    async def pause(self, work: int = 0) -> None:
        assert work >= 0


def _gossip(data: bytes) -> None:
    """However they are cut, the same frames; nothing passes that names more than it may."""
    try:
        whole = list(FrameBuffer().feed(data))
    except FrameTooLargeError as error:
        raise RefusedError from error
    at, buffer = len(data) // 3, FrameBuffer()
    pieces = (data[:at], data[at : 2 * at], data[2 * at :])
    assert [one for piece in pieces for one in buffer.feed(piece)] == whole
    refused, took = RefusedError("no whole frame"), False
    for frame in whole:
        try:
            _rpc(frame)
        except RefusedError as error:
            refused = error
        else:
            took = True
    if not took:
        raise refused


def _rpc(frame: bytes) -> None:
    """One frame. Raises RefusedError if it is none, or holds messages none of which is taken."""
    try:
        gossip_counts.check(frame)
        rpc = rpc_pb2.RPC.FromString(frame)
    except (gossip_counts.TooManyPartsError, DecodeError) as error:
        raise RefusedError from error
    assert len(rpc.publish) + len(rpc.subscriptions) <= LIMITS.gossip_parts_max
    took = [_message(message) for message in rpc.publish]
    if rpc.HasField("control"):
        _control(rpc)
    if took and not any(took):
        raise RefusedError("no message of an author")


def _message(message: Any) -> bool:
    """Whether it holds records, signed by its author for a topic of ours."""
    author = author_of(message)
    if author is None:
        return False
    assert 0 < len(message.from_id) <= PEER_ID_BYTES_MAX
    assert (len(message.seqno), len(message.signature)) == (8, 64)
    author.peer_id.encode()
    on_one_topic = len(message.topicIDs) == 1 and message.topicIDs[0] in _TOPICS
    if on_one_topic and author.key is not None and signed_by(message, author):
        try:
            messages.decode_records(message.data)
        except RemoteError:
            return False
        return True
    return False


def _ours_alone(_peer: object, said: Any) -> None:
    assert said.topicid in _TOPICS


def _control(rpc: Any) -> None:
    library = _Library()
    pubsub = SimpleNamespace(
        topic_ids=set(_TOPICS),
        seen_messages=SimpleNamespace(has=lambda _id: False),
        peer_topics={},
        handle_subscription=_ours_alone,
    )
    gate = Gate(_SENDER.peer_id, open_to_strangers=False)
    GossipControl(pubsub, library, gate, _Endless(), _told_once(library))
    _run(library.handle_rpc(rpc, None))
    for control in library.seen:
        named = [*control.ihave, *control.graft, *control.prune]
        assert len(named) <= 3 * len(_TOPICS)
        assert {entry.topicID for entry in named} <= set(_TOPICS)
        assert sum(len(one.messageIDs) for one in control.ihave) <= LIMITS.gossip_asked_max
        assert not any(prune.peers for prune in control.prune)
        assert not control.iwant


def _told_once(library: _Library) -> SayAgain:
    def say_again(_peer: object, messages: Sequence[Any]) -> None:
        assert 0 < len(messages) <= len(library.mcache)

    return say_again


def _run(talk: Coroutine[Any, Any, object]) -> None:
    try:
        talk.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits for something")


def _seeds() -> list[bytes]:
    records = messages.encode(messages.Records(vectors.records()[:2]))
    said = rpc_pb2.Message(data=records, topicIDs=["records"], seqno=b"1", from_id=_from_id())
    said.signature = _SENDER.sign(_PREFIX + said.SerializeToString())
    of_topic = rpc_pb2.ControlMessage(
        ihave=[
            rpc_pb2.ControlIHave(topicID=topic, messageIDs=[b"6162"]) for topic in (*_TOPICS, "x")
        ],
        iwant=[rpc_pb2.ControlIWant(messageIDs=[_KNOWN_ID.hex().encode(), b"00", b"no hex"])],
        graft=[rpc_pb2.ControlGraft(topicID="records")],
        prune=[
            rpc_pb2.ControlPrune(
                topicID="records", backoff=60, peers=[rpc_pb2.PeerInfo(peerID=b"p")]
            )
        ],
    )
    subscribes = rpc_pb2.RPC.SubOpts(subscribe=True, topicid="records")
    return [
        rpc_pb2.RPC(publish=[said], subscriptions=[subscribes]).SerializeToString(),
        rpc_pb2.RPC(control=of_topic).SerializeToString(),
        rpc_pb2.RPC(publish=[said, said], control=of_topic).SerializeToString(),
    ]


def _from_id() -> bytes:
    return bytes(base58.b58decode(_SENDER.peer_id))


class _LinedUp(Protobuf):
    """A few frames with their lengths before them; messages in some are signed again."""

    def make(self, rng: Random) -> bytes:
        frames = [self._frame(rng) for _ in range(1 + rng.getrandbits(1))]
        data = b"".join(encode_varint(len(frame)) + frame for frame in frames)
        return mutated(rng, data, self.seeds) if rng.getrandbits(3) == 0 else data

    def _frame(self, rng: Random) -> bytes:
        frame = super().make(rng)
        if rng.getrandbits(1):
            return frame
        try:
            rpc = rpc_pb2.RPC.FromString(frame)
        except DecodeError:
            return frame
        for message in rpc.publish:
            message.from_id = _from_id()
            message.ClearField("key")
            message.ClearField("signature")
            message.signature = _SENDER.sign(_PREFIX + message.SerializeToString())
        return bytes(rpc.SerializeToString())


TARGETS = (Target("gossip-frames", lambda: _LinedUp(_seeds()), _gossip, ()),)
