"""Gossip among processes: ours beside stock py-libp2p, both in each round.

    python scripts/bench/gossip.py [--processes 20] [--seconds 60] [--rounds 5] [--quick]

Every process is one host on 127.0.0.1 (`gossip_member.py`). All listen on one topic, each has
dialed up to four others, and each publishes `--rate` messages of `--size` bytes a second. `ours` is
the transport as a node sets it up, members only; `stock` is py-libp2p's host, GossipSub 1.2 and
Pubsub. Both get the same graph in a round; which goes first alternates.

- delivered: of all messages, how many reached each of the others, within five seconds of the last
- p50, p99: from the call of publish to the reader, of those that arrived
- CPU per delivery: of all processes, until those five seconds are over, by what arrived

The median of the rounds counts. Latencies mean something on an idle machine alone; ratios of CPU
hold on a busy one, too. Exit status 1: an aim of ours was missed, or a process failed.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench import reporting
from scripts.bench.reporting import at_least, at_most

MEMBER = Path(__file__).resolve().parent / "gossip_member.py"
WAYS = ("stock", "ours")
DIALS = 4
SETTLE_SECONDS = 6.0  # for the heartbeats that make the mesh, once all are connected
DELIVERED_MIN, P99_MAX_MS, CPU_MAX_OF_STOCK = 0.999, 300.0, 0.35


class MemberFailedError(Exception):
    """A process of the round ended early; its stderr is above."""


@dataclass(frozen=True)
class Measured:
    """One way in one round, or the medians of several."""

    delivered: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float


@dataclass(frozen=True)
class Row:
    """One line of the table. `ratio` is ours by stock's."""

    name: str
    stock: float
    ours: float
    ratio: float
    aim: str
    met: bool | None


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started ends with this
    found: dict[str, list[Measured]] = {way: [] for way in WAYS}
    try:
        for number in range(options.rounds):
            for way in WAYS if number % 2 == 0 else reversed(WAYS):
                if options.only in {"", way}:
                    found[way].append(one_round(way, number, options))
                    print(f"round {number + 1}, {way}: {found[way][-1]}", file=sys.stderr)
    except MemberFailedError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    if options.json:
        raw = {way: [asdict(one) for one in several] for way, several in found.items()}
        options.json.write_text(json.dumps(raw, indent=1) + "\n")
    if options.only:
        return 0
    tell_all(found)
    rows = compare(middle(found["stock"]), middle(found["ours"]))
    print(table(rows))
    return 1 if any(row.met is False for row in rows) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=1, help="messages a second of each process")
    parser.add_argument("--size", type=int, default=8192, help="bytes of a message")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round, 6 processes, 8 seconds")
    parser.add_argument("--only", choices=WAYS, default="", help="leave the other out")
    parser.add_argument("--profile", default="", help="cProfile of the first process goes here")
    parser.add_argument("--json", type=Path, help="where the figures of each round go")
    options = parser.parse_args()
    if options.quick:
        options.processes, options.seconds, options.rounds = 6, 8.0, 1
    return options


# A round


def one_round(way: str, number: int, options: argparse.Namespace) -> Measured:
    load = {name: getattr(options, name) for name in ("processes", "rate", "seconds", "size")}
    commands = [
        [sys.executable, os.fspath(MEMBER), way, str(each), json.dumps(load)]
        for each in range(options.processes)
    ]
    if options.profile:
        commands[0].append(options.profile)
    with started(commands) as members:
        addresses = [hear(member) for member in members]
        for member, dialed in zip(members, graph(len(members), number), strict=True):
            tell(member, [addresses, dialed])
        for member in members:
            hear(member)
        begin = time.monotonic() + SETTLE_SECONDS
        for member in members:
            tell(member, begin)
        return summed([hear(member) for member in members])


