"""Finding engines: what is broken is said, and stops nobody."""

from importlib.metadata import EntryPoint
from typing import Any

import pytest
from tests.engines.doubles import HERE, source

from aigrid.engines import registry
from aigrid.engines.base import Probe
from aigrid.engines.devices import cpu, devices, memory, threads
from aigrid.engines.echo import EchoEngine
from aigrid.engines.registry import EngineTable, engine_names, load_engine, probe_all
from aigrid.protocol.errors import Code, EngineError


def test_the_engines_of_this_package_are_found() -> None:
    assert {"echo", "onnx", "onnx_text"} <= set(engine_names())
    assert isinstance(load_engine("echo"), EchoEngine)


def test_an_engine_that_is_not_installed_is_named() -> None:
    with pytest.raises(EngineError, match="'absent'") as refused:
        load_engine("absent")
    assert refused.value.code is Code.UNSUPPORTED_MODEL


@pytest.mark.parametrize(
    ("factory", "why"),
    [
        (f"{HERE}:BrokenEngine", "no such library"),
        (f"{HERE}:NoEngine", "lacks a part"),
        (f"{HERE}:Nothing", "AttributeError"),
        ("no.such.module:Engine", "ModuleNotFoundError"),
    ],
)
def test_a_broken_plug_in_says_why(factory: str, why: str) -> None:
    with pytest.raises(EngineError, match=why) as refused:
        load_engine("x", factory)
    assert refused.value.code is Code.ENGINE_FAILED


def test_a_broken_plug_in_is_reported_beside_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = [
        EntryPoint("broken", f"{HERE}:BrokenEngine", registry.GROUP),
        EntryPoint("echo", "aigrid.engines.echo:EchoEngine", registry.GROUP),
    ]

    def entry_points(*, group: str, name: str | None = None) -> list[EntryPoint]:
        return [e for e in installed if name in (None, e.name)]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    broken, echo = probe_all()
    assert (broken.engine, broken.formats) == ("broken", ())
    assert "no such library" in broken.problem
    assert (echo.engine, echo.problem) == ("echo", "")


def _probe(engine: str, **changes: Any) -> Probe:
    made = {"formats": ("echo",), "tasks": (), "devices": (), "problem": "", **changes}
    return Probe(engine, "1", **made)


def test_an_engine_that_knows_the_task_is_preferred() -> None:
    probes = [_probe("a", tasks=("fill-mask",)), _probe("b", tasks=("text-generation",))]
    assert EngineTable(probes).engines_for(source()) == ("b", "a")
    # Knowing the task counts for more than being preferred.
    assert EngineTable(probes, prefer=("a",)).engines_for(source()) == ("b", "a")


def test_an_engine_with_a_problem_is_never_chosen_and_the_problem_is_told() -> None:
    broken = _probe("a", problem="no driver")
    assert EngineTable([broken, _probe("b")]).engines_for(source()) == ("b",)
    with pytest.raises(EngineError, match="a: no driver") as refused:
        EngineTable([broken]).engines_for(source())
    assert refused.value.code is Code.UNSUPPORTED_MODEL


def test_a_preferred_engine_comes_first() -> None:
    probes = [_probe("a"), _probe("b"), _probe("c")]
    assert EngineTable(probes).engines_for(source()) == ("a", "b", "c")
    preferring = EngineTable(probes, prefer=("c", "absent", "b"))
    assert preferring.engines_for(source()) == ("c", "b", "a")


def test_a_format_that_nothing_takes_is_refused() -> None:
    with pytest.raises(EngineError, match="'echo'"):
        EngineTable([_probe("a", formats=("gguf",))]).engines_for(source())


def test_the_processor_and_its_memory_are_known() -> None:
    total, free = memory()
    assert 0 < free <= total
    assert threads() >= 1
    assert devices()[0].kind == "cpu"
    assert cpu().name
