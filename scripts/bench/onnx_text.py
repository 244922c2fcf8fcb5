"""What the node adds to onnxruntime: tokens per second of the engine beside the bare library.

    python scripts/bench/onnx_text.py --threads 1 --rounds 7

Fetches the starter model if need be, and prints one JSON line. Bare is a session on the very graph
that the engine built: buffers bound once, the likeliest token taken from the logits, nothing turned
into text, nobody told. `engine` answers requests in this process; `worker` does in a worker
process, as a node has it. All three compute the same tokens, which is checked, greedily and without
reusing what the last request computed. They take turns, request by request. Of each the median is
given, the time that a quarter of its requests stay below (what others do on the machine is in the
slow ones), and the processor time of both processes, which depends on the others least.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import onnxruntime
import psutil  # type: ignore[import-untyped]
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import at_least, tell

from aigrid.engines import gguf, gguf_quant
from aigrid.engines.base import CancelToken, ModelSource
from aigrid.engines.llama import EMBEDDING, past_names, read_config, rotary_tables
from aigrid.engines.onnx_decoder import PREFILL_CHUNK
from aigrid.engines.onnx_text import OnnxTextEngine
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.node.mesh.shelf.starter import fetch
from aigrid.node.workers.process import WorkerProcess
from aigrid.node.workers.spawning import ProcessSpawner
from aigrid.protocol.inference import TextChunk, TextRequest

CONTEXT = 1024


@dataclass(frozen=True)
class Timed:
    """An answer: its tokens, seconds to the first and to the last of them, and processor time."""

    tokens: tuple[int, ...]
    first: float
    last: float
    cpu: float


Way = Callable[[tuple[int, ...], int], Awaitable[Timed]]


class Bare:
    """The graph's inputs and outputs, bound by hand."""

    def __init__(self, source: ModelSource, threads: int) -> None:
        assert source.cache_directory is not None
        (graph,) = source.cache_directory.glob("llama-*/graph.onnx")
        (path,) = source.files.values()
        buffer = gguf.map_file(path)
        model = gguf.parse(buffer)
        config = read_config(model)
        embedding = model.tensors[EMBEDDING]
        raw = gguf_quant.raw_rows(buffer, embedding)
        self.table = gguf_quant.dense(raw, embedding.type.name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        self.binding = self.session.io_binding()
        self.chunk = np.zeros((PREFILL_CHUNK, config.width), np.float32)
        self.last, self.positions = np.zeros(1, np.int32), np.zeros((), np.int32)
        self.logits = np.zeros(config.vocabulary, np.float32)
        self.held: list[Any] = [*rotary_tables(config, None, CONTEXT)]
        self.bind("cosine", self.held[0])
        self.bind("sine", self.held[1])
        self.bind("last_position", self.last)
        self.bind("positions", self.positions)
        shape = (1, config.kv_heads, CONTEXT, config.head_size)
        for name in past_names(config):
            values = np.zeros(shape, np.float32)
            self.held.append(values)
            self.bind(f"past.{name}", values)
            self.binding.bind_output(
                f"present.{name}", "cpu", 0, np.float32, shape, values.ctypes.data
            )
        self.binding.bind_output(
            "logits", "cpu", 0, np.float32, (1, 1, config.vocabulary), self.logits.ctypes.data
        )

    def bind(self, name: str, values: Any) -> None:
        self.binding.bind_input(name, "cpu", 0, values.dtype.type, values.shape, values.ctypes.data)

    async def __call__(self, prompt: tuple[int, ...], count: int) -> Timed:
        cpu, began = time.process_time(), time.perf_counter()
        done = 0
        for start in range(0, len(prompt), PREFILL_CHUNK):
            ids = prompt[start : start + PREFILL_CHUNK]
            self.chunk[: len(ids)] = self.table[list(ids)]
            done += len(ids)
            self.run(len(ids), done, rebind=True)
        tokens = [int(self.logits.argmax())]
        first = time.perf_counter() - began
        for at in range(count - 1):
            self.chunk[0] = self.table[tokens[-1]]
            done += 1
            self.run(1, done, rebind=at == 0)
            tokens.append(int(self.logits.argmax()))
        last = time.perf_counter() - began
        return Timed(tuple(tokens), first, last, time.process_time() - cpu)

    def run(self, count: int, done: int, *, rebind: bool) -> None:
        if rebind:
            self.bind("embeddings", self.chunk[:count][None])
        self.last[0] = done - 1
        self.positions[...] = done
        self.session.run_with_iobinding(self.binding)


def request(prompt: tuple[int, ...], count: int) -> TextRequest:
    return TextRequest(token_ids=prompt, max_tokens=count, temperature=0.0)


def engine(loaded: OnnxTextEngine) -> Way:
    async def ask(prompt: tuple[int, ...], count: int) -> Timed:
        cpu, began = time.process_time(), time.perf_counter()
        tokens: list[int] = []
        first = 0.0
        for chunk in loaded.infer(request(prompt, count), CancelToken()):
            if isinstance(chunk, TextChunk):
                tokens += chunk.token_ids
                first = first or time.perf_counter() - began
        last = time.perf_counter() - began
        return Timed(tuple(tokens), first, last, time.process_time() - cpu)

    return ask


def worker(process: WorkerProcess) -> Way:
    theirs = psutil.Process(process.pid)

    def cpu_seconds() -> float:
        used = theirs.cpu_times()
        return time.process_time() + float(used.user + used.system)

    async def ask(prompt: tuple[int, ...], count: int) -> Timed:
        cpu, began = cpu_seconds(), time.perf_counter()
        tokens: list[int] = []
        first = 0.0
        async with process.infer(request(prompt, count)) as batches:
            async for batch in batches:
                for chunk in batch:
                    if isinstance(chunk, TextChunk):
                        tokens += chunk.token_ids
                        first = first or time.perf_counter() - began
        last = time.perf_counter() - began
        return Timed(tuple(tokens), first, last, cpu_seconds() - cpu)

    return ask


async def measure(threads: int, rounds: int, prompt: int, count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = LocalModels(folder / "models", cache_directory=folder / "cache")
        await models.open()
        source = models.source((await fetch("smollm2", models)).model)
        options = {**source.options, "context": CONTEXT, "reuse_prefix": False, "spin": False}
        source = replace(source, options=options)
        loaded = OnnxTextEngine()
        loaded.load(source, threads=threads)
        spawner = ProcessSpawner(folder / "logs")
        async with trio.open_nursery() as nursery:
            await nursery.start(spawner.run)
            process = await spawner.spawn(source, engine="onnx_text", threads=threads)
            assert isinstance(process, WorkerProcess)
            ways: dict[str, Way] = {
                "bare": Bare(source, threads),
                "engine": engine(loaded),
                "worker": worker(process),
            }
            # Ids of no words in particular: the model goes on and on, as a benchmark wants it.
            tokens = tuple(1000 + 7 * n for n in range(prompt))
            timed = await take_turns(ways, tokens, count, rounds)
            await process.kill()
            nursery.cancel_scope.cancel()
    load = psutil.getloadavg()[0]
    return {"model": "smollm2", "threads": threads, "load": load, **figures(timed, prompt, count)}


async def take_turns(
    ways: dict[str, Way], prompt: tuple[int, ...], count: int, rounds: int
) -> dict[str, list[Timed]]:
    expected = [(await ask(prompt, count)).tokens for ask in ways.values()]
    assert len(set(expected)) == 1, "the ways give different tokens"
    assert len(expected[0]) == count, "the answer ended too early"
    timed: dict[str, list[Timed]] = {name: [] for name in ways}
    for turn in range(rounds):
        # Each begins as often as the others: whoever is first may find caches as others left them.
        names = list(ways)[turn % 3 :] + list(ways)[: turn % 3]
        for name in names:
            timed[name].append(await ways[name](prompt, count))
    return timed


def figures(timed: dict[str, list[Timed]], prompt: int, count: int) -> dict[str, Any]:
    """Of each way the medians, and how they compare with bare (above 1 is quicker than bare)."""
    firsts = {name: [t.first for t in all_] for name, all_ in timed.items()}
    steps = {name: [(t.last - t.first) / (count - 1) for t in all_] for name, all_ in timed.items()}
    first = {name: median(times) for name, times in firsts.items()}
    step = {name: median(times) for name, times in steps.items()}
    cpu = {name: median(t.cpu for t in all_) for name, all_ in timed.items()}
    for name in ("engine", "worker"):
        for what, of, amount in (("prefill", firsts, prompt), ("decode", steps, 1)):
            speeds = ([amount / one for one in of[which]] for which in (name, "bare"))
            told = f"{name}, {what}, tokens/s"
            beside, aim = "onnxruntime alone", at_least(0.95)
            tell(told, next(speeds), "1/s", beside=(beside, next(speeds)), aim=aim)
    quick = [{n: quantiles(times)[0] for n, times in of.items()} for of in (firsts, steps)]
    found: dict[str, Any] = {
        name: {
            "first_token_ms": round(first[name] * 1000, 1),
            "prefill_tokens_per_second": round(prompt / first[name], 1),
            "decode_tokens_per_second": round(1 / step[name], 1),
            "cpu_ms_per_request": round(cpu[name] * 1000, 1),
        }
        for name in timed
    }
    for name in ("engine", "worker"):
        found[f"{name}_to_bare"] = {
            "prefill": round(first["bare"] / first[name], 3),
            "decode": round(step["bare"] / step[name], 3),
            "prefill_quarter": round(quick[0]["bare"] / quick[0][name], 3),
            "decode_quarter": round(quick[1]["bare"] / quick[1][name], 3),
            "cpu": round(cpu["bare"] / cpu[name], 3),
        }
    return {"prompt_tokens": prompt, "tokens": count, "rounds": len(timed["bare"]), **found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=32)
    given = parser.parse_args()
    found = trio.run(measure, given.threads, given.rounds, given.prompt, given.tokens)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
