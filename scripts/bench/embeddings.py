"""What the node adds to onnxruntime: vectors per second of the engine beside the bare library.

    python scripts/bench/embeddings.py --threads 1 --seconds 3

Fetches the starter model if need be, and prints one JSON line. Bare is a session on the very graph
that the engine built, with the same tokenizer, pooled and scaled with numpy for the whole batch.
`engine` answers task requests in this process; `worker` does in a worker process, as a node has it,
JSON and the pipe included. The three take turns, request by request, and of each the time counts
that a quarter of its requests stay below: what others do on the machine is in the slow ones.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np
import onnxruntime
import trio
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import at_least, tell

from aigrid.engines.base import CancelToken, ModelSource
from aigrid.engines.onnx_encoder import OnnxEncoderEngine
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.node.mesh.shelf.starter import fetch
from aigrid.node.workers.spawning import ProcessSpawner, Worker
from aigrid.protocol.inference import TaskChunk, TaskRequest

SENTENCES = (
    "The quick brown fox jumps over the lazy dog near the river bank.",
    "How do I reset my password?",
    "I forgot my login credentials, how can I recover access?",
)
BATCHES = (1, 32)

Embed = Callable[[list[str]], Awaitable[Any]]


def bare(source: ModelSource, threads: int) -> Embed:
    """onnxruntime and tokenizers alone, as the engine sets them."""
    assert source.cache_directory is not None
    (graph,) = source.cache_directory.glob("bert-*/graph.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(source.files["tokenizer.json"]))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()

    async def embed(texts: list[str]) -> Any:
        read = tokenizer.encode_batch(texts)
        ids, mask, types = (
            np.array([getattr(one, part) for one in read], np.int64)
            for part in ("ids", "attention_mask", "type_ids")
        )
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        (hidden,) = session.run(None, feeds)
        summed = (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        return summed / np.linalg.norm(summed, axis=1, keepdims=True)

    return embed


def request(texts: list[str]) -> TaskRequest:
    return TaskRequest("feature-extraction", json.dumps(texts).encode())


def engine(loaded: OnnxEncoderEngine) -> Embed:
    async def embed(texts: list[str]) -> Any:
        chunk, _ = loaded.infer(request(texts), CancelToken())
        assert isinstance(chunk, TaskChunk)
        return chunk.output

    return embed


def worker(process: Worker) -> Embed:
    async def embed(texts: list[str]) -> Any:
        async with process.infer(request(texts)) as chunks:
            found = [chunk async for ready in chunks for chunk in ready]
        assert isinstance(found[0], TaskChunk)
        return found[0].output

    return embed


async def measure(threads: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = LocalModels(folder / "models", cache_directory=folder / "cache")
        await models.open()
        source = models.source((await fetch("minilm", models)).model)
        loaded = OnnxEncoderEngine()
        loaded.load(source, threads=threads)
        spawner = ProcessSpawner(folder / "logs")
        async with trio.open_nursery() as nursery:
            await nursery.start(spawner.run)
            process = await spawner.spawn(source, engine="onnx_encoder", threads=threads)
            ways = {
                "bare": bare(source, threads),
                "engine": engine(loaded),
                "worker": worker(process),
            }
            expected = await ways["bare"](list(SENTENCES))
            for way in ("engine", "worker"):
                found = json.loads(await ways[way](list(SENTENCES)))
                assert np.allclose(found, expected, atol=1e-5), way
            figures = {str(batch): await compare(ways, batch, seconds) for batch in BATCHES}
            await process.kill()
            nursery.cancel_scope.cancel()
    return {"model": "minilm", "threads": threads, "texts_per_second": figures}


async def compare(ways: dict[str, Embed], batch: int, seconds: float) -> dict[str, float]:
    """Texts a second of each way."""
    texts = [SENTENCES[n % len(SENTENCES)] for n in range(batch)]
    took: dict[str, list[float]] = {way: [] for way in ways}
    ends = time.perf_counter() + seconds
    for order in itertools.cycle(itertools.permutations(ways)):
        # Each comes after each other as often: who is next finds caches as the last one left them.
        for way in order:
            began = time.perf_counter()
            await ways[way](texts)
            took[way].append(time.perf_counter() - began)
        if time.perf_counter() > ends:
            break
    quick = {way: quantiles(times)[0] for way, times in took.items()}
    for way in ("engine", "worker"):
        speeds = [[batch / one for one in took[which]] for which in (way, "bare")]
        name, bare = f"{way}, {batch} at once, texts/s", "onnxruntime alone"
        tell(name, speeds[0], "1/s", beside=(bare, speeds[1]), aim=at_least(0.95))
    figures = {way: round(batch / time_, 1) for way, time_ in quick.items()}
    figures |= {
        f"{way}_to_bare": round(quick["bare"] / quick[way], 3) for way in ("engine", "worker")
    }
    return figures | {"requests": len(took["bare"])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    print(json.dumps(trio.run(measure, arguments.threads, arguments.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
