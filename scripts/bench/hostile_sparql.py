"""Hostile SPARQL over HTTP at a real node, which routes chat requests to another one meanwhile.

    python scripts/bench/hostile_sparql.py

Prints one JSON line. Each query of `scripts/hostile_queries.py` is posted to /sparql; while it is
answered, and while the process that it cost is replaced, chat requests go through the gateway to
the node that serves `echo`. They are compared with those of the pause before each query (`idle`).
`reached` has what got out: connections to the address that SERVICE names, answers with what the
file says, and the files and sockets that the dataset process opened, as strace saw it.
"""

import argparse
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import at_most, tell
from scripts.hostile_queries import EXPENSIVE, reaching
from scripts.nodes import NodeProcess, form_grid, stop_all, stream_chat, wait_for
from scripts.offers import offers

from aigrid.protocol.limits import LIMITS

WORKER = "aigrid.metagraph.dataset_worker"
CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
IDLE_CHATS = 60
SECRET = "only-this-file-says-so"
TRACED = "%file,socket,connect,bind,listen,accept,accept4"
POLL_SECONDS = 0.02


@dataclass
class Watch:
    """The dataset process during one query: the most memory it had, and what strace saw."""

    rss_bytes: int = 0
    calls: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-strace", action="store_true")
    arguments = parser.parse_args()
    strace = None if arguments.no_strace else shutil.which("strace")
    with tempfile.TemporaryDirectory(prefix="aigrid-hostile-") as folder:
        nodes = [NodeProcess(Path(folder) / name, "--threads", "1") for name in ("asked", "holder")]
        secret = Path(folder) / "secret.ttl"
        secret.write_text(f'<x:s> <x:p> "{SECRET}" .\n')
        try:
            form_grid(nodes)
            nodes[1].cli("models", "fetch", "echo")
            wait_for(lambda: offers(nodes[0]), timeout_seconds=30, what="echo")
            with listening() as (url, connections):
                report = measure(nodes[0], reaching(url=url, path=str(secret)), strace)
                report["reached"]["connections"] = len(connections)
        finally:
            stop_all(nodes)
    print(json.dumps(report))
    return 0


def measure(node: NodeProcess, reaches: dict[str, str], strace: str | None) -> dict[str, Any]:
    idle: list[float] = []
    during: list[float] = []
    queries: dict[str, Any] = {}
    opened: list[str] = []
    leaked = 0
    chats_until(node, idle, lambda: len(idle) >= IDLE_CHATS)  # the model is loaded now
    idle.clear()
    for name, text in (EXPENSIVE | reaches).items():
        post(node, "ASK {}")  # the process is there, and closed in
        wanted = len(idle) + IDLE_CHATS
        chats_until(node, idle, lambda: len(idle) >= wanted)  # noqa: B023 - called before it changes
        with watching(node, strace) as watch:
            status, body, seconds = beside(node, during, text)
        beside(node, during, "ASK {}")  # answered once the lost process is replaced
        code = json.loads(body)["error"]["code"] if status >= 400 else "answered"
        leaked += SECRET.encode() in body
        opened += [call for call in watch.calls if " = -1 " not in call]
        queries[name] = {
            "status": status,
            "code": code,
            "seconds": round(seconds, 2),
            "rss_peak_mib": round(watch.rss_bytes / 2**20),
        }
    tell("a chat meanwhile", during, "s", beside=("idle", idle), aim=at_most(2))
    worst = ([p99(during)], [p99(idle)])
    tell("a chat meanwhile, p99", worst[0], "s", beside=("idle", worst[1]), aim=at_most(2))
    return {
        "load_average": round(os.getloadavg()[0], 2),
        "limit_s": LIMITS.query_seconds,
        "queries": queries,
        "chat_idle": spread(idle),
        "chat_during": spread(during),
        "p50_ratio": round(median(during) / median(idle), 2),
        "p99_ratio": round(p99(during) / p99(idle), 2),
        "reached": {"leaked": leaked, "opened": opened if strace else "not traced"},
    }


def chats_until(node: NodeProcess, took: list[float], done: Callable[[], bool]) -> None:
    """One chat after the other; seconds to the first piece of each answer."""
    while not done():
        took.append(stream_chat(node.gateway, CHAT).ttft_seconds)


def beside(node: NodeProcess, took: list[float], text: str) -> tuple[int, bytes, float]:
    """Post a query, and chat until it is answered."""
    answers: list[tuple[int, bytes, float]] = []
    asking = threading.Thread(target=lambda: answers.append(post(node, text)))
    asking.start()
    chats_until(node, took, lambda: not asking.is_alive())
    asking.join()
    return answers[0]


def post(node: NodeProcess, text: str) -> tuple[int, bytes, float]:
    """Status, body, and the seconds that took."""
    connection = http.client.HTTPConnection(urlsplit(node.gateway).netloc, timeout=60)
    began = time.perf_counter()
    try:
        connection.putrequest("POST", "/sparql")
        connection.putheader("Content-Type", "application/sparql-query")
        connection.putheader("Content-Length", str(len(text)))
        connection.endheaders()
        with suppress(ConnectionError):  # refused by its size, before all of it is sent
            connection.send(text.encode())
        response = connection.getresponse()
        return response.status, response.read(), time.perf_counter() - began
    finally:
        connection.close()


@contextmanager
def watching(node: NodeProcess, strace: str | None) -> Iterator[Watch]:
    """Look at the dataset process that is there now, until it or the block ends."""
    watch, over = Watch(), threading.Event()
    (pid,) = node.workers(WORKER)

    def look() -> None:
        while not over.wait(POLL_SECONDS):
            with suppress(OSError, ValueError):
                status = Path(f"/proc/{pid}/status").read_text()
                found = re.search(r"VmHWM:\s+(\d+)", status)
                watch.rss_bytes = max(watch.rss_bytes, 1024 * int(found[1]) if found else 0)

    thread = threading.Thread(target=look)
    thread.start()
    tracer = None
    if strace is not None:
        tracer = subprocess.Popen(
            [strace, "-f", "-qq", "-e", f"trace={TRACED}", "-e", "signal=none", "-p", str(pid)],
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: traced(pid), timeout_seconds=5, what="strace")
    try:
        yield watch
    finally:
        over.set()
        thread.join()
        if tracer is not None:
            tracer.terminate()
            said = tracer.communicate()[1]
            watch.calls = [line for line in said.splitlines() if "(" in line]


def traced(pid: int) -> bool:
    return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()


@contextmanager
def listening() -> Iterator[tuple[str, list[Any]]]:
    """A URL on this machine, and the connections that were made to it."""
    connections: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connections.append(server.accept())

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/", connections


def p99(seconds: list[float]) -> float:
    return quantiles(seconds, n=100, method="inclusive")[98]


def spread(seconds: list[float]) -> dict[str, float]:
    return {
        "n": len(seconds),
        "p50_ms": round(median(seconds) * 1000, 2),
        "p99_ms": round(p99(seconds) * 1000, 2),
    }


if __name__ == "__main__":
    sys.exit(main())
