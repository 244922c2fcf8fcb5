"""What a member may make GossipSub do besides passing messages on.

The library keeps something for every topic that an IHAVE or PRUNE names, asks for every message id
it is told of, and answers every one it is asked for: one frame of a member costs it seconds.
"""

from typing import Any

from libp2p.pubsub.utils import safe_bytes_from_hex

from aigrid.node.network.gate import Gate
from aigrid.protocol.limits import LIMITS


class GossipControl:
    """Puts itself in place of `GossipSub.handle_rpc`."""

    def __init__(self, pubsub: Any, gossip: Any, gate: Gate) -> None:
        self._pubsub = pubsub
        self._cache = gossip.mcache
        self._gate = gate
        self._handle = gossip.handle_rpc
        gossip.handle_rpc = self._guarded

    async def _guarded(self, rpc: Any, sender: Any) -> None:
        control = rpc.control
        named = (control.ihave, control.graft, control.prune)
        if (
            sum(map(len, (*named, control.iwant))) > LIMITS.gossip_control_max
            or sum(len(e.messageIDs) for part in (control.ihave, control.iwant) for e in part)
            > LIMITS.gossip_ids_max
        ):
            self._gate.counts["gossip_refused"] += 1
            return
        del control.idontwant[:]  # of a version that is not spoken
        for part in named:
            self._drop_foreign(part)
        for prune in control.prune:
            del prune.peers[:]  # whom to dial is not for others to say
        self._limit_wanted(control.iwant)
        await self._handle(rpc, sender)

    def _drop_foreign(self, part: Any) -> None:
        """Entries about topics that nobody here subscribed to."""
        kept = [entry for entry in part if entry.topicID in self._pubsub.topic_ids]
        if len(kept) < len(part):
            self._gate.counts["gossip_refused"] += 1
            del part[:]
            part.extend(kept)

    def _limit_wanted(self, iwant: Any) -> None:
        """Each message once, and no more than fit a frame: the rest comes with the next sync."""
        room, seen = LIMITS.gossip_wanted_bytes, set[bytes]()
        for entry in iwant:
            wanted = []
            for text in entry.messageIDs:
                message_id = safe_bytes_from_hex(text)
                if message_id is None or message_id in seen:
                    continue
                seen.add(message_id)
                message = self._cache.get(message_id)
                room -= 0 if message is None else message.ByteSize()
                if message is not None and room >= 0:
                    wanted.append(text)
            entry.messageIDs[:] = wanted
