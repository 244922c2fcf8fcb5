"""Hostile files beside honest weights, run in real workers: typed, contained, nothing touched."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from tests.engines.doubles import source
from tests.engines.hostile_companions import COMPANIONS, TEXT
from tests.engines.hostile_files import SECRET, make_place
from tests.node.workers.test_hostile_models import ANSWERED, TYPED, own, state
from tests.node.workers.test_spawning import ask, spawning

from aigrid.engines.base import ModelSource
from aigrid.node.workers.spawning import ProcessSpawner
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import TaskRequest
from aigrid.protocol.limits import LIMITS

PATIENCE = replace(LIMITS, worker_silence_seconds=5.0, worker_load_seconds=60.0)
PARTS = 4
EXPECTED: dict[str, set[str]] = {
    "tokenizer: text that grows": {Code.OUT_OF_MEMORY, Code.ENGINE_TIMEOUT},
    "tokenizer: 65 MiB": {Code.UNSUPPORTED_MODEL},
    "configuration: a billion layers": {Code.UNSUPPORTED_MODEL},
    "configuration: a billion labels": {Code.UNSUPPORTED_MODEL},
    "configuration: code from elsewhere": {Code.UNSUPPORTED_MODEL},
}
HARMLESS = {
    "tokenizer: a number that no model has",
    "tokenizer: a pattern of a billion",
    "tokenizer: a pattern that matches nothing",
    "tokenizer: a pattern that tries everything, at each place",
    "tokenizer: padding of a billion",
    "tokenizer: steps without end",
    "tokenizer: text that grows out of nothing",
    "tokenizer: two million words",
    "tokenizer: a word of all memory",
    "tokenizer: an empty word",
}
"""What is said there is left out, or bounded by the library: an answer is as good as an error."""


async def outcome(spawner: ProcessSpawner, made: ModelSource, engine: str) -> str:
    """The code of the error that it ends in, or "answered"."""
    given: Any = TEXT if made.task == "text-classification" else [TEXT]
    try:
        worker = await spawner.spawn(made, engine=engine, threads=1)
        try:
            chunks = await ask(worker, TaskRequest(made.task, json.dumps(given).encode()))
        finally:
            await worker.kill()
    except EngineError as error:
        where = str(next(iter(made.files.values())).parent)
        return "a path of this machine" if where in error.message else error.code
    assert SECRET[:8] not in repr(chunks).encode()
    return ANSWERED


def engines_of(name: str) -> list[str]:
    if not name.startswith("configuration"):
        return ["onnx"]
    torch = importlib.util.find_spec("torch") and importlib.util.find_spec("transformers")
    return ["onnx_encoder", *(["torch"] if torch else [])]


@pytest.mark.parametrize("part", range(PARTS))
async def test_each_ends_in_a_typed_error_or_an_honest_answer_and_nothing_else_happens(
    tmp_path: Path, part: int
) -> None:
    place, wrong = make_place(tmp_path), {}
    async with spawning(tmp_path, limits=PATIENCE) as spawner:
        neighbour = await spawner.spawn(source(), engine="echo", threads=1)
        alone = set(psutil.Process().children())
        for name in list(COMPANIONS)[part::PARTS]:
            made = COMPANIONS[name](place.models)
            before = state(tmp_path)
            for engine in engines_of(name):
                cached = replace(made, cache_directory=tmp_path / "cache")
                got = await outcome(spawner, cached, engine)
                after = {p: at for p, at in state(tmp_path).items() if not own(p, tmp_path)}
                expected = EXPECTED.get(name, TYPED | ({ANSWERED} if name in HARMLESS else set()))
                if got not in expected or after != before:
                    wrong[f"{engine}, {name}"] = (got, set(after.items()) ^ set(before.items()))
                assert (await ask(neighbour, "still here"))[-1].reason == "stop"
                shutil.rmtree(tmp_path / "cache", ignore_errors=True)
                shutil.rmtree(tmp_path / "logs", ignore_errors=True)
            for path in place.models.iterdir():
                path.unlink()
        assert not neighbour.died.is_set()
        assert set(psutil.Process().children()) == alone
    assert wrong == {}
