import errno
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from aigrid.node import control
from aigrid.node.control import ControlClient, ControlServer, Emit
from aigrid.node.control_client import ANSWER_MAX_BYTES, REQUEST_MAX_BYTES
from aigrid.protocol.errors import (
    AigridError,
    Code,
    NoCandidateError,
    PolicyDeniedError,
    UsageError,
)
from aigrid.protocol.limits import LIMITS


class Scripted:
    """Commands whose names say what they do."""

    def __init__(self) -> None:
        self.started = trio.Event()
        self.cancelled = trio.Event()

    async def call(self, method: str, params: dict[str, Any], emit: Emit) -> dict[str, Any]:
        result: dict[str, Any] = await getattr(self, method)(params, emit)
        return result

    async def echo(self, params: dict[str, Any], emit: Emit) -> dict[str, Any]:
        return params

    async def count(self, params: dict[str, Any], emit: Emit) -> dict[str, Any]:
        async with trio.open_nursery() as nursery:  # events may come from several tasks
            for number in range(params["to"]):
                nursery.start_soon(emit, {"number": number, "pad": "x" * params.get("pad", 0)})
        return {"counted": params["to"]}

    async def deny(self, params: dict[str, Any], emit: Emit) -> dict[str, Any]:
        raise PolicyDeniedError("no", Code.NOT_AUTHORITY)

    async def grouped(self, params: dict[str, Any], emit: Emit) -> dict[str, Any]:
        raise ExceptionGroup("", [ExceptionGroup("", [NoCandidateError("nobody")])])

    async def crash(self, params: dict[str, Any], emit: Emit) -> dict[str, Any]:
        raise ZeroDivisionError("a secret")

    async def large(self, params: dict[str, Any], emit: Emit) -> dict[str, Any]:
        return {"text": "x" * ANSWER_MAX_BYTES}

    async def wait(self, params: dict[str, Any], emit: Emit) -> dict[str, Any]:
        self.started.set()
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled.set()
        raise AssertionError


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Scripted]:
    commands = Scripted()
    async with trio.open_nursery() as nursery:
        await nursery.start(ControlServer(path, commands).run)
        yield commands
        nursery.cancel_scope.cancel()


async def call(path: Path, method: str, params: dict[str, Any] | None = None, **more: Any) -> Any:
    client = ControlClient(path)
    return await trio.to_thread.run_sync(partial(client.call, method, params or {}, **more))


async def raw(path: Path, content: bytes) -> dict[str, Any]:
    async with await trio.open_unix_socket(path) as stream:
        try:
            await stream.send_all(content)
        except trio.BrokenResourceError:
            pass
        answer = b""
        while not answer.endswith(b"\n"):
            received = await stream.receive_some()
            if not received:
                break
            answer += received
    return dict(json.loads(answer))


def mode_of(path: Path) -> int:
    return path.stat().st_mode


@pytest.fixture
def clock() -> MockClock:
    """Jumps only once all has been quiet: these tests speak over real sockets."""
    return MockClock(autojump_threshold=0.05)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


async def test_results_and_events_arrive_in_whole_lines(path: Path) -> None:
    async with serving(path):
        assert await call(path, "echo", {"a": "ü\n"}) == {"a": "ü\n"}
        events: list[dict[str, Any]] = []
        body = await call(path, "count", {"to": 50, "pad": 100_000}, on_event=events.append)
    assert body == {"counted": 50}
    assert sorted(event["number"] for event in events) == list(range(50))


async def test_errors_keep_their_code_and_kind(path: Path) -> None:
    async with serving(path):
        with pytest.raises(PolicyDeniedError) as denied:
            await call(path, "deny")
        with pytest.raises(AigridError) as grouped:
            await call(path, "grouped")
        with pytest.raises(AigridError) as crashed:
            await call(path, "crash")
        assert await call(path, "echo") == {}
    assert denied.value.code is Code.NOT_AUTHORITY
    assert grouped.value.code is Code.NO_CANDIDATE
    assert crashed.value.code is Code.INTERNAL
    assert "secret" not in crashed.value.message


async def test_the_log_says_where_a_command_crashed_and_not_what_it_said(path: Path) -> None:
    """What an exception says may quote the prompt of `aigrid ask`, or a key."""
    with capture_logs() as entries:
        async with serving(path):
            with pytest.raises(AigridError):
                await call(path, "crash")
    (entry,) = [entry for entry in entries if entry["event"] == "control_command_failed"]
    assert entry["error"] == "ZeroDivisionError"
    assert entry["at"][-1].endswith("crash")
    assert "secret" not in str(entries)


async def test_only_the_owner_may_connect(path: Path) -> None:
    before = os.umask(0)
    try:
        async with serving(path):
            found = mode_of(path)
            assert os.umask(0) == 0, "the umask was put back"
    finally:
        os.umask(before)
    assert stat.S_ISSOCK(found)
    assert stat.S_IMODE(found) == 0o600
    assert not await trio.Path(path).exists()


async def test_the_socket_of_a_dead_node_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert not ControlClient(path).running()
    async with serving(path):
        assert await call(path, "echo") == {}


