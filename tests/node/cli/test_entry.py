"""The way in and the way out: what is imported, what is refused, what becomes of a crash."""

import json
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.node.cli.conftest import Cli, ScriptedNode

from aigrid.node.cli import entry, node_commands
from aigrid.node.control import ControlClient
from aigrid.node.key_store import keys
from aigrid.node.key_store.passphrase import VARIABLE, PassphraseSource
from aigrid.protocol.errors import UsageError

HEAVY = ("libp2p", "multiaddr", "onnxruntime", "onnx", "numpy", "trio", "h11", "msgspec")


def aigrid(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-P",
        "-c",
        "import sys; from aigrid.node.cli import main; sys.exit(main())",
    ]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=60, check=False, **options
    )


def test_help_and_parsing_import_nothing_heavy() -> None:
    program = (
        "import sys\nfrom aigrid.node.cli.entry import run\n"
        "assert run(['--help']) == 0 and run(['nonsense']) == 2 and run(['up', '--help']) == 0\n"
        "assert run(['credential', 'issue', '--help']) == run(['policy', '--help']) == 0\n"
        f"found = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not found, found"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_name_that_is_no_text_ends_in_a_sentence(tmp_path: Path) -> None:
    program = "import sys; from aigrid.node.cli import main; sys.exit(main())"
    words = ("publish", os.fsdecode(b"bad\xff.gguf"), "--json")
    for encoding in ("utf-8:strict", "ascii:strict"):
        done = subprocess.run(
            [sys.executable, "-P", "-c", program, "--data-dir", str(tmp_path), *words],
            capture_output=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
        assert json.loads(done.stdout)["error"]["code"] == "model_file_missing"
        assert b"Traceback" not in done.stderr


def test_a_command_to_the_node_needs_no_trio(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom aigrid.node.cli.entry import run\n"
        f"assert run(['--data-dir', {str(tmp_path)!r}, 'status']) == 2\n"
        "assert 'trio' not in sys.modules and 'libp2p' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["status", "--nonsense"],
        ["invite"],
        ["up", "--threads", "x"],
        ["models", "x"],
        ["key"],
        ["grid"],
    ],
)
def test_what_cannot_be_parsed_is_usage(cli: Cli, arguments: list[str]) -> None:
    done = cli(*arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.count("\n") == 1
    done = cli(*arguments, "--json")
    assert (done.status, done.body["error"]["code"]) == (2, "usage")


def test_no_command_shows_the_help(cli: Cli) -> None:
    done = cli()
    assert done.status == 2
    assert "ask" in done.out


def test_the_version(cli: Cli) -> None:
    assert cli("--version").out.startswith("aigrid 0.")


def test_an_unexpected_exception_leaves_a_sentence_and_a_crash_log(
    cli: Cli, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ControlClient, "call", broken)
    done = cli("ask", "a secret question")
    assert done.status == 1
    assert done.err.count("\n") == 1
    assert "Traceback" not in done.err
    crash = data_dir / "crash.log"
    assert str(crash) in done.err
    assert "ZeroDivisionError" in crash.read_text()
    assert "command ask" in crash.read_text()
    assert "secret" not in crash.read_text()
    assert stat.S_IMODE(crash.stat().st_mode) == 0o600
    assert cli("status", "--json").body["error"]["code"] == "internal"


def test_an_interrupt_is_130(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (KeyboardInterrupt(), BaseExceptionGroup("", [KeyboardInterrupt()])):

        def interrupted(*_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(ControlClient, "call", interrupted)
        done = cli("status")
        assert (done.status, done.err) == (130, "")


def test_a_reader_that_leaves_is_no_crash(node: ScriptedNode, data_dir: Path) -> None:
    node.answers["status"] = {"pad": "x" * 1_000_000}
    reader, writer = os.pipe()
    os.close(reader)
    command = [
        sys.executable,
        "-P",
        "-c",
        "import sys; from aigrid.node.cli import main; sys.exit(main())",
    ]
    done = subprocess.run(
        [*command, "--data-dir", str(data_dir), "status", "--json"],
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--gateway", "0.0.0.0:8080"], "unsafe_binding"),
        (["--listen", "nonsense"], "usage"),
        (["--bootstrap", "/ip4/127.0.0.1/tcp/1"], "usage"),
    ],
)
def test_up_refuses_before_it_starts(cli: Cli, arguments: list[str], code: str) -> None:
    done = cli("up", *arguments, "--json")
    assert (done.status, done.body["error"]["code"]) == (2, code)


def test_up_on_an_unusable_directory_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = aigrid("up", "--data-dir", str(tmp_path / "file"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    done = aigrid("up", "--data-dir", str(tmp_path / "file"), "--json")
    assert json.loads(done.stdout)["error"]["code"] == "data_directory_unusable"


def test_the_data_directory_comes_from_the_environment(tmp_path: Path) -> None:
    done = aigrid("id", env={**os.environ, "AIGRID_DATA_DIR": str(tmp_path / "here")})
    assert done.returncode == 0
    assert (tmp_path / "here" / "node.key").exists()


@pytest.mark.parametrize("arguments", [("status",), ("publish", "~nobody-of-that-name/m.gguf")])
def test_a_home_that_is_nobodys_is_a_sentence(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    place = "~nobody-of-that-name/x" if arguments == ("status",) else str(tmp_path)
    done = aigrid("--data-dir", place, *arguments)
    assert done.returncode == 2
    assert "~nobody-of-that-name" in done.stderr
    assert "Traceback" not in done.stderr


def test_closed_streams_are_empty_ones(tmp_path: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -P -c " + shlex.quote(
        "import os, sys; from aigrid.node.cli import main\n"
        "status = main()\n"
        "assert os.path.samestat(os.fstat(2), os.stat(os.devnull))\n"
        "sys.exit(status)"
    )
    words = f"--data-dir {shlex.quote(str(tmp_path / 'd'))} id protect --passphrase-file -"
    done = subprocess.run(
        ["/bin/sh", "-c", f"{command} {words} <&- >&- 2>&-"], timeout=60, check=False
    )
    assert done.returncode == 2
    assert not (tmp_path / "d" / "crash.log").exists()


def test_what_is_made_to_be_copied_is_not_cut_at_the_terminals_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    command = f"aigrid --data-dir /{'long/' * 20}d"
    event = {"event": "ready", "peer_id": "p" * 52, "grid": "g" * 90, "gateway": "127.0.0.1:1"}
    node_commands._announce(event, as_json=False, command=command)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith("g" * 90) for line in lines)
    assert any(line.startswith(f"  {command} models fetch smollm2   ") for line in lines)


def test_the_ready_line_is_the_event_itself(capsys: pytest.CaptureFixture[str]) -> None:
    event = {
        "event": "ready",
        "peer_id": "p",
        "grid": "g",
        "gateway": "http://127.0.0.1:1",
        "pid": 1,
    }
    node_commands._announce(event, as_json=True, command="aigrid")
    assert json.loads(capsys.readouterr().out) == event
    node_commands._announce(event, as_json=False, command="aigrid --data-dir 'a b'")
    shown = capsys.readouterr().out
    assert "http://127.0.0.1:1/v1" in shown
    assert "aigrid --data-dir 'a b' ask" in shown
    assert "invite" not in shown  # it is not for a plain member
    node_commands._announce({**event, "authority": True}, as_json=False, command="aigrid -d 'a b'")
    assert "aigrid -d 'a b' invite DID" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("nonsense", "aigrid"),
        ("credential issue --to x --valid soon", "aigrid credential issue"),
        ("grid delegates --quorum 0", "aigrid grid delegates"),
    ],
)
def test_help_is_pointed_to_where_it_helps(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: str, command: str
) -> None:
    assert entry.run(["--data-dir", str(tmp_path), *words.split()]) == 2
    assert capsys.readouterr().err.endswith(f"; see `{command} --help`.\n")


@pytest.mark.parametrize("named", ["file", "variable"])
def test_the_first_key_gets_the_passphrase_that_was_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, named: str
) -> None:
    file = tmp_path / "p"
    source = PassphraseSource(str(file), {})
    if named == "variable":
        source = PassphraseSource(None, {VARIABLE: "one"})
    else:
        with pytest.raises(UsageError, match=f"cannot read the passphrase file {file}: No"):
            node_commands._use_passphrase(tmp_path, source)
        assert not (tmp_path / keys.NODE_KEY_FILE).exists()
        file.write_text("one\n")
    node_commands._use_passphrase(tmp_path, source)
    found = keys.read_key(tmp_path / keys.NODE_KEY_FILE)
    assert found is not None
    assert found.protected
    assert capsys.readouterr().err == ""
    (tmp_path / keys.NODE_KEY_FILE).unlink()
    keys.load_or_create_identity(tmp_path)
    node_commands._use_passphrase(tmp_path, source)
    assert "aigrid id protect" in capsys.readouterr().err


def test_engines_shows_each_device_once_and_each_reason_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def device(place: str, memory_of: str | None, total: int) -> dict[str, Any]:
        sizes = {"total": total, "free": 2**30, "budget": 2**29, "reserved": 0}
        told = {f"memory_{name}_bytes": size for name, size in sizes.items()}
        return {"device": place, "name": "a\x1b[1mb", "memory_of": memory_of, **told}

    def engine(name: str, why: str) -> dict[str, Any]:
        not_on = [{"device": place, "why": why} for place in ("cuda:0", "metal:0")]
        told = {"version": "1", "formats": ["x"], "problem": "", "refuses": [], "not_on": not_on}
        return {"engine": name, "devices": [{"device": "cpu"}], **told}

    node_commands._show_engines(
        {
            "sandbox": "none",
            "devices": [
                device("cpu", "cpu", 2**31),
                device("metal:0", "cpu", 2**31),
                device("cuda:0", None, 0),
            ],
            "devices_not_found": ["cuda:7"],
            "engines_not_found": ["foo"],
            "engines": [engine("one", "too old"), engine("two", "too old"), engine("three", "no")],
        }
    )
    shown = capsys.readouterr()
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    assert lines[1:4] == [
        "cpu a[1mb 2.0 GiB 1.0 GiB 0.5 GiB 0 GiB",
        "metal:0 a[1mb 2.0 GiB 1.0 GiB with cpu 0 GiB",
        "cuda:0 a[1mb ? ? no engine uses it 0 GiB",
    ]
    assert lines[-2:] == [
        "one, two not on cuda:0, metal:0: too old",
        "three not on cuda:0, metal:0: no",
    ]
    assert "cuda:7 has a budget (--memory) but is not here" in shown.err
    assert "foo is preferred (--engine) but is not installed" in shown.err


def test_every_command_is_known_to_the_crash_log() -> None:
    expected = {
        "top",
        "up",
        "id",
        "status",
        "peers",
        "invite",
        "join",
        "experience",
        "requests",
        "approve",
        "remove",
    }
    expected |= {
        "engines",
        "models",
        "publish",
        "withdraw",
        "find",
        "ask",
        "run",
        "record",
        "receipts",
        "query",
        "export",
        "capability",
        "key",
        "credential",
        "policy",
        "grid",
    }
    assert entry._command_names() == expected


def test_no_line_of_the_help_is_cut_at_eighty_columns(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for group in ([], ["models"]):
        _, *lines = cli(*group, "--help").out.splitlines()
        assert [line for line in lines if line.endswith("...") or len(line) > 80] == []
