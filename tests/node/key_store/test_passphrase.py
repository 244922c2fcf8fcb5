"""Where a passphrase comes from, and that it goes nowhere else."""

import io
import sys
from pathlib import Path

import pytest

from aigrid.node.key_store.passphrase import VARIABLE, PassphraseSource
from aigrid.protocol.errors import Code, UsageError


def never(_: str) -> str:
    raise AssertionError("nobody was to be asked")


def code_of(source: PassphraseSource) -> Code:
    with pytest.raises(UsageError) as caught:
        source()
    return caught.value.code


def test_a_file_comes_before_the_environment_and_that_before_a_person(tmp_path: Path) -> None:
    file = tmp_path / "p"
    file.write_text("first line \nsecond\n")
    environment = {VARIABLE: "from outside", "HOME": "x"}
    assert PassphraseSource(str(file), environment, prompt=never)() == "first line "
    assert environment == {"HOME": "x"}  # no child gets it
    assert PassphraseSource(None, {VARIABLE: "é"}, prompt=never)() == "é"
    assert PassphraseSource(None, {}, prompt=lambda _: "said")() == "said"


def test_a_person_is_asked_once_or_twice_where_it_is_new() -> None:
    asked: list[str] = []

    def prompt(text: str) -> str:
        asked.append(text)
        return "said"

    source = PassphraseSource(None, {}, asks="A", again="B", prompt=prompt)
    assert (source(), source()) == ("said", "said")
    assert asked == ["A", "B"]
    answers = iter(["one", "two"])
    differing = PassphraseSource(None, {}, again="B", prompt=lambda _: next(answers))
    assert code_of(differing) is Code.PASSPHRASE_WRONG


def test_standard_input_is_read_to_the_end_of_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a b\r\nmore")))
    assert PassphraseSource("-", {})() == "a b"


def test_without_a_terminal_the_next_step_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"secret")))
    with pytest.raises(UsageError, match="--passphrase-file") as caught:
        PassphraseSource(None, {})()
    assert caught.value.code is Code.PASSPHRASE_REQUIRED


def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\n")
    for name in ("x", "missing", "."):
        assert code_of(PassphraseSource(str(tmp_path / name), {})) is Code.USAGE
