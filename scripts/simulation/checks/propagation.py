"""How long records take to the other nodes, counted in bounded memory."""

import math
from collections import Counter
from dataclasses import dataclass

from aigrid.protocol.record import RecordKey

_PER_DECADE = 40


class Delays:
    """A histogram of seconds, in steps of 6 %."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.total = 0

    def add(self, seconds: float, times: int = 1) -> None:
        if times:
            self._counts[round(_PER_DECADE * math.log10(max(seconds, 1e-4)))] += times
            self.total += times

    def quantile(self, share: float) -> float | None:
        """None where nothing was counted."""
        left = share * self.total
        for step in sorted(self._counts):
            left -= self._counts[step]
            if left <= 0:
                return float(10 ** (step / _PER_DECADE))
        return None

    def cdf(self, due: int) -> list[tuple[float, float]]:
        """(seconds, share up to there of all that were `due`, these or not), ascending."""
        points, passed = [], 0
        for step in sorted(self._counts):
            passed += self._counts[step]
            points.append((10 ** (step / _PER_DECADE), passed / due))
        return points


@dataclass(slots=True)
class _Spreading:
    key: RecordKey
    began_seconds: float
    missing: set[str]
    replaced: bool = False


class Propagation:
    """`learn` each time a node takes in a record; those count of which `issue` hears.

    Attributes:
        each: to each node that was there when a record was issued.
        everywhere: until the last of them had it; `issued` and `arrived` count records.
        due: as many as `each` would have, had each record come to each of these nodes.
        killed: of these, to nodes that were killed before it came.
    """

    def __init__(self) -> None:
        self.each = Delays()
        self.everywhere = Delays()
        self.issued = self.arrived = self.due = self.killed = 0
        self._spreading: dict[str, _Spreading] = {}

    def issue(self, key: RecordKey, content_id: str, now_seconds: float, others: set[str]) -> None:
        if others:
            self.issued += 1
            self.due += len(others)
            self._spreading[content_id] = _Spreading(key, now_seconds, others)

    def replaced(self, key: RecordKey) -> None:
        """Something newer of this key is said: from now on only that is sent."""
        for record in self._spreading.values():
            record.replaced |= record.key == key

    @property
    def outrun(self) -> int:
        """Records that have not reached everybody, as something newer was said before."""
        return sum(record.replaced for record in self._spreading.values())

    def learn(self, content_id: str, name: str, now_seconds: float) -> None:
        record = self._spreading.get(content_id)
        if record is not None and name in record.missing:
            record.missing.discard(name)
            self.each.add(now_seconds - record.began_seconds)
            self._look(content_id, record, now_seconds)

    def gone(self, name: str, now_seconds: float) -> None:
        """A node was killed: nobody waits for it any more."""
        for content_id, record in tuple(self._spreading.items()):
            if name in record.missing:
                record.missing.discard(name)
                self.killed += 1
                self._look(content_id, record, now_seconds)

    def _look(self, content_id: str, record: _Spreading, now_seconds: float) -> None:
        if not record.missing:
            self.arrived += 1
            self.everywhere.add(now_seconds - record.began_seconds)
            del self._spreading[content_id]
