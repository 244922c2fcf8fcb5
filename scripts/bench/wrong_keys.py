"""What an honest caller notices of a flood: 10,000 wrong API keys, and 500 connections that stall.

    python scripts/bench/wrong_keys.py

Prints one JSON line. A real node, real HTTP; the flood comes from another process. The honest
caller has a key and asks the echo model at a steady pace, on connections of its own, by turns
without the flood and within it, so that both see the same machine. `ratio_p99` compares the two. A
slow connection sends a letter of its header a second; who is cut off connects again.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import at_most, tell
from scripts.nodes import NodeProcess

BODY = json.dumps({"model": "echo", "messages": [{"role": "user", "content": "hello there"}]})
PACE_SECONDS = 0.02
READ_BYTES = 65536


class Honest:
    """A caller with a key; `keep_alive` or a new connection for each request."""

    def __init__(self, gateway: str, key: str) -> None:
        self._netloc = urlsplit(gateway).netloc
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self.refused = 0

    def ask(self, seconds: float, until: Event | None = None) -> list[float]:
        """Seconds of each answer, new connections and kept ones in turn."""
        took: list[float] = []
        ends = time.perf_counter() + seconds
        kept = self._connect()
        while time.perf_counter() < ends and not (until is not None and until.is_set()):
            began = time.perf_counter()
            if len(took) % 2:
                self._once(self._connect())
            else:
                kept = self._once(kept) or self._connect()
            took.append(time.perf_counter() - began)
            time.sleep(PACE_SECONDS)
        return took

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._netloc, timeout=30)

    def _once(self, connection: http.client.HTTPConnection) -> http.client.HTTPConnection | None:
        """None where the kept connection was taken meanwhile and a new one has answered."""
        for attempt in (connection, self._connect()):
            try:
                attempt.request("POST", "/v1/chat/completions", BODY, self._headers)
                answer = attempt.getresponse()
                answer.read()
            except (http.client.HTTPException, OSError):
                continue
            self.refused += answer.status != http.HTTPStatus.OK
            return attempt if attempt is connection else None
        self.refused += 1
        return None


@dataclass(frozen=True)
class Flood:
    """How many keys, over how many connections, beside how many slow ones."""

    netloc: str
    wrong: int
    at_once: int
    slow: int


def run_flood(flood: Flood, told: Any, done: Event) -> None:
    """In a process of its own, which yields to the node: an attacker has a machine of their own."""
    os.nice(10)
    told.put(trio.run(_flood, flood))
    done.set()


async def _read_answer(stream: trio.SocketStream) -> bytes:
    """One whole answer; b"" where the connection ended."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = await stream.receive_some(READ_BYTES)
        if not data:
            return b""
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        data = await stream.receive_some(READ_BYTES)
        if not data:
            return b""
        body += data
    return received


async def _flood(flood: Flood) -> dict[str, int]:
    netloc, wrong, at_once, slow = flood.netloc, flood.wrong, flood.at_once, flood.slow
    host, _, port = netloc.rpartition(":")
    counts = {"refused": 0, "other": 0, "reconnects": 0}
    numbers, chance = iter(range(wrong)), random.Random(wrong)

    async def guess() -> None:
        stream = await trio.open_tcp_stream(host, int(port))
        for number in numbers:
            head = (
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: {netloc}\r\n"
                f"Authorization: Bearer aigrid-{number:043d}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(BODY)}\r\n\r\n{BODY}"
            )
            try:
                await stream.send_all(head.encode())
                answer = await _read_answer(stream)
            except trio.BrokenResourceError:
                answer = b""
            counts["refused" if answer.startswith(b"HTTP/1.1 401") else "other"] += 1
            if not answer:
                counts["reconnects"] += 1
                stream = await trio.open_tcp_stream(host, int(port))

    async def stall() -> None:
        await trio.sleep(chance.random())  # they are no choir
        while True:
            try:
                stream = await trio.open_tcp_stream(host, int(port))
                for letter in f"GET /v1/models HTTP/1.1\r\nHost: {netloc}\r\nX: {'y' * 9999}":
                    await stream.send_all(letter.encode())
                    await trio.sleep(0.5 + chance.random())
            except (trio.BrokenResourceError, OSError):
                await trio.sleep(0.5 + chance.random())

    async with trio.open_nursery() as stalling:
        for _ in range(slow):
            stalling.start_soon(stall)
        await trio.sleep(2)
        async with trio.open_nursery() as guessing:
            for _ in range(at_once):
                guessing.start_soon(guess)
        stalling.cancel_scope.cancel()
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wrong", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--slow", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--quiet-seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aigrid-keys-") as folder:
        node = NodeProcess(Path(folder) / "node", "--no-keyless")
        try:
            node.start()
            node.cli("models", "fetch", "echo")
            report = measure(node, arguments)
        finally:
            node.stop()
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def measure(node: NodeProcess, arguments: argparse.Namespace) -> dict[str, Any]:
    honest = Honest(node.gateway, node.cli("key", "create", "honest")["key"])
    honest.ask(2)  # the model is loaded
    quiet, flooded, ratios = list[float](), list[float](), list[float]()
    quiet_p99s, within_p99s = list[float](), list[float]()
    counts: Counter[str] = Counter()
    began = time.perf_counter()
    for _ in range(arguments.rounds):
        before = honest.ask(arguments.quiet_seconds)
        during, told = one_round(node, honest, arguments)
        ratios.append(percentiles(during)["p99"] / percentiles(before)["p99"])
        quiet_p99s.append(percentiles(before)["p99"])
        within_p99s.append(percentiles(during)["p99"])
        quiet += before
        flooded += during
        counts.update(told)
    without, within = percentiles(quiet), percentiles(flooded)
    tell(
        "p99 of an honest caller",
        within_p99s,
        "ms",
        beside=("without the flood", quiet_p99s),
        aim=at_most(2),
    )
    return {
        "wrong_keys": arguments.wrong,
        "slow_connections": arguments.slow,
        "seconds": round(time.perf_counter() - began, 1),
        "flood": counts,
        "quiet_ms": without,
        "flooded_ms": within,
        "ratio_p99": round(within["p99"] / without["p99"], 2),
        "ratios_p99": [round(ratio, 2) for ratio in ratios],
        "honest_requests": len(quiet) + len(flooded),
        "honest_refused": honest.refused,
        "gateway": node.cli("status")["gateway"]["counters"],
    }


def one_round(
    node: NodeProcess, honest: Honest, arguments: argparse.Namespace
) -> tuple[list[float], dict[str, int]]:
    """What the honest caller waited during one flood, and what became of that."""
    context = multiprocessing.get_context("spawn")
    told, done = context.SimpleQueue(), context.Event()
    wrong = arguments.wrong // arguments.rounds
    flood = Flood(urlsplit(node.gateway).netloc, wrong, arguments.at_once, arguments.slow)
    flooding = context.Process(target=run_flood, args=(flood, told, done))
    flooding.start()
    took = honest.ask(600, done)
    counts = told.get()
    flooding.join()
    return took, counts


def percentiles(took: list[float]) -> dict[str, float]:
    """Milliseconds."""
    ordered = sorted(took)
    return {
        f"p{share}": round(ordered[min(len(ordered) - 1, len(ordered) * share // 100)] * 1000, 2)
        for share in (50, 99)
    }


if __name__ == "__main__":
    raise SystemExit(main())
