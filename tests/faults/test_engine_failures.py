"""Engines crash, hang, want all memory and say what is no number: real nodes go on.

Every engine that runs here, times every fault. The gateway of one node is asked, and another holds
the models. Workers are stopped, hit and starved by signals and limits from outside, as the system
would; servers misbehave by themselves.
"""

import importlib.util
import os
import resource
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import pytest
from scripts.nodes import NodeProcess, stop_all, wait_for
from tests.engines.upstream.servers import Server, running
from tests.faults.crashing import crash_stopped
from tests.faults.failing_engines import ENGINES, Asked, Kind
from tests.faults.low_limits import lowered
from tests.patience import PATIENCE_SECONDS

from aigrid.protocol.limits import MIB

pytestmark = pytest.mark.process
WORKER = "aigrid.engines.worker"
LOW = {
    "worker_heartbeat_seconds": 0.3,
    "worker_heartbeat_silence_seconds": 2.0,
    "upstream_silence_seconds": 1.0,
    "upstream_probe_seconds": 1.0,
    "upstream_read_seconds": 1.0,
    "upstream_interval_seconds": 60.0,
    "upstream_retry_seconds": 0.2,
    "upstream_watch_seconds": 0.2,
}


@dataclass
class World:
    """`asked` is a gateway that holds nothing, `holder` has the models, one at a time."""

    asked: NodeProcess
    holder: NodeProcess
    server: Server
    folder: Path

    def status(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.holder.gateway}/aigrid/v1/status", timeout=10).json())

    def offered(self, name: str) -> bool:
        """Whether the asked node knows of a model."""
        body = httpx.get(f"{self.asked.gateway}/aigrid/v1/status", timeout=10).json()
        return any(model["name"] == name for model in body["models"])

    def until(self, name: str, *, offered: bool) -> None:
        wait_for(
            lambda: self.offered(name) is offered,
            timeout_seconds=PATIENCE_SECONDS,
            what=f"{'an' if offered else 'no'} offer of {name}",
        )

    def held(self) -> "Held":
        return Held.by(self.holder)


@dataclass(frozen=True)
class Held:
    """What a node and its children hold of the machine."""

    pss_bytes: int
    descriptors: int
    workers: int
    scratch: int
    zombies: int

    @staticmethod
    def by(node: NodeProcess) -> "Held":
        process = psutil.Process(node.pid)
        scratch = node.data_dir / "scratch"
        # Reading the memory takes a while: one that is there before or after it may be part of it.
        before, pss_bytes = node.workers(WORKER), node.usage().pss_bytes
        return Held(
            pss_bytes,
            process.num_fds(),
            len({*before, *node.workers(WORKER)}),
            len(list(scratch.iterdir())) if scratch.exists() else 0,
            sum(child.status() == psutil.STATUS_ZOMBIE for child in process.children()),
        )


@dataclass
class Served:
    """An engine with its model in the world. `before` is what was held without it."""

    name: str
    kind: Kind
    world: World
    before: Held

    def publish(self) -> None:
        folder = self.world.folder / self.name
        folder.mkdir(exist_ok=True)
        self.world.server.mode = "good"
        self.kind.publish(self.world.holder, folder, self.world.server)
        self.world.until(self.name, offered=True)

    def withdraw(self) -> "Held":
        """Returns once nothing of the worker is left: what is held then."""
        self.world.holder.cli("withdraw", self.name)
        self.world.until(self.name, offered=False)

        def without() -> Held | None:
            held = self.world.held()
            return None if held.workers else held

        return wait_for(without, timeout_seconds=PATIENCE_SECONDS, what="no worker")

    def ask(self, asked: Asked | None = None, *, mode: str = "good") -> httpx.Response:
        """Ask, and again while there is nobody: who has failed is left alone for a moment.

        `mode` is how the server behind the engine behaves meanwhile.
        """

        def answered() -> httpx.Response | None:
            server = self.world.server
            if server.mode != mode:  # it is offered again only once it is well
                server.mode = "good"
                self.world.until(self.name, offered=True)
                server.mode = mode
            answer = (asked or self.kind.usual).of(self.world.asked.gateway)
            later = {"no_candidate", "busy"}  # whose requests crash a worker waits, too
            nobody = answer.status_code == 503 and answer.json()["error"]["code"] in later
            if nobody:
                server.mode = "good"
            return None if nobody else answer

        return wait_for(answered, timeout_seconds=PATIENCE_SECONDS, what="somebody to ask")

    def answers(self) -> None:
        self.world.server.mode = "good"
        self.world.until(self.name, offered=True)
        answer = self.ask()
        assert answer.status_code == 200, answer.text

    def worker(self) -> int:
        """Its process, loaded."""
        self.answers()
        (pid,) = self.world.holder.workers(WORKER)
        return pid

    def go_on(self) -> None:
        """Everything is as before: the next request is answered, and nothing is left over."""
        self.answers()
        assert self.world.holder.alive
        assert self.world.held().zombies == 0
        assert self.world.held().workers == 1

    def failed(self, answer: httpx.Response, *codes: str) -> str:
        """The code of an error that says what to do and no more than that."""
        error = answer.json()["error"]
        assert error["code"] in codes, answer.text
        assert answer.status_code >= 500
        assert "Traceback" not in answer.text
        assert str(self.world.folder) not in answer.text
        told = self.world.status()
        assert told["requests"]["failed"][error["code"]] > 0
        return str(error["code"])

    def told(self, code: str) -> bool:
        """Whether `status` says that a worker of this engine ended so."""
        failures = self.world.status()["worker_failures"]
        return any(f["engine"] == self.name and f["code"] == code for f in failures)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("failing")
    # Every worker is one with a model here: they are counted.
    environment = {**lowered(folder / "site", **LOW), "AIGRID_POOL": "spares = 0"}
    asked, holder = nodes = [
        NodeProcess(folder / name, environment=environment) for name in ("asked", "holder")
    ]
    try:
        with running() as server:
            for node in nodes:
                node.start()
            holder.cli("join", asked.cli("invite", holder.ready["did"])["invitation"])
            made = World(asked, holder, server, folder)
            holder.cli("models", "fetch", "echo")  # once: what is imported then stays
            made.until("echo", offered=True)
            ENGINES["echo"].usual.of(asked.gateway)
            holder.cli("withdraw", "echo")
            yield made
    finally:
        stop_all(nodes)


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, world: World) -> Iterator[Served]:
    name, kind = request.param, ENGINES[request.param]
    for package in kind.needs:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    served = Served(name, kind, world, world.held())
    served.publish()
    yield served
    world.server.mode = "good"
    if world.offered(name):
        served.withdraw()