@contextmanager
def started(commands: Sequence[Sequence[str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """The processes, none of which outlives this."""
    members: list[subprocess.Popen[str]] = []
    try:
        for command in commands:  # `+=`: if one cannot be started, those before it are ended
            members += [start(command)]
        yield members
    finally:
        for member in members:
            member.kill()
        for member in members:
            member.communicate()


def start(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def tell(member: subprocess.Popen[str], what: Any) -> None:
    if member.stdin is None or member.poll() is not None:
        raise MemberFailedError(f"process {member.args!r} ended")
    member.stdin.write(json.dumps(what) + "\n")
    member.stdin.flush()


def hear(member: subprocess.Popen[str]) -> Any:
    line = member.stdout.readline() if member.stdout is not None else ""
    if not line:
        raise MemberFailedError(f"process {member.args!r} ended")
    return json.loads(line)


# What is computed


def graph(processes: int, seed: int) -> list[list[int]]:
    """Whom each dials: up to four of those before it, so that all hang together."""
    rng = random.Random(seed)
    return [rng.sample(range(each), min(each, DIALS)) for each in range(processes)]


def summed(results: Sequence[Mapping[str, Any]]) -> Measured:
    """All processes of one round; latencies are infinite where nothing arrived."""
    latencies = sorted(each for result in results for each in result["latencies_ms"])
    expected = sum(result["sent"] for result in results) * (len(results) - 1)
    cpu_ms = sum(result["cpu"] for result in results) * 1e3
    if not latencies:
        return Measured(0.0, float("inf"), float("inf"), float("inf"))
    return Measured(
        delivered=len(latencies) / expected,
        p50_ms=latencies[len(latencies) // 2],
        p99_ms=latencies[len(latencies) * 99 // 100],
        cpu_ms=cpu_ms / len(latencies),
    )


def middle(rounds: Sequence[Measured]) -> Measured:
    return Measured(
        *(median(getattr(one, name) for one in rounds) for name in Measured.__dataclass_fields__)
    )


def compare(stock: Measured, ours: Measured) -> list[Row]:
    def row(name: str, field: str, aim: str = "", *, met: bool | None = None) -> Row:
        theirs, own = getattr(stock, field), getattr(ours, field)
        return Row(name, theirs, own, own / theirs if theirs else float("nan"), aim, met)

    return [
        row("delivered %", "delivered", ">= 99.9 %", met=ours.delivered >= DELIVERED_MIN),
        row("p50 ms", "p50_ms"),
        row("p99 ms", "p99_ms", "< 300 ms", met=ours.p99_ms < P99_MAX_MS),
        row(
            "CPU ms per delivery",
            "cpu_ms",
            "<= 0.35 x stock",
            met=ours.cpu_ms <= CPU_MAX_OF_STOCK * stock.cpu_ms,
        ),
    ]


def tell_all(found: Mapping[str, Sequence[Measured]]) -> None:
    least, p99 = at_least(DELIVERED_MIN, of_value=True), at_most(P99_MAX_MS, of_value=True)
    for name, field, unit, aim in (
        ("delivered", "delivered", "share", least),
        ("p99", "p99_ms", "ms", p99),
        ("CPU per delivery", "cpu_ms", "ms", at_most(CPU_MAX_OF_STOCK)),
    ):
        ours, stock = ([getattr(one, field) for one in found[way]] for way in ("ours", "stock"))
        reporting.tell(name, ours, unit, beside=("stock py-libp2p", stock), aim=aim)


def table(rows: Sequence[Row]) -> str:
    lines = [f"{'':<22}{'stock':>10}{'ours':>10}{'ratio':>8}  aim"]
    for row in rows:
        scale = 100 if row.name.endswith("%") else 1
        met = "" if row.met is None else f"{row.aim}: {'met' if row.met else 'NOT met'}"
        lines.append(
            f"{row.name:<22}{row.stock * scale:>10.2f}{row.ours * scale:>10.2f}"
            f"{row.ratio:>8.2f}  {met}".rstrip()
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
