"""Plug-ins that are broken, each in its own way, stop nothing else. Real children."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import trio
from tests.engines.doubles import source
from tests.engines.plugins import install
from trio.testing import MockClock

from aigrid.engines.base import Probe
from aigrid.engines.registry import Installed
from aigrid.node.workers.probing import ask_own
from aigrid.node.workers.process import WorkerProcess
from aigrid.node.workers.spawning import ProcessSpawner
from aigrid.protocol.errors import EngineError
from aigrid.protocol.limits import LIMITS, Limits

ROOT = str(Path(__file__).parents[3])
GOOD = """
from dataclasses import replace
from aigrid.engines.echo import EchoEngine

class Engine(EchoEngine):
    name = NAME
    def probe(self):
        self.misbehave()
        return replace(super().probe(), engine=self.name, formats=(self.name,))
    def misbehave(self):
        pass
"""
BROKEN = {
    "absent": ("import no_such_library", "No module named 'no_such_library'"),
    "syntax": ("class Engine(:", "SyntaxError"),
    "quits": ("import sys; sys.exit('bye')", "bye"),
    "lacking": ("class Engine: name = 'lacking'", "lacks a part of the engine interface: probe"),
    "raises": (GOOD + "        raise RuntimeError('no driver')", "no driver"),
    "other": (GOOD + "        self.name = 'onnx'", "speaks of the engine 'onnx'"),
    "dies": (GOOD + "        import signal; signal.raise_signal(11)", "SIGSEGV"),
    "exits": (GOOD + "        import os; os._exit(0)", "its probe failed"),
    "garbage": (
        GOOD
        + "        import os, sys, threading\n"
        + "        os.write(int(sys.argv[sys.argv.index('--fd') + 1]), bytes([0, 0, 0, 3]) + b'abc')\n"
        + "        threading.Event().wait()",
        "broke the protocol",
    ),
}


HANGING = {
    "hangs": (GOOD + "        import threading; threading.Event().wait()", "did not tell"),
    "holds": (GOOD + "        import ctypes; ctypes.PyDLL(None).sleep(60)", "did not tell"),
}


@asynccontextmanager
async def spawning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits = LIMITS
) -> AsyncIterator[ProcessSpawner]:
    monkeypatch.syspath_prepend(folder)
    spawner = ProcessSpawner(
        folder / "logs",
        environment={"PYTHONPATH": os.pathsep.join((str(folder), ROOT))},
        limits=limits,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(spawner.run)
        with trio.fail_after(120):
            yield spawner
        nursery.cancel_scope.cancel()


async def test_each_broken_plug_in_is_reported_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, (code, _) in BROKEN.items():
        install(tmp_path, f"bad-{name}", code.replace("NAME", repr(name)), **{name: "Engine"})
    loud = GOOD + "        import sys; sys.stdout.write('x' * 10**7)"
    install(tmp_path, "good-loud", loud.replace("NAME", "'loud'"), loud="Engine")
    install(tmp_path, "good-thief", GOOD.replace("NAME", "'echo'"), echo="Engine")
    said: dict[str, list[Probe]] = {}
    async with spawning(tmp_path, monkeypatch) as spawner:
        own = await spawner.probe()
        await spawner.probe_plugins(lambda probe: said.setdefault(probe.engine, []).append(probe))
        worker = await spawner.spawn(source(), engine="echo", threads=1)
        await worker.kill()
    assert {"echo", "onnx"} <= {probe.engine for probe in own if not probe.problem}
    assert said.keys() == {*BROKEN, "loud", "echo (good-thief)"}
    assert "aigrid-node" in said.pop("echo (good-thief)")[0].problem
    assert all("not answered yet" in before.problem for before, _ in said.values())
    last = {name: probe for name, (_, probe) in said.items()}
    assert last.pop("loud").problem == ""
    for name, probe in last.items():
        assert BROKEN[name][1] in probe.problem, name
        assert (probe.formats, probe.devices) == ((), ())


async def test_a_plug_in_that_hangs_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, (code, _) in HANGING.items():
        install(tmp_path, f"bad-{name}", code.replace("NAME", repr(name)), **{name: "Engine"})
    said: dict[str, Probe] = {}
    # Nothing is asked here that has to be ready in so short a time, but to say hello.
    limits = replace(LIMITS, worker_start_seconds=5.0)
    async with spawning(tmp_path, monkeypatch, limits) as spawner:
        await spawner.probe_plugins(lambda probe: said.update({probe.engine: probe}))
    assert said.keys() == HANGING.keys()
    for name, probe in said.items():
        assert HANGING[name][1] in probe.problem, name


async def test_engines_of_ours_are_not_all_asked_at_once(autojump_clock: MockClock) -> None:
    running = most = 0

    async def start(name: str) -> WorkerProcess:
        nonlocal running, most
        if name == "probe":  # the child that all share
            return cast("WorkerProcess", Dumb())
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1
        raise EngineError("it does not start")

    names = [f"e{n}" for n in range(3 * LIMITS.plugin_probes_max)]
    engines = [Installed(name, "no_module:Engine", "aigrid-node") for name in names]
    probes, _ = await ask_own(start, engines, LIMITS)
    assert [probe.engine for probe in probes] == names
    assert all("does not start" in probe.problem for probe in probes)
    assert most == LIMITS.plugin_probes_max


class Dumb:
    """A child that answers no order."""

    async def order(self, *_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise EngineError("it died")

    async def kill(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_one_engine_of_ours_that_dies_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = GOOD.replace("NAME", "'dies'") + "        import signal; signal.raise_signal(11)\n"
    code += "class Echo(EchoEngine): pass"
    install(tmp_path, "aigrid-node", code, dies="Engine", echo="Echo")
    async with spawning(tmp_path, monkeypatch) as spawner:
        dies, echo = await spawner.probe()
        assert "SIGSEGV" in dies.problem
        assert (echo.engine, echo.problem) == ("echo", "")
        assert spawner.sandbox
