"""`spread`: what is said reaches everybody at once, by gossip.

Repair would bring it there in the end, so `converged` holds without any gossip. What is replaced
before it is due counts for nothing: only the newest of a key is sent.
"""

from collections.abc import Collection
from dataclasses import dataclass

from scripts.simulation.network.spread import spread
from scripts.simulation.options import Options

from aigrid.protocol.record import RecordKey

LATENCIES = 8  # the longest way, in hops
STAY_SILENT = ("censor", "covert")
"""Attackers that keep gossip from others and stay as they are when the faults have ended."""


def kept_from_all(options: Options, *, after: bool) -> bool:
    """Whether something that the options ask for keeps gossip from arriving, or in time."""
    attacked = options.attackers > 0
    if after:
        return attacked and options.kind in STAY_SILENT
    lossy = any(spread(options.loss).bounds())
    return bool(lossy or options.partition or options.churn or options.slow or attacked)


def spread_seconds(options: Options) -> float:
    """Until everybody is to have what is said."""
    return options.spread_seconds + LATENCIES * max(spread(options.latency_ms).bounds()) / 1000


@dataclass(slots=True)
class _Said:
    content_id: str
    at_seconds: float
    missing: set[str]


class Promptly:
    """Follows records until they are everywhere, or late.

    Attributes:
        in_time, late: records that have, and that have not, reached everybody within `seconds`.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.in_time = self.late = 0
        self._newest: dict[RecordKey, _Said] = {}  # that are neither yet

    def replaced(self, key: RecordKey, now_seconds: float) -> None:
        """Something newer of this key is said."""
        self.look(now_seconds)
        self._newest.pop(key, None)

    def issued(
        self, key: RecordKey, content_id: str, now_seconds: float, others: Collection[str]
    ) -> None:
        """A node says something, that `others` are to hear of."""
        if others:
            self._newest[key] = _Said(content_id, now_seconds, set(others))

    def learned(self, key: RecordKey, content_id: str, name: str, now_seconds: float) -> None:
        said = self._newest.get(key)
        if said is None or said.content_id != content_id:
            return
        self.look(now_seconds)
        said.missing.discard(name)
        if not said.missing and self._newest.pop(key, None) is said:
            self.in_time += 1

    def look(self, now_seconds: float) -> None:
        """Count what is late by now."""
        since = now_seconds - self.seconds
        late = [key for key, said in self._newest.items() if said.at_seconds < since]
        for key in late:
            del self._newest[key]
        self.late += len(late)

    @property
    def share(self) -> float:
        """Of those that are due: how many were in time; 1 where there is none."""
        return self.in_time / self.due if self.due else 1.0

    @property
    def due(self) -> int:
        return self.in_time + self.late
