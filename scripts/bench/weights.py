"""A model fetched from 1, 2 and 4 nodes, beside raw TCP and one plain libp2p stream.

    python scripts/bench/weights.py [--mb 100] [--rounds 5] [--quick]

Every figure is from this run, on this machine, over 127.0.0.1; the median of the rounds counts.
`raw TCP` is a process that writes and one that reads, 256 KiB at a time; `plain stream` the same
over one stream of a connection of this node's transport (TCP, Noise, Yamux): nothing is checked and
nothing written. `N holders` is a node that fetches from N others, each chunk hashed and written,
from the first request to the last file synced; `installed` goes on to the model being offered: all
files hashed once more, and an engine asked. All processes share the machine's cores, so more
holders are no faster where those are busy. Exit status 1: a fetch failed, or brought another file.
"""

import argparse
import functools
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import trio
from scripts.bench.reporting import tell
from scripts.heavy_model import heavy_model
from scripts.nodes import NodeFailedError, NodeProcess, form_grid, stop_all, wait_for

from aigrid.node.control_client import SOCKET_FILE, ControlClient
from aigrid.node.daemon import wall_ms
from aigrid.node.network.libp2p_transport import Libp2pTransport
from aigrid.node.network.transport import PeerAddress, Stream
from aigrid.protocol.identity import Identity

NAME = "heavy"
HOLDERS = (1, 2, 4)
PIECE_BYTES = 256 * 1024
PROTOCOL = "/bench/bytes/1"
READER, WRITER = Identity(b"r" * 32), Identity(b"w" * 32)


