"""One end of the column of lattica, in a process of its own and in lattica's own environment.

    python -m scripts.bench.data_path.lattica_child                        serves, says its address
    python -m scripts.bench.data_path.lattica_child ADDRESS PID AMOUNTS    says what it found

Lattica (PyPI) binds rust-libp2p. Its own service class pickles whatever passes, so this one has
none of it: the binding asks a service for methods by name and hands them the bytes that came.
Requests at once are futures of one thread, which here is quicker than a thread for each. There are
no streams that stay: where others write, these are calls with a body of that size, sixteen under
way.
"""

import importlib
import json
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from scripts.bench.data_path.figures import (
    MIB,
    REQUEST,
    TOGETHER,
    WRITES,
    Amounts,
    CpuMeter,
    Found,
    quantile,
    token,
    token_age_ms,
)

WARM_UP_REQUESTS = 50
TIMEOUT_SECONDS = 30
WRITES_UNDER_WAY = 16
SETTLE_SECONDS = 1.2


class Bench:
    """The service; the binding finds `_handle_NAME` and the lists of names by themselves."""

    _rpc_methods = ("echo", "sink")
    _stream_methods = ()
    _stream_iter_methods = ("tokens",)

    def get_service_name(self) -> str:
        return "Bench"

    def get_methods(self) -> list[str]:
        return list(self._rpc_methods)

    def get_stream_methods(self) -> list[str]:
        return list(self._stream_methods)

    def _handle_echo(self, body: bytes) -> bytes:
        return body

    def _handle_sink(self, body: bytes) -> bytes:
        return len(body).to_bytes(8, "big")

    def _handle_stream_iter_tokens(self, asked: bytes) -> Iterator[bytes]:
        count, interval_ms = json.loads(asked)
        begun = time.monotonic()
        for number in range(count):
            if interval_ms:
                time.sleep(max(0.0, begun + number * interval_ms / 1000 - time.monotonic()))
            yield token()


def node(folder: str, port: int, *bootstraps: str) -> Any:
    """Without mDNS and all that reaches out."""
    builder = importlib.import_module("lattica").Lattica.builder()
    builder.with_listen_addrs([f"/ip4/127.0.0.1/tcp/{port}"])
    for reaches_out in (builder.with_mdns, builder.with_upnp):
        reaches_out(False)  # noqa: FBT003 - lattica's own interface
    for place in (builder.with_key_path, builder.with_storage_path, builder.with_dht_db_path):
        place(tempfile.mkdtemp(dir=folder))
    if bootstraps:
        builder.with_bootstraps(list(bootstraps))
    return builder.build()


def serve(folder: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    here = node(folder, port)
    here.register_service(Bench())
    address = f"/ip4/127.0.0.1/tcp/{port}/p2p/{here.peer_id()}"
    print(json.dumps({"address": address}), flush=True)
    threading.Event().wait()


class Caller:
    """The calling end, connected. Connecting is from nothing: a node is made each time."""

    def __init__(self, folder: str, address: str, server_pid: int) -> None:
        self._folder = folder
        self._address = address
        self._server_pid = server_pid
        self._here: Any = None
        self._client: Any = None

    def connect(self) -> None:
        self._here = node(self._folder, 0, self._address)
        while not self._here.get_all_peers():
            time.sleep(0.0002)

    def disconnect(self) -> None:
        self._here.close()

    def settle(self) -> None:
        time.sleep(SETTLE_SECONDS)
        self._client = self._here.get_client(self._address.rpartition("/")[2])

    def _ask(self, method: str, body: bytes) -> Any:
        return self._client.call(f"Bench.{method}", body)

    def one_at_a_time(self, count: int) -> Found:
        took_ms = []
        for _ in range(WARM_UP_REQUESTS):
            self._ask("echo", REQUEST).result(timeout=TIMEOUT_SECONDS)
        cpu = CpuMeter(self._server_pid)
        for _ in range(count):
            began = time.perf_counter()
            answer = self._ask("echo", REQUEST).result(timeout=TIMEOUT_SECONDS)
            took_ms.append((time.perf_counter() - began) * 1000)
            assert answer == REQUEST
        client, server = cpu.per(count)
        return {
            "rpc_p50_ms": quantile(took_ms, 0.5),
            "rpc_p99_ms": quantile(took_ms, 0.99),
            "rpc_client_cpu_ms": client,
            "rpc_server_cpu_ms": server,
        }

    def _at_once(self, method: str, body: bytes, count: int, under_way: int) -> None:
        waiting: deque[Any] = deque()
        for _ in range(count):
            if len(waiting) == under_way:
                waiting.popleft().result(timeout=TIMEOUT_SECONDS)
            waiting.append(self._ask(method, body))
        for one in waiting:
            one.result(timeout=TIMEOUT_SECONDS)

    def together(self, count: int) -> Found:
        self._at_once("echo", REQUEST, 2 * TOGETHER, TOGETHER)
        cpu, began = CpuMeter(self._server_pid), time.perf_counter()
        self._at_once("echo", REQUEST, count, TOGETHER)
        took = time.perf_counter() - began
        client, server = cpu.per(count)
        return {
            "many_per_second": count / took,
            "many_client_cpu_ms": client,
            "many_server_cpu_ms": server,
        }

    def writing(self, write_bytes: int, total_bytes: int) -> float:
        body = bytes(write_bytes)
        self._at_once("sink", body, 1, 1)
        began = time.perf_counter()
        self._at_once("sink", body, total_bytes // write_bytes, WRITES_UNDER_WAY)
        return total_bytes / (time.perf_counter() - began) / 1e6

    def tokens(self, count: int, interval_ms: int) -> Iterator[bytes]:
        asked = json.dumps([count, interval_ms]).encode()
        yield from self._client.call_stream_iter("Bench.tokens", asked)

    def paced(self, count: int, interval_ms: int) -> Found:
        ages = [token_age_ms(made) for made in self.tokens(count, interval_ms)]
        if len(ages) < count:
            return {"paced_lost": count - len(ages)}
        return {"token_p50_ms": quantile(ages, 0.5), "token_p99_ms": quantile(ages, 0.99)}

    def burst(self, count: int) -> Found:
        """On a busy machine the binding's stream may end early: then there is no figure."""
        cpu = CpuMeter(self._server_pid)
        lost = count - sum(1 for _ in self.tokens(count, 0))
        if lost:
            return {"burst_lost": lost}
        client, server = cpu.per(count)
        return {"burst_client_cpu_us": client * 1000, "burst_server_cpu_us": server * 1000}


def all_loads(caller: Caller, amounts: Amounts) -> Found:
    took = []
    for number in range(amounts.connects):
        if number:
            caller.disconnect()
            time.sleep(0.2)
        began = time.perf_counter()
        caller.connect()
        took.append((time.perf_counter() - began) * 1000)
    caller.settle()
    found = {"connect_ms": quantile(took, 0.5)}
    found |= caller.one_at_a_time(amounts.requests)
    found |= caller.together(amounts.requests_together)
    for name, write_bytes in WRITES.items():
        found[name] = caller.writing(write_bytes, amounts.write_mib * MIB)
    found |= caller.paced(amounts.tokens, amounts.interval_ms)
    return found | caller.burst(amounts.burst)


def main(*rest: str) -> None:
    with tempfile.TemporaryDirectory(prefix="aigrid-lattica-") as folder:
        if not rest:
            serve(folder)
            return
        address, pid, amounts = rest
        caller = Caller(folder, address, int(pid))
        found = all_loads(caller, Amounts(**json.loads(amounts)))
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
