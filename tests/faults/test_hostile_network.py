"""Strangers on the wire against a real node, while a member's requests go on."""

import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import httpx
import pytest
from scripts.nodes import wait_for
from tests.faults.conftest import MODEL, ProcessGrid
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}


def address(grid: ProcessGrid) -> tuple[str, int]:
    parts = grid.holder.ready["listen"][0].split("/")
    return parts[2], int(parts[4])


@contextmanager
def member_traffic(grid: ProcessGrid) -> Iterator[list[float]]:
    """Requests through the asker to the holder, one after the other; seconds each took."""
    stop, seconds, failures = threading.Event(), list[float](), list[str]()

    def ask() -> None:
        with httpx.Client(timeout=30) as client:
            while not stop.is_set():
                began = time.perf_counter()
                answer = client.post(f"{grid.asker.gateway}/v1/chat/completions", json=BODY)
                seconds.append(time.perf_counter() - began)
                if answer.status_code != 200:
                    failures.append(answer.text)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seconds
        wait_for(lambda: len(seconds) > 2, timeout_seconds=PATIENCE_SECONDS, what="requests")
    finally:
        stop.set()
        thread.join()
    assert failures == []


def test_300_idle_connections_disturb_nobody(grid):
    with member_traffic(grid):
        idle = [socket.create_connection(address(grid), 5) for _ in range(300)]
        newcomer = grid.add("newcomer")
        grid.join(newcomer)
        assert newcomer.stop() == 0
        grid.nodes.remove(newcomer)
        for connection in idle:
            connection.close()
    assert grid.holder.alive


def test_1000_connects_and_disconnects_disturb_nobody(grid):
    with member_traffic(grid):
        for _ in range(1000):
            with closing(socket.create_connection(address(grid), 5)):
                pass
    assert grid.holder.alive
    newcomer = grid.add("after-1000")
    grid.join(newcomer)  # the door is not shut for good
    assert newcomer.stop() == 0
    grid.nodes.remove(newcomer)


@pytest.mark.parametrize("size", [1, 64, 65536])
def test_garbage_on_a_fresh_connection_disturbs_nobody(grid, size):
    with member_traffic(grid):
        for _ in range(50):
            with closing(socket.create_connection(address(grid), 5)) as connection:
                try:
                    connection.sendall(secrets.token_bytes(size))
                except OSError:
                    continue  # hung up on: as it should be
    assert grid.holder.alive
    refused = grid.holder.cli("status")["refused"]["network"]
    assert refused["pre_auth_failed"] > 0
