"""What it takes to find a model of which a node holds no record, by DHT hint and typed query alone.

    python scripts/bench/typed_query.py --runs 20

Prints one JSON line. Real node processes without gossip and sync (`scripts/faulty_node.py`): an
authority, a holder with a small model, and for each run a fresh asker that has met only the
authority. `first` is a chat through the asker's gateway that names the model: hint, dialling and
greeting the holder, typed query, and the answer; `second` is the same once more, so the difference
is the price of finding. `query` is a typed query to everybody once these are connected. Times are
milliseconds. `bytes` are all of the libp2p connections of the asker during the first request, both
ways, Noise included; each of `peers_asked` got one `Find`, and answered `record_bytes`.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import tell
from scripts.faulty_node import QUIET
from scripts.nodes import NodeFailedError, NodeProcess, stop_all, stream_chat, wait_for
from tests.engines.gguf_writer import tiny_llama, write

from aigrid.node.control_client import SOCKET_FILE, ControlClient

MODEL = "tiny"
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
HINT_SECONDS = 90.0
T = TypeVar("T")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="aigrid-typed-query-") as folder:
        nodes = [NodeProcess(Path(folder) / n, entry=QUIET) for n in ("authority", "holder")]
        authority, holder = nodes
        try:
            for node in nodes:
                node.start()
            path = write(Path(folder), tiny_llama())
            holder.cli("publish", str(path), "--capability", "text-generation", "--name", MODEL)
            _join(holder, authority)
            _warm_up(_asker(Path(folder) / "first", authority, nodes))
            measured = []
            for number in range(runs):
                asker = _asker(Path(folder) / f"asker{number}", authority, nodes)
                measured.append(_measure(asker, holder))
                asker.stop()
                nodes.remove(asker)
        finally:
            stop_all(nodes)
    sys.stdout.write(json.dumps({"runs": runs, **_summary(measured)}) + "\n")
    return 0


def _join(node: NodeProcess, authority: NodeProcess) -> None:
    node.cli("join", authority.cli("invite", node.cli("id")["did"])["invitation"])
    wait_for(
        lambda: any(peer["alive"] for peer in _control(node, "peers")["peers"]),
        timeout_seconds=30,
        what="the authority to be seen",
    )


def _asker(directory: Path, authority: NodeProcess, nodes: list[NodeProcess]) -> NodeProcess:
    asker = NodeProcess(directory, entry=QUIET)
    nodes.append(asker)
    asker.start()
    _join(asker, authority)
    return asker


def _warm_up(asker: NodeProcess) -> None:
    """Until the hint is in the DHT and the model is loaded."""

    def attempt() -> bool:
        try:
            return bool(stream_chat(asker.gateway, ASK))
        except NodeFailedError:
            return False

    wait_for(attempt, timeout_seconds=HINT_SECONDS, what="the hint in the DHT")


def _measure(asker: NodeProcess, holder: NodeProcess) -> dict[str, float]:
    if holder.peer_id in str(_control(asker, "peers")):
        raise AssertionError("the asker has met the holder")
    before = _bytes(asker)
    first_ms, _ = _timed(lambda: stream_chat(asker.gateway, ASK))
    after, queries = _bytes(asker), _control(asker, "status")["typed_queries"]
    second_ms, _ = _timed(lambda: stream_chat(asker.gateway, ASK))
    query_ms, _ = _timed(lambda: _control(asker, "find", capability="text", ask=True))
    return {
        "first_ms": first_ms,
        "second_ms": second_ms,
        "query_ms": query_ms,
        "bytes": after - before,
        "peers_asked": queries["peers"],
        "records": queries["records"],
        "record_bytes": queries["bytes"],
    }


def _control(node: NodeProcess, method: str, **params: Any) -> dict[str, Any]:
    return ControlClient(node.data_dir / SOCKET_FILE).call(method, params)


def _bytes(node: NodeProcess) -> int:
    network = _control(node, "status")["refused"]["network"]
    return int(network["bytes_received"]) + int(network["bytes_sent"])


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    result = work()
    return (time.perf_counter() - began) * 1000, result


def _summary(measured: list[dict[str, float]]) -> dict[str, Any]:
    first, second = ([one[name] for one in measured] for name in ("first_ms", "second_ms"))
    tell("a chat that has to find its model", first, "ms", beside=("the next", second))
    asked = [one["query_ms"] for one in measured]
    tell("a typed query to everybody", asked, "ms", beside=("a chat", second))
    report: dict[str, Any] = {}
    for name in measured[0]:
        values = sorted(one[name] for one in measured)
        if name.endswith("_ms"):
            high = values[math.ceil(len(values) * 0.99) - 1]
            report[name] = {"p50": round(median(values), 1), "p99": round(high, 1)}
        else:
            report[name] = round(median(values))
    return report


if __name__ == "__main__":
    sys.exit(main())
