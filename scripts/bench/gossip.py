"""Gossip among many processes: py-libp2p as it is shipped, then this node's transport.

    python scripts/bench/gossip.py --processes 20 --seconds 60 --json result.json   (quick: --quick)

Each process is a host of its own that dials up to `--dials` of those before it (by default as many
as a node keeps connections to), the same ones in either column, and publishes messages of `--bytes`
bytes at `--per-second`. A delivery is a message that another process handed to its reader, once.
CPU is of all processes from the first message to five seconds after the last, so what was still
waiting counts. The processes share this machine's cores: latencies are those of a busy machine by
intent. Exit status 1: a process failed; an aim not met is only said.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.children import Child, ChildFailedError, child, leave_cleanly
from scripts.bench.data_path.figures import quantile
from scripts.bench.gossip_node import DRAIN_SECONDS, Load, identity

from aigrid.protocol.limits import LIMITS

COLUMNS = ("stock", "ours")
START_TIMEOUT_SECONDS = 120.0
SETTLE_SECONDS = 5.0  # meshes form at heartbeats, once a second
DELIVERED_MIN, P99_MAX_MS, CPU_OF_STOCK_MAX = 0.999, 300.0, 0.35


@dataclass(frozen=True)
class Figures:
    """Of one column. `delivered`: the share of what all should have heard of the others."""

    delivered: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    cores: float


def main() -> int:
    options = _options()
    leave_cleanly()
    found: dict[str, Figures] = {}
    failed: dict[str, str] = {}
    for kind in options.columns.split(","):
        print(f"{kind}: {options.processes} processes", file=sys.stderr)
        try:
            found[kind] = figures(measure(kind, options), options.seconds)
        except ChildFailedError as error:
            failed[kind] = str(error)
            print(f"{kind} failed: {error}", file=sys.stderr)
    for line in [*lines(found), "", *aim_lines(found)]:
        print(line)
    if options.json:
        report = {"figures": {kind: asdict(one) for kind, one in found.items()}, "failed": failed}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=20)
    parser.add_argument("--per-second", type=float, default=1.0, help="messages of each")
    parser.add_argument("--bytes", type=int, default=8192, help="of each message")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--dials", type=int, default=LIMITS.connections_wanted)
    parser.add_argument("--quick", action="store_true", help="8 processes, 8 s")
    parser.add_argument("--columns", default=",".join(COLUMNS), help="which, in a list")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    if options.quick:
        options.processes, options.seconds = 8, 8.0
    return options


def measure(kind: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What each process said in the end."""
    of = options.processes
    load = json.dumps(asdict(Load(of, options.per_second, options.bytes, options.seconds)))
    program = (sys.executable, "-m", "scripts.bench.gossip_node", kind)
    with ExitStack() as stack:
        nodes = [stack.enter_context(child([*program, str(number), load])) for number in range(of)]
        addresses = [node.report("address", START_TIMEOUT_SECONDS)["address"] for node in nodes]
        rng = random.Random(3)
        for number, node in enumerate(nodes):
            chosen = rng.sample(range(number), min(number, options.dials))
            _tell(node, dial=[(identity(other).peer_id, addresses[other]) for other in chosen])
        for node in nodes:
            node.report("ready", START_TIMEOUT_SECONDS)
        begin = time.monotonic() + SETTLE_SECONDS
        for node in nodes:
            _tell(node, begin=begin)
        lasts = SETTLE_SECONDS + options.seconds + DRAIN_SECONDS
        return [node.report("sent", 2 * lasts + START_TIMEOUT_SECONDS) for node in nodes]


def _tell(node: Child, **what: Any) -> None:
    node.tell(json.dumps(what))


def figures(said: Sequence[Mapping[str, Any]], seconds: float) -> Figures:
    """Of all processes together; NaN where nothing was delivered."""
    ages = [age for one in said for age in one["ages_ms"]]
    due = sum(one["sent"] for one in said) * (len(said) - 1)
    used = sum(one["cpu_seconds"] for one in said)
    return Figures(
        delivered=len(ages) / due if due else float("nan"),
        p50_ms=quantile(ages, 0.5),
        p99_ms=quantile(ages, 0.99),
        cpu_ms=used / len(ages) * 1000 if ages else float("nan"),
        cores=used / (seconds + DRAIN_SECONDS),
    )


def lines(found: Mapping[str, Figures]) -> list[str]:
    heads = ("delivered %", "p50 ms", "p99 ms", "CPU ms a delivery", "cores in use")
    said = [f"{'':8}" + "".join(f"{head:>19}" for head in heads)]
    for kind, one in found.items():
        delivered = f"{one.delivered * 100:.2f}"
        cells = (delivered, *(f"{v:.2f}" for v in (one.p50_ms, one.p99_ms, one.cpu_ms, one.cores)))
        said.append(f"{kind:8}" + "".join(f"{cell:>19}" for cell in cells))
    return said


def aim_lines(found: Mapping[str, Figures]) -> list[str]:
    """What was to be shown of ours, and whether it was."""
    one, beside = found.get("ours"), found.get("stock")
    if one is None:
        return []
    enough, quick = one.delivered >= DELIVERED_MIN, one.p99_ms < P99_MAX_MS
    said = [
        _aim(f"delivered >= {DELIVERED_MIN:.1%}", f"{one.delivered:.2%}", enough),
        _aim(f"p99 < {P99_MAX_MS:g} ms", f"{one.p99_ms:.0f} ms", quick),
    ]
    if beside is not None:
        share = one.cpu_ms / beside.cpu_ms
        aim = f"CPU a delivery <= {CPU_OF_STOCK_MAX:g} x stock"
        said.append(_aim(aim, f"{share:.2f}", share <= CPU_OF_STOCK_MAX))
    return said


def _aim(aim: str, value: str, met: bool) -> str:  # noqa: FBT001 - a verdict
    return f"{aim:34}: {value} {'met' if met else 'NOT MET'}"


if __name__ == "__main__":
    sys.exit(main())
