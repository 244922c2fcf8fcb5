"""What a peer may say in gossip that brings nothing, and how long others wait while it is read."""

from typing import Any, Final

import trio

from aigrid.metagraph.quota import TokenBuckets
from aigrid.protocol.limits import LIMITS

# Rough costs in microseconds, by which it is decided when others have a turn. They are counted
# and not measured, so that a simulation goes the same way each time.
FRAME_WORK: Final = 80
BYTES_PER_WORK: Final = 1000
MESSAGE_WORK: Final = 60
SUBSCRIPTION_WORK: Final = 100
SIGNATURE_WORK: Final = 200
CONTROL_WORK: Final = 50
ID_WORK: Final = 2
WORK_PER_CHECKPOINT: Final = 1000


class FloodError(Exception):
    """A peer says what is of no use faster than is borne."""


class Patience:
    """One for all who speak: patience by peer, turns for the rest of the node by work done."""

    def __init__(self) -> None:
        self._buckets = TokenBuckets(
            burst=LIMITS.gossip_provocations_max, per_second=LIMITS.gossip_provocations_per_second
        )
        self._worked = 0

    def bear(self, peer: Any, times: float = 1) -> None:
        """Raises FloodError: that was too much of what is of no use."""
        now_seconds = trio.current_time()
        if not self._buckets.of(str(peer), now_seconds).take(now_seconds, times):
            raise FloodError

    def worked(self, work: int) -> None:
        """In microseconds or so; the next `pause` knows of it."""
        self._worked += work

    async def pause(self, work: int = 0) -> None:
        """What has arrived at once must not keep the rest of the node waiting."""
        self._worked += work
        if self._worked >= WORK_PER_CHECKPOINT:
            self._worked = 0
            await trio.lowlevel.checkpoint()
