"""Two runs of pytest side by side: each line is shown, what failed is named at the end, once more."""

import sys
from pathlib import Path

import pytest
from scripts import lanes


def lane(folder: Path, name: str, body: str) -> tuple[str, ...]:
    """A run of pytest over a file of its own."""
    path = folder / f"test_{name}.py"
    path.write_text(body)
    plain = ("-p", "no:cacheprovider", "-c", str(folder / "pytest.ini"), "--rootdir", str(folder))
    (folder / "pytest.ini").write_text("[pytest]\n")
    return (sys.executable, "-m", "pytest", *plain, "-rf", str(path))


def test_a_failure_in_either_is_named_at_the_end_and_told_by_the_status(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # it starts sooner
    good = lane(tmp_path, "good", "def test_it(): pass\n")
    bad = lane(tmp_path, "bad", "def test_it(): assert 0, 'why'\n")
    assert lanes.main({"left": good, "right": bad}) == 1
    shown, _, end = capfd.readouterr().out.rpartition("\n\n")
    assert "test_good.py ." in shown
    assert "right | E   AssertionError: why" in shown
    passed, failed, summary = end.splitlines()
    assert passed.startswith("left  | ")
    assert "1 passed" in passed
    assert failed.startswith("right | FAILED ")
    assert "test_bad.py::test_it" in failed
    assert "1 failed" in summary


def test_a_run_that_is_killed_is_no_success(capfd: pytest.CaptureFixture[str]) -> None:
    kill = "import os; os.kill(os.getpid(), 9)"
    assert lanes.main({"a": (sys.executable, "-c", ""), "b": (sys.executable, "-c", kill)}) == 1
    assert capfd.readouterr().out.splitlines()[-1] == "b | ended with -9"


def test_every_test_is_in_one_lane() -> None:
    (process, *selected), (rest, *others) = (command[3:] for command in lanes.LANES.values())
    assert (process, rest) == ("-m", "-m")
    assert others == [f"not {name}" for name in selected] == ["not process"]
