"""One benchmark as a process: tiny programs stand for it, which end in every way there is."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from scripts.bench.runner.running import ROOT, run
from scripts.nodes import wait_for
from tests.bench.fakes import TELLS, python
from tests.patience import PATIENCE_SECONDS


def test_one_that_runs_is_told_of():
    ran = python(TELLS)
    assert (ran.state, ran.why) == ("ran", "")
    assert ran.figures[0].ratio.middle == 2
    assert ran.cpu_seconds > 0


def test_one_that_fails_is_quoted_and_what_it_had_told_counts():
    ran = python(TELLS + "sys.exit('no such muxer')")
    assert (ran.state, ran.why) == ("failed", "status 1: no such muxer")
    assert [one.name for one in ran.figures] == ["a"]


def test_one_that_tells_nothing_has_failed():
    assert python("pass").state == "failed"


def test_one_that_says_why_it_did_nothing_is_skipped():
    ran = python("from scripts.bench.reporting import skip; skip('no strace')")
    assert (ran.state, ran.why) == ("skipped", "no strace")


def test_one_that_cannot_be_started_has_failed(tmp_path):
    assert run("fake", [str(tmp_path / "none")], bound_seconds=9).state == "failed"


def test_a_status_that_says_only_that_an_aim_was_missed_is_no_failure():
    missed = TELLS.replace("at_most(3)", "at_most(1)") + "sys.exit(1)"
    assert python(missed, judges=True).state == "ran"
    assert python(missed).state == "failed"
    assert python(TELLS + "sys.exit(1)", judges=True).state == "failed"


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="without /proc none is found")
@pytest.mark.parametrize("stubborn", [True, False])
def test_one_that_is_interrupted_is_ended_with_all_that_it_started(tmp_path, stubborn):
    pids = tmp_path / "pids"
    ignore = "signal.signal(signal.SIGINT, signal.SIG_IGN);" if stubborn else ""
    code = (
        f"import os, signal, subprocess, time; {ignore}"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True);"
        f"open('{pids}.new', 'w').write(f'{{os.getpid()}} {{child.pid}}');"
        f"{TELLS} os.rename('{pids}.new', '{pids}'); time.sleep(600)"
    )

    def tick(_seconds):
        if pids.exists():
            raise KeyboardInterrupt

    ran = python(code, tick=tick, grace_seconds=0.1 if stubborn else PATIENCE_SECONDS)
    assert ran.state == "interrupted"
    assert [one.name for one in ran.figures] == ["a"]
    deadline = time.monotonic() + PATIENCE_SECONDS  # the kernel ends them when it gets round to it
    while not all(gone(int(pid)) for pid in pids.read_text().split()):
        assert time.monotonic() < deadline


def test_the_bound_ends_it():
    ran = python(f"{TELLS} import time; time.sleep(600)", bound_seconds=0.2, grace_seconds=0.1)
    assert ran.state == "failed"
    assert "longer than" in ran.why
    assert ran.too_long


def test_what_it_leaves_in_the_temporary_folder_goes(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert python(f"{TELLS} import tempfile; tempfile.mkdtemp()").state == "ran"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does it there")
def test_it_is_killed_with_who_runs_it(tmp_path):
    said = tmp_path / "pid"
    code = f"import os, time; open('{said}.new', 'w').write(str(os.getpid()));"
    code += f"os.rename('{said}.new', '{said}'); time.sleep(600)"
    runs = (
        "import sys; from scripts.bench.runner.running import run;"
        f"run('fake', [sys.executable, '-c', {code!r}], bound_seconds=600)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", runs], cwd=ROOT, env=environment) as process:
        wait_for(said.exists, timeout_seconds=PATIENCE_SECONDS, what="the benchmark")
        process.kill()
    pid = int(said.read_text())
    try:
        wait_for(lambda: gone(pid), timeout_seconds=PATIENCE_SECONDS, what="its end")
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
