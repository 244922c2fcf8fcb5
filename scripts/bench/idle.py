"""What an idle node costs: start-up time, then memory, CPU and traffic in a grid of N.

    python scripts/bench/idle.py --nodes 5 --seconds 300

Prints one JSON line. Memory is the proportional set size (PSS) of the node's own process; traffic
counts the bytes of its libp2p connections both ways.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import tell
from scripts.nodes import NodeProcess, stop_all, wait_for


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=300.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aigrid-idle-") as folder:
        nodes = [NodeProcess(Path(folder) / f"n{i}") for i in range(arguments.nodes)]
        try:
            started = [_start(node) for node in nodes]
            for node in nodes[1:]:
                node.cli("join", nodes[0].cli("invite", node.cli("id")["did"])["invitation"])
            wait_for(
                lambda: all(_alive(node) == len(nodes) - 1 for node in nodes),
                timeout_seconds=60,
                what="a complete grid",
            )
            report = _measure(nodes, arguments.seconds)
        finally:
            stop_all(nodes)
    report["up_to_ready_seconds"] = round(median(started), 2)
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def _start(node: NodeProcess) -> float:
    began = time.perf_counter()
    node.start()
    return time.perf_counter() - began


def _alive(node: NodeProcess) -> int:
    return sum(peer["alive"] for peer in node.cli("peers")["peers"])


def _measure(nodes: list[NodeProcess], seconds: float) -> dict[str, Any]:
    before = [(node.usage().cpu_seconds, _bytes(node)) for node in nodes]
    began = time.perf_counter()
    time.sleep(seconds)
    lasted = time.perf_counter() - began
    after = [(node.usage().cpu_seconds, _bytes(node)) for node in nodes]
    pairs = list(zip(before, after, strict=True))
    pss = [node.pss_bytes() for node in nodes]
    tell("memory of an idle node", pss, "B", beside=("the interpreter alone", [bare_pss()]))
    percent = [100 * (b[0] - a[0]) / lasted for a, b in pairs]
    tell("CPU of an idle node", percent, "% of a core")
    tell("traffic of an idle node", [(b[1] - a[1]) / lasted for a, b in pairs], "B/s")
    return {
        "nodes": len(nodes),
        "seconds": round(lasted),
        "pss_mib": round(median(pss) / 2**20, 1),
        "cpu_percent": round(median(percent), 2),
        "bytes_per_second": round(median((b[1] - a[1]) / lasted for a, b in pairs)),
    }


def bare_pss() -> int:
    """Proportional set size of Python that does nothing; in bytes."""
    waiting = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as python:
        assert python.stdout is not None
        python.stdout.readline()
        rollup = Path(f"/proc/{python.pid}/smaps_rollup").read_text()
        return 1024 * int(rollup.partition("\nPss:")[2].split()[0])


def _bytes(node: NodeProcess) -> int:
    network = node.cli("status")["refused"]["network"]
    return int(network["bytes_received"]) + int(network["bytes_sent"])


if __name__ == "__main__":
    sys.exit(main())