@contextmanager
def in_flight(served: Served, asked: Asked | None = None) -> Iterator["Future[httpx.Response]"]:
    """A request that has reached the worker and is not answered yet."""
    wait_for(
        lambda: not served.world.status()["requests"]["running"],
        timeout_seconds=PATIENCE_SECONDS,
        what="the end of the request before",
    )
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(served.ask, asked)
        wait_for(
            lambda: served.world.status()["requests"]["running"] or answer.done(),
            timeout_seconds=PATIENCE_SECONDS,
            what="a request under way",
        )
        yield answer


def test_a_crash_in_the_middle_of_a_request(engine: Served) -> None:
    pid = engine.worker()
    os.kill(pid, signal.SIGSTOP)
    with in_flight(engine) as answer:
        crash_stopped(pid)
        assert answer.result().status_code == 200, answer.result().text  # by a new worker
    assert engine.told("engine_crashed")
    assert engine.world.status()["requests"]["failed"]["engine_crashed"] > 0
    engine.go_on()


def test_a_worker_that_hangs(engine: Served) -> None:
    pid = engine.worker()
    os.kill(pid, signal.SIGSTOP)
    engine.failed(engine.ask(), "engine_timeout")
    assert not psutil.pid_exists(pid)
    assert engine.told("engine_timeout")
    engine.go_on()


def test_a_server_that_accepts_and_stays_silent(engine: Served) -> None:
    if not engine.kind.server:
        pytest.skip("there is no server behind this engine")
    engine.worker()
    engine.failed(engine.ask(mode="hangs"), "engine_timeout")
    engine.world.until(engine.name, offered=False)
    assert engine.name in {one["name"] for one in engine.world.status()["withheld"]}
    engine.go_on()


def test_a_request_for_which_there_is_no_memory(engine: Served) -> None:
    pid = engine.worker()
    if engine.kind.server:
        answer = engine.ask(engine.kind.large, mode="endless body")
        engine.failed(answer, "engine_failed", "out_of_memory")
    else:
        starve(pid)
        code = engine.failed(engine.ask(engine.kind.large), "out_of_memory")
        assert engine.told(code) is not psutil.pid_exists(pid)
        feed(pid)
    engine.go_on()


def starve(pid: int) -> None:
    """From now on the worker gets no more memory than it has."""
    told = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = {line.split()[0]: int(line.split()[1]) * 1024 for line in told if line[:2] == "Vm"}
    # The second, since what an allocator has reserved is part of the address space already.
    for limit, size in (
        (resource.RLIMIT_AS, sizes["VmSize:"]),
        (resource.RLIMIT_DATA, sizes["VmData:"]),
    ):
        _, hard = resource.prlimit(pid, limit)
        resource.prlimit(pid, limit, (size, hard))


def feed(pid: int) -> None:
    """The end of it, if the worker is still there."""
    with suppress(ProcessLookupError):
        for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            _, hard = resource.prlimit(pid, limit)
            resource.prlimit(pid, limit, (hard, hard))


def test_an_answer_that_is_no_number(engine: Served) -> None:
    if engine.kind.poison is None:
        pytest.skip("this engine computes no numbers")
    pid = engine.worker()
    answer = engine.ask(engine.kind.poison, mode="not a number" if engine.kind.server else "good")
    engine.failed(answer, "engine_failed")
    assert psutil.pid_exists(pid)
    engine.go_on()


def test_after_unloading_everything_is_back(engine: Served) -> None:
    """The last of the tests with this engine: it withdraws the model."""
    world = engine.world
    without = engine.withdraw()
    engine.publish()
    engine.worker()
    loaded = world.held()
    assert (loaded.workers, loaded.scratch) == (1, 1)
    after = engine.withdraw()
    # Of requests before this test some may have waited for the collector in the first measurement.
    assert loaded.pss_bytes > min(without.pss_bytes, after.pss_bytes) + 8 * MIB
    assert after.workers == after.zombies == after.scratch == 0
    assert after.descriptors == without.descriptors == engine.before.descriptors
    assert after.pss_bytes <= without.pss_bytes + 4 * MIB
