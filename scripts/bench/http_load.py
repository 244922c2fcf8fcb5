"""A load of HTTP requests on one server, from a process of its own.

    python scripts/bench/http_load.py '{"port": 8000, "clients": 16, "seconds": 5, ...}'

Each client has one connection and asks the same thing again and again. It only looks for the end of
each answer: the standard library alone, and no parsing, so that little of the machine is taken from
what is measured. Prints one JSON object, see `Load` and `Seen`.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

HEAD_MAX_BYTES = 8192
_LENGTH = b"content-length: "


@dataclass(frozen=True)
class Load:
    """What is asked, by how many, for how long; each client asks at least once."""

    port: int
    clients: int
    seconds: float
    body: dict[str, Any]
    key: str = ""
    path: str = "/v1/chat/completions"

    def request(self) -> bytes:
        data = json.dumps(self.body).encode()
        key = f"Authorization: Bearer {self.key}\r\n" if self.key else ""
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n{key}"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data


@dataclass
class Seen:
    """Seconds to the first byte and to the end of each answer; what was no answer."""

    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    failed: int = 0
    said: str = ""

    def fail(self, said: bytes) -> None:
        self.failed += 1
        self.said = self.said or said[:300].decode(errors="replace")


class Client(asyncio.Protocol):
    """Asks until the time is up; `done` is set when its last answer is there."""

    def __init__(self, load: Load, seen: Seen, until: float) -> None:
        self._request = load.request()
        self._seen = seen
        self._until = until
        self.done = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.done.is_set():
            self._seen.fail(b"the connection was closed: " + self._data)
            self.done.set()

    def _ask(self) -> None:
        self._data = b""
        self._first = 0.0
        self._ends_at = -1  # of an answer whose length is stated
        self._asked = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._first = self._first or now
        self._data += data
        if self._ends_at < 0 and len(self._data) > HEAD_MAX_BYTES:  # a stream: its end will do
            self._data = self._data[:64] + self._data[-16:]
        if not self._is_over():
            return
        if self._data.startswith(b"HTTP/1.1 200"):
            self._seen.first.append(self._first - self._asked)
            self._seen.whole.append(now - self._asked)
        else:
            self._seen.fail(self._data)
        if now < self._until:
            self._ask()
        else:
            self.done.set()
            self._transport.close()

    def _is_over(self) -> bool:
        if self._data.endswith(b"\r\n0\r\n\r\n"):
            return True
        if self._ends_at < 0 and (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[: end + 2].lower()
            if (at := head.find(_LENGTH)) >= 0:
                stated = head[at + len(_LENGTH) : head.index(b"\r\n", at)]
                self._ends_at = end + 4 + int(stated)
        return 0 <= self._ends_at <= len(self._data)


def _same(client: Client) -> Client:
    return client


async def run(load: Load) -> Seen:
    """Everything that the clients saw."""
    seen, loop = Seen(), asyncio.get_running_loop()
    until = time.perf_counter() + load.seconds
    clients = [Client(load, seen, until) for _ in range(load.clients)]
    for client in clients:
        await loop.create_connection(partial(_same, client), "127.0.0.1", load.port)
    await asyncio.gather(*(client.done.wait() for client in clients))
    return seen


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(run(Load(**json.loads(sys.argv[1])))))))
