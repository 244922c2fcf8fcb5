"""A model fetched from a holder that flips a bit in every chunk, and by a node that is killed.

    python scripts/faults/weights.py [--mb 100] [--quick]

Real processes over libp2p. Bytes that flow for nothing are told beside the model's own. Exit status
1: a wrong byte was kept, the faulty holder was not dropped, or verified chunks were fetched again.
"""

import argparse
import hashlib
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.faulty_node import FLIPPING
from scripts.heavy_model import heavy_model
from scripts.nodes import NodeFailedError, NodeProcess, form_grid, stop_all, wait_for

from aigrid.node.control_client import SOCKET_FILE, ControlClient
from aigrid.protocol.errors import AigridError

NAME = "heavy"
MB = 1_000_000
# What may be under way when a holder is found out, or a node is killed: runs at two streams.
SLACK_BYTES = 12 * 1024 * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mb", type=int, default=100, help="size of the model in MB")
    parser.add_argument("--quick", action="store_true", help="40 MB")
    options = parser.parse_args()
    size = (40 if options.quick else options.mb) * MB
    with tempfile.TemporaryDirectory(prefix="aigrid-weights-") as folder:
        try:
            problems = run(Path(folder), size)
        except (NodeFailedError, AigridError) as error:
            problems = [str(error)]
    for problem in problems:
        print(f"WRONG: {problem}")
    return 1 if problems else 0


def run(folder: Path, size: int) -> list[str]:
    """What was wrong."""
    pace = {"AIGRID_WEIGHTS": f"upload_bytes_per_second={size // 8}"}
    founder, good = (NodeProcess(folder / name, environment=pace) for name in ("founder", "good"))
    bad = NodeProcess(folder / "bad", entry=FLIPPING)
    victim = NodeProcess(folder / "victim")
    nodes = [founder, good, bad, victim]
    try:
        form_grid(nodes)
        path = heavy_model(folder, size)
        founder.cli("publish", str(path), "--name", NAME, timeout_seconds=120)
        for holder in (good, bad):
            wait_for(partial(seeds, holder), timeout_seconds=30, what="the first holder")
            holder.cli("models", "fetch", NAME, timeout_seconds=120)
        wait_for(lambda: seeds(victim) == 3, timeout_seconds=30, what="three holders")
        return [*flipped(victim, bad, path), *killed(victim, path)]
    finally:
        stop_all(nodes)


def flipped(victim: NodeProcess, bad: NodeProcess, path: Path) -> list[str]:
    """Fetch from two honest holders and one that flips bits."""
    size = path.stat().st_size
    body = victim.cli("models", "fetch", NAME, timeout_seconds=120)
    told = victim.cli("status")["weights"]
    wasted = told["received_bytes"] - size
    print(f"one of three holders flips a bit per chunk: {size / MB:.0f} MB brought, ", end="")
    print(f"{wasted / MB:.1f} MB for nothing, {told['receiving_seconds']:.1f} s")
    problems = []
    if not same(victim, body["model"], path):
        problems.append("the file differs")
    log = (victim.data_dir / "node.log").read_text()
    dropped = [line for line in log.splitlines() if "holder_dropped" in line]
    if not any(bad.peer_id in line and "hash_mismatch" in line for line in dropped):
        problems.append("the faulty holder was not dropped for a wrong chunk")
    if any(bad.peer_id not in line for line in dropped):
        problems.append("an honest holder was dropped")
    if wasted > SLACK_BYTES:
        problems.append(f"{wasted / MB:.1f} MB came for nothing")
    victim.cli("models", "drop", NAME)
    return problems


def killed(victim: NodeProcess, path: Path) -> list[str]:
    """Kill the fetcher at half, start it again, and fetch on."""
    size = path.stat().st_size
    control = ControlClient(victim.data_dir / SOCKET_FILE)
    at: list[int] = []

    def watch(event: dict[str, Any]) -> None:
        percent = _percent(event.get("progress", ""))
        if percent >= 50 and not at:
            at.append(percent)
            victim.kill9()

    began = time.monotonic()
    with suppress(AigridError):
        control.call("models_fetch", {"name": NAME}, watch)
    if not at:
        return ["the fetch was over before it could be killed"]
    print(f"killed -9 at {at[0]} % after {time.monotonic() - began:.1f} s; ", end="")
    victim.start()
    wait_for(lambda: seeds(victim) == 3, timeout_seconds=30, what="three holders again")
    body = victim.cli("models", "fetch", NAME, timeout_seconds=120)
    received = victim.cli("status")["weights"]["received_bytes"]
    left = size * (100 - at[0]) / 100
    print(f"{received / MB:.1f} MB received after the restart, {left / MB:.1f} MB were missing")
    problems = [] if same(victim, body["model"], path) else ["the file differs"]
    if received > left + SLACK_BYTES:
        problems.append("verified chunks were fetched again")
    return problems


def seeds(node: NodeProcess) -> int:
    """How many nodes give the model, as one of them sees it."""
    found = [m["seeds"] for m in node.cli("models")["models"] if m["name"] == NAME]
    return len(found[0]) if found else 0


def same(node: NodeProcess, model: str, path: Path) -> bool:
    (here,) = (node.data_dir / "models" / model / "files").iterdir()
    hashes = {hashlib.sha256(one.read_bytes()).digest() for one in (here, path)}
    return len(hashes) == 1


def _percent(text: str) -> int:
    words = text.removeprefix("fetching: ").split()
    return int(words[0]) if text.startswith("fetching: ") and words else 0


if __name__ == "__main__":
    sys.exit(main())
