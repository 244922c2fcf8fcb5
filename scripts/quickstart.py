"""Three real nodes on this machine form a grid; one answers with a model that another one holds.

Run it as ./scripts/quickstart. A invites B and C; B fetches the starter model; the question goes to
C's gateway. Then the same question is timed against B's kind of worker without a grid between.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

import trio
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.direct import ask_directly, direct_worker, gguf_in
from scripts.nodes import (
    Chat,
    NodeFailedError,
    NodeProcess,
    stop_all,
    stream_chat,
    tokens_per_second,
    wait_for,
)
from scripts.offers import offers

from aigrid.engines.devices import threads as all_threads
from aigrid.protocol.errors import AigridError

MODEL = "smollm2"
QUESTION = "What is a grid of computers good for? Answer in two sentences."
TIMED_QUESTION = "Write a long story about a lighthouse keeper and the sea."
TIMED_TOKENS = 160
TOKENS_MIN = 128
NAMES = ("A", "B", "C")


def main() -> int:
    arguments = _parse()
    console = Console(stderr=arguments.json, highlight=False, emoji=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, _interrupt)
    root = Path(tempfile.mkdtemp(prefix="aigrid-quickstart-"))
    nodes: list[NodeProcess] = []
    try:
        summary = _run(arguments, console, root, nodes)
        if arguments.json:
            sys.stdout.write(json.dumps(summary) + "\n")
            sys.stdout.flush()
        if not arguments.once:
            _stay(console, nodes)
    except (NodeFailedError, AigridError, KeyboardInterrupt, BaseExceptionGroup) as error:
        cause = _cause(error)
        if isinstance(cause, KeyboardInterrupt):
            return 130
        if not isinstance(cause, NodeFailedError | AigridError):
            raise
        if arguments.json:
            sys.stdout.write(json.dumps({"ok": False, "error": str(cause)}) + "\n")
        console.print(f"Failed: {cause}", style="red", markup=False)
        return 1
    finally:
        with console.status("Stopping the nodes"):
            stop_all(nodes)
        shutil.rmtree(root, ignore_errors=True)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="quickstart", description=__doc__)
    parser.add_argument("--once", action="store_true", help="exit after the answer")
    parser.add_argument("--json", action="store_true", help="print one summary line last")
    parser.add_argument("--runs", type=int, default=5, help="timed runs; 0 skips the comparison")
    return parser.parse_args()


def _run(
    arguments: argparse.Namespace, console: Console, root: Path, nodes: list[NodeProcess]
) -> dict[str, Any]:
    threads = all_threads()
    _form_grid(console, root, nodes, threads)
    a, b, c = nodes
    model = _fetch(console, b, c)
    chats = [_ask(console, c)]
    speed: dict[str, Any] = {"direct": None, "ratio": None}
    if arguments.runs > 0:
        with console.status("Timing the same question with and without the grid between"):
            timed, speed = trio.run(
                partial(_compare, root, b, c, model, runs=arguments.runs, threads=threads)
            )
        chats += timed
        console.print(
            f"Speed: {median(chat.tokens_per_second for chat in timed):.0f} tokens/s through the"
            f" grid, {speed['direct']['tokens_per_s']:.0f} asked directly"
            f" (ratio {speed['ratio']:.2f}, {threads} threads)"
        )
    return {
        "ok": all(chat.tokens > 0 and chat.served_by == b.peer_id for chat in chats),
        "nodes": [_describe(node) for node in (a, b, c)],
        "requests": [_figures(chat, c) for chat in chats],
        **speed,
    }


def _form_grid(console: Console, root: Path, nodes: list[NodeProcess], threads: int) -> None:
    nodes += [
        NodeProcess(root / name.lower(), "--name", name, "--threads", str(threads))
        for name in NAMES
    ]
    with console.status("Starting three nodes"):
        for node in nodes:
            node.launch()
        for node in nodes:
            node.wait_ready()
    a, *others = nodes
    console.print(f"Three nodes are up; A's grid is {a.ready['grid']}")
    for name, node in zip(NAMES[1:], others, strict=True):
        invitation = a.cli("invite", node.cli("id")["did"])["invitation"]
        node.cli("join", invitation)
        node.read_ready_file()
        console.print(f"A invited {name}, and {name} joined: {node.peer_id}")
    if len({node.ready["grid"] for node in nodes}) != 1:
        raise NodeFailedError("the nodes are not in one grid")


def _fetch(console: Console, b: NodeProcess, c: NodeProcess) -> str:
    """Bring the model to B; its id, once C knows of it."""
    with console.status(f"B fetches {MODEL} (93 MB the first time)"):
        b.cli("models", "fetch", MODEL, timeout_seconds=600)

    def seen() -> str | None:
        found = (offer for offer in offers(c) if offer["node"] == b.peer_id)
        return next((str(offer["model"]) for offer in found), None)

    with console.status("C hears of it"):
        model = wait_for(seen, timeout_seconds=60, what=f"C to hear of {MODEL}")
    candidate = c.cli("find", "text-generation")["candidates"][0]
    console.print(f"B offers {MODEL}; C has heard of it, signed by {candidate['signer']}")
    return model


def _ask(console: Console, c: NodeProcess) -> Chat:
    console.print(f"\nAsking C, which holds no model: {QUESTION}")
    body = _body(QUESTION, TIMED_TOKENS)
    chat = stream_chat(c.gateway, body, on_text=partial(console.out, end="", highlight=False))
    console.print(
        f"\n\nServed by {chat.served_by}: {chat.tokens} tokens,"
        f" the first after {chat.ttft_seconds * 1000:.0f} ms"
    )
    return chat


async def _compare(
    root: Path, b: NodeProcess, c: NodeProcess, model: str, *, runs: int, threads: int
) -> tuple[list[Chat], dict[str, Any]]:
    """Ask in turns, so that whatever else the machine does meets both alike."""
    path = gguf_in(b.data_dir)
    if path is None:
        raise NodeFailedError(f"no model file was found in {b.data_dir}")
    chats: list[Chat] = []
    direct: list[float] = []
    body = _body(TIMED_QUESTION, TIMED_TOKENS)
    async with direct_worker(
        path, model_id=model, threads=threads, scratch=root / "direct"
    ) as worker:
        for number in range(runs + 1):
            tokens, seconds = await ask_directly(worker, TIMED_QUESTION, max_tokens=TIMED_TOKENS)
            chat = await trio.to_thread.run_sync(partial(stream_chat, c.gateway, body))
            if number == 0:
                continue  # both warm up
            if min(tokens, chat.tokens) < TOKENS_MIN:
                raise NodeFailedError(f"an answer had fewer than {TOKENS_MIN} tokens")
            direct.append(tokens_per_second(tokens, seconds))
            chats.append(chat)
    yardstick = median(direct)
    through = median(chat.tokens_per_second for chat in chats)
    return chats, {
        "direct": {"tokens_per_s": round(yardstick, 2), "threads": threads},
        "ratio": round(through / yardstick, 4),
    }


def _body(question: str, max_tokens: int) -> dict[str, Any]:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": 0,
    }


def _describe(node: NodeProcess) -> dict[str, Any]:
    held = [m["name"] for m in offers(node) if m["node"] == node.peer_id]
    return {
        "peer_id": node.peer_id,
        "gateway": node.gateway,
        "pid": node.pid,
        "data_dir": str(node.data_dir),
        "models": held,
    }


def _figures(chat: Chat, asked: NodeProcess) -> dict[str, Any]:
    return {
        "model": chat.model,
        "asked": asked.peer_id,
        "served_by": chat.served_by,
        "ttft_ms": round(chat.ttft_seconds * 1000, 1),
        "tokens": chat.tokens,
        "tokens_per_s": round(chat.tokens_per_second, 2),
    }


def _stay(console: Console, nodes: list[NodeProcess]) -> None:
    console.print("\nThe nodes keep running. Ask them yourself:")
    url = f"{nodes[-1].gateway}/v1/chat/completions"
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]})
    console.print(f"  curl {url} -H 'Content-Type: application/json' -d '{body}'", markup=False)
    console.print(f"  .venv/bin/aigrid --data-dir {nodes[-1].data_dir} ask Hello", markup=False)
    console.print("Ctrl-C stops them.")
    while all(node.alive for node in nodes):
        time.sleep(0.5)
    raise NodeFailedError("a node ended by itself")


def _cause(error: BaseException) -> BaseException:
    """The first of what a nursery bundled."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
