"""Conversations at once on one node: tokens per second beside one, and how soon each is cancelled.

    python scripts/bench/batching.py [--quick]

Fetches the starter model if need be. A real node answers one chat and then several at once over
HTTP, in turns. Speed is all tokens over the time from the first request to the last token, prompts
included; `first` is the time to the first token. Then several chats are open, and one after the
other is left by its client: `leave` is the time until the node's count of running requests has
dropped, as its control socket tells. After the last, the worker must be idle. The same is done to
the engine in this process, where the time is until it says that it has stopped.

`ties`: greedy answers of the engine to several prompts at once beside each of them alone, and
beside what it computes where the answer so far is a part of the prompt, in chunks. The latter
differs in the last bits as another processor would, and 8-bit inputs make more of that: where the
likeliest token is another one, `margins` says by how much it was the likeliest before. From these
comes `sampling.NEAR_TIE`. Exits with 1 if a chat failed, or went on after it was left.
"""

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import at_least, at_most, tell
from scripts.nodes import NodeProcess, stop_all, stream_chat, wait_for
from tests.engines.texts import inside, load

from aigrid.engines.base import CancelToken
from aigrid.engines.batched_sequence import BatchedSequence
from aigrid.engines.onnx_decoder import Run
from aigrid.engines.onnx_text import OnnxTextEngine
from aigrid.engines.sampling import NEAR_TIE, Logits
from aigrid.node.control_client import SOCKET_FILE, ControlClient
from aigrid.protocol.inference import ChatMessage, TextChunk, TextRequest

MODEL, WORKER = "smollm2", "aigrid.engines.worker"
QUIET_SECONDS = 0.25
THINGS = ("a fox", "the sea", "a bridge", "winter", "a baker", "the moon", "a violin", "a garden")


def ask(thing: str) -> str:
    return f"Write a long story about {thing}, with many details."


def body(thing: str, tokens: int) -> dict[str, Any]:
    message = {"role": "user", "content": ask(thing)}
    return {"model": MODEL, "messages": [message], "max_tokens": tokens, "temperature": 0}


def at_once(node: NodeProcess, count: int, tokens: int, turn: int = 0) -> dict[str, Any]:
    """Tokens per second of so many chats, and their times to the first token."""
    # No prompt begins as one did before, so that all are computed.
    things = [f"{turn} days, {count} friends and {thing}" for thing in THINGS[:count]]
    began = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        chats = list(pool.map(lambda thing: stream_chat(node.gateway, body(thing, tokens)), things))
    took = time.perf_counter() - began
    firsts = [chat.ttft_seconds for chat in chats]
    return {"speed": sum(chat.tokens for chat in chats) / took, "firsts": firsts}


class Open:
    """A chat that goes on until it is left."""

    def __init__(self, node: NodeProcess, thing: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(node.gateway).netloc, timeout=60)
        sent = json.dumps({**body(thing, 2000), "stream": True})
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", "/v1/chat/completions", sent, headers)
        self._answer = self._connection.getresponse()
        while b'"content"' not in self._answer.readline():
            pass
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def leave(self) -> None:
        if self._connection.sock is not None:
            self._connection.sock.close()
        self._answer.close()

    def _read(self) -> None:
        try:
            while self._answer.readline():
                pass
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            return


def leaving(node: NodeProcess, count: int) -> tuple[list[float], float]:
    """Milliseconds until the node runs one request less, for each; the worker's use of a core."""

    def running() -> int:
        status = ControlClient(node.data_dir / SOCKET_FILE).call("status", {})
        return int(status["requests"]["running"])

    with ThreadPoolExecutor(count) as pool:
        chats = list(pool.map(lambda thing: Open(node, thing), THINGS[:count]))
    wait_for(lambda: running() == count or None, timeout_seconds=30, what="all to run")
    took = []
    for left, chat in enumerate(chats):
        began = time.perf_counter()
        chat.leave()
        while running() > count - left - 1:
            if time.perf_counter() - began > 10:
                break
        took.append((time.perf_counter() - began) * 1000)
    workers = [psutil.Process(pid) for pid in node.workers(WORKER)]

    def used() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in workers)

    time.sleep(QUIET_SECONDS)
    before = used()
    time.sleep(2 * QUIET_SECONDS)
    return took, (used() - before) / (2 * QUIET_SECONDS)


