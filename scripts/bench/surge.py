"""A surge of requests for one model: its replicas go from one to several, and back to one.

    python scripts/bench/surge.py --clients 24 --seconds 60      (quick: --quick)

Four real nodes. The first publishes SmolLM2 and has it loaded; the others have nothing, and trust
it. `--clients` at once ask through the last node's gateway, one request after the other, for
`--seconds`; then nobody asks any more. Each node runs one worker of the model at most, so that more
room means more nodes. Given is when which replica was loaded or gone, how many requests were
answered, and how long they waited for their first token before and after the replicas were there.

Wrong, and an exit status other than 0, is: a request that was not answered, no second replica, more
than one replica long after the surge, or none.
"""

import argparse
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import at_least, tell
from scripts.nodes import (
    Chat,
    NodeFailedError,
    NodeProcess,
    form_grid,
    stop_all,
    stream_chat,
    wait_for,
)

MODEL = "smollm2"
IDLE_SECONDS = 10
QUIET_SECONDS = 120
POLL_SECONDS = 0.5
CONFIG = f"""\
[pool]
workers_per_model = 1

[placement]
host = "members"
replicas_min = 0
replica_idle_seconds = {IDLE_SECONDS}
"""


@dataclass
class Seen:
    """Of the surge: when each was asked and its time to the first token; what was lost."""

    answers: list[tuple[float, float]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    most: int = 0
    full_at: float = 0.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tokens", type=int, default=48, help="of an answer")
    parser.add_argument("--quick", action="store_true", help="16 clients for 25 seconds")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.clients, arguments.seconds = 16, 25
    root = Path(tempfile.mkdtemp(prefix="aigrid-surge-"))
    nodes = [node_of(root / f"n{number}") for number in range(4)]
    try:
        form_grid(nodes)
        return Surge(nodes, arguments).run()
    except NodeFailedError as error:
        print(f"Failed: {error}", file=sys.stderr)
        return 1
    finally:
        stop_all(nodes)
        shutil.rmtree(root, ignore_errors=True)


def node_of(data_dir: Path) -> NodeProcess:
    data_dir.mkdir(mode=0o700)
    (data_dir / "config.toml").write_text(CONFIG)
    return NodeProcess(data_dir, "--name", data_dir.name, "--threads", "1")


class Surge:
    """The clients, and what is seen of the replicas meanwhile."""

    def __init__(self, nodes: list[NodeProcess], arguments: argparse.Namespace) -> None:
        self.nodes = nodes
        self.arguments = arguments
        self.seen = Seen()
        self.names = {node.peer_id: node.data_dir.name for node in nodes}
        self.began = time.monotonic()
        self.asking = True
        self.before: set[str] = set()

    def run(self) -> int:
        self.nodes[0].cli("models", "fetch", MODEL, timeout_seconds=600)
        wait_for(self.warm_after_asking, timeout_seconds=120, what="the first replica")
        self.began = time.monotonic()
        clients = [
            threading.Thread(target=self.client, daemon=True) for _ in range(self.arguments.clients)
        ]
        for client in clients:
            client.start()
        self.say(f"{len(clients)} clients begin")
        self.watch(until=self.began + self.arguments.seconds)
        self.asking = False
        for client in clients:
            client.join(300)
        self.say(f"the last of them is done; {sum(c.is_alive() for c in clients)} hang")
        self.watch(until=time.monotonic() + QUIET_SECONDS, enough=1)
        return self.report()

    def warm_after_asking(self) -> set[str]:
        chat(self.nodes[-1], 4)
        return self.warm()

    def client(self) -> None:
        while self.asking:
            asked = time.monotonic() - self.began
            try:
                answer = chat(self.nodes[-1], self.arguments.tokens)
            except (NodeFailedError, OSError) as error:
                self.seen.lost.append(f"{asked:.1f} s: {error}")
                return
            self.seen.answers.append((asked, answer.ttft_seconds))

    def watch(self, *, until: float, enough: int = 0) -> None:
        """Tell of replicas that come and go, until then or until `enough` are left."""
        while time.monotonic() < until:
            now = self.warm()
            for peer in sorted(now ^ self.before, key=self.names.__getitem__):
                what = "is loaded" if peer in now else "is gone"
                self.say(f"{self.names[peer]} {what}: {len(now)} in all")
            self.before = now
            if len(now) > self.seen.most:
                self.seen.most, self.seen.full_at = len(now), time.monotonic() - self.began
            if len(now) == enough:
                return
            time.sleep(POLL_SECONDS)

    def warm(self) -> set[str]:
        listed = self.nodes[-1].cli("models")["models"]
        return {peer for model in listed if model["name"] == MODEL for peer in model["warm"]}

    def say(self, what: str) -> None:
        print(f"{time.monotonic() - self.began:7.1f} s  {what}", flush=True)

    def report(self) -> int:
        seen, left = self.seen, len(self.before)
        first = [ttft for asked, ttft in seen.answers if asked < seen.full_at]
        later = [ttft for asked, ttft in seen.answers if asked >= seen.full_at]
        print(f"\nreplicas            1 -> {seen.most} -> {left}")
        print(f"answered            {len(seen.answers)}")
        print(f"lost                {len(seen.lost)}")
        for name, found in (("before", first), ("once all were there", later)):
            if found:
                print(f"first token, median {median(found):5.2f} s  ({name}, {len(found)})")
        answered, asked = len(seen.answers), len(seen.answers) + len(seen.lost)
        told = ("asked", [asked])
        tell("answered", [answered], "requests", beside=told, aim=at_least(1))
        if first and later:
            tell("first token, all replicas", later, "s", beside=("before", first))
        for lost in seen.lost[:5]:
            print(lost, file=sys.stderr)
        return 0 if not seen.lost and seen.most > 1 and left == 1 else 1


def chat(node: NodeProcess, tokens: int) -> Chat:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Count to a hundred."}]}
    return stream_chat(node.gateway, {**body, "max_tokens": tokens}, timeout_seconds=300)


if __name__ == "__main__":
    sys.exit(main())
