"""Many models on little memory: one pool that fits four of them beside a worker for each.

    python scripts/bench/many_models.py --seconds 120      (quick: --seconds 15 --models 8)

A node holds many small models, asked by several clients at once, each model as often as Zipf's law
says, at times that are given before. First its budget fits four models at a time and an unused one
goes after a while; then, with the very same requests, it has room for all of them and none ever
goes, which is a worker dedicated to each. Given are requests a second, answers within the first
attempt and within five (a client waits as Retry-After says), time to the answer, and the memory of
the workers over time: the proportional set size of the node's children, in GiB times seconds per
request.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import tell
from scripts.nodes import NodeFailedError, NodeProcess
from scripts.small_models import Reply, ask, publish, write_regressor

FIT, ATTEMPTS, GIB, SAMPLE_SECONDS = 4, 5, 2**30, 0.25
EXPECTED = {200, 429, 503}


@dataclass
class Found:
    """What one run gave."""

    first: Counter[int] = field(default_factory=Counter)
    last: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: list[Reply] = field(default_factory=list)
    gib_seconds: float = 0.0
    lasted: float = 0.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=30)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--rate", type=float, default=4.0, help="requests a second, in all")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aigrid-many-") as folder:
        try:
            names, each = prepare(Path(folder), arguments.models)
            pool = f"cpu={int(each * (FIT + 0.5))}"
            everything = f"cpu={int(each * (arguments.models + 1))}"
            runs = {
                f"a pool that fits {FIT}": (pool, "keep_alive_seconds = 30"),
                "a worker for each": (everything, "keep_alive_seconds = -1"),
            }
            found = {
                what: run(Path(folder), names, arguments, memory, settings)
                for what, (memory, settings) in runs.items()
            }
        except NodeFailedError as error:
            sys.stderr.write(f"{error}\n")
            return 1
    say(f"{arguments.models} models", "requests/s", "at once", "in all", "p50", "p99", "GiB s/req")
    for what, one in found.items():
        report(what, one)
    shared, own = found.values()
    theirs = "a worker for each"
    spent = ([one.gib_seconds / one.last.total()] for one in (shared, own))
    tell("memory of a request", next(spent), "GiB s", beside=(theirs, next(spent)))
    tell("time to an answer", shared.seconds, "s", beside=(theirs, own.seconds))
    good = ([one.last[200] / one.last.total()] for one in (shared, own))
    tell("answered in the end", next(good), "share", beside=(theirs, next(good)))
    wrong = [reply for one in found.values() for reply in one.wrong]
    for reply in wrong[:5]:
        sys.stderr.write(f"wrong: {reply}\n")
    return 1 if wrong else 0


def prepare(folder: Path, count: int) -> tuple[list[str], int]:
    """Have a node hold the models; their names, the most asked first, and the memory of each."""
    node, needed = NodeProcess(folder / "node"), 0
    node.start()
    try:
        names = [f"model-{number:02}" for number in range(count)]
        for number, name in enumerate(names):
            write_regressor(folder / f"{name}.onnx", seed=number)
            needed = max(needed, publish(node, folder / f"{name}.onnx", name))
    finally:
        node.stop()
    return names, needed


def run(
    folder: Path, names: list[str], arguments: argparse.Namespace, memory: str, settings: str
) -> Found:
    node = NodeProcess(
        folder / "node", "--memory", memory, "--threads", "1", environment={"AIGRID_POOL": settings}
    )
    node.start()
    found, stop = Found(), threading.Event()
    try:
        if settings.endswith("-1"):
            for name in names:  # dedicated workers are there before anybody asks
                ask(node.gateway, name)
        idle = node.pss_bytes()
        began = time.monotonic()
        with ThreadPoolExecutor(arguments.clients + 1) as threads:
            threads.submit(sample, node, idle, found, stop)
            clients = [
                threads.submit(client, node.gateway, names, arguments, number, found)
                for number in range(arguments.clients)
            ]
            for one in clients:
                one.result()
            stop.set()
        found.lasted = time.monotonic() - began
    finally:
        stop.set()
        node.stop()
    return found


def client(
    gateway: str, names: list[str], arguments: argparse.Namespace, number: int, found: Found
) -> None:
    """Ask until the time is over: the same models at the same times in every run, if it can."""
    rng = random.Random(f"{arguments.seed}/{number}")
    weights = [1 / (rank + 1) for rank in range(len(names))]
    due = time.monotonic()
    until = due + arguments.seconds
    while (due := due + rng.expovariate(arguments.rate / arguments.clients)) < until:
        (name,) = rng.choices(names, weights)
        time.sleep(max(0.0, due - time.monotonic()))
        began = time.monotonic()
        for attempt in range(ATTEMPTS):
            reply = ask(gateway, name)
            if attempt == 0:
                found.first[reply.status] += 1
            if reply.status not in EXPECTED or (reply.status != 200 and not reply.retry_after):
                found.wrong.append(reply)
            if reply.status == 200:
                break
            time.sleep(reply.retry_after or 1.0)
        found.last[reply.status] += 1
        found.seconds.append(time.monotonic() - began)


def sample(node: NodeProcess, idle: int, found: Found, stop: threading.Event) -> None:
    """Add up what the workers have, beside the node itself."""
    last = time.monotonic()
    while not stop.wait(SAMPLE_SECONDS):
        taken = max(0, node.usage().pss_bytes - idle)
        now = time.monotonic()
        found.gib_seconds += taken / GIB * (now - last)
        last = now


def report(what: str, found: Found) -> None:
    asked = found.last.total()
    say(
        what,
        f"{asked / found.lasted:.1f}",
        f"{found.first[200] / asked:.1%}",
        f"{found.last[200] / asked:.1%}",
        f"{median(found.seconds) * 1000:.0f} ms",
        f"{quantiles(found.seconds, n=100)[98] * 1000:.0f} ms",
        f"{found.gib_seconds / asked:.3f}",
    )


def say(what: str, *cells: str) -> None:
    sys.stdout.write(f"{what:22}" + "".join(f"{cell:>12}" for cell in cells) + "\n")


if __name__ == "__main__":
    sys.exit(main())
