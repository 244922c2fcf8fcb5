"""Many clients on few slots: nothing but answers and refusals that say when to come again?

    python scripts/faults/surge.py --seconds 180      (quick: --seconds 15 --clients 16)

A node has one model with two slots, and every client asks again as soon as it was answered, or when
a refusal said so. Given are the statuses, how long answers and refusals took, and the memory (PSS)
of the node with its children, as the median of samples just before a third of the time and just
before the end: it must not have grown by more than a twentieth. Whatever is neither an answer nor
429 or 503 with Retry-After is wrong.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.nodes import NodeFailedError, NodeProcess
from scripts.small_models import Reply, ask, publish, write_regressor

MODEL, GROWTH_MAX, SAMPLE_SECONDS, MIB = "busy", 0.05, 0.5, 2**20
POOL = "workers_per_model = 1, spares = 1"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rows", type=int, default=256, help="of a request: makes it last")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aigrid-surge-") as folder:
        node = NodeProcess(
            Path(folder) / "node", "--threads", "1", environment={"AIGRID_POOL": POOL}
        )
        try:
            node.start()
            path = Path(folder) / "busy.onnx"
            write_regressor(path, seed=1, width=1024, layers=8)
            publish(node, path, MODEL)
            replies, memory = surge(node, arguments)
        except NodeFailedError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        finally:
            node.stop()
    return report(replies, memory, arguments)


def surge(node: NodeProcess, arguments: argparse.Namespace) -> tuple[list[Reply], tuple[int, int]]:
    replies: list[Reply] = []
    began = time.monotonic()
    until, stop = began + arguments.seconds, threading.Event()

    def client() -> None:
        while time.monotonic() < until and not stop.is_set():
            reply = ask(node.gateway, MODEL, rows=arguments.rows, timeout_seconds=90)
            replies.append(reply)
            if reply.status != 200:
                stop.wait(min(reply.retry_after or 1.0, max(0.0, until - time.monotonic())))

    with ThreadPoolExecutor(arguments.clients) as threads:
        clients = [threads.submit(client) for _ in range(arguments.clients)]
        early = sampled(node, began + arguments.seconds / 3, arguments.seconds / 6)
        late = sampled(node, until, arguments.seconds / 6)
        stop.set()
        for one in clients:
            one.result()
    return replies, (early, late)


def sampled(node: NodeProcess, until: float, seconds: float) -> int:
    """The median of what the node and its children have, in so many seconds before `until`."""
    found: list[int] = []
    time.sleep(max(0.0, until - seconds - time.monotonic()))
    while time.monotonic() < until:
        found.append(node.usage().pss_bytes)
        time.sleep(SAMPLE_SECONDS)
    return int(median(found))


def report(replies: list[Reply], memory: tuple[int, int], arguments: argparse.Namespace) -> int:
    wrong = [
        reply
        for reply in replies
        if reply.status != 200 and not (reply.status in {429, 503} and reply.retry_after)
    ]
    statuses = Counter(f"{r.status} {r.code}".strip() for r in replies)
    sys.stdout.write(f"{arguments.clients} clients for {arguments.seconds:g} s\n")
    for status, count in statuses.most_common():
        took = [r.seconds for r in replies if f"{r.status} {r.code}".strip() == status]
        slow = quantiles(took, n=100)[98] if len(took) > 1 else took[0]
        told = f"p50 {median(took) * 1000:.0f} ms, p99 {slow * 1000:.0f} ms"
        sys.stdout.write(f"{status:16}{count:>8}   {told}\n")
    early, late = memory
    growth = late / early - 1 if early else 0.0
    sys.stdout.write(f"memory {early / MIB:.0f} -> {late / MIB:.0f} MiB ({growth:+.1%})\n")
    for reply in wrong[:5]:
        sys.stderr.write(f"wrong: {reply}\n")
    if growth > GROWTH_MAX:
        sys.stderr.write("wrong: memory has grown\n")
    return 1 if wrong or growth > GROWTH_MAX or not statuses["200"] else 0


if __name__ == "__main__":
    sys.exit(main())
