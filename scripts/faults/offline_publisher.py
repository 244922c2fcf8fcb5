"""A laptop publishes a model and goes away; the model lives on, and comes to where it is wanted.

    python scripts/faults/offline_publisher.py            (quick, with a tiny model: --tiny)

Four real nodes. *laptop* publishes SmolLM2 and gives its files. *keeper*, which has no memory to
run it, fetches the files so that they are not lost; then the laptop goes offline. A request at
*asker*, which hosts nothing, makes *host* fetch the files from the keeper, load the model and
answer. Then the keeper goes too, and another answer comes from the host alone.

Wrong, and an exit status other than 0, is: no answer, or one that other than the host gave. Prints
what happened when.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.nodes import (
    Chat,
    NodeFailedError,
    NodeProcess,
    form_grid,
    stop_all,
    stream_chat,
    wait_for,
)
from scripts.offers import told

MODEL = "smollm2"
PLACEMENT = {
    "asker": "host=nothing,replicas_min=0",
    "laptop": "host=nothing,replicas_min=0",
    "keeper": "host=members,replicas_min=2,keep_after_seconds=2",
    "host": "host=members,replicas_min=0",
}
KEEPER_MEMORY = "cpu=1MiB"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="a model of some kilobytes")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="aigrid-offline-"))
    try:
        return run(root, tiny=arguments.tiny)
    except NodeFailedError as error:
        print(f"Failed: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(root, ignore_errors=True)


def run(root: Path, *, tiny: bool) -> int:
    """The whole chain; the exit status."""
    nodes = {name: node_of(root / name, name) for name in PLACEMENT}
    try:
        form_grid(list(nodes.values()))
        return chain(root, nodes, tiny=tiny)
    finally:
        stop_all(list(nodes.values()))


def node_of(data_dir: Path, name: str) -> NodeProcess:
    environment = {"AIGRID_PLACEMENT": PLACEMENT[name]}
    if name == "keeper":
        environment["AIGRID_MEMORY"] = KEEPER_MEMORY
    return NodeProcess(data_dir, "--name", name, environment=environment)


def chain(root: Path, nodes: dict[str, NodeProcess], *, tiny: bool) -> int:
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {what}", flush=True)

    asker, laptop, keeper, host = (nodes[n] for n in ("asker", "laptop", "keeper", "host"))
    model = publish(root, laptop, tiny=tiny)
    say(f"laptop has published {MODEL}")
    wait_for(
        lambda: gives(keeper, model, keeper),
        timeout_seconds=300,
        what="the files at the keeper",
    )
    wait_for(lambda: gives(asker, model, keeper), timeout_seconds=60, what="news of them")
    say("keeper has fetched the files, unasked")
    laptop.stop()
    say("laptop is offline")
    wait_for(lambda: not gives(host, model, laptop), timeout_seconds=60, what="the laptop's going")
    first = ask(asker)
    say(f"asker has its first answer, first token after {first.ttft_seconds:.1f} s: {first.text!r}")
    second = ask(asker)
    say(f"and a second, first token after {second.ttft_seconds:.2f} s")
    keeper.stop()
    third = ask(asker)
    say(f"and a third without the keeper, first token after {third.ttft_seconds:.2f} s")
    wrong = [chat for chat in (first, second, third) if chat.served_by != host.peer_id]
    for chat in wrong:
        print(f"served by {chat.served_by}, not by the host", file=sys.stderr)
    return 1 if wrong else 0


def publish(root: Path, node: NodeProcess, *, tiny: bool) -> str:
    """The model's id."""
    if not tiny:
        return str(node.cli("models", "fetch", MODEL, timeout_seconds=600)["model"])
    from tests.engines.gguf_writer import tiny_llama, write

    path = str(write(root, tiny_llama()))
    said = node.cli("publish", path, "--capability", "text-generation", "--name", MODEL)
    return str(said["model"])


def gives(node: NodeProcess, model: str, holder: NodeProcess) -> bool:
    """Whether `holder` gives the files away, as `node` sees it."""
    listed = told(node, "models")["models"]
    return any(m["model"] == model and holder.peer_id in m["seeds"] for m in listed)


def ask(node: NodeProcess) -> Chat:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}]}
    return stream_chat(node.gateway, {**body, "max_tokens": 12}, timeout_seconds=300)


if __name__ == "__main__":
    sys.exit(main())
