"""Models that only who runs them knows to be hostile, run: in real workers, beside honest ones."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from tests.engines.doubles import source
from tests.engines.gguf_writer import tiny_llama
from tests.engines.gguf_writer import write as gguf_write
from tests.engines.hostile_files import CONTAINED, SECRET, make_place, write
from tests.engines.onnx_models import linear, save
from tests.node.workers.test_spawning import ask, spawning

from aigrid.engines.base import ModelSource
from aigrid.node.workers.spawning import ProcessSpawner
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import ChatMessage, Tensor, TensorChunk, TensorRequest, TextRequest
from aigrid.protocol.limits import LIMITS

PATIENCE = replace(LIMITS, worker_silence_seconds=4.0, worker_load_seconds=60.0)
ANSWERED = "answered"
PARTS = 6  # of the hostile models, each with a node of its own
TYPED = {
    *(Code.ENGINE_CRASHED, Code.ENGINE_FAILED, Code.ENGINE_TIMEOUT, Code.OUT_OF_MEMORY),
    *(Code.UNSUPPORTED_MODEL, Code.UNSAFE_FILE, Code.INVALID_REQUEST),
}
EXPECTED: dict[str, set[str]] = {
    "onnx: an endless loop": {Code.ENGINE_TIMEOUT},
    "onnx: a loop that grows": {Code.OUT_OF_MEMORY, Code.ENGINE_TIMEOUT},
    "onnx: 2 TB of zeros": {Code.OUT_OF_MEMORY},
    "onnx: 2 TB of zeros, known beforehand": {Code.OUT_OF_MEMORY},
    "onnx: 2 TB at random": {Code.OUT_OF_MEMORY},
    "onnx: what is not a number": {ANSWERED},
    "onnx: branches thirty deep": {ANSWERED},
    "onnx: a long chain": {ANSWERED},
    "gguf: weights that are no numbers": {Code.ENGINE_FAILED},
    "gguf: weights without end": {Code.ENGINE_FAILED},
    "gguf: a template that never ends": {Code.ENGINE_TIMEOUT},
}
"""The others end in some error of ours; which, may change with the runtime's version."""


def state(directory: Path) -> dict[str, tuple[int, str]]:
    """Path -> when it was written and what is in it."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {
        str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
    }


def _source(path: Path, cache: Path) -> tuple[str, ModelSource]:
    kind = path.suffix[1:]
    engine, task = {"onnx": ("onnx", "tensor"), "gguf": ("onnx_text", "text-generation")}[kind]
    made = ModelSource("bafyevil", kind, {path.name: path}, task, cache_directory=cache)
    return engine, made


def _request(kind: str, name: str) -> Any:
    if kind == "gguf":
        return TextRequest(messages=(ChatMessage("user", "hello"),), max_tokens=4, temperature=0.0)
    x = Tensor("float32", (1,), np.ones(1, np.float32).tobytes())
    return TensorRequest({"n" if "loop" in name else "x": x})


async def _outcome(spawner: ProcessSpawner, name: str, path: Path, cache: Path) -> str:
    """The code of the error that it ends in, or "answered"."""
    engine, made = _source(path, cache)
    try:
        worker = await spawner.spawn(made, engine=engine, threads=1)
    except EngineError as error:
        return _said(error, path)
    try:
        async with worker.infer(_request(made.format, name)) as batches:
            chunks = [chunk async for batch in batches for chunk in batch]
    except EngineError as error:
        return _said(error, path)
    finally:
        await worker.kill()
    assert SECRET[:8] not in repr(chunks).encode()
    return ANSWERED


def _said(error: EngineError, path: Path) -> str:
    """Its code, unless it tells where models lie on this machine."""
    return "a path of this machine" if str(path.parent) in error.message else error.code


@pytest.mark.parametrize("part", range(PARTS))
async def test_each_ends_in_a_typed_error_or_an_honest_answer_and_nothing_else_happens(
    tmp_path: Path, part: int
) -> None:
    place, cache = make_place(tmp_path), tmp_path / "cache"
    wrong = {}
    async with spawning(tmp_path, limits=PATIENCE) as spawner:
        neighbour = await spawner.spawn(source(), engine="echo", threads=1)
        alone = set(psutil.Process().children())
        for name in CONTAINED[part::PARTS]:
            path = write(name, place)
            before = state(tmp_path)
            got = await _outcome(spawner, name, path, cache)
            after = {path: at for path, at in state(tmp_path).items() if not own(path, tmp_path)}
            allowed = EXPECTED.get(name, {got} & TYPED)
            if got not in allowed or after != before:
                wrong[name] = (got, set(after.items()) ^ set(before.items()))
            assert (await ask(neighbour, "still here"))[-1].reason == "stop"
            path.unlink()
            shutil.rmtree(cache, ignore_errors=True)
            shutil.rmtree(tmp_path / "logs", ignore_errors=True)
        assert not neighbour.died.is_set()
        assert set(psutil.Process().children()) == alone
    assert wrong == {}


def own(path: str, directory: Path) -> bool:
    """Whether a worker, or the node for it, may write there."""
    return Path(path).relative_to(directory).parts[0] in ("cache", "logs")


async def test_numbers_that_are_none_are_refused_in_text_and_passed_on_as_tensors(
    tmp_path: Path,
) -> None:
    place = make_place(tmp_path)
    async with spawning(tmp_path, limits=PATIENCE) as spawner:
        engine, made = _source(write("onnx: what is not a number", place), tmp_path / "cache")
        worker = await spawner.spawn(made, engine=engine, threads=1)
        chunk = (await ask(worker, _request("onnx", "")))[0]
        assert isinstance(chunk, TensorChunk)
        assert np.isnan(np.frombuffer(chunk.outputs["y"].data, np.float32)).all()
        for what in ("no numbers", "without end"):
            path = write(f"gguf: weights {'that are ' * (what[0] == 'n')}{what}", place)
            engine, made = _source(path, tmp_path / "cache")
            worker = await spawner.spawn(made, engine=engine, threads=1)
            for _ in range(2):  # it is the request that fails, not the worker
                with pytest.raises(EngineError, match="not finite") as failed:
                    await ask(worker, _request("gguf", ""))
                assert failed.value.code is Code.ENGINE_FAILED
            await worker.kill()


async def test_an_honest_model_is_given_all_it_needs(tmp_path: Path) -> None:
    """What confines a worker must not be noticed by those who mean well."""
    place = make_place(tmp_path)
    path = save(place.models / "model.onnx", linear())
    llama = gguf_write(place.models, tiny_llama("Q4_1"), "model.gguf")
    async with spawning(tmp_path, limits=PATIENCE) as spawner:
        engine, made = _source(path, tmp_path / "cache")
        worker = await spawner.spawn(made, engine=engine, threads=2)
        x = Tensor("float32", (1, 3), np.ones(3, np.float32).tobytes())
        answer = (await ask(worker, TensorRequest({"x": x}, ("y",))))[0].outputs["y"]
        assert np.frombuffer(answer.data, np.float32).tolist() == [7.0, 10.0]
        for cache in (tmp_path / "cache", None):
            made = replace(_source(llama, tmp_path)[1], cache_directory=cache)
            worker = await spawner.spawn(made, engine="onnx_text", threads=2)
            assert (await ask(worker, _request("gguf", "")))[-1].completion_tokens > 0
            await worker.kill()
    assert list((tmp_path / "cache").glob("llama-*/graph.onnx"))
