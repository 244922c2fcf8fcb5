"""Finding engines: what is broken is said, and stops nobody."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.engines.doubles import HERE, source
from tests.engines.plugins import install

from aigrid.engines.base import Probe
from aigrid.engines.devices import cpu, devices, memory, threads
from aigrid.engines.echo import EchoEngine
from aigrid.engines.registry import EngineTable, factory_of, installed, load_engine, probe
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS


def test_the_engines_of_this_package_are_found() -> None:
    assert {"echo", "onnx", "onnx_text"} <= {one.name for one in installed() if one.own}
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


def test_a_broken_plug_in_is_reported_and_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "aigrid-broken", f"from {HERE} import BrokenEngine", broken="BrokenEngine")
    monkeypatch.syspath_prepend(tmp_path)
    found = probe("broken")
    assert (found.engine, found.formats) == ("broken", ())
    assert "no such library" in found.problem
    assert probe("echo").problem == ""


def test_a_name_belongs_to_one_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "class Engine: ..."
    install(tmp_path, "aardvark", code, echo="Engine", words="Engine")
    install(tmp_path, "zebra", code, words="Engine", **{"Not a name": "Engine"})
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(load_engine("echo"), EchoEngine)
    assert factory_of("words") == "aardvark:Engine"
    told = {one.label: one.problem for one in installed() if one.problem}
    assert told.keys() == {"echo (aardvark)", "words (zebra)", "Not a name (zebra)"}
    assert "that of an engine of aigrid-node" in told["echo (aardvark)"]
    assert "that of an engine of aardvark" in told["words (zebra)"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"engine": "onnx"}, "speaks of the engine 'onnx'"),
        ({"version": "1\x1b[31m"}, "characters"),
        ({"formats": ("x" * 97,)}, "characters"),
        ({"refuses": ("a: b",) * 17}, "more than 16"),
        ({"formats": ()}, "neither a problem nor"),
        ({"version": 7}, "Expected `str`, got `int`"),
    ],
)
def test_a_probe_that_says_what_nobody_may_is_refused(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], why: str
) -> None:
    said = replace(EchoEngine().probe(), **changes)
    monkeypatch.setattr(EchoEngine, "probe", lambda _: said)
    assert why in probe("echo").problem


def test_a_long_problem_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    said = replace(EchoEngine().probe(), problem="x" * 10**6)
    monkeypatch.setattr(EchoEngine, "probe", lambda _: said)
    assert len(probe("echo").problem) == LIMITS.error_message_max_chars


def test_code_of_a_stranger_reaches_no_engine() -> None:
    runs, safe = _probe("runs", code_formats=("echo",)), _probe("safe")
    trusted = replace(source(), trusted=True)
    assert EngineTable([runs, safe]).engines_for(source()) == ("safe",)
    assert EngineTable([runs, safe]).engines_for(trusted) == ("runs", "safe")
    with pytest.raises(EngineError, match="--trust-publisher") as refused:
        EngineTable([runs]).engines_for(source())
    assert refused.value.code is Code.UNSAFE_FILE
    assert EngineTable([runs]).engines_for(trusted) == ("runs",)


def test_whether_a_format_runs_code_is_what_choosing_an_engine_says() -> None:
    runs, safe = _probe("runs", code_formats=("echo",)), _probe("safe")
    broken = replace(runs, engine="broken", problem="no such library")
    other = _probe("other", formats=("toy",), code_formats=("echo",))
    for probes, expected in (
        ([runs], True),
        ([runs, safe], False),
        ([broken, safe], False),  # a broken plug-in silences nobody
        ([broken, runs], True),
        ([broken], True),
        ([broken, replace(safe, problem="too old")], False),
        ([other, safe], False),
        ([other], False),
        ([], False),
    ):
        assert EngineTable(probes).runs_code("echo") is expected
    for probes in ([runs], [runs, safe], [broken, safe], [broken, runs], [other, safe]):
        table = EngineTable(probes)
        if table.runs_code("echo"):
            with pytest.raises(EngineError, match="--trust-publisher"):
                table.engines_for(source())
        else:
            assert table.engines_for(source())


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


def test_a_format_takes_what_every_engine_that_may_load_it_takes() -> None:
    probes = [
        _probe("a", takes=("*",)),
        _probe("b", takes=("tools", "top_k")),
        _probe("c", takes=("top_k",)),
        _probe("d", problem="no driver"),
        _probe("e", formats=("onnx",)),
    ]
    assert EngineTable(probes).takes("echo") == ("top_k",)
    assert EngineTable(probes[:1]).takes("echo") == ("*",)
    assert EngineTable(probes).takes("onnx") == ()
    assert EngineTable(probes).takes("gguf") == ()
