"""What the gateway costs, beside LiteLLM's proxy: both before the same server, in one run.

    python scripts/bench/gateway.py --seconds 4 --json result.json      (quick: --quick)

One node publishes a model behind `mock_upstream.py`; LiteLLM's proxy (one worker, version
`--litellm`) is set before the same server. It is installed from the package index into an
environment of its own in the user's cache, once; where that fails, the node is measured alone and
the reason given. Both want an API key. The load comes from `http_load.py`, and each kind of request
is put to all three in turn, the server itself included:

- `whole`: a plain answer of 16 tokens, at 1, 16 and 64 clients. The node asks the server for a
  stream even then: that is how it notices that a model has stalled.
- `stream`: 64 tokens, as fast as they go.
- `slow stream`: 64 tokens, 10 ms apart, so that each is written alone: the price of a token.

CPU is that of all processes of a gateway (the node with its workers), in milliseconds of one core
per request; the time added is what a gateway's median (p50) and 99th percentile exceed the server's
own by. Latencies mean something on an idle machine alone; ratios of CPU hold on a busy one, too.
"""

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import at_most, tell
from scripts.nodes import NodeProcess, wait_for

HERE = Path(__file__).resolve().parent
LITELLM = "1.106.2"
TICKS = os.sysconf("SC_CLK_TCK")
WHOLE, STREAM, SLOW = "whole", "stream", "slow stream"
KINDS = {WHOLE: (1, 16, 64), STREAM: (1, 16, 64), SLOW: (4,)}
NAMES = ("server", "aigrid", "litellm")


@dataclass(frozen=True)
class Target:
    """Where requests go. `pid`: of the first of its processes."""

    name: str
    port: int
    pid: int
    key: str = ""


@dataclass(frozen=True)
class Measured:
    """One load on one target; times in milliseconds, of the answer's end but for `first`."""

    target: str
    kind: str
    clients: int
    requests: int
    failed: int
    per_second: float
    cpu_ms: float
    p50_ms: float
    p99_ms: float
    first_p50_ms: float
    rss_mb: float


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4, help="of each load")
    parser.add_argument("--rounds", type=int, default=3, help="the best of which counts")
    parser.add_argument("--quick", action="store_true", help="one round of a second each")
    parser.add_argument("--litellm", default=LITELLM, help="version, or none to leave it out")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.rounds = 1, 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started ends with this
    root = Path(tempfile.mkdtemp(prefix="aigrid-gateway-"))
    try:
        with upstream() as server, node(root / "node", server.port) as ours:
            command, why = litellm_command(arguments.litellm)
            if command is None:
                print(f"LiteLLM is left out: {why}", file=sys.stderr)
                found = compare((server, ours), arguments)
            else:
                with litellm(command, root, server.port) as theirs:
                    found = compare((server, ours, theirs), arguments)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    report(found)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")
    return 1 if any(one.failed for one in found) else 0


def compare(targets: Sequence[Target], arguments: argparse.Namespace) -> list[Measured]:
    for target in targets:  # what a first request costs is another question
        for kind in KINDS:
            load(target, kind, 4, 0.5)
    best: list[Measured] = []
    for kind, several in KINDS.items():
        for clients in several:
            rounds = {
                target.name: [
                    load(target, kind, clients, arguments.seconds) for _ in range(arguments.rounds)
                ]
                for target in targets
            }
            tell_of(rounds)
            best += [min(of, key=lambda one: (one.failed, one.cpu_ms)) for of in rounds.values()]
    return best


def tell_of(rounds: dict[str, list[Measured]]) -> None:
    """One load, on all targets."""
    ours, server, theirs = (rounds.get(name, []) for name in ("aigrid", "server", "litellm"))
    what = f"{ours[0].kind}, {ours[0].clients} at once"
    cpu, bare = ([one.cpu_ms for one in of] for of in (ours, server))
    if theirs:
        cost, aim = [one.cpu_ms for one in theirs], at_most(0.2)
        tell(f"{what}: CPU", cpu, "ms", beside=("LiteLLM's proxy", cost), aim=aim)
    else:
        tell(f"{what}: CPU", cpu, "ms", beside=("the server behind it", bare))
    p50s = ([one.p50_ms for one in of] for of in (ours, server))
    tell(f"{what}: p50", next(p50s), "ms", beside=("the server behind it", next(p50s)))


