"""`scripts/testnet.py` as it is typed: what it says at its end, and that nothing is left of it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scripts.nodes import wait_for
from scripts.testnets.grid import Process, descendants, lives
from scripts.testnets.namespaces import why_not
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process
Start = Callable[..., subprocess.Popen[str]]
PATIENT = ("--patience", "60", "--settle", "300")  # on a busy machine; nothing waits so long else
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts testnets whose data directories are below `tmp_path`; none outlives the test."""
    made: list[subprocess.Popen[str]] = []

    def one(*options: str) -> subprocess.Popen[str]:
        running = subprocess.Popen(
            [sys.executable, "scripts/testnet.py", *options],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        made.append(running)
        return running

    yield one
    for running in made:
        running.kill()
        running.communicate()


def told(running: subprocess.Popen[str], folder: Path) -> tuple[list[str], dict]:
    """What it said, and its report."""
    said, _ = running.communicate(timeout=10 * PATIENCE_SECONDS)
    assert running.returncode == 0, said
    return said.splitlines(), json.loads((folder / "report.json").read_text())


def gone(processes: list[Process]) -> Callable[[], bool]:
    return lambda: not any(map(lives, processes))


def up(running: subprocess.Popen[str]) -> list[Process]:
    """Everything below it, once the nodes are up."""
    assert running.stdout is not None
    for line in running.stdout:
        if " 1 up; " in line:
            return descendants(running.pid)
    raise AssertionError("it ended before its node was up")


def test_a_node_is_killed_and_comes_back_while_requests_are_answered(start, tmp_path):
    report = str(tmp_path / "report.json")
    running = start(
        *("--nodes", "3", "--duration", "8", "--models", "echo", "--holders", "3", "--rate", "4"),
        *(
            "--kill",
            "15",
            "--down",
            "1",
            "--spare",
            "0.67",
            "--seed",
            "6",
            "--json",
            report,
            *PATIENT,
        ),
    )
    lines, found = told(running, tmp_path)
    assert found["faults"]["kill"] == 1
    assert found["faults"]["whole_after_seconds"] is not None
    assert sum(one["lives"] for one in found["nodes"].values()) == 4
    assert found["requests"]["answered"] == found["requests"]["counted"] > 20
    assert lines[-1] == f"replay: {found['replay']}"
    assert [one.name for one in tmp_path.iterdir()] == ["report.json"]


def test_ctrl_c_ends_everything_and_what_was_is_told(start, tmp_path):
    running = start("--nodes", "1", "--echo")
    processes = up(running)
    assert processes
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 0, said
    assert "replay: python scripts/testnet.py --nodes 1" in said
    wait_for(gone(processes), timeout_seconds=PATIENCE_SECONDS, what="its processes to end")
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_stopped_before_there_is_a_grid_has_failed_and_says_so(start, tmp_path):
    running = start("--nodes", "2", "--seed", "7")
    assert running.stdout is not None
    assert running.stdout.readline() == "Starting nodes\n"
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 1, said
    failed, replay = said.splitlines()[-2:]
    assert failed == "Failed: stopped before the grid was there"
    assert replay.startswith("replay: python scripts/testnet.py --nodes 2 ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [False, True])
def test_a_second_signal_kills_the_nodes_whatever_is_done_just_then(start, tmp_path, keep):
    running = start("--nodes", "1", "--echo", *(["--keep"] if keep else []))
    processes = up(running)
    assert processes
    node, _ = processes[0]
    os.kill(node, signal.SIGSTOP)
    running.send_signal(signal.SIGTERM)
    assert running.stdout is not None
    for line in running.stdout:
        if "Stopping the nodes" in line:
            break
    os.kill(node, signal.SIGSTOP)  # it was let go on, to end by itself
    running.send_signal(signal.SIGHUP)  # a terminal that goes away is no second wish
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 128 + signal.SIGINT, said
    assert said.splitlines()[-1] == "ended at once: the nodes were killed"
    assert gone(processes)()
    assert len(list(tmp_path.iterdir())) == keep


def test_a_second_signal_ends_what_looks_at_no_first(tmp_path):
    code = """
import signal, subprocess, sys
from pathlib import Path
sys.path.insert(0, ".")
from scripts.testnet import _Stop
folder = Path(sys.argv[1]); folder.mkdir()
stop = _Stop(folder)
subprocess.Popen(["sleep", "600"])
print("on", flush=True)
while True: pass
"""
    folder = tmp_path / "data"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "on\n"
        sleeps = descendants(running.pid)
        assert len(sleeps) == 1
        running.send_signal(signal.SIGTERM)
        running.send_signal(signal.SIGINT)
        assert running.wait(PATIENCE_SECONDS) in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert gone(sleeps)()
    assert not folder.exists()


def test_no_process_outlives_a_testnet_that_is_killed(start):
    running = start("--nodes", "1", "--echo")
    processes = up(running)
    assert processes
    running.kill()
    wait_for(gone(processes), timeout_seconds=PATIENCE_SECONDS, what="the node's processes to end")


def test_nodes_in_namespaces_talk_over_the_relay(start, tmp_path):
    if reason := why_not():
        pytest.skip(reason)
    running = start(
        *("--nodes", "2", "--net", "namespaces", "--latency", "30", "--duration", "5"),
        *("--models", "echo", "--rate", "3", "--json", str(tmp_path / "report.json")),
        *("--drop", "15", "--spare", "0", "--seed", "9", *PATIENT),
    )
    _, found = told(running, tmp_path)
    assert found["requests"]["answered"] == found["requests"]["counted"] > 5
    assert found["faults"]["connections_dropped"] >= 1
    assert found["relay"]["passed"] > 100
