"""How long until every node of a grid gives the same answers, after a burst of records.

    python scripts/bench/convergence.py --nodes 20 --records 200
    python scripts/bench/convergence.py --drop 0.2

Real node processes on this machine. Records (capabilities, relabelled and withdrawn ones,
manifests, models that are served and withdrawn) are published at random nodes through their
control sockets, each in its node's own name.
Then the 25 questions of `convergence_mix.py` go round all nodes until the answers are alike, byte
for byte, and contain every record. Prints one JSON line; seconds count from the last publish:

    answers_s   until a node's answers were the final ones, as seen by asking (one `round_s` coarse)
    complete_s  until a node had the last of the records, by the time its store received it
    record_s    of one record, from the store of its publisher to that of another node

With `--drop` every node loses that share of the gossip messages it receives (`faulty_node.py`).
The dataset processes are started beforehand. CPU is that of nodes with all their processes.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.convergence_mix import Publisher, questions
from scripts.bench.reporting import at_most, tell
from scripts.faulty_node import lossy
from scripts.nodes import AIGRID, NodeProcess, form_grid, stop_all, wait_for

from aigrid.node.control_client import SOCKET_FILE, ControlClient
from aigrid.node.key_store.keys import load_or_create_identity
from aigrid.protocol.errors import AigridError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.timestamp import parse_ms

IDLE_SECONDS = 10.0
PAUSE_SECONDS = 0.2
ASKED_AT_ONCE = 4


@dataclass
class Bench:
    """The nodes, and what is known of the run so far."""

    nodes: list[NodeProcess]
    published: dict[str, tuple[int, "Future[dict[str, Any]]"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clients = [ControlClient(node.data_dir / SOCKET_FILE) for node in self.nodes]

    def each(self, ask: Callable[[ControlClient], Any]) -> list[Any]:
        """The same of every node, a few at once."""
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            return list(pool.map(ask, self.clients))

    def met(self) -> bool:
        """Whether every node sees every other alive."""
        others = len(self.nodes) - 1
        peers = self.each(lambda client: client.call("peers", {})["peers"])
        return all(sum(peer["alive"] for peer in seen) == others for seen in peers)

    def network(self, name: str) -> int:
        """One of the network's counters, of all nodes together."""
        status = self.each(lambda client: client.call("status", {}))
        return sum(int(of["refused"]["network"].get(name, 0)) for of in status)

    def publish(self, count: int, per_second: float, rng: random.Random) -> float:
        """Each node says its things in order; the seconds that saying all of it took."""
        publishers = [
            Publisher(node.data_dir.name, load_or_create_identity(node.data_dir), node.data_dir)
            for node in self.nodes
        ]
        queues = [ThreadPoolExecutor(1) for _ in self.nodes]
        began = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, began + number / per_second - time.monotonic()))
            at = rng.randrange(len(self.nodes))
            key, call = publishers[at].next(rng, number)
            self.published[key] = (at, queues[at].submit(self.clients[at].call, *call))
        for queue in queues:
            queue.shutdown()
        return time.monotonic() - began

    def newest(self) -> dict[str, int]:
        """Content id of what now stands under each key, and which node said it."""
        said = [(at, one.result()) for at, one in self.published.values()]
        return {str(result["record"]): at for at, result in said if "record" in result}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--records", type=int, default=200)
    parser.add_argument("--per-second", type=float, default=10.0)
    parser.add_argument("--drop", type=float, help="share of the gossip messages that are lost")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=120.0, help="give up after")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aigrid-convergence-") as folder:
        nodes = [
            NodeProcess(
                Path(folder) / f"n{i}",
                *("--name", f"n{i}", "--threads", "1"),
                entry=AIGRID if arguments.drop is None else lossy(arguments.drop, seed=i),
            )
            for i in range(arguments.nodes)
        ]
        try:
            report = measure(nodes, arguments)
        finally:
            stop_all(nodes)
    print(json.dumps(report))
    return 0


def measure(nodes: list[NodeProcess], arguments: argparse.Namespace) -> dict[str, Any]:
    report: dict[str, Any] = {"nodes": len(nodes), "records": arguments.records}
    report["drop"] = arguments.drop
    report["load_average"] = round(os.getloadavg()[0], 2)
    began = time.monotonic()
    form_grid(nodes)
    report["grid_formed_s"] = round(time.monotonic() - began, 1)
    bench = Bench(nodes)
    wait_for(bench.met, timeout_seconds=120, what="a complete grid")
    report["all_met_s"] = round(time.monotonic() - began, 1)
    bench.each(lambda client: client.call("query", {"query": "ASK {}"}))
    report["pss_mib"] = round(median(node.usage().pss_bytes for node in nodes) / 2**20, 1)
    time.sleep(2 * LIMITS.gossip_interval_seconds)
    report["idle"], _ = costs(bench, lambda: time.sleep(IDLE_SECONDS))
    rng = random.Random(arguments.seed)
    report["publishing"], took = costs(
        bench, lambda: bench.publish(arguments.records, arguments.per_second, rng)
    )
    report["published_per_second"] = round(arguments.records / took, 1)
    report |= converge(bench, arguments.seconds)
    _tell(report)
    if arguments.drop is not None:
        lost, taken = bench.network("gossip_lost"), bench.network("gossip_taken")
        report["gossip"] = {"lost": lost, "taken": taken}
    return report


