"""What a heartbeat of GossipSub tells each peer: GRAFT, PRUNE, and which messages there are.

The library adds what the second peer is told to what the first was, and so on, and tells of all
messages of three seconds: where much is written, more than a peer bears of whoever says it.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from libp2p.pubsub.pb import rpc_pb2

from aigrid.protocol.limits import LIMITS

Told = Mapping[str, Sequence[bytes]]  # ids of messages by topic


class GossipHeartbeat:
    """Puts itself in place of `GossipSub._emit_control_msgs`."""

    def __init__(self, gossip: Any) -> None:
        self._gossip = gossip
        gossip._emit_control_msgs = self._tell  # noqa: SLF001 - see compat

    async def _tell(
        self,
        grafts: Mapping[Any, Sequence[str]],
        prunes: Mapping[Any, Sequence[str]],
        haves: Mapping[Any, Told],
    ) -> None:
        """One frame for each peer; the arguments have topics by peer, of `haves` with ids."""
        for peer in dict.fromkeys((*grafts, *prunes, *haves)):
            said = rpc_pb2.ControlMessage()
            for topic in grafts.get(peer, ()):
                said.graft.add(topicID=topic)
            for topic in prunes.get(peer, ()):
                said.prune.add(topicID=topic)
            for topic, ids in sample(haves.get(peer, {}), LIMITS.gossip_told_max).items():
                said.ihave.add(topicID=topic, messageIDs=ids)
            await self._gossip.emit_control_message(said, peer)


def sample(told: Told, most: int) -> Told:
    """All of them, or so many left to chance: other peers are told of others, then."""
    pairs = [(topic, each) for topic, ids in told.items() for each in ids]
    if len(pairs) <= most:
        return told
    kept: dict[str, list[bytes]] = {}
    for topic, each in random.sample(pairs, most):
        kept.setdefault(topic, []).append(each)
    return kept
