"""Gossip of one node without a network, and what a member may say to it."""

import types
from typing import Any

import trio
from libp2p.pubsub.pb import rpc_pb2
from tests.node.network import nodes
from tests.node.network.test_gossip_dht import sign

from aigrid.node.network import compat
from aigrid.node.network.gate import Gate
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
        self.gossip = Gossip(self.library, self.gate, lambda: NOW_MS)
        self._patience = self.gossip._patience
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

    def listens(self) -> list[Any]:
        """What the member is sent from now on, frame by frame."""
        frames = list[Any]()

        def push(data: bytes, *, priority: bool = False) -> bool:
            frames.extend(map(rpc_pb2.RPC.FromString, FrameBuffer().feed(data)))
            return True

        queue = types.SimpleNamespace(push=push, max_message_size=LIMITS.gossip_frame_bytes)
        self.library.pubsub.peer_queues[self.member.peer_id] = queue
        return frames

    def message(self, number: int, data: bytes = b"x") -> Any:
        made = rpc_pb2.Message(
            data=data,
            topicIDs=[TOPICS[0]],
            from_id=self.member.peer_id.to_bytes(),
            seqno=(NOW_MS * 1_000_000 + number).to_bytes(8, "big"),
        )
        sign(self.member, made)
        return made


def ids(count: int, first: int = 0) -> list[bytes]:
    """As go- and js-libp2p have them: PeerId and number, no text."""
    return [b"\xff" * 38 + number.to_bytes(8, "big") for number in range(first, first + count)]


def control(**parts: Any) -> Any:
    return rpc_pb2.RPC(control=rpc_pb2.ControlMessage(**parts))


def graft(*topics: str) -> Any:
    return control(graft=[rpc_pb2.ControlGraft(topicID=topic) for topic in topics])


def prune(*topics: str) -> Any:
    return control(prune=[rpc_pb2.ControlPrune(topicID=topic, backoff=60) for topic in topics])
