"""N real node processes in one grid, and a live table of them until Ctrl-C.

.venv/bin/python scripts/testnet.py --nodes 5
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.nodes import AT_ONCE, NodeFailedError, NodeProcess, Usage, form_grid, stop_all

MIB = 1024 * 1024
REFRESH_SECONDS = 2.0
COLUMNS = (
    "NODE",
    "PID",
    "PEER",
    "PEERS",
    "MODELS",
    "RECORDS",
    "SERVED",
    "RSS MB",
    "PSS MB",
    "CPU %",
)


def main() -> int:
    arguments = _parse()
    console = Console(highlight=False, emoji=False)
    signal.signal(signal.SIGTERM, _interrupt)
    root = Path(tempfile.mkdtemp(prefix="aigrid-testnet-"))
    nodes = [
        NodeProcess(root / f"n{i}", "--name", f"n{i}", "--threads", "1")
        for i in range(arguments.nodes)
    ]
    try:
        with console.status(f"Starting {len(nodes)} nodes"):
            form_grid(nodes)
        if arguments.echo:
            nodes[-1].cli("models", "fetch", "echo")
        _watch(console, nodes, arguments.seconds)
    except NodeFailedError as error:
        console.print(f"Failed: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        pass
    finally:
        with console.status("Stopping the nodes"):
            stop_all(nodes)
        shutil.rmtree(root, ignore_errors=True)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="testnet", description=__doc__)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--echo", action="store_true", help="the last node offers the echo model")
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after; 0 means Ctrl-C")
    arguments = parser.parse_args()
    if arguments.nodes < 1:
        parser.error("--nodes must be at least 1")
    return arguments


def _watch(console: Console, nodes: list[NodeProcess], seconds: float) -> None:
    deadline = time.monotonic() + seconds if seconds else float("inf")
    before = {node.pid: node.usage() for node in nodes if node.alive}
    looked = time.monotonic()
    with Live(console=console, refresh_per_second=4) as live, ThreadPoolExecutor(AT_ONCE) as pool:
        while time.monotonic() < deadline:
            now = time.monotonic()
            usage = {node.pid: node.usage() for node in nodes if node.alive}
            statuses = list(pool.map(_status, nodes))
            live.update(_table(nodes, statuses, usage, before, now - looked))
            before, looked = usage, now
            time.sleep(min(REFRESH_SECONDS, max(0.0, deadline - time.monotonic())))


def _status(node: NodeProcess) -> dict[str, Any] | None:
    try:
        return node.cli("status", timeout_seconds=10) if node.alive else None
    except NodeFailedError:
        return None


def _table(
    nodes: list[NodeProcess],
    statuses: list[dict[str, Any] | None],
    usage: dict[int, Usage],
    before: dict[int, Usage],
    elapsed_seconds: float,
) -> Table:
    table = Table(*COLUMNS, box=None)
    for node, status in zip(nodes, statuses, strict=True):
        used = usage.get(node.pid)
        if status is None or used is None:
            state = "silent" if node.alive else "ended"
            table.add_row(node.data_dir.name, str(node.pid), node.peer_id[-8:], state, style="red")
            continue
        cpu_seconds = used.cpu_seconds - before.get(node.pid, used).cpu_seconds
        table.add_row(
            node.data_dir.name,
            str(node.pid),
            node.peer_id[-8:],
            f"{sum(bool(peer['alive']) for peer in status['peers'])}/{len(status['peers'])}",
            str(len(status["models"])),
            str(_total(status["records"])),
            str(status.get("requests", {}).get("served", "-")),
            f"{used.rss_bytes / MIB:.0f}",
            f"{used.pss_bytes / MIB:.0f}",
            f"{100 * cpu_seconds / elapsed_seconds:.1f}"
            if elapsed_seconds > REFRESH_SECONDS / 2
            else "-",
        )
    return table


def _total(records: Any) -> int:
    return sum(records.values()) if isinstance(records, dict) else int(records)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