def _tell(report: dict[str, Any]) -> None:
    answers, aim = report["answers_s"], at_most(5, of_value=True)
    rounds = [report["round_s"]]
    asked = "one round of the questions"
    tell("all answer alike, p99", [answers["p99"]], "s", beside=(asked, rounds), aim=aim)
    tell("all hold every record, p99", [report["complete_s"]["p99"]], "s", aim=aim)
    one = report["record_s"]
    tell("a record to a node, p99", [one["p99"]], "s", beside=("p50", [one["p50"]]))
    busy, idle = ([report[when]["cpu_percent_p50"]] for when in ("publishing", "idle"))
    tell("CPU of a node meanwhile", busy, "% of a core", beside=("idle", idle))


def costs(bench: Bench, act: Callable[[], Any]) -> tuple[dict[str, Any], Any]:
    """CPU (percent of one core) and traffic of a node meanwhile; and what `act` returned."""
    before = [node.usage().cpu_seconds for node in bench.nodes]
    sent = bench.network("bytes_sent")
    began, own = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    result = act()
    lasted, mine = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
    after = [node.usage().cpu_seconds for node in bench.nodes]
    cpu = [100 * (b - a) / lasted for a, b in zip(before, after, strict=True)]
    ours = mine.ru_utime + mine.ru_stime - own.ru_utime - own.ru_stime
    return {
        "seconds": round(lasted, 1),
        "cpu_percent_p50": round(median(cpu), 1),
        "cpu_percent_max": round(max(cpu), 1),
        "bench_cpu_percent": round(100 * ours / lasted, 1),
        "kb_sent_per_second": round(
            (bench.network("bytes_sent") - sent) / lasted / len(bench.nodes) / 1000, 1
        ),
    }, result


def converge(bench: Bench, seconds: float) -> dict[str, Any]:
    """Ask round until all answer alike and hold every record."""
    standing = bench.newest()
    capabilities = sorted(key for key in bench.published if key.startswith("capability"))
    asked = questions([_iri(bench, key) for key in (capabilities[0], capabilities[-1])])
    heard: list[list[tuple[float, str]]] = [[] for _ in bench.nodes]
    rounds: list[float] = []
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        answers = bench.each(lambda client: _answers(client, asked))
        rounds.append(time.monotonic() - began)
        for so_far, answer in zip(heard, answers, strict=True):
            so_far.append(answer)
        if len({digest for _, digest in answers}) == 1:
            received = bench.each(lambda client: _received(client, standing))
            if all(None not in of.values() for of in received):
                break
        if time.monotonic() > deadline:
            different = len({digest for _, digest in answers})
            raise SystemExit(f"after {seconds:g} s there are still {different} different answers")
        time.sleep(PAUSE_SECONDS)
    last_ms = max(received[at][record] for record, at in standing.items())
    waited = [
        (received[n][record] - received[at][record]) / 1000
        for record, at in standing.items()
        for n in range(len(bench.nodes))
        if n != at
    ]
    complete = [max(0.0, (max(of.values()) - last_ms) / 1000) for of in received]
    final = answers[0][1]
    equal = [max(0.0, _since(so_far, final) - last_ms / 1000) for so_far in heard]
    return {
        "questions": len(asked),
        "standing_records": len(standing),
        "answers_s": spread(equal),
        "round_s": round(median(rounds), 2),
        "complete_s": spread(complete),
        "record_s": spread(waited),
    }


def _iri(bench: Bench, key: str) -> str:
    at = bench.published[key][0]
    return f"{bench.nodes[at].ready['did']}#{key.rpartition(' ')[2]}"


def _answers(client: ControlClient, asked: Sequence[Any]) -> tuple[float, str]:
    """Wall time at which all were asked, and a hash of the answers."""
    answers = [[text, ask(client)] for text, ask in asked]
    return time.time_ns() / 1e9, hashlib.sha256(json.dumps(answers).encode()).hexdigest()


def _received(client: ControlClient, standing: dict[str, int]) -> dict[str, Any]:
    """When this node received each record, in ms; None for one that it has not."""
    found: dict[str, Any] = {}
    for record in standing:
        try:
            found[record] = parse_ms(client.call("record_show", {"id": record})["received"])
        except AigridError:
            found[record] = None
    return found


def _since(heard: list[tuple[float, str]], final: str) -> float:
    """From when on the answers stayed the final ones."""
    since = heard[-1][0]
    for at, digest in reversed(heard):
        if digest != final:
            break
        since = at
    return since


def spread(seconds: list[float]) -> dict[str, float]:
    return {
        "p50": round(median(seconds), 2),
        "p99": round(quantiles(seconds, n=100, method="inclusive")[98], 2),
        "max": round(max(seconds), 2),
    }


if __name__ == "__main__":
    sys.exit(main())