async def test_the_socket_of_a_live_node_is_not(path: Path) -> None:
    async with serving(path):
        with pytest.raises(UsageError) as caught:
            await ControlServer(path, Scripted()).run()
        assert caught.value.code is Code.ALREADY_RUNNING
        assert await call(path, "echo") == {}


def test_a_file_in_the_way_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(UsageError) as caught:
        trio.run(ControlServer(path, Scripted()).run)
    assert caught.value.code is Code.DATA_DIRECTORY_UNUSABLE
    assert path.read_text() == "precious"


async def test_a_path_longer_than_a_socket_address(tmp_path: Path) -> None:
    directory = tmp_path / ("a" * 120) / ("b" * 120)
    directory.mkdir(parents=True)
    path = directory / "control.sock"
    async with serving(path):
        assert await call(path, "echo", {"deep": True}) == {"deep": True}
        assert stat.S_IMODE(mode_of(path)) == 0o600


@pytest.mark.parametrize("below", ["", "missing", "a" * 120])
async def test_no_node_is_said_so(tmp_path: Path, below: str) -> None:
    with pytest.raises(UsageError) as caught:
        await call(tmp_path / below / "control.sock", "status")
    assert caught.value.code is Code.NOT_RUNNING
    assert caught.value.info.exit == 2


async def test_a_caller_that_leaves_cancels_its_command(path: Path) -> None:
    async with serving(path) as commands:
        stream = await trio.open_unix_socket(path)
        await stream.send_all(b'{"method": "wait", "params": {}}\n')
        with trio.fail_after(5):
            await commands.started.wait()
            assert not commands.cancelled.is_set()
            await stream.aclose()
            await commands.cancelled.wait()
        assert await call(path, "echo") == {}


async def test_a_caller_that_leaves_amid_events_harms_nobody(path: Path) -> None:
    async with serving(path):
        stream = await trio.open_unix_socket(path)
        await stream.send_all(b'{"method": "count", "params": {"to": 100, "pad": 1000000}}\n')
        await stream.receive_some(1)
        await stream.aclose()
        assert await call(path, "echo") == {}


async def test_a_node_that_stops_amid_a_command_is_noticed(path: Path) -> None:
    errors: list[AigridError] = []

    async def waits() -> None:
        try:
            await call(path, "wait")
        except AigridError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        async with serving(path) as commands:
            nursery.start_soon(waits)
            await commands.started.wait()
    assert [error.code for error in errors] == [Code.CONNECTION_LOST]


@pytest.mark.parametrize(
    "content",
    [
        b"\n",
        b"garbage\n",
        b"\xff\n",
        b"[]\n",
        b"[" * 100_000 + b"\n",
        b'{"method": "echo"}\n',
        b'{"method": 1, "params": {}}\n',
        b'{"method": "echo", "params": []}\n',
        b'{"method": "echo", "params": {}, "more": 1}\n',
    ],
)
async def test_a_malformed_request_is_answered(path: Path, content: bytes) -> None:
    async with serving(path):
        answer = await raw(path, content)
        assert answer["error"]["code"] == "invalid_request"
        assert await call(path, "echo") == {}


async def test_an_oversized_request_is_cut_off(path: Path) -> None:
    async with serving(path):
        answer = await raw(path, b"x" * (REQUEST_MAX_BYTES + 1))
        assert answer["error"]["code"] == "body_too_large"
        with pytest.raises(UsageError):
            await call(path, "echo", {"text": "x" * REQUEST_MAX_BYTES})


async def test_an_oversized_answer_becomes_an_error(path: Path) -> None:
    async with serving(path):
        with pytest.raises(AigridError) as caught:
            await call(path, "large")
    assert caught.value.code is Code.FRAME_TOO_LARGE


async def test_a_silent_caller_is_cut_off(path: Path, clock: MockClock) -> None:
    async with serving(path):
        answer = await raw(path, b'{"method": ')
    assert answer["error"]["code"] == "request_timeout"


async def test_too_many_callers_are_turned_away(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "LIMITS", replace(LIMITS, control_connections_max=2))
    async with serving(path) as commands:
        held = [await trio.open_unix_socket(path) for _ in range(2)]
        for stream in held:
            await stream.send_all(b'{"method": "wait", "params": {}}\n')
        await commands.started.wait()
        with pytest.raises(AigridError) as caught:
            await call(path, "echo")
        assert caught.value.code is Code.BUSY
        for stream in held:
            await stream.aclose()
        with trio.fail_after(5):
            await commands.cancelled.wait()


async def test_running_out_of_descriptors_is_survived(
    path: Path, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    concrete = type(trio.socket.socket())
    accept = concrete.accept
    refusals = iter([OSError(errno.EMFILE, "too many open files")])

    async def scarce(self: Any) -> Any:
        for refusal in refusals:
            raise refusal
        return await accept(self)

    monkeypatch.setattr(concrete, "accept", scarce)
    async with serving(path):
        answer = await raw(path, b'{"method": "echo", "params": {}}\n')
    assert answer == {"result": {}}
