"""Idle to zero and back: memory after a model was unloaded, and the first token of the next load.

    python scripts/bench/cold_start.py --rounds 7      (quick: --rounds 2)

Two nodes hold SmolLM2, one without spare workers and one with a spare. In turns, each is asked when
nothing is loaded, and beside them the engine is started by itself: its worker process, the same
file, the same cached graph, no node. Given is the median from the request, or from starting the
process, to the first piece of text. Memory is the proportional set size (PSS) of a node with all
its children, once its model is unloaded again: after the first time, and after the last.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import at_most, tell
from scripts.direct import ENGINE, gguf_in
from scripts.nodes import NodeFailedError, NodeProcess, stop_all, stream_chat, wait_for

from aigrid.engines.base import ModelSource
from aigrid.node.workers.spawning import ProcessSpawner
from aigrid.protocol.inference import ChatMessage, TextChunk, TextRequest

MODEL, WORKER, PROMPT = "smollm2", "aigrid.engines.worker", "Say hello."
KEEP_ALIVE_SECONDS, SETTLED_SECONDS = 3.0, 2.0
MIB = 2**20


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aigrid-cold-") as folder:
        nodes = [node_with(Path(folder) / f"spares{n}", n, arguments.threads) for n in (0, 1)]
        try:
            measure(Path(folder), nodes, arguments.rounds, arguments.threads)
        except NodeFailedError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        finally:
            stop_all(nodes)
    return 0


def node_with(data_dir: Path, spares: int, threads: int) -> NodeProcess:
    data_dir.mkdir(mode=0o700)
    (data_dir / "config.toml").write_text(
        f"[pool]\nspares = {spares}\nkeep_alive_seconds = {KEEP_ALIVE_SECONDS}\n"
    )
    return NodeProcess(data_dir, "--threads", str(threads))


def measure(folder: Path, nodes: list[NodeProcess], rounds: int, threads: int) -> None:
    for node in nodes:
        node.start()
        node.cli("models", "fetch", MODEL, timeout_seconds=300)
        ask(node)  # builds the graph
    file = gguf_in(nodes[0].data_dir / "models")
    if file is None:
        raise NodeFailedError("the node has no GGUF file")
    cache = folder / "cache"
    shutil.copytree(nodes[0].data_dir / "cache", folder / "node-cache")
    (only,) = (folder / "node-cache").iterdir()
    only.rename(cache)
    first = [idle_bytes(node, spares) for spares, node in enumerate(nodes)]
    own: list[float] = []
    cold: list[list[float]] = [[], []]
    for _ in range(rounds):
        own.append(trio.run(started_alone, file, cache, threads, folder))
        for spares, node in enumerate(nodes):
            cold[spares].append(ask(node))
            idle_bytes(node, spares)
    last = [idle_bytes(node, spares) for spares, node in enumerate(nodes)]
    alone = median(own)
    say(f"{rounds} rounds, {threads} threads", "first token", "of alone", "idle PSS", "changed by")
    say("the engine alone", f"{alone * 1000:.0f} ms")
    for spares, node_cold in enumerate(cold):
        ms, ratio = f"{median(node_cold) * 1000:.0f} ms", f"{median(node_cold) / alone:.2f} x"
        changed = f"{(last[spares] / first[spares] - 1) * 100:+.1f} %"
        name = "a node with a spare" if spares else "a node without spares"
        aim, idle = at_most(1.2), at_most(1.1)
        tell(f"first token, {name}", node_cold, "s", beside=("the engine alone", own), aim=aim)
        before, after = [first[spares]], [last[spares]]
        tell(f"idle PSS, {name}", after, "B", beside=("after one load", before), aim=idle)
        say(name, ms, ratio, f"{last[spares] / MIB:.0f} MiB", changed)


def ask(node: NodeProcess) -> float:
    """Seconds to the first piece of text."""
    chat = {"role": "user", "content": PROMPT}
    body = {"model": MODEL, "messages": [chat], "max_tokens": 4, "temperature": 0}
    return stream_chat(node.gateway, body).ttft_seconds


def idle_bytes(node: NodeProcess, spares: int) -> int:
    """PSS of a node and its children, once nothing but spares has been there for a while."""
    since = time.monotonic()

    def settled() -> bool:
        nonlocal since
        if len(node.workers(WORKER)) != spares:
            since = time.monotonic()
        return time.monotonic() - since >= SETTLED_SECONDS

    wait_for(settled, timeout_seconds=60, what="a model to be unloaded")
    return node.usage().pss_bytes


async def started_alone(file: Path, cache: Path, threads: int, folder: Path) -> float:
    """Seconds from starting a worker process to its first piece of text."""
    source = ModelSource(
        "cold", "gguf", {"model.gguf": file}, "text-generation", cache_directory=cache
    )
    spawner = ProcessSpawner(folder / "logs")
    request = TextRequest(messages=(ChatMessage("user", PROMPT),), max_tokens=4, temperature=0.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(spawner.run)
        began = time.perf_counter()
        worker = await spawner.spawn(source, engine=ENGINE, threads=threads)
        seconds = 0.0
        async with worker.infer(request) as batches:
            async for batch in batches:
                if not seconds and any(isinstance(c, TextChunk) and c.text for c in batch):
                    seconds = time.perf_counter() - began
        await worker.kill()
        nursery.cancel_scope.cancel()
    return seconds


def say(name: str, *cells: str) -> None:
    sys.stdout.write(f"{name:24}" + "".join(f"{cell:>14}" for cell in cells) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
