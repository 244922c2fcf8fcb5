"""The testnet's end of `relay`: nodes in namespaces of their own, and sockets into them."""

import ctypes
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from scripts.nodes import AIGRID, NodeFailedError, die_with_parent
from scripts.testnets.options import Options
from scripts.testnets.relay import CLONE_NEWNET, address_of

ROOT = Path(__file__).resolve().parents[2]
PORT = 4001
_RELAY = (sys.executable, "-m", "scripts.testnets.relay")
_libc = ctypes.CDLL(None, use_errno=True)


def why_not() -> str:
    """Why nodes cannot have namespaces here; "" where they can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if not shutil.which("nsenter") or not shutil.which("ip"):
        return "`nsenter` (util-linux) and `ip` (iproute2) are not installed"
    done = subprocess.run(
        [*_RELAY, "--why-not"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or ("" if done.returncode == 0 else done.stderr.strip()[-300:])


class Namespaces:
    """One for each node, with the relay between them."""

    def __init__(self, options: Options) -> None:
        """Raises NodeFailedError, with what the relay said."""
        spec = {
            "nodes": options.nodes,
            "seed": options.seed,
            "latency": options.latency,
            "loss": options.loss,
        }
        self._relay = subprocess.Popen(
            [*_RELAY, json.dumps(spec)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the testnet, which ends it
            preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - one system call, no lock
        )
        assert self._relay.stdout is not None
        assert self._relay.stderr is not None
        line = self._relay.stdout.readline()
        if not line:
            said = self._relay.stderr.read().decode(errors="replace").strip()
            raise NodeFailedError(f"the relay did not start: {said[-500:]}")
        found = json.loads(line)["namespaces"]
        self.paths = [f"/proc/{self._relay.pid}/fd/{one}" for one in found]

    def entry(self, number: int) -> tuple[str, ...]:
        """The command that stands for `aigrid`, inside."""
        return ("nsenter", f"--net={self.paths[number]}", *AIGRID)

    @staticmethod
    def options(number: int) -> tuple[str, ...]:
        """Of `aigrid up`: the node listens where the others can reach it."""
        listen = f"/ip4/{address_of(number)}/tcp/{PORT}"
        return ("--listen", listen, "--gateway", "127.0.0.1:0", "--no-mdns")

    def connect(self, number: int, netloc: str, patience: float) -> http.client.HTTPConnection:
        """To what listens on the loopback device inside."""
        return _Inside(netloc, self.paths[number], patience)

    def cut(self, nodes: tuple[int, ...]) -> None:
        """Part these from the others; with none, heal."""
        assert self._relay.stdin is not None
        with suppress(BrokenPipeError):
            self._relay.stdin.write(json.dumps({"cut": nodes}).encode() + b"\n")
            self._relay.stdin.flush()

    def end(self) -> dict[str, Any]:
        """What the relay counted; {} if it has died."""
        assert self._relay.stdin is not None
        assert self._relay.stdout is not None
        with suppress(OSError):
            self._relay.stdin.close()
        try:
            said = self._relay.stdout.read()
            self._relay.wait(5)
            return dict(json.loads(said.splitlines()[-1]))
        except (ValueError, IndexError, subprocess.TimeoutExpired):
            self._relay.kill()
            self._relay.wait()
            return {}


class _Inside(http.client.HTTPConnection):
    """Its socket is made in another namespace, and belongs to that from then on."""

    def __init__(self, netloc: str, path: str, patience: float) -> None:
        super().__init__(netloc, timeout=patience)
        self._path = path

    def connect(self) -> None:
        self.sock = socket_in(self._path)
        self.sock.settimeout(self.timeout)
        self.sock.connect((self.host, self.port))


def socket_in(path: str) -> socket.socket:
    """A TCP socket of another network namespace. This thread alone goes there, and comes back."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = -1
    try:
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        _enter(there)
        try:
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        finally:
            _enter(home)
    finally:
        os.close(home)
        if there >= 0:
            os.close(there)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
