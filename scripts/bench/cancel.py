"""From a client that leaves to an engine that has stopped, local and remote.

    python scripts/bench/cancel.py --rounds 40

The engine is `openai_api` in its worker process, and stopped when the server behind it sees its
connection end: both ends are on this machine, so on one clock. Prints milliseconds as a table.
"""

import argparse
import json
import queue
import select
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import at_most, tell
from scripts.nodes import NodeProcess, stop_all, wait_for
from scripts.offers import offers

MODEL = "patient"
SAID = "until I leave"
TRIED = (
    b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}\n\n'
    b'data: {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}\n\n'
    b"data: [DONE]\n\n"
)
TOKEN_SECONDS = 0.02
AIM_MS = 250
CASES = ("unary", "before the first token", "mid-stream")


class Server(ThreadingHTTPServer):
    """Talks until it is left, or says nothing while `silent`; `begun` and `left` are moments."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.silent = False
        self.begun: queue.Queue[float] = queue.Queue()
        self.left: queue.Queue[float] = queue.Queue()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """Clients leave: that is what is measured."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Not on the terminal."""

    def do_GET(self) -> None:
        body = json.dumps({"data": [{"id": MODEL, "max_model_len": 100_000}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        event = b'data: {"choices": [{"index": 0, "delta": {"content": "again "}}]}\n\n'
        if asked["messages"][-1]["content"] != SAID:  # the node tries a model before it offers it
            self.wfile.write(event + TRIED)
            return
        self.server.begun.put(time.monotonic())
        try:
            while not self._is_left():
                if not self.server.silent:
                    self.wfile.write(event)
        except OSError:
            pass
        self.server.left.put(time.monotonic())

    def _is_left(self) -> bool:
        """Wait for a token's time, or until the client leaves."""
        readable, _, _ = select.select([self.connection], [], [], TOKEN_SECONDS)
        return bool(readable) and not self.connection.recv(1)


@contextmanager
def _pair(server: Server) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    """The node in front of the server, and one that only knows of it."""
    with tempfile.TemporaryDirectory(prefix="aigrid-cancel-") as folder:
        front, asker = nodes = [NodeProcess(Path(folder) / name) for name in ("front", "asker")]
        try:
            for node in nodes:
                node.start()
            asker.cli("join", front.cli("invite", asker.ready["did"])["invitation"])
            front.cli("publish", f"openai+{server.root}/v1", "--upstream-model", MODEL)
            wait_for(
                lambda: any(one["name"] == MODEL for one in offers(asker)),
                timeout_seconds=60,
                what="the offer at the asker",
            )
            yield front, asker
        finally:
            stop_all(nodes)


def leave(gateway: str, server: Server, case: str) -> float:
    """Ask, leave, and the milliseconds until the engine has left, too."""
    server.silent = case == "before the first token"
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": SAID}],
        "stream": case != "unary",
    }
    body = json.dumps(asked).encode()
    address = urlsplit(gateway)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port), 30) as connection:
        connection.sendall(head.encode() + body)
        server.begun.get(timeout=60)
        received = b""
        while case == "mid-stream" and b"again" not in received:
            received += connection.recv(65536)
        time.sleep(5 * TOKEN_SECONDS)  # well into it
        at = time.monotonic()
    return (server.left.get(timeout=60) - at) * 1000


def share(values: Sequence[float], quantile: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * quantile))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    worst = 0.0
    with _pair(server) as (front, asker):
        print(f"| cancelled, {rounds} times | where | p50 ms | p95 ms | max ms |\n|{'---|' * 5}")
        for case in CASES:
            local: list[float] = []
            for where, node in (("local", front), ("remote", asker)):
                leave(node.gateway, server, case)  # loads the model, opens the connections
                taken = [leave(node.gateway, server, case) for _ in range(rounds)]
                p50, p95 = share(taken, 0.5), share(taken, 0.95)
                worst = max(worst, p95)
                name = f"cancelled {case}, {where}"
                tell(f"{name}, p95", [p95], "ms", aim=at_most(AIM_MS, of_value=True))
                if local:
                    tell(name, taken, "ms", beside=("local", local))
                local = taken
                print(
                    f"| {case} | {where} | {p50:.1f} | {p95:.1f} | {max(taken):.1f} |", flush=True
                )
    print(f"worst p95 {worst:.1f} ms, aim {AIM_MS} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
