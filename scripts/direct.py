"""The yardstick: the same engine worker on the same model file, asked without a grid between."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

import trio

from aigrid.engines.base import ModelSource
from aigrid.node.workers.spawning import ProcessSpawner, Worker
from aigrid.protocol.inference import ChatMessage, Finish, TextChunk, TextRequest

ENGINE = "onnx_text"
_GGUF_MAGIC = b"GGUF"


def gguf_in(directory: Path) -> Path | None:
    """The GGUF file among a node's models, whatever it is called there."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(len(_GGUF_MAGIC)) == _GGUF_MAGIC:
                    return path
    return None


@asynccontextmanager
async def direct_worker(
    path: Path, *, model_id: str, threads: int, scratch: Path
) -> AsyncIterator[Worker]:
    """A loaded worker of our own."""
    source = ModelSource(
        model_id=model_id,
        format="gguf",
        files={"model.gguf": path},
        task="text-generation",
        cache_directory=scratch / "cache",
    )
    (scratch / "cache").mkdir(parents=True, exist_ok=True)
    spawner = ProcessSpawner(scratch / "logs")
    async with trio.open_nursery() as nursery:
        await nursery.start(spawner.run)
        worker = await spawner.spawn(source, engine=ENGINE, threads=threads)
        try:
            yield worker
        finally:
            await worker.kill()
            nursery.cancel_scope.cancel()


async def ask_directly(worker: Worker, prompt: str, *, max_tokens: int) -> tuple[int, float]:
    """Tokens, and seconds between the first piece of the answer and the last."""
    request = TextRequest(
        messages=(ChatMessage("user", prompt),), max_tokens=max_tokens, temperature=0.0
    )
    tokens, first, last = 0, 0.0, 0.0
    async with worker.infer(request) as batches:
        async for batch in batches:
            for chunk in batch:
                if isinstance(chunk, TextChunk) and chunk.text:
                    last = perf_counter()
                    first = first or last
                elif isinstance(chunk, Finish):
                    tokens = chunk.completion_tokens
    return tokens, last - first
