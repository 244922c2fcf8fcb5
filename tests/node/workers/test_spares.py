"""Spare workers, as real processes: taken, replaced, ended, and confined like any other."""

import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
import trio
from tests.engines.doubles import HERE, source
from tests.node.workers.test_confinement import _proc, linux_only, listening, needs_landlock
from tests.node.workers.test_spawning import ask, eventually, spawning, start

from aigrid.engines.onnx import OnnxEngine
from aigrid.engines.onnx_text import OnnxTextEngine
from aigrid.engines.registry import preimports
from aigrid.node.workers.process import WorkerProcess
from aigrid.node.workers.spares import SpareSettings
from aigrid.node.workers.spawning import ProcessSpawner
from aigrid.protocol.errors import EngineError
from aigrid.protocol.limits import LIMITS


@asynccontextmanager
async def with_spares(tmp_path: Path, *, count: int = 1, **more: Any) -> AsyncIterator[Any]:
    limits = replace(LIMITS, spare_pause_seconds=0.0)
    settings = SpareSettings(count, **more)
    async with spawning(tmp_path, limits=limits, spare_settings=settings) as spawner:
        names = {"prepared": "PreparedEngine", "threaded": "ThreadedEngine"}
        spawner.factories = {
            **spawner.factories,
            **{name: f"{HERE}:{kind}" for name, kind in names.items()},
        }
        yield spawner


async def spare_of(spawner: ProcessSpawner) -> WorkerProcess:
    await eventually(lambda: len(spawner.spares.kept) == 1)
    return spawner.spares.kept[0]


async def test_a_spare_is_made_after_a_load_taken_for_the_next_and_replaced(
    tmp_path: Path,
) -> None:
    async with with_spares(tmp_path) as spawner:
        assert spawner.spares.kept == ()
        await start(spawner, "prepared")
        spare = await spare_of(spawner)
        assert "onnxruntime" in _proc(spare, "maps")
        worker = await start(spawner, "prepared")
        assert worker is spare
        assert (await ask(worker, "one two"))[-1].reason == "stop"
        again = await spare_of(spawner)
        assert again is not spare
    assert not psutil.pid_exists(again.pid)


async def test_one_that_died_waiting_is_not_taken(tmp_path: Path) -> None:
    async with with_spares(tmp_path) as spawner:
        await start(spawner, "prepared")
        spare = await spare_of(spawner)
        psutil.Process(spare.pid).kill()
        await spare.died.wait()
        worker = await start(spawner, "prepared")
        assert worker is not spare
        assert (await ask(worker, "one two"))[-1].reason == "stop"


async def test_spares_end_when_their_engine_is_not_used_and_when_there_shall_be_none(
    tmp_path: Path,
) -> None:
    async with with_spares(tmp_path) as spawner:
        await start(spawner, "prepared")
        spare = await spare_of(spawner)
        # As time would: how long a spare takes to be made counts as time without use, too.
        spawner.spares._used_at["prepared"] -= LIMITS.spare_idle_seconds
        spawner.spares._poked.set()
        await spare.died.wait()
        assert spawner.spares.kept == ()
        assert spawner.worker_failures == type(spawner.worker_failures)()
    async with with_spares(tmp_path, count=0) as spawner:
        await start(spawner, "prepared")
        await trio.sleep(0.5)
        assert spawner.spares.kept == ()


async def test_an_engine_whose_runtime_starts_threads_or_that_says_nothing_has_no_spares(
    tmp_path: Path,
) -> None:
    async with with_spares(tmp_path) as spawner:
        for engine in ("threaded", "bad"):
            await start(spawner, engine)
            await eventually(partial(spawner.spares._unfit.__contains__, engine))
        assert spawner.spares.kept == ()
        worker = await start(spawner, "threaded")  # imported in time, after it was confined
        assert (await ask(worker, "one two"))[-1].reason == "stop"


