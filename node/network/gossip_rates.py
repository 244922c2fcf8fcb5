"""How many gossip messages are taken from a peer, taken of an author, and passed on. Pure.

What a peer passes on and what a member writes are bounded apart: else a member that says something
else to each of its neighbours would have them pass on more than the next ones take from them, and
the honest would judge each other. A node passes on no more than others take, and less at once, so
that what a link has bunched together is still within what they take. Where little is left of that,
an author has no more of it than its share.
"""

from collections.abc import Collection
from typing import Final

from aigrid.metagraph.quota import TokenBuckets
from aigrid.node.network.gossip_shares import Shares
from aigrid.protocol.limits import LIMITS, Limits

# Of what others take at once, how much is sent at once; and of that, what is kept for our own.
_SENT_AT_ONCE: Final = 0.5
_OWN_SHARE: Final = 0.25
_SCARCE: Final = 0.5  # below this part of what is sent at once, authors have shares
_WAIT_LEAST_SECONDS: Final = 0.001  # or a clock that has no smaller steps would stand still


class GossipRates:
    """Peers and authors are PeerIds in base58, `now` is in seconds of any one clock."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._repeat_counts = limits.gossip_repeat_counts
        self._brought = TokenBuckets(
            burst=limits.gossip_messages_burst, per_second=limits.gossip_messages_per_second
        )
        self._written = TokenBuckets(
            burst=limits.gossip_author_burst, per_second=limits.gossip_author_per_second
        )
        self._burst_out = limits.gossip_messages_burst * _SENT_AT_ONCE
        self._passed_on = TokenBuckets(
            burst=self._burst_out, per_second=limits.gossip_messages_per_second
        )
        self._own = TokenBuckets(
            burst=limits.gossip_author_burst * _SENT_AT_ONCE,
            per_second=limits.gossip_author_per_second,
        )
        self._shares = Shares(limits.gossip_messages_per_second - limits.gossip_author_per_second)

    def may_bring(self, peer: str, now: float, *, again: bool) -> bool:
        """Whether one message more is taken from this peer; one that is known counts little."""
        return self._brought.of(peer, now).take(now, self._repeat_counts if again else 1.0)

    def has_written_all(self, author: str, now: float) -> bool:
        """Whether this author's next message would be too much, whatever its signature."""
        return self._written.of(author, now).wait_seconds(now) > 0

    def may_write(self, author: str, from_id: bytes, now: float) -> bool:
        """Whether one message more is taken of this author, who has signed it.

        `from_id` is the author as in the message, by which `may_pass_on` knows it.
        """
        if not self._written.of(author, now).take(now):
            return False
        self._shares.wrote(from_id, now)
        return True

    def may_pass_on(
        self, peer: str, authors: Collection[bytes], now: float, *, own: bool = False
    ) -> bool:
        """Whether this peer will take messages of these authors from us, one of each."""
        bucket, count = self._passed_on.of(peer, now), min(len(authors), int(self._burst_out))
        kept = 0.0 if own else self._burst_out * _OWN_SHARE
        if bucket.wait_seconds(now, min(count + kept, self._burst_out)) > 0:
            return False
        scarce = bucket.wait_seconds(now, self._burst_out * _SCARCE) > 0
        if scarce and not own and not all(self._shares.within(one, now) for one in set(authors)):
            return False
        return bucket.take(now, count)

    def own_wait_seconds(self, own: str, now: float) -> float:
        """How long until others take one more of our own; 0 if that is now, and it is counted."""
        wait_seconds = self._own.take(own, now)
        return wait_seconds and max(wait_seconds, _WAIT_LEAST_SECONDS)
