"""How many gossip messages are taken from a peer, taken of an author, and passed on. Pure.

What a peer passes on and what a member writes are bounded apart: else a member that says something
else to each of its neighbours would have them pass on more than the next ones take from them, and
the honest would judge each other. A node passes on no more than others take, and less at once, so
that what a link has bunched together is still within what they take. Where little is left of that,
an author has no more of it than its share, and what somebody asks for again has nothing.

What an author says anew, as `gossip_numbers` has it, is counted apart from the rest: anybody can
say again what another said long ago, its signature holds, and must not use up what that one may
write now. Authors whose numbers are not the time, or whose clock is wrong, have the rest: as much,
but whoever says old messages of theirs again takes it from them.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from aigrid.metagraph.quota import TokenBucket, TokenBuckets
from aigrid.node.network.gossip_numbers import Numbers
from aigrid.node.network.gossip_shares import Shares
from aigrid.protocol.limits import LIMITS, Limits

# Of what others take at once, how much is sent at once; and of that, what is kept for our own.
_SENT_AT_ONCE: Final = 0.5
_OWN_SHARE: Final = 0.25
_SCARCE: Final = 0.5  # below this part, authors have shares, and nothing is said again
_ANYBODY: Final = b""  # shares in a link for all repetitions together, whomever they are of
_WAIT_LEAST_SECONDS: Final = 0.001  # or a clock that has no smaller steps would stand still


class Said(NamedTuple):
    """A message: the PeerId of its author and its number as in it, and how many bytes of data."""

    author: bytes
    number: bytes
    size: int


class GossipRates:
    """Peers are PeerIds in base58, `now` is in seconds of any one clock; `now_ms` is the wall's."""

    def __init__(self, now_ms: Callable[[], int], limits: Limits = LIMITS) -> None:
        self.numbers = Numbers(now_ms, limits)
        self._repeat_counts = limits.gossip_repeat_counts
        self._counted_bytes = limits.gossip_counted_bytes
        self._brought = TokenBuckets(
            burst=limits.gossip_messages_burst, per_second=limits.gossip_messages_per_second
        )
        self._anew, self._again, self._told_itself = (
            TokenBuckets(
                burst=limits.gossip_author_burst, per_second=limits.gossip_author_per_second
            )
            for _ in range(3)
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

    def may_bring(self, peer: str, size: int, now: float, *, again: bool) -> bool:
        """Whether one message more is taken from this peer; one that is known counts little."""
        cost = self.cost(size) * (self._repeat_counts if again else 1.0)
        return self._brought.of(peer, now).take(now, cost)

    def has_written_all(self, said: Said, now: float) -> bool:
        """Whether this would be too much of its author, whatever its signature."""
        return self._bucket_of(said, now).wait_seconds(now, self.cost(said.size)) > 0

    def may_write(self, said: Said, now: float) -> bool:
        """Whether this is taken of its author, who has signed it."""
        cost = self.cost(said.size)
        if not self._bucket_of(said, now).take(now, cost):
            return False
        is_anew = self.numbers.take(said.author, _number(said), now)
        self._shares.wrote(said.author if is_anew else _ANYBODY, cost, now)
        return True

    def may_tell_itself(self, said: Said, now: float) -> bool:
        """Whether its author has brought us no more of its own, this included, than it may write.

        Else it answers for what is over its rate; otherwise others may have used that up.
        """
        return self._told_itself.of(said.author.hex(), now).take(now, self.cost(said.size))

    def may_pass_on(self, peer: str, said: Said, now: float, *, own: bool = False) -> bool:
        """Whether this, which has just been written, is sent to a peer: it will take it."""
        bucket, cost = self._passed_on.of(peer, now), self._cost_out(said)
        is_scarce = bucket.wait_seconds(now, self._burst_out * _SCARCE) > 0
        if not own and is_scarce and not self._shares.allow(self._sharer(said, now), cost, now):
            return False
        return self._take(bucket, cost, now, kept=0.0 if own else _OWN_SHARE)

    def may_say_again(self, peer: str, messages: Sequence[Said], now: float) -> int:
        """How many of these, from the first on, are sent to a peer that lacks them.

        None where little is left: what is written now goes first, and the next sync brings these.
        """
        bucket = self._passed_on.of(peer, now)
        for count, said in enumerate(messages):
            if not self._take(bucket, self._cost_out(said), now, kept=_SCARCE):
                return count
        return len(messages)

    def _cost_out(self, said: Said) -> float:
        """Never more than ever fits: one as large as that goes when nothing else did."""
        return min(self.cost(said.size), self._burst_out)

    def _take(self, bucket: TokenBucket, cost: float, now: float, *, kept: float) -> bool:
        """Whether it is sent, so that this part of what is sent at once is left."""
        needed = min(cost + self._burst_out * kept, self._burst_out)
        return bucket.wait_seconds(now, needed) <= 0 and bucket.take(now, cost)

    def own_wait_seconds(self, own: str, size: int, now: float) -> float:
        """How long until others take one more of our own; 0 if that is now, and it is counted."""
        bucket, cost = self._own.of(own, now), self.cost(size)
        if bucket.take(now, cost):
            return 0.0
        return max(bucket.wait_seconds(now, cost), _WAIT_LEAST_SECONDS)

    def cost(self, size: int) -> float:
        """What a message counts: one, or more if it is large."""
        return max(1.0, size / self._counted_bytes)

    def _bucket_of(self, said: Said, now: float) -> TokenBucket:
        buckets = self._anew if self._is_anew(said, now) else self._again
        return buckets.of(said.author.hex(), now)

    def _sharer(self, said: Said, now: float) -> bytes:
        return said.author if self._is_anew(said, now) else _ANYBODY

    def _is_anew(self, said: Said, now: float) -> bool:
        return self.numbers.is_anew(said.author, _number(said), now)


def _number(said: Said) -> int:
    return int.from_bytes(said.number, "big")
