"""What a run came to, as data: the JSON report, and what the page draws."""

from collections import Counter
from dataclasses import asdict
from typing import Any, Protocol

from scripts.simulation.checks.judging import rates
from scripts.simulation.checks.looked_at import counts, without_occasion
from scripts.simulation.checks.propagation import Delays
from scripts.simulation.options import replay_line
from scripts.simulation.run import Outcome
from scripts.simulation.workload import Request

NETWORKS = {
    "model": "net=model: real node services in virtual time over an in-memory transport; gossip is "
    "flooding over connections, the DHT one table, engines are doubles",
    "libp2p": "net=libp2p: real node services in virtual time over py-libp2p, GossipSub and Kad-DHT"
    " included; TCP below it is in memory, engines are doubles",
}
BIN_SECONDS = 5.0


def report(outcome: Outcome, commit: str) -> dict[str, Any]:
    """Plain values; seconds are virtual, but for those of `cost`."""
    watch, network = outcome.watch, outcome.network
    if watch is None or network is None:
        raise ValueError("the run has not begun")
    cpu = max(outcome.cpu_seconds, 1e-9)
    return {
        "model": NETWORKS[outcome.options.net],
        "commit": commit,
        "replay": replay_line(outcome.options),
        "well": outcome.well,
        "trace_hash": outcome.trace_hash,
        "options": asdict(outcome.options),
        "violations": [asdict(one) for one in outcome.violations],
        "last_events": outcome.last_events if outcome.violations else [],
        "checks": counts(watch),
        "without_occasion": without_occasion(outcome.options, watch, outcome.requests),
        "phases": {
            name: {"virtual_seconds": round(virtual, 3), "cpu_seconds": round(spent, 2)}
            for name, (virtual, spent) in outcome.phases.items()
        },
        "well_after_seconds": outcome.well_seconds,
        "requests": {
            "under_faults": _requests(outcome.requests, after=False),
            "afterwards": _requests(outcome.requests, after=True),
            "over_time": over_time(outcome.requests),
        },
        "propagation": {
            "in_time": {_when(after): one.in_time for after, one in watch.promptly.items()},
            "late": {_when(after): one.late for after, one in watch.promptly.items()},
            **spreading(watch.propagation),
        },
        "nodes": _per_node(outcome),
        "refused_joins": dict(sorted(outcome.refused_joins.items())),
        "attackers": outcome.attackers,
        "clocks_reported_ms": outcome.clocks_reported,
        "faults": [(round(at, 2), what) for at, what in outcome.faults],
        "records": outcome.records,
        "gossip_hops_lost": network.lost,
        "cost": {
            "cpu_seconds": round(cpu, 2),
            "virtual_seconds": round(outcome.virtual_seconds, 2),
            "node_seconds_per_cpu_second": round(
                outcome.options.nodes * outcome.virtual_seconds / cpu, 1
            ),
            "messages_per_cpu_second": round(network.messages.total() / cpu),
        },
    }


def _when(after: bool) -> str:  # noqa: FBT001
    return "afterwards" if after else "under_faults"


def over_time(requests: list[Request]) -> list[tuple[float, float]]:
    """(virtual second, share answered rightly) of those that began around then."""
    asked: Counter[int] = Counter()
    answered: Counter[int] = Counter()
    for one in requests:
        if one.outcome != "asker_killed":
            step = int(one.began_seconds // BIN_SECONDS)
            asked[step] += 1
            answered[step] += one.outcome == "ok" and one.right
    return [(step * BIN_SECONDS, answered[step] / asked[step]) for step in sorted(asked)]


def _requests(requests: list[Request], *, after: bool) -> dict[str, Any]:
    """A share, or a quantile, of nothing is None."""
    success, wrong, count = rates(requests, after=after)
    ours = [one for one in requests if one.after is after]
    took = sorted(one.took_seconds for one in ours if one.outcome == "ok")
    return {
        "counted": count,
        "answered": round(success, 4) if count else None,
        "wrong": round(wrong, 4) if success else None,
        "outcomes": dict(sorted(Counter(one.outcome for one in ours).items())),
        "p50_seconds": _quantile(took, 0.5),
        "p99_seconds": _quantile(took, 0.99),
        "more_than_one_attempt": sum(one.attempts > 1 for one in ours),
    }


def _per_node(outcome: Outcome) -> dict[str, Any]:
    served = Counter(one.node for one in outcome.requests if one.node)
    network = outcome.network
    return {
        name: {
            "messages": network.messages[peer_id] if network else 0,
            "bytes": network.bytes[peer_id] if network else 0,
            "served": served[name],
        }
        for peer_id, name in sorted(outcome.names.items(), key=lambda item: item[1])
    }


class Spread(Protocol):
    """See `Propagation`; those of `--mode events` are counted alike."""

    each: Delays
    everywhere: Delays
    issued: int
    arrived: int
    due: int
    killed: int

    @property
    def outrun(self) -> int: ...


def spreading(of: Spread) -> dict[str, Any]:
    """The quantiles are of what arrived; `cdf` has the share of all deliveries that were due."""
    return {
        "issued": of.issued,
        "reached_everybody": of.arrived,
        "replaced_before": of.outrun,
        "due": of.due,
        "killed_before": of.killed,
        "each_node": delays(of.each),
        "everywhere": delays(of.everywhere),
        "cdf": [(round(s, 4), round(share, 4)) for s, share in of.each.cdf(of.due)],
    }


def delays(counted: Delays) -> dict[str, float | int | None]:
    """Count and quantiles, as the report has them."""
    return {
        "count": counted.total,
        "p50_seconds": _rounded(counted.quantile(0.5)),
        "p99_seconds": _rounded(counted.quantile(0.99)),
    }


def _quantile(ascending: list[float], share: float) -> float | None:
    return round(ascending[int(share * (len(ascending) - 1))], 3) if ascending else None


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
