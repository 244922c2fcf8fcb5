"""What outcomes and samples come to: shares, quantiles, slopes. Pure."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from scripts.faults.reconnects import Slope, growth, slope
from scripts.testnets.grid import State
from scripts.testnets.sampling import Sample
from scripts.testnets.schedule import STREAMS_SECONDS
from scripts.testnets.workload import NOT_COUNTED, OK, Outcome

SAMPLES_MIN = 12  # below that nothing is said of leaks,
SPAN_SECONDS_MIN = 20.0  # nor of less time: a node that has just come up still grows
COUNTED = ("descriptors", "threads", "tasks")
COUNT_ANYWAY = 16  # by which each may grow


@dataclass(frozen=True, slots=True)
class Answered:
    """Of the requests that count; the times are of those answered, from when each was due."""

    counted: int
    answered: int
    not_counted: int
    p50_seconds: float
    p99_seconds: float
    codes: dict[str, int]

    @property
    def share(self) -> float:
        return self.answered / self.counted if self.counted else 1.0

    def line(self) -> str:
        times = f"p50 {1000 * self.p50_seconds:.0f} ms, p99 {1000 * self.p99_seconds:.0f} ms"
        return f"answered {self.share:.2%} of {self.counted}, {times}"


def answered(outcomes: Sequence[Outcome]) -> Answered:
    """Requests whose own gateway was broken meanwhile say nothing of the grid: they don't count."""
    counted = [one for one in outcomes if one.code not in NOT_COUNTED]
    took = sorted(one.took_seconds for one in counted if one.code == OK)
    return Answered(
        counted=len(counted),
        answered=len(took),
        not_counted=len(outcomes) - len(counted),
        p50_seconds=quantile(took, 0.5),
        p99_seconds=quantile(took, 0.99),
        codes=dict(sorted(Counter(one.code for one in outcomes).items())),
    )


def quantile(ascending: Sequence[float], share: float) -> float:
    """The nearest rank: the least value that is not exceeded by so many; NaN of none."""
    if not ascending:
        return math.nan
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


@dataclass(frozen=True, slots=True)
class Growth:
    """Of one node after the warm-up; KiB a minute with the 95 % interval (NaN: not known), counts.

    `pss` is of the node's own process, `anonymous` the part that no other process has to do with.
    Counts are the median of the last third less that of the first, which `began` has, of those
    samples in which as many others were alive: a connection is some tasks and a descriptor.
    `tasks` are of calm samples alone, NaN where there are too few: see `_calm`.
    """

    number: int
    samples: int
    pss_kib_per_minute: float
    pss_low: float
    pss_high: float
    anonymous_kib_per_minute: float
    anonymous_low: float
    anonymous_high: float
    descriptors: float
    threads: float
    tasks: float
    began: dict[str, float]

    def leaks(self, *, kib_per_minute_max: float, growth_max: float) -> list[str]:
        """What grows by more than it may, with 97.5 % certainty where there is an interval."""
        found = [
            f"{name} +{getattr(self, name):.0f} to {first:.0f}"
            for name, first in self.began.items()
            if getattr(self, name) > max(COUNT_ANYWAY, growth_max * first)
        ]
        if min(self.pss_low, self.anonymous_low) > kib_per_minute_max:
            found.append(f"memory +{self.anonymous_kib_per_minute:.0f} KiB a minute")
        return [f"n{self.number}: {one}" for one in found]


def _alike(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Those with as many others alive as in most of them; all where these would be too few."""
    usual, _ = Counter(one.alive for one in samples).most_common(1)[0]
    alike = [one for one in samples if one.alive == usual]
    return alike if len(alike) >= SAMPLES_MIN else samples


def _enough(samples: Sequence[Sample]) -> bool:
    """What a node grows by in seconds says nothing of what it does in a minute."""
    enough = len(samples) >= SAMPLES_MIN
    return enough and samples[-1].at_seconds - samples[0].at_seconds >= SPAN_SECONDS_MIN


def _calm(
    samples: Sequence[Sample], strained: Sequence[tuple[float, float]]
) -> Sequence[Sample] | None:
    """Those in which no streams are left of calls that waited; None if they are too few.

    Where the faults that make calls wait come so often that it is hardly ever calm, those since the
    streams of the first had their time: from then on there are about as many.
    """
    calm = [
        one for one in samples if not any(begin <= one.at_seconds < end for begin, end in strained)
    ]
    if not _enough(calm):
        since = strained[0][0] + STREAMS_SECONDS if strained else 0.0
        calm = [one for one in samples if one.at_seconds >= since]
    return calm if _enough(calm) else None


def _slope(samples: Sequence[Sample], name: str) -> Slope:
    """NaN where the kernel did not say how much it is."""
    known = [one for one in samples if getattr(one, name) >= 0]
    return slope([(one.at_seconds / 60, getattr(one, name) / 1024) for one in known])


def growth_of(
    samples: Sequence[Sample],
    *,
    from_seconds: float,
    strained: Sequence[tuple[float, float]] = (),
) -> Growth | None:
    """Of one node in one life, while it answers; None where there are too few samples, or too soon.

    `strained`: from when to when there are streams of calls that waited, without overlaps.
    """
    after = [one for one in samples if one.at_seconds >= from_seconds and one.state == State.UP]
    if not _enough(after):
        return None
    pss, anonymous = _slope(after, "own_pss_bytes"), _slope(after, "anonymous_bytes")
    alike, calm = _alike(after), _calm(after, strained)
    counts = {name: [float(getattr(one, name)) for one in alike] for name in COUNTED}
    counts["tasks"] = [math.nan] * 3 if calm is None else [float(o.tasks) for o in _alike(calm)]
    return Growth(
        after[0].number,
        len(after),
        pss.per_minute,
        pss.low,
        pss.high,
        anonymous.per_minute,
        anonymous.low,
        anonymous.high,
        growth(counts["descriptors"]),
        growth(counts["threads"]),
        growth(counts["tasks"]),
        {name: median(values[: len(values) // 3]) for name, values in counts.items()},
    )