def load(target: Target, kind: str, clients: int, seconds: float) -> Measured:
    """Put one load on a target."""
    words = "slowly" if kind == SLOW else "Tell me of rivers."
    body = {
        "model": "mock",
        "max_tokens": 16 if kind == WHOLE else 64,
        "stream": kind != WHOLE,
        "messages": [{"role": "user", "content": words}],
    }
    asked = {"port": target.port, "clients": clients, "seconds": seconds, "body": body}
    before, began = cpu_seconds(target.pid), time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(HERE / "http_load.py"), json.dumps({**asked, "key": target.key})],
        capture_output=True,
        check=True,
    )
    took, used = time.perf_counter() - began, cpu_seconds(target.pid) - before
    seen = json.loads(done.stdout)
    if seen["failed"]:
        print(f"{target.name}: {seen['failed']} failed: {seen['said']}", file=sys.stderr)
    whole, first = sorted(seen["whole"]) or [0.0], sorted(seen["first"]) or [0.0]
    return Measured(
        target.name,
        kind,
        clients,
        len(seen["whole"]),
        seen["failed"],
        len(whole) / took,
        used / len(whole) * 1000,
        whole[len(whole) // 2] * 1000,
        whole[len(whole) * 99 // 100] * 1000,
        first[len(first) // 2] * 1000,
        sum(map(rss_bytes, tree(target.pid))) / 1e6,
    )


# The three


@contextmanager
def upstream() -> Iterator[Target]:
    command = [sys.executable, str(HERE / "mock_upstream.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Target("server", int(process.stdout.readline()), process.pid)
        finally:
            process.kill()


@contextmanager
def node(data_dir: Path, port: int) -> Iterator[Target]:
    one = NodeProcess(data_dir, "--no-keyless")
    one.start()
    try:
        one.cli("publish", f"openai+http://127.0.0.1:{port}/v1", "--upstream-model", "mock")
        key = one.cli("key", "create", "bench")["key"]
        target = Target("aigrid", urlsplit(one.gateway).port or 0, one.pid, key)
        wait_for(lambda: answers(target), timeout_seconds=60, what="the model")
        yield target
    finally:
        one.stop()


def litellm_command(version: str) -> tuple[Path | None, str]:
    """LiteLLM's program, installed if need be; or None, and why."""
    if version == "none":
        return None, "as was asked for"
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    place = cache / "aigrid" / "bench" / f"litellm-{version}"
    command = place / "bin" / "litellm"
    if command.exists():
        return command, ""
    print(f"Installing LiteLLM {version}: a few minutes, once.", file=sys.stderr)
    venv.create(place, with_pip=True, clear=True)
    install = [str(place / "bin" / "pip"), "install", "--quiet", f"litellm[proxy]=={version}"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode or not command.exists():
        shutil.rmtree(place, ignore_errors=True)
        return None, (done.stderr.strip().splitlines() or ["pip failed"])[-1]
    return command, ""


@contextmanager
def litellm(command: Path, root: Path, upstream_port: int) -> Iterator[Target]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    key = f"sk-{secrets.token_hex(16)}"
    behind = {
        "model": "openai/mock",
        "api_base": f"http://127.0.0.1:{upstream_port}/v1",
        "api_key": "none",
    }
    config = {
        "model_list": [{"model_name": "mock", "litellm_params": behind}],
        "litellm_settings": {"num_retries": 0, "set_verbose": False},
        "general_settings": {"master_key": key},
    }
    (root / "litellm.yaml").write_text(json.dumps(config))  # JSON is YAML
    options = ("--config", str(root / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(port))
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_DOCS": "True"}
    process = subprocess.Popen(
        [str(command), *options, "--num_workers", "1", "--telemetry", "False"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=root,
        env={**os.environ, **quiet, "LITELLM_MODE": "PRODUCTION"},
        start_new_session=True,
    )
    target = Target("litellm", port, process.pid, key)
    try:
        wait_for(lambda: answers(target), timeout_seconds=180, what="LiteLLM")
        yield target
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(target: Target) -> bool:
    """Whether it answers a request."""
    body = {"model": "mock", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"Authorization": f"Bearer {target.key}", "Content-Type": "application/json"}
    url = f"http://127.0.0.1:{target.port}/v1/chat/completions"
    try:
        with urlopen(Request(url, json.dumps(body).encode(), headers), timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


# Processes


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in tasks.read_text().split():
                found += tree(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """Of a process and its descendants, ended ones included."""
    ticks = 0
    for one in tree(pid):
        with suppress(OSError):
            words = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, words[11:15]))
    return ticks / TICKS


def rss_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def report(found: Sequence[Measured]) -> None:
    """A table, and how the gateways compare."""
    print(
        f"{'':12}{'clients':>8} {'gateway':9}{'CPU ms':>9}{'of LiteLLM':>12}{'requests/s':>12}"
        f"{'added p50':>12}{'added p99':>12}{'first p50':>12}{'RSS MB':>8}"
    )
    by: dict[tuple[str, int], dict[str, Measured]] = {}
    for one in found:
        by.setdefault((one.kind, one.clients), {})[one.target] = one
    for (kind, clients), measured in by.items():
        server, theirs = measured["server"], measured.get("litellm")
        for name in NAMES[1:]:
            if name not in measured:
                continue
            one = measured[name]
            share: Any = f"1/{theirs.cpu_ms / one.cpu_ms:.1f}" if theirs and one.cpu_ms else "-"
            print(
                f"{kind:12}{clients:8} {name:9}{one.cpu_ms:9.2f}{share:>12}{one.per_second:12.0f}"
                f"{one.p50_ms - server.p50_ms:9.1f} ms{one.p99_ms - server.p99_ms:9.1f} ms"
                f"{one.first_p50_ms:9.1f} ms{one.rss_mb:8.0f}"
            )
        print(f"{'':20} server   {server.cpu_ms:9.2f}{'':12}{server.per_second:12.0f}")


if __name__ == "__main__":
    sys.exit(main())
