"""Real node processes, for quickstart, testnet and the process tests. Standard library only."""

import atexit
import ctypes
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

AIGRID = (
    sys.executable,
    "-P",
    "-c",
    "import sys; from aigrid.node.cli import main; sys.exit(main())",
)
LOCAL = ("--listen", "/ip4/127.0.0.1/tcp/0", "--gateway", "127.0.0.1:0", "--no-mdns")
POLL_SECONDS = 0.02
AT_ONCE = 4  # commands, so that many nodes on few cores still answer in time
_PR_SET_PDEATHSIG = 1

T = TypeVar("T")


class NodeFailedError(Exception):
    """A node or a command ended other than it should. `status` is its exit status."""

    def __init__(self, message: str, status: int | None = None, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class NodeProcess:
    """One `aigrid up` on a data directory of its own, in a process group of its own.

    It dies with this process: by the kernel's hand on Linux, at exit elsewhere. `entry` is the
    command that stands for `aigrid`.
    """

    def __init__(
        self,
        data_dir: Path,
        *options: str,
        local: bool = True,
        environment: Mapping[str, str] | None = None,
        entry: Sequence[str] = AIGRID,
    ) -> None:
        self.data_dir = data_dir
        self.options = (*(LOCAL if local else ()), *options)
        self.ready: dict[str, Any] = {}
        self.first_line_seconds = 0.0
        self._environment = {**os.environ, **(environment or {})}
        self._entry = tuple(entry)
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self._kill)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise NodeFailedError("the node was not started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def peer_id(self) -> str:
        return str(self.ready["peer_id"])

    @property
    def gateway(self) -> str:
        """Base URL of the gateway, without a path."""
        return str(self.ready["gateway"])

    def start(self, *, timeout_seconds: float = 60.0) -> dict[str, Any]:
        """Start the node and wait until it serves; the ready event."""
        self.launch()
        return self.wait_ready(timeout_seconds=timeout_seconds)

    def launch(self) -> None:
        """Start the node without waiting."""
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = [*self._entry, "up", "--data-dir", str(self.data_dir), "--json", *self.options]
        with self.stdout_path.open("wb") as out, self.stderr_path.open("ab") as err:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self._environment,
                start_new_session=True,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - one system call, no lock
            )

    def wait_ready(self, *, timeout_seconds: float = 60.0) -> dict[str, Any]:
        """The first line of `up --json`. Raises NodeFailedError, with what the node said."""
        started = time.monotonic()

        def first_line() -> bytes | None:
            line, newline, _ = self.stdout_path.read_bytes().partition(b"\n")
            if newline:
                return line
            if not self.alive:
                raise NodeFailedError(
                    f"the node ended ({self._status()}): {self._said()}", self._status()
                )
            return None

        line = wait_for(first_line, timeout_seconds=timeout_seconds, what="a ready node")
        self.first_line_seconds = time.monotonic() - started
        event = json.loads(line)
        if event.get("event") != "ready":
            with suppress(subprocess.TimeoutExpired):
                self._wait(timeout_seconds)
            raise NodeFailedError(f"the node did not start: {self._said()}", self._status())
        self.ready = event
        return dict(event)

    def read_ready_file(self) -> dict[str, Any]:
        """`ready.json` as it is now: it changes when the node joins another grid."""
        self.ready = json.loads((self.data_dir / "ready.json").read_text())
        return dict(self.ready)

    def cli(self, *arguments: str, timeout_seconds: float = 60.0) -> dict[str, Any]:
        """Run a command against this node; its JSON. Raises NodeFailedError with its status."""
        return run_cli(
            self.data_dir,
            *arguments,
            environment=self._environment,
            timeout_seconds=timeout_seconds,
        )

    def kill9(self) -> None:
        """SIGKILL to the node alone, as a crash would be: its workers have to notice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self, *, timeout_seconds: float = 15.0) -> int:
        """SIGTERM, and SIGKILL to the whole group if that takes too long; the exit status."""
        if self._process is None:
            return 0
        if self.alive:
            self._process.terminate()
            try:
                self._process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                pass
        self._kill()
        return self._process.wait()

    def restart(self, *, timeout_seconds: float = 60.0) -> dict[str, Any]:
        """Stop if need be, and start again on the same data directory."""
        self.stop()
        return self.start(timeout_seconds=timeout_seconds)

    def usage(self) -> "Usage":
        """Memory and CPU of the node and its workers."""
        total = Usage(0, 0, 0.0)
        for pid in (self.pid, *_descendants(self.pid)):
            found = _usage(pid)
            if found is not None:
                total = Usage(
                    total.rss_bytes + found.rss_bytes,
                    total.pss_bytes + found.pss_bytes,
                    total.cpu_seconds + found.cpu_seconds,
                )
        return total

    def workers(self, module: str) -> list[int]:
        """Process ids of the node's children that run `python -m MODULE`."""
        found = []
        for pid in _descendants(self.pid):
            with suppress(OSError):
                if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    found.append(pid)
        return found

    def pss_bytes(self) -> int:
        """Proportional set size of the node's own process; 0 where the kernel does not tell."""
        found = _usage(self.pid)
        return found.pss_bytes if found else 0

    @property
    def stdout_path(self) -> Path:
        return self.data_dir.with_name(f"{self.data_dir.name}.stdout")

    @property
    def stderr_path(self) -> Path:
        return self.data_dir.with_name(f"{self.data_dir.name}.stderr")

    def _said(self) -> str:
        out = self.stdout_path.read_text(errors="replace").strip()
        try:
            return str(json.loads(out.splitlines()[-1])["error"]["message"])
        except (ValueError, LookupError, TypeError):
            return (self.stderr_path.read_text(errors="replace").strip() or out)[-2000:]

    def _wait(self, timeout_seconds: float) -> None:
        if self._process is not None:
            self._process.wait(timeout_seconds)

    def _status(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def _kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Usage:
    """What processes use; bytes, and CPU seconds since they started."""

    rss_bytes: int
    pss_bytes: int
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Chat:
    """A streamed answer. `decode_seconds` lies between its first piece and its end."""

    text: str
    model: str
    served_by: str
    tokens: int
    ttft_seconds: float
    decode_seconds: float

    @property
    def tokens_per_second(self) -> float:
        return tokens_per_second(self.tokens, self.decode_seconds)


def tokens_per_second(tokens: int, decode_seconds: float) -> float:
    """Decode speed: the first token is not counted, its time is the prompt's."""
    return (tokens - 1) / decode_seconds if tokens > 1 and decode_seconds > 0 else 0.0


def stop_all(nodes: Sequence[NodeProcess]) -> None:
    """Ask all at once, so that the longest one counts, then wait for each."""
    for node in nodes:
        if node.alive:
            os.kill(node.pid, signal.SIGTERM)
    for node in nodes:
        node.stop()


def form_grid(nodes: Sequence[NodeProcess]) -> None:
    """Start all, and let the first invite the others. Returns before all have met."""
    first, *others = nodes
    first.start()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for node in others:  # started from this thread: the kernel ties them to it
            node.launch()
        list(pool.map(NodeProcess.wait_ready, others))
        list(pool.map(partial(_invite_and_join, first), others))


def _invite_and_join(first: NodeProcess, node: NodeProcess) -> None:
    node.cli("join", first.cli("invite", str(node.ready["did"]))["invitation"])


def run_cli(
    data_dir: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: float = 60.0,
) -> dict[str, Any]:
    """Run `aigrid --data-dir D ARGUMENTS --json`; its JSON.

    Raises:
        NodeFailedError: with the exit status and the error's code.
    """
    done = subprocess.run(
        [*AIGRID, "--data-dir", str(data_dir), *arguments, "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment,
        timeout=timeout_seconds,
        check=False,
    )
    try:
        body = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        body = {}
    if done.returncode != 0:
        error = body.get("error", {})
        said = error.get("message") or done.stderr.decode(errors="replace").strip() or str(body)
        raise NodeFailedError(
            f"aigrid {arguments[0]}: {said}",
            done.returncode,
            error.get("code", body.get("code", "")),
        )
    return dict(body)


def wait_for(probe: Callable[[], T | None], *, timeout_seconds: float, what: str) -> T:
    """Call `probe` until it returns something true. Raises NodeFailedError after the time."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise NodeFailedError(f"waited {timeout_seconds:g} s for {what}")
        time.sleep(POLL_SECONDS)


def stream_chat(
    gateway: str,
    body: Mapping[str, Any],
    *,
    on_text: Callable[[str], None] | None = None,
    timeout_seconds: float = 120.0,
) -> Chat:
    """Ask through a gateway, as any OpenAI client does, and time the answer.

    Raises:
        NodeFailedError: for an error status, an error event, or a stream that only stops.
    """
    url = urlsplit(gateway)
    connection = http.client.HTTPConnection(url.netloc, timeout=timeout_seconds)
    began = time.perf_counter()
    try:
        connection.request(
            "POST",
            "/v1/chat/completions",
            json.dumps({**body, "stream": True}),
            {"Content-Type": "application/json"},
        )
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            said = response.read(65536).decode(errors="replace")
            raise NodeFailedError(f"HTTP {response.status}: {said}", response.status)
        parts: list[str] = []
        first = last = 0.0
        final: dict[str, Any] = {}
        for event in _events(response):
            if "error" in event:
                raise NodeFailedError(f"the stream ended with {event['error']}")
            final = event if "aigrid" in event else final
            text = "".join(c.get("delta", {}).get("content") or "" for c in event["choices"])
            if text:
                last = time.perf_counter()
                first = first or last
                parts.append(text)
                if on_text is not None:
                    on_text(text)
        served_by = response.getheader("x-aigrid-node") or ""
        model = response.getheader("x-aigrid-model") or ""
    finally:
        connection.close()
    segments = final.get("aigrid", {}).get("segments", [])
    if segments:  # headers that left before the model was loaded cannot say who serves
        served_by = served_by or str(segments[-1]["node"])
        model = model or str(segments[-1]["model"])
    tokens = sum(int(segment["tokens"]) for segment in segments)
    return Chat("".join(parts), model, served_by, tokens, first - began, last - first)


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in response:
        data = line.strip()
        if data == b"data: [DONE]":
            return
        if data.startswith(b"data: "):
            yield json.loads(data.removeprefix(b"data: "))
    raise NodeFailedError("the stream stopped before its end")


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """In the child: the kernel sends it this when the thread that started it is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in tasks.read_text().split():
                found += [int(child), *_descendants(int(child))]
    return found


def _usage(pid: int) -> Usage | None:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    sizes = {words[0]: int(words[1]) * 1024 for words in map(str.split, rollup.splitlines()[1:])}
    ticks = os.sysconf("SC_CLK_TCK")
    return Usage(sizes["Rss:"], sizes["Pss:"], (int(times[11]) + int(times[12])) / ticks)
