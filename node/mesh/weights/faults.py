"""Who sent something else than a model's files lately: whoever has not is asked first. Pure."""

from collections.abc import Callable, Sequence

from aigrid.metagraph.index import Seeder
from aigrid.protocol.errors import Code
from aigrid.protocol.limits import LIMITS, Limits

FAULTS = frozenset(
    {Code.HASH_MISMATCH, Code.PROTOCOL_VIOLATION, Code.FRAME_TOO_LARGE, Code.TIMEOUT}
)
"""What a holder is remembered for beyond the fetch in which it happened."""


class HolderFaults:
    """Holders by DID, each with the time until which it counts; for twice as long each time.

    Times are monotonic seconds.
    """

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._until: dict[str, tuple[float, float]] = {}

    def note(self, holder: str, now: float) -> None:
        limits = self._limits
        _, before = self._until.pop(holder, (0.0, 0.0))
        pause = min(max(limits.holder_fault_seconds, 2 * before), limits.holder_fault_max_seconds)
        self._until[holder] = now + pause, pause
        if len(self._until) > limits.holder_faults_max:
            del self._until[next(iter(self._until))]

    def counts(self, holder: str, now: float) -> bool:
        """Whether it is one that others are preferred to."""
        return self._until.get(holder, (now, 0.0))[0] > now


def asked_first(holders: Sequence[Seeder], faulty: Callable[[str], bool]) -> list[Seeder]:
    """Those without faults; all, where nobody else is there: one may have mended its disk."""
    return [one for one in holders if not faulty(one.signer)] or list(holders)
