"""Nothing grows in a node whose connections break and are made anew.

    python scripts/faults/reconnects.py --minutes 30 --every 20       (quick: --quick)

Real processes, each a `Libp2pTransport` with an `RpcServer` and an `RpcClient`: *anchor* and
`--peers` others, the last of which is killed at times and started again on another port; the rest
live throughout. All the while they ask the anchor and it asks them, they gossip, and look for each
other in the DHT. Every `--every` seconds the connections are broken, in turn by a polite close, an
aborted socket, and a killed peer; in turn at the anchor's end and at theirs, and in turn dialed
anew by the one and by the other.

Before each break each node says how large it is: resident memory, descriptors, trio tasks, threads;
and in the middle of the warm-up and at the end, how many objects of which type. The first fifth of
the run is warm-up (caches that are bounded fill). Of the rest, per process that lived throughout,
flat means:

- memory: the 95 % interval of its slope is not wholly above `MEMORY_MAX_KIB_PER_MINUTE`
  (least squares; neighbouring samples resemble each other, which the interval allows for);
- descriptors, tasks, threads: the median of the last third is at most `COUNT_GROWTH_MAX` above
  that of the first third.

Wrong, and an exit status other than 0, is one that is not flat, a connection that does not come
back within `PATIENCE_SECONDS`, and a run in which nothing was answered. `back` is how long that
takes after each kind of break, gossip included.
"""

import argparse
import itertools
import json
import math
import random
import select
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

NODE = Path(__file__).with_name("reconnecting_node.py")
MEMORY_MAX_KIB_PER_MINUTE = 16.0
COUNT_GROWTH_MAX = 2
WARM_UP_SHARE = 0.2
PATIENCE_SECONDS = 30.0
SILENCE_SECONDS = 300.0  # of a node that may be starved of the processor
JITTER_SECONDS = 0.2  # so that a break comes at any moment of a call
SAMPLES_MIN = 20
TYPES_SHOWN = 8
MEMORIES_SHOWN = 8
POLL_SECONDS = 0.05
COUNTED = ("descriptors", "tasks", "threads")
BREAKS = ("close", "abort", "kill")


class FailedError(Exception):
    """A node did not do what it was told."""


