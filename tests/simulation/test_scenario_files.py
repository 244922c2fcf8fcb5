"""Files in `scripts/scenarios` that make no scenario: told of by name, and no other is hidden."""

import sys
from pathlib import Path

import pytest
from scripts import simulate as command
from scripts.simulation import options as options_module
from scripts.simulation.options import options_of

MISTAKES = {
    "name": (b'scenario = "x"', "'scenario'"),
    "huge": (b"rate = 1" + b"0" * 400, "rate"),
    "hex": (b"nodes = 0x1" + b"0" * 9000, ""),
    "digits": (b"nodes = 1" + b"0" * 9000, ""),
    "syntax": (b"nodes = = 3", "line 1"),
    "typed": (b'nodes = "3"', "nodes"),
    "table": (b"[options]\nnodes = 3", "options"),
    "nan": (b"rate = nan", "--rate"),
    "date": (b"rate = 2020-01-01", "rate"),
    "title": (b"title = 5", "title"),
    "encoding": (b"a = \xff\xfe", "utf-8"),
    "deep": (b"a = " + b"[" * 100_000, ""),
    "range": (b"nodes = 1", "--nodes"),
    "less": (b"loss = -0.1", "distribution"),
    "much": (b"loss = 2", "--loss"),
    "whether": (b"loss = true", "loss"),
    "never": (b"latency_ms = nan", "distribution"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(options_module, "SCENARIOS", tmp_path)
    return tmp_path


def main(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["simulate.py", *words])
    return command.main()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_of_with_the_name_of_its_file(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mistake: str,
) -> None:
    text, said = MISTAKES[mistake]
    (folder / f"{mistake}.toml").write_bytes(text)
    assert main(monkeypatch, mistake) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"simulate: {mistake}.toml")
    assert said in line


def test_such_files_hide_no_other_from_the_list(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (text, _) in MISTAKES.items():
        (folder / f"{name}.toml").write_bytes(text)
    (folder / "folder.toml").mkdir()
    for name in ("a", "z"):
        (folder / f"{name}.toml").write_text(f'about = "It is {name}."', "utf-8")
    assert main(monkeypatch, "--list") == 2
    said = capsys.readouterr()
    assert [line.split(maxsplit=1) for line in said.out.splitlines()] == [
        ["a", "It is a."],
        ["z", "It is z."],
    ]
    assert len(said.err.splitlines()) == len(MISTAKES)


def test_a_file_that_may_not_be_read_or_is_none_is_told_of(folder: Path) -> None:
    (folder / "folder.toml").mkdir()
    with pytest.raises(ValueError, match=r"folder\.toml cannot be read"):
        options_of("folder", {})
    with pytest.raises(ValueError, match="cannot be read"):
        options_of("x" * 400, {})
    with pytest.raises(ValueError, match="no scenario 'there'"):
        options_of("there", {})


@pytest.mark.parametrize("name", ["churn", "partition", "loss"])
def test_what_sets_nothing_else_is_for_events_too(name: str) -> None:
    assert options_of(name, {"mode": "events"}).scenario == name


def test_a_number_is_a_distribution_too(folder: Path) -> None:
    (folder / "few.toml").write_text("latency_ms = 20\nloss = 0.00001", "utf-8")
    options = options_of("few", {})
    assert (options.latency_ms, options.loss) == ("20", "0.00001")
    assert options_of("", {"loss": 0.1}) == options_of("", {"loss": "0.1"})
