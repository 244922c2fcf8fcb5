"""What a worker can do once it is confined: tried, by an engine that misbehaves, in real ones."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import trio
from tests.engines.doubles import source
from tests.node.workers.test_spawning import ask, spawning, start

from aigrid.engines import landlock
from aigrid.engines.base import Device, Endpoint, ModelSource, Probe
from aigrid.engines.devices import memory
from aigrid.engines.sandbox import allowance_bytes
from aigrid.node.workers.environment import worker_environment
from aigrid.node.workers.process import WorkerProcess
from aigrid.node.workers.spawning import ProcessSpawner, _needs
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS, MIB

ABI = landlock.version()
needs_landlock = pytest.mark.skipif(
    not ABI, reason="this kernel has no Landlock: files of the user are open to workers here"
)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")


async def attempt(worker: WorkerProcess, attempts: dict[str, list[str]]) -> dict[str, str]:
    chunks = await ask(worker, json.dumps(attempts))
    found: dict[str, str] = json.loads(chunks[0].text)
    return found


@contextmanager
def listening(who: str = "test") -> Iterator[dict[str, list[str]]]:
    """Something of each kind to connect to."""
    name = f"aigrid-{who}-{os.getpid()}"
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        unix.bind(f"\0{name}")
        unix.listen()
        port = str(tcp.getsockname()[1])
        yield {"tcp": ["tcp", port], "udp": ["udp", port], "unix": ["unix", name]}


def _proc(worker: WorkerProcess | None, name: str) -> str:
    return Path(f"/proc/{worker.pid if worker else 'self'}/{name}").read_text()


def with_files(tmp_path: Path) -> ModelSource:
    model, cache = tmp_path / "model.bin", tmp_path / "cache" / "bafymodel"
    model.write_bytes(b"weights")
    return replace(source(), files={"model.bin": model}, cache_directory=cache, options={})


@needs_landlock
async def test_a_worker_reads_its_model_and_writes_its_cache_and_nothing_else(
    tmp_path: Path,
) -> None:
    made = with_files(tmp_path)
    canary, beside = tmp_path / "canary", tmp_path / "model.bin.other"
    canary.write_bytes(b"canary")
    beside.symlink_to(canary)
    home = Path.home()
    async with spawning(tmp_path, scratch_directory=tmp_path / "scratch") as spawner:
        worker = await spawner.spawn(made, engine="bad", threads=1)
        assert isinstance(worker, WorkerProcess)
        assert worker.sandbox.startswith(f"landlock {ABI}, ")
        (scratch,) = (tmp_path / "scratch").iterdir()
        allowed = {
            "model": ["read", str(tmp_path / "model.bin")],
            "cache": ["write", str(tmp_path / "cache" / "bafymodel" / "graph")],
            "clean": ["remove", str(tmp_path / "cache" / "bafymodel" / "graph")],
            "scratch": ["write", str(scratch / "x")],
            "random": ["read", "/proc/self/statm"],
        }
        assert await attempt(worker, allowed) == dict.fromkeys(allowed, "done")
        denied = {
            "another file": ["read", str(canary)],
            "through a link": ["read", str(beside)],
            "out of the cache": ["read", str(tmp_path / "cache/bafymodel/../../canary")],
            "its neighbours": ["list", str(tmp_path)],
            "another's cache": ["write", str(tmp_path / "cache" / "bafyother")],
            "the home": ["list", str(home)],
            "passwords": ["read", "/etc/passwd"],
            "another process": ["read", f"/proc/{os.getpid()}/environ"],
            "its own model": ["append", str(tmp_path / "model.bin")],
            "deleting it": ["remove", str(tmp_path / "model.bin")],
            "its own program": ["append", str(Path(landlock.__file__))],
            "a new file": ["write", str(tmp_path / "new")],
            "temporary": ["write", "/tmp/aigrid-test-escape"],
            "a link in its cache": ["link", str(tmp_path / "cache" / "bafymodel" / "link")],
            "a program": ["run", "/bin/true"],
        }
        assert await attempt(worker, denied) == dict.fromkeys(denied, "EACCES")
        await worker.kill()
    assert canary.read_bytes() == b"canary"
    assert (tmp_path / "model.bin").read_bytes() == b"weights"
    assert list((tmp_path / "scratch").iterdir()) == []


@needs_landlock
@pytest.mark.skipif(landlock.NETWORK_VERSION > ABI, reason="this Landlock knows no network")
async def test_a_worker_reaches_nobody(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        worker = await start(spawner, "bad")
        with listening() as doors:
            tried = doors | {"listen": ["listen"], "signal": ["signal", str(os.getpid())]}
            found = await attempt(worker, tried)
        assert "done" not in {found["tcp"], found["listen"]}
        if ABI >= 6:
            assert "done" not in {found["unix"], found["signal"]}
        # Landlock says nothing of UDP: only a network of its own does, where that is allowed.
        assert (found["udp"] != "done") == ("no network" in worker.sandbox)


@needs_landlock
@pytest.mark.skipif(landlock.NETWORK_VERSION > ABI, reason="this Landlock knows no network")
async def test_an_engine_that_says_so_may_connect_but_not_listen(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        spawner._needs = {"bad": _needs(Probe("bad", "1", (), (), (), network=True))}
        worker = await start(spawner, "bad")
        with listening() as doors:
            found = await attempt(worker, doors | {"listen": ["listen"]})
        assert (found["tcp"], found["listen"]) == ("done", "EACCES")
        assert "TCP out only" in worker.sandbox


@needs_landlock
@pytest.mark.skipif(landlock.NETWORK_VERSION > ABI, reason="this Landlock knows no network")
async def test_a_worker_of_a_servers_model_reaches_that_servers_port_alone(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        spawner._needs = {"bad": _needs(Probe("bad", "1", (), (), (), network=True))}
        with listening() as server, listening("other") as other:
            port = server["tcp"][1]
            made = replace(source(), endpoint=Endpoint(f"http://127.0.0.1:{port}"))
            worker = await spawner.spawn(made, engine="bad", threads=1)
            assert isinstance(worker, WorkerProcess)
            tried = {"its own": server["tcp"], "another": other["tcp"]}
            assert await attempt(worker, tried) == {"its own": "done", "another": "EACCES"}
        assert f"TCP out to {port} only" in worker.sandbox


@linux_only
async def test_an_engine_with_an_accelerator_is_not_bound_in_memory(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        probe = Probe("bad", "1", (), (), (Device("cpu", "x"), Device("cuda", "y")))
        spawner._needs = {"bad": _needs(probe)}
        worker = await start(spawner, "bad")
        assert psutil.Process(worker.pid).rlimit(psutil.RLIMIT_AS) == (-1, -1)
        assert "memory unbounded" in worker.sandbox


@linux_only
async def test_memory_beyond_the_bound_is_a_typed_error_and_the_worker_lives(
    tmp_path: Path,
) -> None:
    async with spawning(tmp_path) as spawner:
        worker = await start(spawner, "bad", memory_bytes=512 * MIB)
        slack = (os.cpu_count() or 1) * LIMITS.worker_thread_bytes
        most = allowance_bytes(512 * MIB, memory()[0]) + slack
        found = await attempt(worker, {"some": ["memory", str(most - 128 * MIB)]})
        assert found == {"some": "done"}
        found = await attempt(worker, {"all": ["memory", str(most + 64 * MIB)]})
        assert found == {"all": "ENOMEM"}
        with pytest.raises(EngineError) as refused:
            await ask(worker, f"allocate {most + 64 * MIB}")
        assert refused.value.code is Code.OUT_OF_MEMORY
        assert (await ask(worker, "still here"))[-1].reason == "stop"


@linux_only
async def test_a_runtime_that_aborts_for_want_of_memory_is_named(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        worker = await start(spawner, "bad")
        with pytest.raises(EngineError) as failed:
            await ask(worker, "bad_alloc")
        assert failed.value.code is Code.OUT_OF_MEMORY


@linux_only
async def test_after_unloading_the_memory_is_back(tmp_path: Path) -> None:
    """All of this process and its children, which is what a node takes."""

    def taken() -> int:
        me = psutil.Process()
        return sum(process.memory_info().rss for process in [me, *me.children(recursive=True)])

    async with spawning(tmp_path) as spawner:
        before = taken()
        worker = await start(spawner, "bad", memory_bytes=64 * MIB)
        await ask(worker, f"keep {64 * MIB}")
        assert taken() - before > 64 * MIB
        await worker.kill()
        assert taken() - before < 8 * MIB


@linux_only
async def test_the_kernel_ends_a_worker_before_the_node(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        worker = await start(spawner)
        assert int(_proc(worker, "oom_score_adj")) > int(_proc(None, "oom_score_adj"))


@linux_only
async def test_a_worker_has_no_capabilities_and_no_way_to_new_ones(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        worker = await start(spawner)
        status = _proc(worker, "status").splitlines()
        facts = dict(line.split(":\t", 1) for line in status if ":\t" in line)
        assert int(facts["CapEff"], 16) == int(facts["CapPrm"], 16) == 0
        assert facts["NoNewPrivs"] == "1"


def test_a_runtime_keeps_no_record_of_who_used_it(tmp_path: Path) -> None:
    environment = worker_environment({"HOME": str(tmp_path)})
    subprocess.run([sys.executable, "-c", "import onnxruntime"], env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []


async def test_probing_tells_what_would_confine_a_worker(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        assert spawner.sandbox == ""
        await spawner.probe()
        worker = await start(spawner)
        assert spawner.sandbox
        assert worker.sandbox.startswith(spawner.sandbox)


async def test_scratch_of_workers_that_were_killed_with_the_node_is_removed(
    tmp_path: Path,
) -> None:
    left = tmp_path / "scratch" / "aigrid-worker-old"
    left.mkdir(parents=True)
    spawner = ProcessSpawner(tmp_path / "logs", tmp_path / "scratch")
    async with trio.open_nursery() as nursery:
        await nursery.start(spawner.run)
        assert not left.exists()
        nursery.cancel_scope.cancel()


async def test_a_model_that_is_too_hard_to_open_ends_typed(tmp_path: Path) -> None:
    """The cache cannot be made: the model is not opened at all."""
    (tmp_path / "cache").write_bytes(b"")
    async with spawning(tmp_path) as spawner:
        with pytest.raises(EngineError) as failed:
            await spawner.spawn(with_files(tmp_path / "."), engine="bad", threads=1)
        assert failed.value.code is Code.ENGINE_FAILED