@dataclass
class Process:
    """A node from outside. `number` is its seed; `sizes` begin after the warm-up."""

    number: int
    peers: Sequence[int]
    sizes: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    first_types: Counter[str] = field(default_factory=Counter)
    last_types: Counter[str] = field(default_factory=Counter)
    child: subprocess.Popen[str] | None = None
    peer_id: str = ""
    address: str = ""

    def start(self) -> None:
        numbers = map(str, (self.number, *self.peers))
        command = [sys.executable, str(NODE), *numbers]
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        said = self._hear()
        self.peer_id, self.address = said["peer_id"], said["address"]

    def stop(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.communicate()
            self.child = None

    def tell(self, do: str, **words: str) -> dict[str, Any]:
        assert self.child is not None
        assert self.child.stdin is not None
        try:
            self.child.stdin.write(json.dumps({"do": do, **words}) + "\n")
            self.child.stdin.flush()
        except OSError as error:
            raise FailedError(f"node {self.number} ended") from error
        return self._hear()

    def measure(self, minutes: float, *, keep: bool) -> None:
        """Also while it warms up: to be measured takes memory the first time."""
        size = self.tell("size")
        if keep:
            self.sizes.append((minutes, size))

    def count_types(self) -> None:
        """Not with every sample: the list of all objects is a MiB that malloc may keep."""
        self.last_types = Counter(self.tell("types"))
        self.first_types = self.first_types or self.last_types

    def _hear(self) -> dict[str, Any]:
        assert self.child is not None
        assert self.child.stdout is not None
        ready, _, _ = select.select([self.child.stdout], [], [], SILENCE_SECONDS)
        line = self.child.stdout.readline() if ready else ""
        if not line:
            raise FailedError(f"node {self.number} said nothing")
        said: dict[str, Any] = json.loads(line)
        return said


class Slope(NamedTuple):
    """KiB a minute, and the 95 % interval."""

    per_minute: float
    low: float
    high: float


def slope(points: Sequence[tuple[float, float]]) -> Slope:
    """Least squares over (minutes, KiB).

    With r the correlation of neighbouring residuals, n samples count as n (1 - r) / (1 + r).
    """
    if len(points) < 4:
        return Slope(math.nan, -math.inf, math.inf)
    line = statistics.linear_regression(*zip(*points, strict=True))
    off = [y - line.intercept - line.slope * x for x, y in points]
    square = sum(o * o for o in off) or 1e-9
    alike = max(0.0, sum(a * b for a, b in itertools.pairwise(off)) / square)
    count = max(3.0, len(points) * (1 - alike) / (1 + alike))
    spread = statistics.pvariance([x for x, _ in points]) * len(points)
    error = math.sqrt(square / len(points) * count / (count - 2) / spread * len(points) / count)
    reach = 1.96 * error * (1 + 2 / count)  # a little wider for few samples, as Student's is
    return Slope(line.slope, line.slope - reach, line.slope + reach)


def growth(values: Sequence[float]) -> float:
    """From the median of the first third to that of the last."""
    third = max(1, len(values) // 3)
    return statistics.median(values[-third:]) - statistics.median(values[:third])


def join(anchor: Process, peers: Sequence[Process], round_number: int) -> float:
    """Connect them, dialing from either end in turn, and wait until all is as before: seconds."""
    began = time.monotonic()
    while True:
        # Again and again: who has not noticed yet that a connection is dead dials nobody.
        for number, peer in enumerate(peers):
            one, other = (anchor, peer) if (round_number + number) % 2 else (peer, anchor)
            one.tell("dial", peer_id=other.peer_id, address=other.address)
        if all(node.tell("whole")["whole"] for node in (anchor, *peers)):
            break
        if time.monotonic() > began + PATIENCE_SECONDS:
            raise FailedError("the connections did not come back")
        time.sleep(POLL_SECONDS)
    return time.monotonic() - began


def part(anchor: Process, peers: Sequence[Process], round_number: int) -> str:
    """Break the connections, the next way, which is returned."""
    kind = BREAKS[round_number % len(BREAKS)]
    if kind == "kill":
        peers[-1].stop()
        peers[-1].start()
    for node in (anchor,) if round_number % 2 else peers:
        node.tell("abort" if kind == "abort" else "close")
    return kind


def run(arguments: argparse.Namespace, nodes: Sequence[Process]) -> dict[str, list[float]]:
    """How long it took to come back, by kind of break."""
    anchor, *peers = nodes
    for node in nodes:
        node.start()
    began = time.monotonic()
    end = began + arguments.minutes * 60
    warm = began + (end - began) * WARM_UP_SHARE
    jitter = random.Random(1)
    back: dict[str, list[float]] = {kind: [] for kind in ("start", *BREAKS)}
    kind = "start"
    for number in itertools.count():
        due = time.monotonic() + arguments.every
        back[kind].append(join(anchor, peers, number))
        time.sleep(max(0.0, due - time.monotonic()))
        now = time.monotonic()
        for node in lasting(nodes):
            if now > began + (warm - began) / 2 and not node.first_types:
                node.count_types()
            node.measure((now - began) / 60, keep=now > warm)
        if now > end:
            break
        time.sleep(jitter.random() * JITTER_SECONDS)
        kind = part(anchor, peers, number)
    for node in lasting(nodes):
        node.count_types()
    return back


def lasting(nodes: Sequence[Process]) -> Sequence[Process]:
    """Those that are never killed."""
    return nodes[:-1]


def report(node: Process, name: str, breaks: float) -> bool:
    """Print how a node fared; whether it was flat. `breaks` are those a minute."""
    sizes = [size for _, size in node.sizes]
    if len(sizes) < SAMPLES_MIN:
        print(f"{name}: {len(sizes)} samples are too few")
        return False
    memory = slope([(minutes, size["kib"]) for minutes, size in node.sizes])
    wrong = ["memory"] if memory.low > MEMORY_MAX_KIB_PER_MINUTE else []
    first, last = sizes[0], sizes[-1]
    print(f"{name}: {last['answered']} answered, {last['failed']} not, {last['heard']} heard")
    print(
        f"  memory       {first['kib']} .. {last['kib']} KiB,"
        f" {memory.per_minute:+.1f} KiB/min (95 %: {memory.low:+.1f} .. {memory.high:+.1f}),"
        f" {memory.per_minute / breaks:+.2f} KiB per break"
    )
    for counted in COUNTED:
        grown = growth([size[counted] for size in sizes])
        wrong += [counted] if grown > COUNT_GROWTH_MAX else []
        print(f"  {counted:12s} {first[counted]} .. {last[counted]}, median {grown:+g}")
    shown = sizes[:: max(1, len(sizes) // MEMORIES_SHOWN)]
    print("  KiB over time", *(size["kib"] for size in shown))
    more = node.last_types - node.first_types
    for kind, count in more.most_common(TYPES_SHOWN):
        print(f"  {count:+8d} {kind} (now {node.last_types[kind]})")
    if not last["answered"]:
        wrong.append("answers")
    if wrong:
        print(f"  not flat: {', '.join(wrong)}")
    return not wrong


def main() -> int:
    arguments = _parse()
    numbers = range(1, arguments.peers + 2)
    nodes = [Process(1, numbers[1:]), *(Process(number, numbers[:1]) for number in numbers[1:])]
    try:
        back = run(arguments, nodes)
    except FailedError as error:
        print(f"Failed: {error}", file=sys.stderr)
        return 1
    finally:
        for node in nodes:
            node.stop()
    rounds = sum(map(len, back.values())) - 1
    print(f"{rounds} breaks in {arguments.minutes:g} minutes, {arguments.peers} peers")
    for kind, seconds in back.items():
        if seconds:
            print(
                f"  {kind:5s} back {statistics.median(seconds):.2f} s, {max(seconds):.2f} at most"
            )
    names = ("anchor", *(f"peer {number}" for number in numbers[1:]))
    breaks = rounds / arguments.minutes
    flat = [report(node, name, breaks) for node, name in zip(lasting(nodes), names, strict=False)]
    print("flat" if all(flat) else "not flat")
    return 0 if all(flat) else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between breaks")
    parser.add_argument("--peers", type=int, default=2, help="processes beside the anchor")
    parser.add_argument("--quick", action="store_true", help="2 minutes, a break every 2 s")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.minutes, arguments.every = 2.0, 2.0
    return arguments


if __name__ == "__main__":
    sys.exit(main())
