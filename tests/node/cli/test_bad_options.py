"""Every option of every command, with values that it cannot have: exit status 2 and one sentence.

What the command line lets pass, a real node in a simulation is given, as the control socket would.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import typer
from tests.simulation.harness import Simulation

from aigrid.node.cli import entry, node_commands
from aigrid.node.commands.commands import NodeCommands
from aigrid.node.control_client import ControlClient
from aigrid.protocol.errors import EXIT_USAGE, AigridError, Code, UsageError
from aigrid.protocol.identity import Identity

DID = Identity(b"d" * 32).did
HUGE, LONG, LETTERS = "9" * 25, "a" * 5000, "\u0663\u00e9"
NUMBER = ("", "x", LETTERS, "1e999", "-1", HUGE, LONG)
TIME = ("", "x", LETTERS, "1e999", "-1", HUGE, "5 parsecs", "0x1h")
WORD = ("", "x y", LETTERS, "-1", LONG)
NO_DID = ("", "x", "did:key:z6Mk", "-1", LETTERS, LONG)
NO_FILE = ("", "no-such-file", LETTERS, LONG)
CHOICE = ("", "x", "-1", LETTERS, LONG)
EMPTY = ("",)
GRANT = ["credential", "issue", "--to", DID, "--everything"]

CALLS: list[tuple[list[str], dict[str, tuple[str, ...]]]] = [
    (
        ["up"],
        {
            "--listen": WORD,
            "--gateway": WORD,
            "--gateway-name": WORD,
            "--tls": CHOICE,
            "--tls-cert": NO_FILE,
            "--tls-key": NO_FILE,
            "--bootstrap": WORD,
            "--name": ("", LONG),
            "--region": WORD,
            "--threads": NUMBER,
            "--memory": (*WORD, "cpu=-1", "cpu=5 parsecs", f"cpu={HUGE}GiB"),
            "--engine": (*WORD, "nonsense"),
            "--interest": CHOICE,
            "--trust-publisher": NO_DID,
            "--serve": NO_DID,
            "--host": CHOICE,
            "--accept-license": ("", "-1", LETTERS, LONG),
            "--passphrase-file": NO_FILE,
        },
    ),
    (["top", "--once"], {"--interval": (*NUMBER, "0", "nan")}),
    (["join"], {"--grid": NO_DID}),
    (["id", "protect"], {"--passphrase-file": NO_FILE, "--old-passphrase-file": NO_FILE}),
    (["id", "unprotect"], {"--passphrase-file": EMPTY}),
    (["id", "rotate"], {"--passphrase-file": EMPTY}),
    (["grid", "delegates", DID], {"--quorum": ("", "x", "0", "-1", HUGE)}),
    (
        ["publish", __file__],
        {
            "--capability": CHOICE,
            "--name": EMPTY,
            "--license": EMPTY,
            "--language": WORD,
            "--upstream-model": CHOICE,
            "--key-file": NO_FILE,
            "--task-mapping": NO_FILE,
            "--policy": NO_FILE,
        },
    ),
    (
        ["find", "text-generation"],
        {
            "--language": WORD,
            "--format": ("", LONG),
            "--precision": ("", LONG),
            "--license": ("", LONG),
            "--region": ("", LONG),
            "--source": WORD,
            "--target": WORD,
            "--max-latency": NUMBER,
            "--max-size": NUMBER,
            "--issuer": NO_DID,
            "--signer": NO_DID,
        },
    ),
    (
        ["ask", "hello"],
        {
            "--model": EMPTY,
            "--capability": CHOICE,
            "--purpose": WORD,
            "--accept-license": ("", "-1", LETTERS, LONG),
            "--max-tokens": NUMBER,
            "--keep-alive": ("", "x", LETTERS, "1e999", "5 parsecs", LONG),
        },
    ),
    (
        ["run", "translation", "hello"],
        {
            "--file": NO_FILE,
            "--source": CHOICE[2:],
            "--target": CHOICE[2:],
            "--param": ("", "x", "=5", LETTERS),
            "--constraint": ("", "x", "=5", LETTERS),
            "--strategy": CHOICE,
            "--mode": (*CHOICE, "{}", '{"name": "vote", "of": 1}'),
            "--seed": NUMBER,
        },
    ),
    (["query", "ASK {}"], {"--format": CHOICE}),
    (["export"], {"--format": CHOICE}),
    (
        ["capability", "publish", "law", "--broader", "text", "--label", "law"],
        {
            "--broader": CHOICE,
            "--label": ("", LONG),
            "--language": CHOICE,
            "--input-schema": NO_FILE,
            "--output-schema": NO_FILE,
            "--parameters-schema": NO_FILE,
        },
    ),
    (
        GRANT,
        {
            "--to": NO_DID,
            "--action": CHOICE,
            "--model": EMPTY,
            "--capability": CHOICE,
            "--purpose": WORD,
            "--region": WORD,
            "--audience": NO_DID,
            "--requests-per-day": NUMBER,
            "--tokens-per-day": NUMBER,
            "--concurrency": NUMBER,
            "--delegable": NUMBER,
            "--valid": TIME,
            "--max-status-age": TIME,
            "--out": EMPTY,
        },
    ),
    (
        ["credential", "delegate", "x", "--to", DID],
        {
            "--to": EMPTY,
            "--action": EMPTY,
            "--model": EMPTY,
            "--capability": EMPTY,
            "--purpose": EMPTY,
            "--region": EMPTY,
            "--audience": EMPTY,
            "--requests-per-day": ("", "x", "1e999"),
            "--tokens-per-day": ("", "x", "1e999"),
            "--concurrency": ("", "x", "1e999"),
            "--delegable": ("", "x", "1e999"),
            "--valid": TIME,
            "--max-status-age": TIME,
            "--out": EMPTY,
        },
    ),
    (
        ["policy", "explain", "parrot"],
        {
            "--action": CHOICE,
            "--holder": NO_DID,
            "--on-behalf": NO_DID,
            "--credential": NO_FILE,
            "--node": NO_DID,
            "--purpose": WORD,
            "--accept": ("", "-1", LETTERS, LONG),
        },
    ),
    (
        ["key", "create", "bob"],
        {
            "--did": NO_DID,
            "--requests-per-minute": NUMBER,
            "--tokens-per-minute": NUMBER,
            "--tokens-per-day": NUMBER,
            "--concurrency": NUMBER,
            "--model": ("", LONG),
            "--capability": CHOICE,
            "--expires": TIME,
        },
    ),
    (
        ["receipts"],
        {
            "--role": CHOICE,
            "--state": CHOICE,
            "--actor": EMPTY,
            "--model": EMPTY,
            "--peer": NO_DID,
            "--since": TIME,
            "--limit": NUMBER,
            "--totals": CHOICE,
        },
    ),
    (["receipts", "show", "x"], {"--out": EMPTY}),
    (["receipts", "verify", "x", "--request", __file__], {"--request": NO_FILE, "--salt": CHOICE}),
]


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


def test_the_table_has_every_option_that_takes_a_value() -> None:
    known = {(words, option) for words, options in _named() for option in options}
    for path, command in commands(typer.main.get_command(entry.app)):
        for one in command.params:
            if one.param_type_name == "option" and not one.is_flag and one.name != "data_dir":
                assert (path, one.opts[-1]) in known


def _named() -> Iterator[tuple[tuple[str, ...], dict[str, tuple[str, ...]]]]:
    paths = {path for path, _ in commands(typer.main.get_command(entry.app))}
    for words, options in CALLS:
        yield max((tuple(words[:n]) for n in (1, 2) if tuple(words[:n]) in paths), key=len), options


def test_an_engine_that_nobody_has_is_named_beside_those_that_are_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data-dir", str(tmp_path), "up", "--engine", "onnx", "--engine", "nonsense"]
    assert entry.run(words) == EXIT_USAGE
    said = capsys.readouterr().err
    assert "'nonsense'" in said
    assert "echo, llama_cpp, onnx, " in said


async def node_says(node: NodeCommands, calls: list[tuple[str, dict[str, Any]]]) -> AigridError:
    """What a node answers to the last of `calls`, which it should refuse."""

    async def emit(_: object) -> None:
        await trio.lowlevel.checkpoint()

    method, params = calls[-1]
    with trio.fail_after(5):
        try:
            await node.call(method, params, emit)
        except AigridError as error:
            return error
    return AigridError(f"{method} was done", Code.INTERNAL)


class Passed(BaseException):
    """The command line let it pass."""


async def test_what_an_option_cannot_have_is_usage(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: object,
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []
    answers: list[AigridError] = []

    def call(_: object, method: str, params: dict[str, Any], *__: object) -> dict[str, Any]:
        calls.append((method, params))
        if answers:
            raise answers[-1]
        raise UsageError("", Code.NOT_RUNNING)

    monkeypatch.setattr(ControlClient, "call", call)
    parser: Any = typer.main.get_command(entry.app)  # once: it is most of the time that this takes
    monkeypatch.setattr(entry, "app", parser)
    monkeypatch.setattr(typer.main, "get_command", lambda _: parser)
    monkeypatch.setattr(node_commands, "_serve", lambda *_: None)
    wrong: list[str] = []

    def run(words: list[str]) -> bool:
        """Whether the words are refused as they should be."""
        status = entry.run(["--data-dir", str(tmp_path / "cli"), *words])
        said = capsys.readouterr()
        good = status == EXIT_USAGE and said.err.count("\n") == 1 and not said.out
        if not good or "Traceback" in said.err or "`$" in said.err:
            wrong.append(f"{[word[:40] for word in words]}: {status} {said.err[:200]!r}")
            return False
        return True

    async with trio.open_nursery() as nursery:
        sim = Simulation(5, tmp_path, nursery)
        node = NodeCommands((await sim.start("a")).node)
        await sim.publish_echo("a", "parrot")
        for words, options in CALLS:
            for option, values in options.items():
                for value in values:
                    calls.clear()
                    answers.clear()
                    line = [*words, f"{option}={value}"]
                    if run(line) and calls:
                        answers.append(await node_says(node, calls))
                        run(line)
        nursery.cancel_scope.cancel()
    assert not wrong, "\n".join(wrong)
