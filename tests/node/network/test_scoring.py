"""Peer scoring is off on purpose (`compat._gossip`): what a member does has no score."""

import inspect
from typing import Any

import trio
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.score import PeerScorer, ScoreParams
from tests.node.network import nodes
from tests.node.network.test_gossip_dht import inject, signed
from tests.patience import PATIENCE_SECONDS

from aigrid.node.network import compat, negotiation


def crowded(*, scorer: Any) -> tuple[Any, set[Any]]:
    """GossipSub with four peers in the mesh of a topic to which twenty more listen."""
    library = compat.build(nodes.new_seed(), lambda: ())
    library.gossip.scorer = scorer
    peers = [
        compat.ID.from_base58(nodes.peer_id_of_seed(n.to_bytes(32, "big"))) for n in range(1, 25)
    ]
    library.pubsub.peer_topics["topic"] = set(peers)
    for peer in peers:
        library.gossip.peer_protocol[peer] = compat.MESHSUB_PROTOCOL
    library.gossip.mesh["topic"] = mesh = set(peers[:4])
    return library.gossip, mesh


def test_scoring_is_off() -> None:
    assert compat.build(nodes.new_seed(), lambda: ()).gossip.scorer is None


def test_a_mesh_that_is_large_enough_does_not_grow() -> None:
    """Every peer more costs a copy of each message. With the library's scorer the mesh grows."""
    gossip, mesh = crowded(scorer=None)
    for _ in range(10):
        grafted, pruned = gossip.mesh_heartbeat()
        assert not grafted
        assert not pruned
    assert len(mesh) == 4
    gossip, mesh = crowded(scorer=PeerScorer(ScoreParams()))
    for _ in range(4):
        gossip.mesh_heartbeat()
    assert len(mesh) == 12


def test_a_mesh_that_is_too_small_or_too_large_is_mended() -> None:
    gossip, mesh = crowded(scorer=None)
    mesh.pop()
    gossip.mesh_heartbeat()
    assert len(mesh) == 6
    mesh.update(gossip.pubsub.peer_topics["topic"])
    gossip.mesh_heartbeat()
    assert len(mesh) == 6


async def test_a_member_that_misbehaved_is_counted_and_still_heard(
    pair: nodes.Pair, hostile: nodes.Hostile
) -> None:
    _, two = pair
    two.admit([hostile.peer_id])
    async with two.subscribe("topic") as heard:
        muxer = await hostile.connect(two)
        forged = signed(hostile.library, b"forged")
        forged.data = b"changed"
        await inject(muxer, *[forged] * 20)
        stream = await muxer.open_stream()
        await negotiation.select(stream, compat.MESHSUB_PROTOCOL)
        flood = rpc_pb2.RPC()
        for _ in range(20):
            flood.control.prune.add(topicID="topic", backoff=0)
            flood.control.graft.add(topicID="topic")
            flood.control.iwant.add(messageIDs=[b"00"])
        data = flood.SerializeToString()
        await stream.write((negotiation.encode_varint(len(data)) + data) * 5)
        await nodes.eventually(lambda: two.counters()["gossip_refused"] == 20)
        await inject(muxer, signed(hostile.library, b"fine"))
        with trio.fail_after(PATIENCE_SECONDS):
            assert await heard.__anext__() == (hostile.peer_id, b"fine")
    assert two._library.gossip.scorer is None
    assert two.counters()["tasks_failed"] == 0


def test_two_of_one_id_are_not_kept_to_be_told_apart() -> None:
    gossip: Any = compat.build(nodes.new_seed(), lambda: ()).gossip
    assert gossip._check_equivocation(rpc_pb2.Message(from_id=b"1", seqno=b"2", data=b"x" * 65536))
    assert not gossip.equivocation_detection
    assert "self._check_equivocation(" in inspect.getsource(GossipSub.publish)