def over_http(options: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    with tempfile.TemporaryDirectory(prefix="aigrid-batching-") as folder:
        node = NodeProcess(Path(folder) / "node", "--threads", str(options.threads))
        try:
            node.start()
            node.cli("models", "fetch", MODEL, timeout_seconds=600)
            (path,) = node.data_dir.glob("models/*/files/*.gguf")
            kept = options.keep / path.name
            kept.write_bytes(path.read_bytes())
            at_once(node, 1, 2)  # a first load is not what is asked here
            turns: dict[int, list[dict[str, Any]]] = {1: [], options.chats: []}
            for turn in range(options.rounds):
                for count, found in turns.items():
                    found.append(at_once(node, count, options.tokens, turn))
            took, busy = leaving(node, options.chats)
        finally:
            stop_all([node])
    speeds = {count: [turn["speed"] for turn in found] for count, found in turns.items()}
    many = f"{options.chats} chats, tokens/s"
    tell(many, speeds[options.chats], "1/s", beside=("one chat", speeds[1]), aim=at_least(2.5))
    tell("a chat is left", took, "ms", aim=at_most(250, of_value=True))
    figures: dict[str, Any] = {}
    for count, found in turns.items():
        firsts = [first for turn in found for first in turn["firsts"]]
        figures[f"{count} at once"] = {
            "tokens_per_second": round(median(turn["speed"] for turn in found), 1),
            "first_ms_median": round(median(firsts) * 1000),
            "first_ms_max": round(max(firsts) * 1000),
        }
    one, many = (median(turn["speed"] for turn in found) for found in turns.values())
    figures["ratio"] = round(many / one, 2)
    figures["leave_ms"] = [round(each, 1) for each in took]
    figures["worker_cores_used_after"] = round(busy, 2)
    return figures, kept


def cancelling(engine: OnnxTextEngine, count: int) -> list[float]:
    """Milliseconds from cancelling one of several to its end, for each."""
    tokens = [CancelToken() for _ in range(count)]
    ended = [threading.Event() for _ in range(count)]
    begun = threading.Barrier(count + 1)

    def talk(number: int) -> None:
        answer = engine.infer(TextRequest(prompt=ask(THINGS[number])), tokens[number])
        next(answer)
        begun.wait()
        for _ in answer:
            pass
        ended[number].set()

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    begun.wait()
    took = []
    for number in range(count):
        time.sleep(0.1)
        began = time.perf_counter()
        tokens[number].cancel()
        ended[number].wait(10)
        took.append(round((time.perf_counter() - began) * 1000, 1))
    return took


def said(engine: OnnxTextEngine, thing: str, count: int) -> list[int]:
    messages = (ChatMessage("user", ask(thing)),)
    request = TextRequest(messages=messages, max_tokens=count, temperature=0.0)
    chunks = engine.infer(request, CancelToken())
    return [t for chunk in chunks if isinstance(chunk, TextChunk) for t in chunk.token_ids]


def ties(engine: OnnxTextEngine, count: int) -> dict[str, Any]:
    """How often the same prompt has another greedy answer, and how near the first tokens were."""
    alone = [said(engine, thing, count) for thing in THINGS]
    with ThreadPoolExecutor(len(THINGS)) as pool:
        together = list(pool.map(lambda thing: said(engine, thing, count), THINGS))
    positions, margins, shifts = 0, [], []
    for thing, answer in zip(THINGS, alone, strict=True):
        loaded = inside(engine)
        messages = (ChatMessage("user", ask(thing)),)
        prompt = loaded.tokenizer.encode(loaded.template.render(messages))
        sequence, run = BatchedSequence(loaded.batch), Run(CancelToken())
        all(sequence.prefill(prompt, run))
        for length, token in enumerate(answer):
            stepped = sequence.logits.copy()
            if length % 4 == 3:
                chunked = at_end(loaded.batch, [*prompt, *answer[:length]])
                positions += 1
                shifts.append(abs(margin(stepped) - margin(chunked)))
                if stepped.argmax() != chunked.argmax():
                    margins.append(round(margin(stepped), 3))
            sequence.step([token], run)
        sequence.leave()
    differ = sum(one != other for one, other in zip(alone, together, strict=True))
    return {
        "answers": len(THINGS),
        "tokens": sum(map(len, alone)),
        "other_answers_at_once": differ,
        "positions_in_chunks": positions,
        "other_tokens_in_chunks": len(margins),
        "margins": sorted(margins),
        "margin_shift_p50_p95": [round(float(p), 3) for p in np.percentile(shifts, [50, 95])],
        "near_tie": NEAR_TIE,
    }


def at_end(batch: Any, tokens: list[int]) -> Logits:
    """The logits after some tokens, computed in chunks."""
    sequence = BatchedSequence(batch)
    all(sequence.prefill(tokens, Run(CancelToken())))
    found: Logits = sequence.logits.copy()
    sequence.leave()
    return found


def margin(logits: Logits) -> float:
    """How much likelier the likeliest token is than the next, in logits."""
    second, first = np.partition(logits, len(logits) - 2)[-2:]
    return float(first - second)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of short answers")
    parser.add_argument("--threads", type=int, default=psutil.cpu_count() or 1)
    parser.add_argument("--chats", type=int, default=8, choices=range(2, len(THINGS) + 1))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.tokens = 1, 48
    with tempfile.TemporaryDirectory(prefix="aigrid-batching-") as folder:
        options.keep = Path(folder)
        figures, path = over_http(options)
        engine = load(path, threads=options.threads, spin=False, context=1024, reuse_prefix=False)
        figures["engine_leave_ms"] = cancelling(engine, options.chats)
        figures["ties"] = ties(engine, 16 if options.quick else 64)
    figures["load"] = psutil.getloadavg()[0]
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return int(figures["worker_cores_used_after"] > 0.5)


if __name__ == "__main__":
    sys.exit(main())
