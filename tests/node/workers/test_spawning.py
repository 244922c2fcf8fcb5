"""Worker processes: answers, cancelling, and every way in which one can go wrong."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
import trio
from tests.engines.doubles import HERE, source
from tests.garbage import without_collector
from tests.patience import PATIENCE_SECONDS

from aigrid.engines import ipc
from aigrid.engines.base import Endpoint, Estimate
from aigrid.engines.devices import memory
from aigrid.engines.echo import EchoEngine
from aigrid.engines.sandbox import allowance_bytes
from aigrid.node.workers import process as worker_process
from aigrid.node.workers.exit import MemoryKills
from aigrid.node.workers.failures import told
from aigrid.node.workers.process import WorkerProcess
from aigrid.node.workers.request import RunningRequest, WorkerBounds
from aigrid.node.workers.spawning import ProcessSpawner, Worker
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import (
    Finish,
    InferChunk,
    InferRequest,
    Tensor,
    TensorChunk,
    TensorRequest,
    TextChunk,
    TextRequest,
)
from aigrid.protocol.limits import LIMITS, MIB

ROOT = str(Path(__file__).parents[3])
# For a worker that hangs, where a test waits until that is noticed. A good one may be slower.
HANGS: dict[str, Any] = {
    "limits": replace(LIMITS, worker_silence_seconds=2.0),
    "bounds": WorkerBounds(
        heartbeat_seconds=0.2, heartbeat_silence_seconds=1.0, cancel_seconds=1.0
    ),
}


@asynccontextmanager
async def spawning(tmp_path: Path, **changes: Any) -> AsyncIterator[ProcessSpawner]:
    spawner = ProcessSpawner(
        tmp_path / "logs",
        environment={"PYTHONPATH": ROOT},
        factories={"bad": f"{HERE}:BadEngine"},
        **changes,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(spawner.run)
        with trio.fail_after(5 * PATIENCE_SECONDS):
            yield spawner
        nursery.cancel_scope.cancel()


async def ask(worker: Worker, asked: str | InferRequest) -> list[Any]:
    request = TextRequest(prompt=asked) if isinstance(asked, str) else asked
    async with worker.infer(request) as batches:
        return [chunk async for batch in batches for chunk in batch]


async def rest(batches: AsyncIterator[tuple[InferChunk, ...]]) -> int:
    return sum([len(batch) async for batch in batches])


async def start(
    spawner: ProcessSpawner, engine: str = "echo", **options: str | float
) -> WorkerProcess:
    worker = await spawner.spawn(source(**options), engine=engine, threads=1)
    assert isinstance(worker, WorkerProcess)
    return worker


async def eventually(true: Callable[[], bool]) -> None:
    """Wait for what another process does: real time, so looked at again and again."""
    with trio.fail_after(PATIENCE_SECONDS):
        while not true():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_devices_are_asked_for_in_a_child_each_time(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        first, *_ = await spawner.devices()
        assert (first.place, first.memory_total_bytes) == ("cpu", memory()[0])
        assert 0 < first.memory_free_bytes < first.memory_total_bytes


async def test_a_worker_answers_and_is_gone_when_killed(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        worker = await start(spawner)
        chunks = await ask(worker, "one two three")
        assert "".join(c.text for c in chunks[:-1]) == "one two three"
        assert chunks[-1] == Finish("stop", 3, 3)
        await worker.kill()
        assert worker.died.is_set()
        assert worker.failure is None
        assert not psutil.pid_exists(worker.pid)  # no zombie either
        with pytest.raises(EngineError) as gone:
            await ask(worker, "again")
        assert gone.value.code is Code.ENGINE_CRASHED
    assert not os.path.exists(tmp_path / "logs")  # noqa: ASYNC240, PTH110


async def test_nothing_of_a_failed_request_waits_for_the_collector(tmp_path: Path) -> None:
    words = 500_000
    async with spawning(tmp_path) as spawner:
        worker = await start(spawner)
        with without_collector(words) as left:
            with pytest.raises(EngineError) as refused:
                await ask(worker, "one " * words)
            assert refused.value.code is Code.CONTEXT_LENGTH_EXCEEDED
            del refused
            await trio.lowlevel.checkpoint()  # the loops go round once
            assert left() == []


async def test_slots_run_side_by_side_and_more_requests_wait_their_turn(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        worker = await start(spawner, slots=2, delay_ms=1)
        done = []

        async def one(number: int) -> None:
            chunks = await ask(worker, " ".join([str(number)] * 20))
            done.append((number, len(chunks)))

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(one, number)
        assert sorted(done) == [(n, 21) for n in range(5)]


async def test_a_worker_tells_how_a_request_went(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        worker = await start(spawner, slots=1, delay_ms=50)
        began = trio.current_time()
        async with (
            worker.infer(TextRequest(prompt="a b c d"), "request_1") as first,
            worker.infer(TextRequest(prompt="a b"), "request_2") as second,
        ):
            assert first.ended is None
            await rest(first)
            await rest(second)
            took_ms = (trio.current_time() - began) * 1000
        for ended, tokens in ((first.ended, 4), (second.ended, 2)):
            assert ended is not None
            assert ended.finish == Finish("stop", tokens, tokens)
            assert ended.first_ms is not None
            assert 0 <= ended.queued_ms < ended.first_ms < ended.whole_ms < took_ms
            assert began < first.ended_seconds < second.ended_seconds
        assert first.ended is not None
        assert second.ended is not None
        assert first.ended.queued_ms < 100 < second.ended.queued_ms  # it waited for the only slot


async def test_a_worker_that_dies_names_the_requests_that_it_ran(tmp_path: Path) -> None:
    limits = replace(LIMITS, worker_requests_told_max=2)
    async with spawning(tmp_path, limits=limits) as spawner:
        worker = await start(spawner, slots=1, delay_ms=200)
        async with (
            worker.infer(TextRequest(prompt="a b c d e f"), "running_1") as running,
            worker.infer(TextRequest(prompt="a b"), "in_line_2"),
        ):
            await anext(running)
            os.kill(worker.pid, signal.SIGKILL)
            with pytest.raises(EngineError) as failed:
                await rest(running)
        await worker.died.wait()
        assert "running_1" not in failed.value.message  # others hear that
        await eventually(lambda: len(spawner.worker_failures) == 1)
        assert spawner.worker_failures[0].requests == ("running_1",)
        assert told(spawner.worker_failures, 0.0)[0]["requests"] == ["running_1"]
        many = await start(spawner, slots=8, delay_ms=200)
        async with many.infer(TextRequest(prompt="a b"), "many_1") as batches:
            async with many.infer(TextRequest(prompt="a b")), many.infer(TextRequest(prompt="a b")):
                await anext(batches)
                os.kill(many.pid, signal.SIGKILL)
                await many.died.wait()
        await eventually(lambda: len(spawner.worker_failures) == 2)
        assert spawner.worker_failures[1].requests == ("many_1",)  # the others have no name
    (log_file,) = (tmp_path / "logs").iterdir()
    assert log_file.read_text() == "engine echo died with SIGKILL; requests: many_1\n"


async def test_an_engine_that_fails_names_the_request_to_whoever_reads_its_log(
    tmp_path: Path,
) -> None:
    async with spawning(tmp_path) as spawner:
        worker = await start(spawner, "bad")
        with pytest.raises(EngineError):
            async with worker.infer(TextRequest(prompt="secret"), "request_1") as batches:
                await rest(batches)
        await eventually(lambda: b"KeyError in request request_1" in worker._tail)
        assert b"canary" not in worker._tail


async def test_what_an_engine_cannot_be_told_of_is_said_once_and_quotes_no_request(
    tmp_path: Path,
) -> None:
    async with spawning(tmp_path) as spawner:
        worker = await start(spawner, "bad")
        for _ in range(2):
            *_, last = await ask(worker, TextRequest(prompt="lost"))
            assert isinstance(last, Finish)
        with pytest.raises(EngineError):
            await ask(worker, TextRequest(prompt="secret"))
        await eventually(lambda: b"\nKeyError\n" in worker._tail)
        assert worker._tail.count(b"KeyError, which nobody could be told of") == 1
        assert b"canary" not in worker._tail


async def test_a_large_tensor_goes_there_and_back(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        worker = await start(spawner)
        inputs = {"x": Tensor("uint8", (8 * MIB,), bytes(8 * MIB))}
        assert await ask(worker, TensorRequest(inputs)) == [TensorChunk(inputs), Finish("stop")]


async def test_a_slow_reader_holds_the_engine_back(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        worker = await start(spawner)
        many = ipc.CHUNK_WINDOW * 3
        request = TextRequest(prompt=" ".join(["w"] * many))
        async with worker.infer(request) as batches:
            assert isinstance(batches, RunningRequest)
            # A worker that gets further ahead than this is one that breaks the protocol: `add`.
            await eventually(lambda: len(batches._ready) >= ipc.CHUNK_WINDOW)
            first = await anext(batches)
            assert len(first) == ipc.CHUNK_WINDOW
            assert len(first) + await rest(batches) == many + 1


async def test_leaving_early_cancels_in_the_engine(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        worker = await start(spawner, "bad")
        async with worker.infer(TextRequest(prompt="cancelled?")) as batches:
            await anext(batches)
        await eventually(lambda: b"was cancelled" in worker._tail)
        assert (await ask(worker, "still here"))[-1].reason == "stop"


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ("exit", Code.ENGINE_CRASHED),
        ("die", Code.ENGINE_CRASHED),
        ("half", Code.ENGINE_CRASHED),
        ("garbage", Code.ENGINE_CRASHED),
        ("flood", Code.ENGINE_CRASHED),
        ("close", Code.ENGINE_CRASHED),
        ("hang", Code.ENGINE_TIMEOUT),
        ("hold", Code.ENGINE_TIMEOUT),
    ],
)
async def test_a_fatal_failure_ends_the_request_typed_and_the_worker(
    tmp_path: Path, prompt: str, code: Code
) -> None:
    changes = HANGS if code is Code.ENGINE_TIMEOUT else {}
    async with spawning(tmp_path, **changes) as spawner:
        worker = await start(spawner, "bad")
        with pytest.raises(EngineError) as failed:
            await ask(worker, prompt)
        assert failed.value.code is code
        with trio.fail_after(PATIENCE_SECONDS):
            await worker.died.wait()
        assert worker.failure is failed.value
        assert not psutil.pid_exists(worker.pid)


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ("memory", Code.OUT_OF_MEMORY),
        ("secret", Code.ENGINE_FAILED),
        ("refuse", Code.UNSUPPORTED_QUANTISATION),
        ("nonsense", Code.ENGINE_FAILED),
    ],
)
async def test_an_engine_that_raises_fails_only_its_request(
    tmp_path: Path, prompt: str, code: Code
) -> None:
    async with spawning(tmp_path) as spawner:
        worker = await start(spawner, "bad")
        with pytest.raises(EngineError) as failed:
            await ask(worker, prompt)
        assert failed.value.code is code
        assert (await ask(worker, "still here"))[-1].reason == "stop"
        assert b"canary" not in worker._tail
        assert "canary" not in failed.value.message


async def test_long_work_that_advances_shows_signs_of_life(tmp_path: Path) -> None:
    silence_seconds = 3 * LIMITS.sign_of_life_seconds
    limits = replace(LIMITS, worker_silence_seconds=silence_seconds)
    async with spawning(tmp_path, limits=limits) as spawner:
        worker = await start(spawner, "bad")
        began = trio.current_time()
        async with worker.infer(TextRequest(prompt="works on")) as batches:
            while trio.current_time() - began < 1.5 * silence_seconds:
                assert await anext(batches) == (TextChunk(""),)
        assert (await ask(worker, "still here"))[-1].reason == "stop"


async def test_a_cancelled_request_that_does_not_stop_costs_the_worker(tmp_path: Path) -> None:
    async with spawning(tmp_path, **HANGS) as spawner:
        worker = await start(spawner, "bad")
        async with worker.infer(TextRequest(prompt="going, going")) as batches:
            await anext(batches)
        with trio.fail_after(PATIENCE_SECONDS):
            await worker.died.wait()
        assert worker.failure is not None
        assert worker.failure.code is Code.ENGINE_TIMEOUT


async def test_kill_nine_fails_what_runs_and_is_noticed_when_nothing_does(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        busy = await start(spawner, delay_ms=50)
        idle = await start(spawner)
        async with busy.infer(TextRequest(prompt="a b c d e f g h")) as batches:
            await anext(batches)
            os.kill(busy.pid, signal.SIGKILL)
            with pytest.raises(EngineError) as failed:
                await rest(batches)
        assert failed.value.code is Code.ENGINE_CRASHED
        assert "SIGKILL" in failed.value.message
        assert not idle.gone
        os.kill(idle.pid, signal.SIGKILL)
        until = time.monotonic() + 2
        while not idle.gone and time.monotonic() < until:
            pass  # nothing else here runs meanwhile: whoever would use it now sees for himself
        assert (idle.gone, idle.died.is_set()) == (True, False)
        with trio.fail_after(PATIENCE_SECONDS):
            await idle.died.wait()
        assert idle.failure is not None
        assert "SIGKILL" in idle.failure.message


async def test_a_kill_by_the_kernel_for_memory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = [7]
    monkeypatch.setattr(worker_process, "MemoryKills", lambda: MemoryKills(lambda: kills[0]))
    async with spawning(tmp_path) as spawner:
        worker, other = await start(spawner), await start(spawner)
        kills[0] += 1  # the kernel has killed one process since
        await other.refresh()  # which was not this one: it lives
        for killed, code in ((worker, Code.OUT_OF_MEMORY), (other, Code.ENGINE_CRASHED)):
            os.kill(killed.pid, signal.SIGKILL)
            await killed.died.wait()
            assert killed.failure is not None
            assert killed.failure.code is code


async def test_an_idle_worker_is_known_to_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = [7]
    monkeypatch.setattr(worker_process, "MemoryKills", lambda: MemoryKills(lambda: kills[0]))
    bounds = WorkerBounds(idle_heartbeat_seconds=0.05)
    async with spawning(tmp_path, bounds=bounds) as spawner:
        worker = await start(spawner)
        kills[0] += 1
        await eventually(lambda: not worker._memory_kills.since())


def test_a_kill_between_a_question_and_its_answer_counts() -> None:
    count = 0
    kills = MemoryKills(lambda: count)
    kills.asked()
    count = 1
    kills.asked()  # the answer that comes may be that to the first question
    kills.answered()
    assert kills.since()
    kills.answered()
    assert kills.since()
    kills.asked()
    kills.answered()
    assert not kills.since()


async def test_what_a_worker_leaves_is_removed_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, threads = shutil.rmtree, []

    def noted(path: Path, **options: Any) -> None:
        threads.append(threading.get_ident())
        real(path, **options)

    monkeypatch.setattr(shutil, "rmtree", noted)
    async with spawning(tmp_path) as spawner:
        worker = await start(spawner)
        scratch = worker._scratch
        await worker.kill()
        assert len(threads) == 1
        assert threading.get_ident() not in threads  # which is the event loop's
        assert not scratch.exists()


async def test_last_words_are_kept_in_the_log_directory(tmp_path: Path) -> None:
    bounds = WorkerBounds(output_bytes=4096)
    async with spawning(tmp_path, bounds=bounds) as spawner:
        worker = await start(spawner, "bad")
        await ask(worker, "noise")
        with pytest.raises(EngineError):
            await ask(worker, "die")
        await worker.died.wait()
        (log,) = (tmp_path / "logs").iterdir()
        assert log.stat().st_size <= bounds.output_bytes
        assert b"Segmentation fault" in log.read_bytes()


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("exit", Code.ENGINE_CRASHED),
        ("hang", Code.ENGINE_TIMEOUT),
        ("refuse", Code.UNSUPPORTED_QUANTISATION),
        ("garbage", Code.ENGINE_CRASHED),
    ],
)
async def test_a_load_that_fails_leaves_no_process(tmp_path: Path, how: str, code: Code) -> None:
    before = set(psutil.Process().children())
    limits = replace(LIMITS, worker_load_seconds=0.5) if how == "hang" else LIMITS
    async with spawning(tmp_path, limits=limits) as spawner:
        with pytest.raises(EngineError) as failed:
            await start(spawner, "bad", load=how)
        assert failed.value.code is code
        assert set(psutil.Process().children()) == before


async def test_what_is_not_admitted_is_not_loaded(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        seen = []

        async def admit(estimate: Estimate) -> int:
            seen.append(estimate.memory_bytes)
            raise EngineError("too large", Code.OUT_OF_MEMORY)

        with pytest.raises(EngineError, match="too large"):
            await spawner.spawn(source(memory_bytes=7), engine="echo", threads=1, admit=admit)
        assert seen == [7]
        estimate = await spawner.estimate(source(memory_bytes=9), engine="echo")
        assert estimate.memory_bytes == 9


async def test_a_worker_asks_for_trust_itself_before_its_engine_sees_the_file(
    tmp_path: Path,
) -> None:
    stranger = replace(source(), trusted=False)
    async with spawning(tmp_path) as spawner:
        spawner._note(replace(EchoEngine().probe(), code_formats=("echo",)))
        with pytest.raises(EngineError, match="--trust-publisher") as refused:
            await spawner.estimate(stranger, engine="echo")
        assert refused.value.code is Code.UNSAFE_FILE
        await spawner.estimate(replace(stranger, trusted=True), engine="echo")


async def test_an_engine_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        with pytest.raises(EngineError, match="no engine 'absent'") as refused:
            await spawner.spawn(source(), engine="absent", threads=1)
        assert refused.value.code is Code.UNSUPPORTED_MODEL


async def test_probing_reports_every_installed_engine(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        probes = {probe.engine: probe for probe in await spawner.probe()}
    assert {"echo", "onnx"} <= set(probes)
    assert probes["onnx"].formats == ("onnx",)


async def test_a_worker_sees_no_secret_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HOME", "/somewhere")
    async with spawning(tmp_path) as spawner:
        worker = await start(spawner, "bad")
        seen = set((await ask(worker, "environment"))[0].text.split())
        assert "PATH" in seen
        assert not {"HF_TOKEN", "HOME"} & seen


async def test_workers_are_limited_and_start_in_the_thread_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, popen = [], subprocess.Popen

    def spy(*args: Any, **kwargs: Any) -> Any:
        threads.append(threading.current_thread())
        return popen(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", spy)
    async with spawning(tmp_path) as spawner:
        worker = await start(spawner, memory_bytes=64 * MIB)
        process = psutil.Process(worker.pid)
        assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        soft, hard = process.rlimit(psutil.RLIMIT_AS)
        slack = (os.cpu_count() or 1) * LIMITS.worker_thread_bytes
        allowed = allowance_bytes(64 * MIB, memory()[0]) + slack
        assert allowed < soft == hard < allowed + 1024 * MIB
        assert process.rlimit(psutil.RLIMIT_NOFILE)[1] <= 256
        assert os.getsid(worker.pid) == os.getsid(0)
    # Linux kills a worker when the thread that started it ends, so it must not be a pool's.
    assert threads == [threading.main_thread()]


async def test_stopping_the_spawner_leaves_no_worker(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        pids = [(await start(spawner)).pid for _ in range(2)]
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(EngineError) as refused:
        await start(spawner)
    assert refused.value.code is Code.SHUTTING_DOWN


async def test_a_worker_that_ignores_its_window_is_killed(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        worker = await start(spawner, "bad")
        async with worker.infer(TextRequest(prompt="too much")) as batches:
            await eventually(worker.died.is_set)
            with pytest.raises(EngineError) as failed:
                await rest(batches)
        assert failed.value.code is Code.ENGINE_CRASHED


async def test_without_process_descriptors_the_end_is_noticed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "pidfd", lambda _: None)
    async with spawning(tmp_path) as spawner:
        worker = await start(spawner)
        os.kill(worker.pid, signal.SIGKILL)
        with trio.fail_after(PATIENCE_SECONDS):
            await worker.died.wait()


PARENT = """
import sys, trio
from pathlib import Path
from aigrid.node.workers.spawning import ProcessSpawner
from aigrid.protocol.inference import TextRequest
from tests.engines.doubles import HERE, source
from tests.garbage import without_collector
async def main():
    spawner = ProcessSpawner(
        Path(sys.argv[1]), environment={"PYTHONPATH": "."}, factories={"bad": f"{HERE}:BadEngine"}
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(spawner.run)
        worker = await spawner.spawn(source(), engine="bad", threads=1)
        async with worker.infer(TextRequest(prompt=sys.argv[2])) as batches:
            print(worker.pid, flush=True)
            await trio.sleep_forever()
trio.run(main)
"""


@pytest.mark.process
@pytest.mark.parametrize("doing", ["cancelled?", "hold"])
async def test_kill_nine_of_the_node_leaves_no_worker(tmp_path: Path, doing: str) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path), doing]
    parent = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    worker = psutil.Process(int(await parent.stdout.receive_some()))
    parent.kill()
    await parent.wait()
    await eventually(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    await parent.stdout.aclose()


@pytest.mark.parametrize(
    "call", ["socket.socketpair", "tempfile.mkdtemp", "os.pipe", "subprocess.Popen"]
)
async def test_without_descriptors_a_worker_is_refused_and_nothing_leaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    # What was opened is looked at, not how many descriptors this process has: a thread that an
    # earlier test gave up (a name that is still being resolved) opens its own meanwhile.
    opened: list[socket.socket] = []
    pair = socket.socketpair

    def remembered() -> tuple[socket.socket, socket.socket]:
        opened.extend(both := pair())
        return both

    def none_left(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    scratch = tmp_path / "scratch"
    async with spawning(tmp_path, scratch_directory=scratch) as spawner:
        with monkeypatch.context() as patch:
            patch.setattr("socket.socketpair", remembered)
            patch.setattr(call, none_left)
            with pytest.raises(EngineError, match="Too many open files"):
                await spawner.probe()
    assert len(opened) == (0 if call == "socket.socketpair" else 2)
    assert all(one.fileno() == -1 for one in opened)
    assert not scratch.exists() or not any(scratch.iterdir())


async def test_counters_are_asked_for(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        worker = await start(spawner)
        await ask(worker, "a b")
        assert (await worker.refresh()).requests == 1
        await worker.kill()
        with pytest.raises(EngineError):
            await worker.refresh()


async def test_a_worker_that_does_not_tell_its_counters_is_killed(tmp_path: Path) -> None:
    async with spawning(tmp_path, **HANGS) as spawner:
        worker = await start(spawner, "bad")
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(EngineError) as failed:
            await worker.refresh()
        assert failed.value.code is Code.ENGINE_TIMEOUT
        await worker.died.wait()
        assert not psutil.pid_exists(worker.pid)


async def test_an_engine_that_knows_no_servers_says_so(tmp_path: Path) -> None:
    async with spawning(tmp_path) as spawner:
        with pytest.raises(EngineError) as refused:
            await spawner.discover(Endpoint("http://127.0.0.1:1"), "", engine="echo")
        assert refused.value.code is Code.UNSUPPORTED_MODEL
