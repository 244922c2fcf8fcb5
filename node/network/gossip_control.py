"""What a member may make GossipSub do besides passing messages on.

The library keeps something for every topic that an IHAVE or PRUNE names, asks for every message id
it is told of, answers every one it is asked for and every GRAFT that it refuses: one frame of a
member costs it seconds. Here what a frame says is summed up before the library sees it: of each
topic one GRAFT, one PRUNE and one IHAVE with what is new. Every entry and every id uses up
patience, far more of which comes back each second than honest peers need. What is asked for goes
to `say_again`, past the library.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.utils import safe_bytes_from_hex

from aigrid.node.network.gate import Gate
from aigrid.node.network.gossip_patience import CONTROL_WORK, ID_WORK, Patience
from aigrid.protocol.limits import LIMITS

_IDS_AT_ONCE: Final = 128

SayAgain = Callable[[Any, Sequence[Any]], None]  # to a peer, messages


class GossipControl:
    """Puts itself in place of `GossipSub.handle_rpc`."""

    def __init__(
        self, pubsub: Any, gossip: Any, gate: Gate, patience: Patience, say_again: SayAgain
    ) -> None:
        self._pubsub = pubsub
        self._gossip = gossip
        self._gate = gate
        self._patience = patience
        self._say_again = say_again
        self._handle = gossip.handle_rpc
        gossip.handle_rpc = self._guarded

    async def _guarded(self, rpc: Any, sender: Any) -> None:
        """Raises FloodError: the sender has said too much of this lately."""
        said = rpc.control
        if not self._charge(said, sender):
            return
        kept = rpc_pb2.RPC()
        grafts = [
            topic
            for topic in self._ours(said.graft)
            if sender not in self._gossip.mesh.get(topic, ())
        ]
        for topic in grafts:
            kept.control.graft.add(topicID=topic)
        prunes = self._ours(said.prune)
        for topic, prune in prunes.items():  # whom to dial is not for others to say
            back_off = min(prune.backoff, LIMITS.gossip_back_off_seconds)
            kept.control.prune.add(topicID=topic, backoff=back_off)
        await self._ask(said.ihave, kept.control)
        await self._answer(said.iwant, sender)
        if kept.HasField("control"):
            await self._handle(kept, sender)
        for topic in grafts:
            self._listens(sender, topic)
        refused = sum(
            sender not in self._gossip.mesh.get(topic, ())
            for topic in grafts
            if topic not in prunes
        )
        if refused:  # each was answered
            self._patience.bear(sender, refused)
        await self._patience.pause(CONTROL_WORK * (len(grafts) + len(prunes)))

    def _listens(self, peer: Any, topic: str) -> None:
        """Note that who is in the mesh of a topic listens to it: what we say goes to those alone.

        py-libp2p says so to no peer to which its first stream is just being opened.
        """
        told = self._pubsub.peer_topics.get(topic, ())
        if peer in self._gossip.mesh.get(topic, ()) and peer not in told:
            said = rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic)
            self._pubsub.handle_subscription(peer, said)

    def _charge(self, said: Any, sender: Any) -> bool:
        """Whether it is as little as may be in one frame. Raises FloodError."""
        named = (said.ihave, said.iwant, said.idontwant)
        entries = sum(map(len, (*named, said.graft, said.prune)))
        ids = sum(len(entry.messageIDs) for part in named for entry in part)
        peers = sum(len(entry.peers) for entry in said.prune)
        if entries > LIMITS.gossip_control_max or ids > LIMITS.gossip_ids_max:
            self._gate.counts["gossip_refused"] += 1
            self._patience.bear(sender, LIMITS.gossip_refused_counts)
            return False
        self._patience.bear(
            sender,
            entries * LIMITS.gossip_control_counts + (ids + peers) * LIMITS.gossip_id_counts,
        )
        return True

    def _ours(self, part: Any) -> dict[str, Any]:
        """The last entry about each topic that somebody here subscribed to."""
        kept = {e.topicID: e for e in part if e.topicID in self._pubsub.topic_ids}
        if any(entry.topicID not in kept for entry in part):
            self._gate.counts["gossip_refused"] += 1
        return kept

    async def _ask(self, ihave: Any, kept: Any) -> None:
        """Leave of these what was not seen, and no more than is asked for at once."""
        ours, room = self._ours(ihave), LIMITS.gossip_asked_max
        wanted: dict[str, dict[bytes, bytes]] = {topic: {} for topic in ours}
        for entry in ihave:
            if entry.topicID not in ours:
                continue
            news = wanted[entry.topicID]
            for ids in _some_at_once(entry.messageIDs):
                for wire in ids:
                    message_id = _message_id(wire)
                    if message_id is None or message_id in news:
                        continue
                    if room and not self._pubsub.seen_messages.has(message_id):
                        news[message_id] = wire
                        room -= 1
                await self._patience.pause(ID_WORK * len(ids))
                if not room:
                    break
        for topic, news in wanted.items():
            if news:
                kept.ihave.add(topicID=topic, messageIDs=news.values())

    async def _answer(self, iwant: Any, asker: Any) -> None:
        """Each message once, and no more than fit a frame: the rest comes with the next sync."""
        room, seen, wanted = LIMITS.gossip_wanted_bytes, set[bytes](), list[Any]()
        for entry in iwant:
            for ids in _some_at_once(entry.messageIDs):
                for wire in ids:
                    message_id = _message_id(wire)
                    if message_id is None or message_id in seen:
                        continue
                    seen.add(message_id)
                    message = self._gossip.mcache.get(message_id)
                    room -= 0 if message is None else message.ByteSize()
                    if message is not None and room >= 0:
                        wanted.append(message)
                await self._patience.pause(ID_WORK * len(ids))
        if wanted:
            self._say_again(asker, wanted)


def _some_at_once(ids: Any) -> Iterator[Any]:
    for start in range(0, len(ids), _IDS_AT_ONCE):
        yield ids[start : start + _IDS_AT_ONCE]


def _message_id(wire: bytes) -> bytes | None:
    """As the library reads it, without an exception for each that is no text."""
    return safe_bytes_from_hex(wire) if wire.isascii() else wire