async def test_a_spare_whose_model_does_not_load_is_gone(tmp_path: Path) -> None:
    async with with_spares(tmp_path) as spawner:
        await start(spawner, "prepared")
        spare = await spare_of(spawner)
        with pytest.raises(EngineError):
            await start(spawner, "prepared", load="refuse")
        assert spare.died.is_set()


def held(worker: WorkerProcess) -> dict[str, object]:
    """What the kernel says of a worker's rights and of what it has open."""
    here = Path(f"/proc/{worker.pid}")
    status = dict(re.findall(r"^(\w+):\t(.*)$", (here / "status").read_text(), re.MULTILINE))
    rights = ("CapEff", "CapPrm", "CapInh", "NoNewPrivs", "Seccomp", "Uid", "Gid")
    limits = [
        line
        for line in (here / "limits").read_text().splitlines()
        if not line.startswith("Max address space")
    ]
    files = sorted(re.sub(r"\d+", "", str(one.readlink())) for one in (here / "fd").iterdir())
    spaces = {
        name: (here / "ns" / name).readlink() != Path(f"/proc/self/ns/{name}").readlink()
        for name in ("net", "user", "ipc")
    }
    return {
        **{name: status[name] for name in rights},
        "limits": limits,
        "files": files,
        "own namespaces": spaces,
        "says": re.sub(r"memory \d+", "memory", worker.sandbox),
    }


@needs_landlock
async def test_a_spare_is_confined_as_tightly_as_a_worker_that_never_was_one(
    tmp_path: Path,
) -> None:
    model, canary = tmp_path / "model.bin", tmp_path / "canary"
    model.write_bytes(b"weights")
    canary.write_bytes(b"canary")
    async with with_spares(tmp_path) as spawner:
        found, facts = [], []
        spares: list[WorkerProcess | None] = [None]
        for _ in range(2):
            made = replace(source(), files={"model.bin": model}, cache_directory=tmp_path / "c")
            worker = await spawner.spawn(made, engine="prepared", threads=1)
            with listening() as doors:
                chunks = await ask(
                    worker,
                    json.dumps(
                        {
                            "model": ["read", str(model)],
                            "another file": ["read", str(canary)],
                            "passwords": ["read", "/etc/passwd"],
                            "home": ["list", str(Path.home())],
                            "another process": ["read", f"/proc/{os.getpid()}/environ"],
                            "its own model": ["append", str(model)],
                            "a new file": ["write", str(tmp_path / "new")],
                            "a program": ["run", "/bin/true"],
                            "listen": ["listen"],
                            "signal": ["signal", str(os.getpid())],
                            **doors,
                        }
                    ),
                )
            found.append(json.loads(chunks[0].text))
            facts.append(held(worker))
            assert spares[-1] in (None, worker)
            spares.append(await spare_of(spawner))
        assert found[0] == found[1]
        assert facts[0] == facts[1]
        assert [name for name, what in found[1].items() if what == "done"] == ["model"] or (
            "no network" not in worker.sandbox
        )
        assert found[1]["another file"] == found[1]["a program"] == "EACCES"


@linux_only
async def test_threads_of_a_spare_are_its_models_alone(tmp_path: Path) -> None:
    """What is imported early starts none, or the rules would not hold for it."""
    async with with_spares(tmp_path) as spawner:
        await start(spawner, "prepared")
        spare = await spare_of(spawner)
        assert re.findall(r"^Threads:\t(.*)$", _proc(spare, "status"), re.MULTILINE) == ["1"]


@pytest.mark.parametrize("engine", [OnnxEngine, OnnxTextEngine])
def test_what_engines_of_this_package_import_early_is_there(
    engine: type[OnnxEngine | OnnxTextEngine],
) -> None:
    modules = preimports(engine.name, f"{engine.__module__}:{engine.__name__}")
    assert modules == engine.preimports
    assert sys.modules.keys() >= set(modules)
