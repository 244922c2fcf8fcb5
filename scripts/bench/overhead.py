"""Where a request's CPU time goes, by stage: asked here and over libp2p, whole and streamed.

    python scripts/bench/overhead.py --seconds 10 --json result.json      (quick: --quick)

A node offers a model behind `mock_upstream.py`, and is asked through its own gateway (`local`) and
through that of another member on this machine (`remote`), by four clients. Meanwhile each node is
sampled (`sampler.py`: its stack, with the CPU time since the sample before), and each sample is put
down to the innermost frame that belongs to a stage; what belongs to none is trio's own. The worker
of the engine counts whole, as the kernel does. `sampled` says how much the samples of the nodes
come to, of the CPU time that the kernel counts for them: within 5 % of 100, or the run was too
short.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.gateway import SLOW, STREAM, WHOLE, Target, cpu_seconds, load, tree, upstream
from scripts.bench.reporting import tell
from scripts.nodes import NodeProcess, form_grid, stop_all, wait_for

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = 4
# The first fragment of a path that is found decides; frames are looked at from the innermost out.
STAGES = (
    ("node/gateway/auth/", "auth"),
    ("node/gateway/http/", "HTTP"),
    ("/h11/", "HTTP"),
    ("node/gateway/", "dialect and validation"),
    ("node/policy/", "policy and receipts"),
    ("metagraph/", "routing"),
    ("node/mesh/routing/", "routing"),
    ("node/mesh/", "serving and pool"),
    ("node/workers/", "worker IPC"),
    ("engines/ipc", "worker IPC"),
    ("node/network/", "libp2p and RPC"),
    ("/libp2p/", "libp2p and RPC"),
    ("protocol/exchange", "libp2p and RPC"),
    ("protocol/framing", "libp2p and RPC"),
    ("protocol/messages", "libp2p and RPC"),
)
SCHEDULER, ENGINE = "trio", "engine (its worker)"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10, help="of each load")
    parser.add_argument("--quick", action="store_true", help="two seconds each")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    seconds = 2.0 if arguments.quick else arguments.seconds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started ends with this
    root = Path(tempfile.mkdtemp(prefix="aigrid-overhead-"))
    nodes = [sampled_node(root / name) for name in ("holder", "asker")]
    found: dict[str, dict[str, float]] = {}
    try:
        with upstream() as server:
            form_grid(nodes)
            url = f"openai+http://127.0.0.1:{server.port}/v1"
            nodes[0].cli("publish", url, "--upstream-model", "mock")
            for where, asked in (("local", nodes[0]), ("remote", nodes[1])):
                trust(asked, nodes[0])
                target = Target(where, urlsplit(asked.gateway).port or 0, asked.pid)
                for kind in (WHOLE, STREAM, SLOW):
                    load(target, kind, CLIENTS, 1)
                    found[f"{where}, {kind}"] = measure(nodes, target, kind, seconds)
    finally:
        stop_all(nodes)
        shutil.rmtree(root, ignore_errors=True)
    report(found)
    for kind in (WHOLE, STREAM, SLOW):
        cpu = ([found[f"{where}, {kind}"]["whole"]] for where in ("remote", "local"))
        tell(f"remote, {kind}: CPU", next(cpu), "ms", beside=("local", next(cpu)))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def sampled_node(data_dir: Path) -> NodeProcess:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path; "
        "from scripts.bench.sampler import serve_profile; "
        f"serve_profile(Path({str(profile_of(data_dir))!r})); "
        "from aigrid.node.cli import main; sys.exit(main())"
    )
    options = ("--name", data_dir.name)
    return NodeProcess(data_dir, *options, entry=(sys.executable, "-P", "-c", code))


def profile_of(data_dir: Path) -> Path:
    return data_dir.with_name(f"{data_dir.name}.profile")


def trust(asked: NodeProcess, holder: NodeProcess) -> None:
    """Wait until the one can ask for the other's model."""

    def listed() -> bool:
        return any(model["name"] == "mock" for model in asked.cli("models")["models"])

    wait_for(listed, timeout_seconds=60, what=f"the model of {holder.data_dir.name}")


def measure(
    nodes: list[NodeProcess], target: Target, kind: str, seconds: float
) -> dict[str, float]:
    """Milliseconds of CPU per request by stage, with `whole` and what was `sampled` in percent."""
    profiles = [profile_of(node.data_dir) for node in nodes]
    for node, profile in zip(nodes, profiles, strict=True):
        profile.unlink(missing_ok=True)
        os.kill(node.pid, signal.SIGUSR1)
    before = [own_and_workers(node) for node in nodes]
    measured = load(target, kind, CLIENTS, seconds)
    after = [own_and_workers(node) for node in nodes]
    for node in nodes:
        os.kill(node.pid, signal.SIGUSR2)
    stages: dict[str, float] = dict.fromkeys(
        (*(name for _, name in STAGES), ENGINE, SCHEDULER), 0.0
    )
    own_seconds = sampled_seconds = 0.0
    for profile, old, new in zip(profiles, before, after, strict=True):
        wait_for(profile.exists, timeout_seconds=10, what="a profile")
        stacks: dict[str, float] = json.loads(profile.read_text())
        own_seconds += new[0] - old[0]
        for stack, took in stacks.items():
            stages[stage_of(stack)] += took
            sampled_seconds += took
        stages[ENGINE] += new[1] - old[1]
    each = 1000 / max(measured.requests, 1)
    by_stage = {name: value * each for name, value in stages.items()}
    whole = sum(map(sum, after)) - sum(map(sum, before))
    return {**by_stage, "whole": whole * each, "sampled": 100 * sampled_seconds / own_seconds}


def own_and_workers(node: NodeProcess) -> tuple[float, float]:
    """CPU seconds of a node's own process, and of its workers."""
    whole = cpu_seconds(node.pid)
    workers = sum(cpu_seconds(pid) for pid in tree(node.pid)[1:])
    return whole - workers, workers


def stage_of(stack: str) -> str:
    """The stage of the innermost frame that has one."""
    for frame in stack.split(";"):
        for fragment, stage in STAGES:
            if fragment in frame:
                return stage
    return SCHEDULER


def report(found: dict[str, dict[str, float]]) -> None:
    names = dict.fromkeys(name for one in found.values() for name in one)
    print(f"{'CPU ms per request':24}" + "".join(f"{what:>22}" for what in found))
    for name in sorted(names, key=lambda name: name in ("whole", "sampled")):
        cells = []
        for one in found.values():
            value = one.get(name, 0.0)
            share = "  %" if name == "sampled" else f"{100 * value / one['whole']:4.0f} %"
            cells.append(f"{value:14.2f}{share:>8}")
        print(f"{name:24}" + "".join(cells))


if __name__ == "__main__":
    sys.exit(main())