def main() -> int:
    options = _options()
    size = options.mb * 1_000_000
    with tempfile.TemporaryDirectory(prefix="aigrid-weights-") as folder:
        try:
            found = measure(Path(folder), size, options.rounds)
        except (NodeFailedError, OSError) as error:
            print(f"failed: {error}", file=sys.stderr)
            return 1
    raw = median(found["raw TCP"])
    for what in (way for way in found if way != "raw TCP"):
        tell(what.strip(), found[what], "MB/s", beside=("raw TCP", found["raw TCP"]))
    print(f"{'':<28}{'MB/s':>8}{'of raw TCP':>12}{'spread':>16}")
    for what, values in found.items():
        spread = f"{min(values):.0f}-{max(values):.0f}"
        print(f"{what:<28}{median(values):>8.0f}{median(values) / raw:>12.2f}{spread:>16}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mb", type=int, default=100, help="size of the model in MB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="20 MB, one round")
    parser.add_argument("--write", help=argparse.SUPPRESS)  # the other process of this program
    options = parser.parse_args()
    if options.quick:
        options.mb, options.rounds = 20, 1
    if options.write:
        trio.run(write_plain, options.mb * 1_000_000)
        sys.exit(0)
    return options


def measure(folder: Path, size: int, rounds: int) -> dict[str, list[float]]:
    """MB/s of each way, round by round."""
    path = heavy_model(folder, size)
    size = path.stat().st_size
    found: dict[str, list[float]] = {"raw TCP": [], "plain stream": []}
    for _ in range(rounds):
        found["raw TCP"].append(raw_tcp(size))
        found["plain stream"].append(trio.run(plain_stream, size))
    nodes = [NodeProcess(folder / f"node-{number}") for number in range(max(HOLDERS) + 1)]
    *holders, fetcher = nodes
    try:
        form_grid(nodes)
        holders[0].cli("publish", str(path), "--name", NAME, timeout_seconds=120)
        for count in HOLDERS:
            for holder in holders[1:count]:
                fetch(holder, "")
            for way, value in fetches(fetcher, count, path, rounds):
                found.setdefault(way, []).append(value)
    finally:
        stop_all(nodes)
    return found


def fetches(
    fetcher: NodeProcess, count: int, path: Path, rounds: int
) -> Iterator[tuple[str, float]]:
    """MB/s of fetching, and of installing, from so many holders."""
    size, wanted = path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()

    def all_known() -> bool:
        return any(len(m["seeds"]) == count for m in fetcher.cli("models")["models"])

    wait_for(all_known, timeout_seconds=30, what=f"{count} holders")
    for _ in range(rounds):
        before = fetcher.cli("status")["weights"]
        began = time.perf_counter()
        model = fetch(fetcher, "")
        whole = time.perf_counter() - began
        after = fetcher.cli("status")["weights"]
        seconds = after["receiving_seconds"] - before["receiving_seconds"]
        (here,) = (fetcher.data_dir / "models" / model / "files").iterdir()
        if hashlib.sha256(here.read_bytes()).hexdigest() != wanted:
            raise NodeFailedError("what was fetched is another file")
        fetcher.cli("models", "drop", model)
        name = f"{count} holder{'s' if count > 1 else ''}"
        yield name, size / seconds / 1e6
        yield f"  {name}, installed", size / whole / 1e6


def fetch(node: NodeProcess, _: str) -> str:
    """The id of the model that is here now."""
    control = ControlClient(node.data_dir / SOCKET_FILE)
    body = wait_for(
        functools.partial(_try_fetch, control), timeout_seconds=60, what="the model to be known"
    )
    return str(body["model"])


def _try_fetch(control: ControlClient) -> dict[str, Any] | None:
    try:
        return control.call("models_fetch", {"name": NAME})
    except Exception as error:
        if getattr(error, "code", "") == "model_not_found":
            return None
        raise


# --- the yardsticks


def raw_tcp(size: int) -> float:
    """One process writes, this one reads."""
    program = (
        "import socket, sys\n"
        "s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "piece, left = bytes(262144), int(sys.argv[2])\n"
        "while left > 0:\n"
        "    s.sendall(piece[:left]); left -= len(piece)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = [sys.executable, "-c", program, str(port), str(size)]
        with subprocess.Popen(command):
            connection, _ = server.accept()
            with connection:
                began, got = time.perf_counter(), 0
                while data := connection.recv(PIECE_BYTES):
                    got += len(data)
                seconds = time.perf_counter() - began
    if got != size:
        raise NodeFailedError("raw TCP lost bytes")
    return size / seconds / 1e6


async def plain_stream(size: int) -> float:
    """One stream of this node's transport, from another process."""
    with _writing_process(size) as address:
        reader = _transport(READER)
        reader.admit([WRITER.peer_id])
        async with reader.running():
            await reader.connect(PeerAddress(WRITER.peer_id, (address,)))
            stream = await reader.open_stream(WRITER.peer_id, PROTOCOL)
            await stream.send_all(b"x")
            began, got = time.perf_counter(), 0
            while got < size:
                got += len(await stream.receive_some(PIECE_BYTES))
            seconds = time.perf_counter() - began
            await stream.reset()
    return size / seconds / 1e6


@contextmanager
def _writing_process(size: int) -> Iterator[str]:
    command = [sys.executable, os.fspath(Path(__file__)), "--write", "1", "--mb"]
    command.append(str(-(-size // 1_000_000)))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        if child.stdout is None:
            raise NodeFailedError("the writing process has no output")
        try:
            yield child.stdout.readline().strip()
        finally:
            child.kill()


async def write_plain(size: int) -> None:
    """The other end: so many bytes to whoever asks, and then nothing."""
    writer = _transport(WRITER)
    writer.admit([READER.peer_id])

    async def give(stream: Stream) -> None:
        await stream.receive_some(1)
        piece = os.urandom(PIECE_BYTES)
        for _ in range(0, size + PIECE_BYTES, PIECE_BYTES):
            await stream.send_all(piece)

    writer.handle_stream(PROTOCOL, give)
    async with writer.running():
        print(writer.listen_addresses[0], flush=True)
        await trio.sleep_forever()


def _transport(identity: Identity) -> Libp2pTransport:
    return Libp2pTransport(
        signing_seed=identity.seed,
        topics=frozenset(),
        now_ms=wall_ms,
        listen=("/ip4/127.0.0.1/tcp/0",),
    )


if __name__ == "__main__":
    sys.exit(main())
