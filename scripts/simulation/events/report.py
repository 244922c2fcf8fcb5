"""What a run of `events` came to, in the shape of the other reports."""

from collections import Counter
from dataclasses import asdict
from typing import Any

from scripts.simulation.events.broken import broken
from scripts.simulation.events.run import CHECKS, Events, Progress
from scripts.simulation.options import Options, replay_line
from scripts.simulation.reporting.report import BIN_SECONDS, spreading

MODEL = (
    "mode=events: discrete events over arrays; merge, reconciliation, index, selection and "
    "placement are real in {sample} sampled nodes of {nodes}, gossip, reconciliation of all others "
    "and who runs are a model; no services, streams, engines or audits"
)
NOT_ANSWERED = ("answered", "wrong", "p50_seconds", "p99_seconds")
"""Of a request: nothing is computed, so none is wrong, or takes time."""


def events_report(options: Options, commit: str, progress: Progress) -> dict[str, Any]:
    """Run it; as `report.report`, of nodes only those that are sampled or hold something."""
    events = Events(options, progress)
    with broken(options):
        found = events.run()
    crowd = events.crowd
    cpu, sent = max(found.cpu_seconds, 1e-9), int(crowd.sent.sum())
    served = Counter(node for _, _, node in found.asked if node >= 0)
    asked: Counter[int] = Counter(int(at // BIN_SECONDS) for at, _, _ in found.asked)
    answered: Counter[int] = Counter(int(at // BIN_SECONDS) for at, ok, _ in found.asked if ok)
    ok = sum(answered for _, answered, _ in found.asked)
    nothing = {"counted": 0, **dict.fromkeys(NOT_ANSWERED)}
    asked_of = nothing | {"counted": len(found.asked)}
    if found.asked:
        asked_of |= {"answered": round(ok / len(found.asked), 4)}
    return {
        "model": MODEL.format(sample=len(events.sample), nodes=options.nodes),
        "commit": commit,
        "replay": replay_line(options),
        "well": not found.violations,
        "trace_hash": found.trace_hash,
        "options": asdict(options),
        "violations": [asdict(one) for one in found.violations],
        "checks": dict(sorted(found.checks.items())),
        "without_occasion": [name for name in CHECKS if not found.checks.get(name)],
        "well_after_seconds": found.well_seconds,
        "requests": {
            "under_faults": asked_of,
            "afterwards": nothing,
            "over_time": [(b * BIN_SECONDS, answered[b] / asked[b]) for b in sorted(asked)],
        },
        "propagation": spreading(found),
        "nodes": {
            f"n{node}": {
                "messages": int(crowd.sent[node]),
                "bytes": events.sample[node].bytes if node in events.sample else 0,
                "served": served[node],
            }
            for node in sorted({*events.sample, *events.said.holders})
        },
        "acting_at_once_max": found.most_acting,
        "faults": [(round(at, 2), what) for at, what in found.faults],
        "records": crowd.keys,
        "gossip_hops_lost": crowd.lost,
        "cost": {
            "cpu_seconds": round(cpu, 2),
            "virtual_seconds": round(found.end_seconds, 2),
            "node_seconds_per_cpu_second": round(options.nodes * found.end_seconds / cpu, 1),
            "messages_per_cpu_second": round(sent / cpu),
        },
    }
