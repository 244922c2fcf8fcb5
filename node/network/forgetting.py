"""What py-libp2p keeps for ever or for too long, and how much of it we let it keep.

Found by `scripts/faults/reconnects.py`, and by counting objects while peers came and went:

- the peerstore throws out whatever has no address first when it holds more than 1000 peers: our
  own keys, after which nothing of ours is published. A member's DHT answers can bring it there;
- the peerstore appends to a peer's addresses whatever any other peer says they are;
- identify keeps the last 1000 addresses that peers gave as theirs, parsed, of any length;
- GossipSub keeps the last 500 to 1000 messages whole, to tell two of one id apart. The second is
  never looked at: `seen_messages` has dropped it before it gets there;
- when a peer that pruned us may be asked again is kept until it is, also if it never comes back,
  of as many as there ever were;
- a thread per host sweeps the messages seen, by the wall clock, and outlives the host.

The listener's task per inbound connection and its 250 slots are not here: `connections` accepts.
"""

from collections import OrderedDict
from typing import Any

import trio
from libp2p.identity import update
from libp2p.pubsub import pubsub as pubsub_module

from aigrid.protocol.limits import LIMITS

VALIDATIONS_KEPT = 16  # `seen_messages` drops what comes twice; more is only searched longer


class SeenMessages:
    """Stands in for the library's `LastSeenCache`: ids, each for so long since it came last.

    Of a bounded number; those that came longest ago go first.
    """

    def __init__(self, ttl_seconds: float, _sweep_seconds: float = 0.0) -> None:
        self._ttl_seconds = ttl_seconds
        self._ends: OrderedDict[bytes, float] = OrderedDict()  # the next to go is first

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, message_id: bytes) -> bool:
        """Whether it is new."""
        is_new = not self.has(message_id)
        self._ends[message_id] = trio.current_time() + self._ttl_seconds
        if len(self._ends) > LIMITS.gossip_seen_max:
            self._ends.popitem(last=False)
        return is_new

    def has(self, message_id: bytes) -> bool:
        """Whether it came; if so, it is kept as long again."""
        ends, now = self._ends, trio.current_time()
        while ends and next(iter(ends.values())) <= now:
            ends.popitem(last=False)
        if message_id not in ends:
            return False
        ends[message_id] = now + self._ttl_seconds
        ends.move_to_end(message_id)
        return True


def without_threads() -> None:
    """Hosts that are made from now on start none to sweep what they have seen."""
    pubsub_module.LastSeenCache = SeenMessages


def bound(pubsub: Any, gossip: Any) -> None:
    """Bound what a host's peerstore, `Pubsub` and `GossipSub` remember; once, before they run."""
    _bound_peerstore(pubsub.host.get_peerstore(), pubsub.host.get_network(), pubsub.my_id)
    gossip._check_equivocation = lambda _message: True  # noqa: SLF001 - see the module
    _drop_back_offs_of_the_gone(pubsub, gossip)
    parse = update._safe_parse_multiaddr_cached  # noqa: SLF001 - see the module
    update._safe_parse_multiaddr_cached = getattr(parse, "__wrapped__", parse)  # noqa: SLF001


def _bound_peerstore(peerstore: Any, swarm: Any, own: Any) -> None:
    enforce, add_addrs = peerstore._enforce_peer_limit, peerstore.add_addrs  # noqa: SLF001 - see the module

    def spare_the_connected() -> None:
        peers = peerstore.peer_data_map
        spared = {peer: peers.pop(peer) for peer in (own, *swarm.connections) if peer in peers}
        enforce()
        peers.update(spared)

    def bounded(peer: Any, addresses: Any, ttl: int = 0) -> None:
        add_addrs(peer, addresses, ttl)
        # The first are the peer's own: identify clears the rest before it adds them.
        if (data := peerstore.peer_data_map.get(peer)) is not None:
            del data.addrs[LIMITS.addresses_max :]

    peerstore._enforce_peer_limit = spare_the_connected  # noqa: SLF001 - as above
    peerstore.add_addrs = bounded


def _drop_back_offs_of_the_gone(pubsub: Any, gossip: Any) -> None:
    heartbeat = gossip.fanout_heartbeat

    def with_back_offs() -> None:
        for topic, peers in gossip.back_off.items():
            for peer in (gone := [peer for peer in peers if peer not in pubsub.peers]):
                gossip._check_back_off(peer, topic)  # noqa: SLF001 - drops it if it is over
            kept = sorted((peer for peer in gone if peer in peers), key=peers.__getitem__)
            for peer in kept[: -LIMITS.rate_keys_max]:
                del peers[peer]
        heartbeat()

    gossip.fanout_heartbeat = with_back_offs


def forget(peerstore: Any, peer: Any) -> None:
    """A peer is no member any more: keep nothing about it."""
    if peerstore.has_peer(peer):
        peerstore.clear_peerdata(peer)
