import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from aigrid.node.cli.entry import run
from aigrid.node.control import ControlServer, Emit


@dataclass
class ScriptedNode:
    """Answers from a script: method -> result, or the error to raise; and remembers the calls."""

    answers: dict[str, dict[str, Any] | Exception] = field(default_factory=dict)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def call(self, method: str, params: dict[str, Any], emit: Emit) -> dict[str, Any]:
        self.calls.append((method, params))
        for event in self.events.get(method, []):
            await emit(event)
        answer = self.answers[method]
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass
class Done:
    status: int
    out: str
    err: str

    @property
    def body(self) -> Any:
        """The one line of JSON that was printed."""
        (line,) = self.out.splitlines()
        return json.loads(line)


class Cli:
    """Runs command lines in this process, on one data directory."""

    def __init__(self, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.data_dir = data_dir
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Done:
        self._capsys.readouterr()
        status = run(["--data-dir", str(self.data_dir), *arguments])
        captured = self._capsys.readouterr()
        return Done(status, captured.out, captured.err)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    path = tmp_path / "d"
    path.mkdir()
    return path


@pytest.fixture
def cli(data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("COLUMNS", "200")
    return Cli(data_dir, capsys)


@pytest.fixture
def node(data_dir: Path) -> Iterator[ScriptedNode]:
    """A scripted node behind a real control socket, in a thread of its own."""
    scripted = ScriptedNode()
    ready = threading.Event()
    stop: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = []

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(ControlServer(data_dir / "control.sock", scripted).run)
            stop.append((trio.lowlevel.current_trio_token(), nursery.cancel_scope))
            ready.set()

    thread = threading.Thread(target=trio.run, args=(serve,), daemon=True)
    thread.start()
    assert ready.wait(10)
    yield scripted
    token, scope = stop[0]
    token.run_sync_soon(scope.cancel)
    thread.join(10)
    assert not thread.is_alive()
