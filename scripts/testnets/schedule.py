"""What is asked and what is broken, when and where: follows from the options alone."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import count

from scripts.testnets.options import Options

from aigrid.protocol.limits import LIMITS

REST_SECONDS = 5.0  # after a fault, in which a node is left alone
STREAMS_SECONDS = LIMITS.stream_idle_seconds + 10.0  # and calls that come to an end meanwhile


class Kind(StrEnum):
    """Kinds of faults."""

    KILL = "kill"
    STOP = "stop"
    RESTART = "restart"
    DROP = "drop"
    PARTITION = "partition"


@dataclass(frozen=True, slots=True)
class Fault:
    """At `at_seconds` from the begin, for `seconds`: to one node, or to all of one side."""

    at_seconds: float
    kind: Kind
    nodes: tuple[int, ...]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Ask:
    """A request; `draw` (from 0, below 1) chooses among the nodes that are up then."""

    at_seconds: float
    number: int
    model: str
    streamed: bool
    draw: float


def spared(options: Options) -> frozenset[int]:
    """Nodes that nothing is done to; the founder is one of them if there are any."""
    if not options.spared:
        return frozenset()
    others = _rng(options, "spared").sample(range(1, options.nodes), options.spared - 1)
    return frozenset((0, *others))


def holders(options: Options) -> dict[str, tuple[int, ...]]:
    """Who has each model on the disk from the start."""
    rng = _rng(options, "holders")
    found = {one: tuple(rng.sample(range(options.nodes), options.holders)) for one in options.asked}
    return {model: found[model] for model in options.fetched}


def askers(options: Options) -> frozenset[int]:
    """Whose gateways are asked."""
    if options.through == "all":
        return frozenset(range(options.nodes))
    return spared(options) if options.through == "spared" else options.named_askers


def asks(options: Options) -> Iterator[Ask]:
    """Without an end where the run has none."""
    rng, at = _rng(options, "asks"), 0.0
    if not options.rate:
        return
    for number in count():
        at += rng.expovariate(options.rate)
        if options.duration and at >= options.duration:
            return
        model = rng.choice(options.asked)
        yield Ask(at, number, model, rng.random() < options.stream, rng.random())


def strained_until(fault: Fault) -> float:
    """Until when nodes keep the streams of the calls that waited for who did not answer meanwhile.

    Their connections outlive such a fault; TCP may be silent for as long again before it goes on.
    Streams of other faults end with their connections: then it is when the fault was.
    """
    if fault.kind not in {Kind.PARTITION, Kind.STOP}:
        return fault.at_seconds
    return fault.at_seconds + 2 * fault.seconds + STREAMS_SECONDS


def _never() -> bool:
    return False


def faults(options: Options, stopped: Callable[[], bool] = _never) -> Iterator[Fault]:
    """In order; a node that something is done to is left alone for a while.

    A fault that finds no node at rest is left out. There may be very many of those before the next
    one: once `stopped` says so, there is no next one.
    """
    nodes = [n for n in range(options.nodes) if n not in spared(options)]
    rng, free_at = _rng(options, "faults"), dict.fromkeys(nodes, 0.0)
    for at, kind in _times(options):
        if stopped():
            return
        if kind is Kind.PARTITION:
            side = rng.sample(range(options.nodes), options.nodes // 2)
            yield Fault(at, kind, tuple(sorted(side)), options.cut)
            continue
        at_rest = [n for n in nodes if free_at[n] <= at]
        if at_rest:
            node, seconds = rng.choice(at_rest), _seconds(options, kind)
            free_at[node] = at + seconds + REST_SECONDS
            yield Fault(at, kind, (node,), seconds)


def _times(options: Options) -> Iterator[tuple[float, Kind]]:
    """Each kind on its own, so that another rate of one leaves the others where they were.

    Those that would not be over when the run is are left out; partitions do not overlap.
    """
    rates = {kind: float(getattr(options, kind.value)) / 60 for kind in Kind}
    rngs = {kind: _rng(options, f"times of {kind}") for kind in Kind}
    due = {kind: rngs[kind].expovariate(rate) for kind, rate in rates.items() if rate}
    while due:
        kind = min(due, key=lambda one: (due[one], one))
        at, pause = due[kind], rngs[kind].expovariate(rates[kind])
        whole = kind is Kind.PARTITION
        due[kind] = at + (max(pause, options.cut + REST_SECONDS) if whole else pause)
        if options.duration and at + _seconds(options, kind) >= options.duration:
            del due[kind]
            continue
        yield at, kind


def _seconds(options: Options, kind: Kind) -> float:
    known = {Kind.KILL: options.down, Kind.STOP: options.held, Kind.PARTITION: options.cut}
    return known.get(kind, 0.0)


def _rng(options: Options, what: str) -> random.Random:
    return random.Random(f"{options.seed}/{what}")
