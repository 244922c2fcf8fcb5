"""Code hidden in a program of torch.export: a stranger's never runs, a trusted one's is confined.

The proof that it runs is how its worker ends: with a status that says what it could do.
"""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.engines.doubles import source as echo_source
from tests.engines.exported import MAPPING, malicious, save, source
from tests.node.workers.test_confinement import listening, needs_landlock
from tests.node.workers.test_spawning import ask, spawning

from aigrid.engines.registry import EngineTable, probe
from aigrid.node.workers.spawning import ProcessSpawner, _needs
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import TaskChunk, TaskRequest
from aigrid.protocol.limits import LIMITS

CONFINED, FREE = 77, 78
ATTEMPTS = """
import os, socket, subprocess, tempfile
from pathlib import Path

def write(): Path(OUTSIDE).write_text("was here")
def read(): Path(SECRET).read_text()
def connect(): socket.create_connection(("127.0.0.1", PORT), 5).close()
def run(): subprocess.run(["/bin/true"])
done = []
for attempt in (write, read, connect, run):
    try:
        attempt()
        done.append(attempt.__name__)
    except OSError:
        pass
Path(tempfile.gettempdir(), "own").write_text("may be written")
print("could", done, flush=True)
os._exit(FREE if done else CONFINED)
"""
PATIENCE = replace(LIMITS, worker_start_seconds=60.0)


def code(**names: object) -> str:
    return "\n".join(f"{name} = {value!r}" for name, value in names.items()) + ATTEMPTS


async def told(spawner: ProcessSpawner) -> None:
    """As the probe would, without asking every other engine."""
    spawner._needs["torch_export"] = _needs(probe("torch_export"))


@pytest.mark.skipif(sys.platform != "linux", reason="workers are confined on Linux")
@needs_landlock
async def test_code_of_a_trusted_publisher_runs_in_the_confined_worker_alone(
    tmp_path: Path,
) -> None:
    outside, secret = tmp_path / "outside", tmp_path / "secret"
    secret.write_text("secret")
    with listening() as places:
        port = int(places["tcp"][1])
        path = malicious(
            tmp_path / "model.pt2",
            code(OUTSIDE=str(outside), SECRET=str(secret), PORT=port, FREE=FREE, CONFINED=CONFINED),
        )
        scratch = tmp_path / "scratch"
        async with spawning(tmp_path, limits=PATIENCE, scratch_directory=scratch) as spawner:
            await told(spawner)
            honest = await spawner.spawn(echo_source(), engine="echo", threads=1)
            with pytest.raises(EngineError, match=f"exit status {CONFINED}") as died:
                await spawner.spawn(source(path), engine="torch_export", threads=1)
            assert (await ask(honest, "still here"))[0].text == "still"
            await honest.kill()
    assert died.value.code is Code.ENGINE_CRASHED
    assert not outside.exists()
    (log,) = (tmp_path / "logs").glob("worker-torch_export*.log")
    assert "could []" in log.read_text()


async def test_code_of_a_stranger_runs_nowhere(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    path = malicious(tmp_path / "model.pt2", f"open({str(ran)!r}, 'w').close()")
    stranger = source(path, trusted=False)
    with pytest.raises(EngineError) as refused:  # before a worker is started
        EngineTable([probe("torch_export"), probe("torch")]).engines_for(stranger)
    assert refused.value.code is Code.UNSAFE_FILE
    async with spawning(tmp_path, limits=PATIENCE) as spawner:
        with pytest.raises(EngineError, match="--trust-publisher") as refused:  # and in it
            await spawner.spawn(stranger, engine="torch_export", threads=1)
    assert refused.value.code is Code.UNSAFE_FILE
    assert not ran.exists()


async def test_an_honest_program_answers_in_its_worker(tmp_path: Path) -> None:
    made = source(save(tmp_path / "model.pt2"), mapping=MAPPING)
    async with spawning(tmp_path, limits=PATIENCE, scratch_directory=tmp_path / "s") as spawner:
        await told(spawner)
        worker = await spawner.spawn(made, engine="torch_export", threads=1)
        request = TaskRequest("tabular-classification", b'[{"a": 1, "b": 2, "c": 3}]')
        async with worker.infer(request) as batches:
            chunks = [chunk async for batch in batches for chunk in batch]
        assert isinstance(chunks[0], TaskChunk)
        if sys.platform == "linux":
            assert "memory unbounded" not in worker.sandbox
        await worker.kill()
