"""What a run came to, as data and for people, and what of it is not as it should be. Pure."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from scripts.testnets.figures import Answered, Growth, answered, growth_of, quantile
from scripts.testnets.options import Options, replay_line
from scripts.testnets.sampling import Sample
from scripts.testnets.schedule import Fault, strained_until
from scripts.testnets.table import MIB, cpu_percent, faults_line
from scripts.testnets.workload import NOT_COUNTED, OK, WRONG, Outcome

BIN_SECONDS = 10.0
SAID_MAX = 20
LOOKS_MAX = 4096  # two hours and more; a run without an end would keep them for good


@dataclass(slots=True)
class Facts:
    """All that was seen.

    Attributes:
        seconds: of load and faults.
        looks: samples of all nodes, each time; of long runs every second, fourth and so on.
        untouched: numbers of the nodes that were neither killed, held nor restarted.
        whole_after: seconds from when all were up again until all saw all; None if they did not.
        unmet: who did not.
        cut_short: somebody ended it before its time.
        machine: cores, load and commit, for who reads the report.
        relay: what it counted, if there was one.
        strained: when nodes had streams of calls that had waited, from and to, in order.
    """

    options: Options
    seconds: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    looks: list[list[Sample]] = field(default_factory=list)
    untouched: frozenset[int] = frozenset()
    done: Counter[str] = field(default_factory=Counter)
    left_out: int = 0
    dropped: int = 0
    events: list[tuple[float, str]] = field(default_factory=list)
    ready_seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    settled: bool = False
    cut_short: bool = False
    whole_after: float | None = None
    unmet: str = ""
    machine: dict[str, Any] = field(default_factory=dict)
    relay: dict[str, Any] = field(default_factory=dict)
    strained: list[tuple[float, float]] = field(default_factory=list)
    _every: int = 1
    _left_out: int = 0

    def strain(self, fault: Fault) -> None:
        """This was done now."""
        begin, end = fault.at_seconds, strained_until(fault)
        if self.strained and begin <= self.strained[-1][1]:
            begin, before = self.strained.pop()
            end = max(before, end)
        if end > begin:
            self.strained.append((begin, end))

    def look(self, samples: list[Sample]) -> None:
        """Keep these, or leave them out where there are very many."""
        self._left_out += 1
        if self._left_out < self._every:
            return
        self._left_out = 0
        self.looks.append(samples)
        if len(self.looks) >= LOOKS_MAX:
            self.looks = self.looks[::2]
            self._left_out = self._every  # the last of them is left out just now
            self._every *= 2


def growths(facts: Facts) -> list[Growth]:
    """Of the nodes that lived through it all, after the warm-up."""
    begin = facts.options.warmup * facts.seconds
    found = [
        growth_of(
            [look[number] for look in facts.looks], from_seconds=begin, strained=facts.strained
        )
        for number in sorted(facts.untouched)
    ]
    return [one for one in found if one is not None]


def problems(facts: Facts, came: Answered, grown: Sequence[Growth]) -> list[str]:
    """What is not within bounds; nothing if all is well."""
    options, found = facts.options, []
    if came.share < options.success_min:
        found.append(f"answered {came.share:.2%}, less than {options.success_min:.2%}")
    if wrong := came.codes.get(WRONG, 0):
        found.append(f"{wrong} wrong answers")
    for one in grown:
        found += one.leaks(kib_per_minute_max=options.leak_max, growth_max=options.growth_max)
    found += [f"left behind: {one}" for one in facts.orphans]
    found += facts.failures
    if facts.settled and facts.whole_after is None:
        found.append(f"not all saw all {options.settle:g} s after all were up: {facts.unmet}")
    return found if facts.cut_short else [*found, *_unchecked(facts, came)]


def _unchecked(facts: Facts, came: Answered) -> Iterator[str]:
    """What the run was to show, and had none of: then it shows nothing."""
    options = facts.options
    if options.rate and not came.answered:
        yield f"no request was answered, of {came.counted + came.not_counted}"
    for kind in options.faults:
        if not facts.done[kind]:
            yield f"no {kind} was done, and {facts.left_out} faults left out: is it too short?"


def report(facts: Facts) -> dict[str, Any]:
    """Plain values for JSON."""
    came, grown = answered(facts.outcomes), growths(facts)
    wrong = problems(facts, came, grown)
    return {
        "replay": replay_line(facts.options),
        "well": not wrong,
        "problems": wrong,
        "options": asdict(facts.options),
        "machine": facts.machine,
        "seconds": round(facts.seconds, 1),
        "requests": {
            **asdict(came),
            "share": round(came.share, 5),
            "first_text": _first(facts.outcomes),
            "attempts": dict(sorted(Counter(str(one.attempts) for one in facts.outcomes).items())),
            "over_time": over_time(facts.outcomes),
            "said": [
                {
                    "at": round(one.at_seconds, 2),
                    "code": one.code,
                    "asker": one.asker,
                    "said": one.said,
                }
                for one in facts.outcomes
                if one.code not in {OK, *NOT_COUNTED}
            ][:SAID_MAX],
        },
        "faults": {
            **dict(sorted(facts.done.items())),
            "left_out": facts.left_out,
            "connections_dropped": facts.dropped,
            "events": [(round(at, 2), what) for at, what in facts.events],
            "seconds_to_ready": _spread(facts.ready_seconds),
            "whole_after_seconds": facts.whole_after,
        },
        "nodes": nodes_of(facts),
        "growth": [asdict(one) for one in grown],
        "series": {f"n{one.number}": series(facts, one.number) for one in grown},
        "relay": facts.relay,
    }


def nodes_of(facts: Facts) -> dict[str, dict[str, Any]]:
    """Of each node, over the run: PSS with its workers in MiB, CPU in percent of a core."""
    found = {}
    for number in range(facts.options.nodes):
        samples = [look[number] for look in facts.looks]
        sizes = [one.used.pss_bytes / MIB for one in samples if one.used.pss_bytes]
        own = [one.own_pss_bytes / MIB for one in samples if one.own_pss_bytes > 0]
        spent = [cpu_percent(*pair) for pair in pairwise(samples)]
        found[f"n{number}"] = {
            "lives": max((one.life for one in samples), default=0),
            "untouched": number in facts.untouched,
            "pss_mib": _spread(sizes),
            "own_pss_mib": _spread(own),
            "cpu_percent": round(fmean([one for one in spent if one >= 0] or [0.0]), 2),
            "descriptors_max": max((one.descriptors for one in samples), default=0),
            "tasks_max": max((one.tasks for one in samples), default=0),
            "served": sum(_served(samples)),
        }
    return found


def series(facts: Facts, number: int) -> list[dict[str, float]]:
    """What the growth of a node was seen in."""
    return [
        {
            "at": round(one.at_seconds, 1),
            "own_pss_kib": one.own_pss_bytes // 1024,
            "anonymous_kib": one.anonymous_bytes // 1024,
            "descriptors": one.descriptors,
            "threads": one.threads,
            "tasks": one.tasks,
            "alive": one.alive,
        }
        for one in (look[number] for look in facts.looks)
    ]


def over_time(outcomes: Sequence[Outcome]) -> list[tuple[float, int, int]]:
    """(second, requests that count, of these answered) of those due around then."""
    counted: Counter[int] = Counter()
    good: Counter[int] = Counter()
    for one in outcomes:
        if one.code not in NOT_COUNTED:
            step = int(one.at_seconds // BIN_SECONDS)
            counted[step] += 1
            good[step] += one.code == OK
    return [(step * BIN_SECONDS, counted[step], good[step]) for step in sorted(counted)]


def summary(found: dict[str, Any]) -> list[str]:
    """Lines for people, of a report."""
    requests, faults = found["requests"], found["faults"]
    lines = []
    codes = ", ".join(f"{code} {count}" for code, count in requests["codes"].items())
    if codes and not requests["counted"]:
        lines.append(f"no request counts ({codes})")
    if requests["counted"]:
        p50, p99 = requests["p50_seconds"], requests["p99_seconds"]
        lines.append(
            f"answered {requests['share']:.2%} of {requests['counted']}"
            f" (p50 {p50:.3f} s, p99 {p99:.3f} s; {codes})"
        )
    counts = Counter({kind: n for kind, n in faults.items() if kind in found["options"] and n})
    if counts:
        after = faults["whole_after_seconds"]
        met = "" if after is None else f"; all saw all {after:.0f} s after all were up"
        ready = faults["seconds_to_ready"].get("median", 0)
        lines.append(f"faults: {faults_line(counts)}; a start takes {ready} s{met}")
    nodes = [one for one in found["nodes"].values() if one["pss_mib"]]
    if nodes:
        size = [one["pss_mib"]["median"] for one in nodes]
        spent = [one["cpu_percent"] for one in nodes]
        lines.append(
            f"each node, with workers: PSS {median(size):.0f} MiB ({max(size):.0f} at most),"
            f" CPU {median(spent):.1f} % of a core ({max(spent):.1f} at most)"
        )
    lines += growth_lines(found["growth"])
    lines += [f"FAILED {one}" for one in found["problems"]]
    return lines


def growth_lines(grown: Sequence[dict[str, Any]]) -> list[str]:
    """The nodes that lived through it, in one line."""
    if not grown:
        return ["too short, or too few nodes left alone, to speak of leaks"]
    memory = [one["anonymous_kib_per_minute"] for one in grown]
    if not all(map(math.isfinite, memory)):
        return [f"how much memory the {len(grown)} nodes left alone have is not known"]
    pss = [one["pss_kib_per_minute"] for one in grown]
    most = ", ".join(_most(grown, name) for name in ("descriptors", "tasks", "threads"))
    words = (
        f"{len(grown)} nodes left alone grew by, median (most) in KiB a minute:",
        f"PSS {median(pss):.0f} ({max(pss):.0f}),",
        f"anonymous {median(memory):.0f} ({max(memory):.0f}); at most {most}",
    )
    return [" ".join(words)]


def _most(grown: Sequence[dict[str, Any]], name: str) -> str:
    known = [one[name] for one in grown if math.isfinite(one[name])]
    return f"{max(known):+.0f} {name}" if known else f"{name} not known, so soon after a fault"


def _served(samples: Sequence[Sample]) -> list[int]:
    """The last count of each life: a new process counts from 0."""
    last = {one.life: one.served for one in samples if one.served >= 0}
    return list(last.values())


def _first(outcomes: Sequence[Outcome]) -> dict[str, float]:
    first = [one.first_seconds for one in outcomes if one.code == OK and one.first_seconds]
    return _spread(first)


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    ascending = sorted(values)
    return {
        "least": round(ascending[0], 3),
        "median": round(median(ascending), 3),
        "p99": round(quantile(ascending, 0.99), 3),
        "most": round(ascending[-1], 3),
    }
