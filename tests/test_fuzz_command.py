"""The command that fuzzes: how it ends, what it leaves behind, which options it refuses."""

import errno
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripts.fuzz import main
from scripts.fuzzing import long, run
from scripts.fuzzing.run import FOLDER, Bounds, Job, Run
from tests.folders import open_folders
from tests.patience import PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parents[1]
SEED, EXECUTIONS, FOREVER = 257, 100, 1 << 60  # each faulty decoder meets the one input once
QUICK = Bounds(hang_seconds=1.0)
ONCE = ("--executions", str(EXECUTIONS), "--seed", str(SEED))


def _until(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def _raising(error: BaseException) -> Callable[..., Any]:
    def heard(*_: Any) -> None:
        raise error

    return heard


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """`main` sets them for a process that is its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_what_goes_wrong_in_hearing_is_raised_and_nothing_is_found() -> None:
    one = Run(
        [Job("planted-print", 0, EXECUTIONS, 3600)],
        SEED,
        bounds=QUICK,
        say=_raising(BrokenPipeError()),
    )
    with pytest.raises(BrokenPipeError):
        one.go()
    assert not one.findings
    assert one.tallies["planted-print"].executions == EXECUTIONS


def test_it_ends_what_runs_beside_it() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    jobs = [Job("planted-print", 0, FOREVER, 1e9), Job("planted-error", 0, EXECUTIONS, 1e9)]
    both = Run(jobs, SEED, processes=2, found=_raising(full))
    with pytest.raises(OSError, match="No space left"):
        both.go()


@pytest.mark.parametrize("silent", [False, True])
def test_a_full_disk_is_told_and_what_was_found_nevertheless(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    silent: bool,
) -> None:
    monkeypatch.setattr(long, "store", _raising(OSError(errno.ENOSPC, "No space left on device")))
    more = ["--json"] if silent else []
    assert main(["--target", "planted-error", *ONCE, "--keep", str(tmp_path), *more]) == 2
    said = capsys.readouterr()
    assert said.err.endswith("fuzz: [Errno 28] No space left on device\n")
    found = said.err if silent else said.out
    assert f"again: python -m scripts.fuzz --target planted-error --seed {SEED} --index " in found
    assert "hang" not in said.out + said.err


@pytest.mark.parametrize("more", [[], ["--long"]])
def test_a_folder_that_cannot_be_written_is_refused_before_the_run(
    more: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Run, "go", lambda _: pytest.fail("it began"))
    file = tmp_path / "file"
    file.write_text("of somebody")
    assert main(["--target", "planted-error", "--keep", str(file), *more]) == 2
    assert capsys.readouterr() == ("", f"fuzz: --keep {file} cannot be written: File exists\n")
    assert file.read_text() == "of somebody"


def test_a_signal_while_it_still_imports_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str, *_: Any) -> None:
        if name == "scripts.fuzzing.command":
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.delitem(sys.modules, "scripts.fuzzing.command", raising=False)
    monkeypatch.delattr("scripts.fuzzing.command", raising=False)
    monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=interrupted), *sys.meta_path])
    assert main([]) == 130
    assert capsys.readouterr() == ("", "fuzz: interrupted\n")


@pytest.mark.parametrize("name", ["fuzz", "fuzz_yamux", "fuzz_yamux_differential"])
def test_they_run_as_files_from_anywhere(name: str, tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / f"scripts/{name}.py"), "--help"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


def test_as_a_file_it_fuzzes_from_anywhere(tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "scripts/fuzz.py"), "--target", "planted-error", *ONCE]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert [one.read_bytes() for one in (tmp_path / ".fuzz").iterdir()] == [b"77"]


def test_a_process_that_says_something_else_is_told_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "WORKER", ("-c", "print('hello', flush=True); input(); input()"))
    assert main(["--target", "planted-error", *ONCE]) == 2
    assert capsys.readouterr().err == "fuzz: a process says what nobody understands: hello\n\n"


def test_what_a_decoder_prints_is_no_line_of_its_process() -> None:
    one = Run([Job("planted-print", 0, EXECUTIONS, 3600)], SEED)
    one.go()
    assert not one.findings
    assert one.tallies["planted-print"].executions == EXECUTIONS


def test_who_reads_no_further_ends_it() -> None:
    words = [sys.executable, "-m", "scripts.fuzz", "--target", "planted-print", "--seconds", "1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"target")
        process.stdout.close()  # before there is a line of a table
        assert process.wait(PATIENCE_SECONDS) == 130
        assert process.stderr.read() == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_neither_processes_nor_folders(number: signal.Signals) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("the tests run under nohup, and so would the fuzzer")
    words = [sys.executable, "-m", "scripts.fuzz", "--target", "planted-print", "--seconds", "900"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        made = _until(lambda: open_folders(process.pid, FOLDER))
        process.send_signal(number)
        try:
            assert process.wait(PATIENCE_SECONDS) == 130
        finally:
            process.kill()
    assert made
    assert not any(folder.exists() for folder in made)
    with pytest.raises(ProcessLookupError):  # nobody of its group is left
        os.killpg(process.pid, 0)


def test_an_interruption_while_processes_begin_ends_those_that_have_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Interrupted(ThreadPoolExecutor):
        def submit(self, *what: Any, **how: Any) -> Any:
            super().submit(*what, **how)
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "ThreadPoolExecutor", Interrupted)
    one = Run([Job("planted-print", 0, FOREVER, 5.0)], SEED)
    with pytest.raises(KeyboardInterrupt):
        one.go()
    assert not one.tallies  # nobody went on for five seconds


def test_what_a_killed_fuzzer_left_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, other = tmp_path / f"{FOLDER}left", tmp_path / "somebody-else"
    for folder in (left, other):
        (folder / "inputs").mkdir(parents=True)
        os.utime(folder, (0, 0))
    monkeypatch.setattr(run, "MEMORY", str(tmp_path))
    assert main(["--target", "planted-print", "--executions", "1"]) == 0
    assert set(tmp_path.iterdir()) == {other}


def test_who_ignores_the_end_of_a_terminal_goes_on_ignoring_it() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert main(["--target", "planted-print", "--executions", "1"]) == 0
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


PARENT = """
import signal, sys
from scripts.running import Running
with Running(signal.SIGTERM).started([sys.executable, "-c", sys.argv[1]]) as process:
    process.wait()
"""
CHILD = """
import signal, sys
def leave(*_):
    print("tidied up", flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, leave)
print("begun", flush=True)
while True:
    signal.pause()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does it there")
def test_processes_end_with_who_started_them_though_that_was_killed() -> None:
    words = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.kill()
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE_SECONDS)
        said = process.stdout.readline() if ready else b""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a child that is still there
    assert said == b"tidied up\n"


def test_tallies_are_told_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = ["--target", "planted-error", *ONCE, "--json", "--keep", str(tmp_path)]
    assert main(said) == 1
    told = json.loads(capsys.readouterr().out)["planted-error"]
    assert told["executions"] == EXECUTIONS == sum(told["ends"].values()) + 1  # and what was found


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--long --seconds 5", "--long does not go together with --seconds"),
        ("--long --json", "--long does not go together with --json"),
        ("--long --coverage", "--coverage does not go together with --long"),
        ("--coverage --jobs 2", "--coverage does not go together with --jobs"),
        ("--list --seed 0", "--list does not go together with --seed"),
        ("--index 0", "--index needs one --target"),
        ("--index 0 --target http --target gguf", "--index needs one --target"),
        ("--index 0 --target http --executions 5", "does not go together with --executions"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    line: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "go", lambda _: pytest.fail("it was taken"))
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    heard = capsys.readouterr()
    assert said in heard.err.splitlines()[-1]
    assert not heard.out
