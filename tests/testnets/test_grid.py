"""What the grid and the chaos of a testnet make of nodes, with stand-ins for their processes."""

import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest
from scripts.nodes import NodeFailedError, Usage
from scripts.testnets import chaos as chaos_module
from scripts.testnets import grid as grid_module
from scripts.testnets import sampling
from scripts.testnets.chaos import Chaos, drop
from scripts.testnets.grid import ENDING_SECONDS, GONE_SECONDS, Grid, State, descendants, lives
from scripts.testnets.sampling import ANSWER_SECONDS, SILENT, Sample, Sampler
from scripts.testnets.schedule import Fault, Kind
from tests.patience import PATIENCE_SECONDS

NO_PID = 1 << 22  # the kernel gives none above
SLEEPER = "import sys; print('up', flush=True); sys.stdin.read()"


class Stand:
    """A node that does what it is told; signals go to `got`."""

    def __init__(self, number: int) -> None:
        self.pid = 1000 + number
        self.alive = False
        self.status = 0
        self.launched = 0
        self.got: list[int] = []
        self.ready = {"listen": [f"/ip4/127.0.0.1/tcp/{4000 + number}/p2p/x"]}
        self.starts = True

    def launch(self) -> None:
        self.alive, self.launched = True, self.launched + 1

    def wait_ready(self, *, timeout_seconds: float) -> dict:
        if not self.starts:
            raise NodeFailedError("it would not")
        return self.ready

    def kill9(self) -> None:
        self.alive = False

    def stop(self, *, timeout_seconds: float) -> int:
        return self.status


@pytest.fixture
def grid(monkeypatch: pytest.MonkeyPatch) -> Grid:
    """Two nodes that are up."""
    stands: list[Any] = [Stand(0), Stand(1)]
    made = Grid(stands)
    by_pid = {one.pid: one for one in stands}

    def kill(pid: int, number: int) -> None:
        by_pid[pid].got.append(number)

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(grid_module, "descendants", lambda pid: [(pid + NO_PID, 77)])
    monkeypatch.setattr(grid_module, "lives", lambda _process: False)
    for member in made.members:
        made.launch(member)
        come_up(made, member)
    return made


def come_up(grid, member, now=0.0) -> None:
    member.starting.exception(PATIENCE_SECONDS)
    grid.tick(now)


def fault(kind: Kind, node=1, seconds=5.0) -> Fault:
    return Fault(0.0, kind, (node,), seconds)


def test_a_killed_node_is_started_again_when_its_time_is_over(grid):
    member, chaos = grid.members[1], Chaos(grid, None)
    assert chaos.apply(fault(Kind.KILL), now=10.0) == "kill n1"
    grid.tick(14.9)
    assert (member.state, member.node.launched, member.hit_at) == (State.DOWN, 1, 10.0)
    grid.tick(15.0)
    assert member.node.launched == 2
    come_up(grid, member, 16.0)
    assert (member.state, member.lives, grid.failures) == (State.UP, 2, [])


def test_a_held_node_goes_on_when_its_time_is_over(grid):
    member, chaos = grid.members[1], Chaos(grid, None)
    chaos.apply(fault(Kind.STOP), now=10.0)
    assert member.node.got == [signal.SIGSTOP]
    assert grid.up() == [grid.members[0]]
    grid.tick(15.0)
    assert member.node.got == [signal.SIGSTOP, signal.SIGCONT]
    assert (member.state, member.hit_at) == (State.UP, 15.0)


def test_a_node_that_is_restarted_is_started_when_it_has_ended(grid):
    member, chaos = grid.members[1], Chaos(grid, None)
    chaos.apply(fault(Kind.RESTART), now=10.0)
    grid.tick(12.0)
    assert (member.node.got, member.node.launched) == ([signal.SIGTERM], 1)
    member.node.alive = False
    grid.tick(12.5)
    assert member.node.launched == 2
    assert grid.failures == []


def test_a_node_that_is_restarted_and_ended_with_an_error_has_failed(grid):
    member = grid.members[1]
    Chaos(grid, None).apply(fault(Kind.RESTART), now=10.0)
    member.node.alive, member.node.status = False, 3
    grid.tick(12.5)
    assert member.node.launched == 2
    assert grid.failures == ["n1 ended with 3 when asked to"]


def test_a_node_that_does_not_end_when_asked_has_failed(grid):
    chaos = Chaos(grid, None)
    chaos.apply(fault(Kind.RESTART), now=10.0)
    grid.tick(10.0 + ENDING_SECONDS)
    assert grid.failures == [f"n1 did not end in {ENDING_SECONDS:g} s"]


def test_a_node_that_ends_by_itself_or_does_not_start_has_failed(grid):
    first, second = grid.members
    first.node.alive = False
    grid.tick(1.0)
    assert grid.failures == ["n0 ended by itself"]
    second.node.starts = False
    Chaos(grid, None).apply(fault(Kind.KILL), now=2.0)
    grid.tick(7.0)
    come_up(grid, second, 8.0)
    assert grid.failures[1:] == ["n1 did not start: it would not"]
    assert grid.up() == []


def test_what_outlives_a_killed_node_is_left_behind(grid, monkeypatch):
    monkeypatch.setattr(grid_module, "lives", lambda _process: True)
    Chaos(grid, None).apply(fault(Kind.KILL), now=10.0)
    grid.tick(9.9 + GONE_SECONDS)
    assert grid.orphans == []
    grid.tick(10.0 + GONE_SECONDS)
    grid.tick(20.0 + GONE_SECONDS)
    assert grid.orphans == [f"process {1001 + NO_PID} of n1"]


def test_a_fault_of_a_node_that_is_not_up_is_left_out(grid):
    chaos = Chaos(grid, None)
    assert chaos.apply(fault(Kind.STOP), now=1.0)
    assert chaos.apply(fault(Kind.KILL), now=2.0) == ""
    assert (chaos.done, chaos.left_out) == ({Kind.STOP: 1}, 1)


def test_a_partition_ends_when_its_time_is_over(grid):
    cuts: list[tuple[int, ...]] = []
    chaos = Chaos(grid, cuts.append)
    chaos.apply(Fault(0.0, Kind.PARTITION, (0,), 8.0), now=1.0)
    chaos.tick(8.9)
    assert cuts == [(0,)]
    chaos.tick(9.0)
    chaos.tick(30.0)
    chaos.heal()
    assert cuts == [(0,), ()]


def test_ports_of_all_nodes_say_which_connections_are_dropped(grid, monkeypatch):
    asked = []

    def drop_three(pid: int, ports: set[int]) -> int:
        asked.append((pid, ports))
        return 3

    monkeypatch.setattr(chaos_module, "drop", drop_three)
    chaos = Chaos(grid, None)
    chaos.apply(fault(Kind.DROP), now=1.0)
    assert asked == [(1001, {4000, 4001})]
    assert (chaos.dropped, grid.members[1].hit_at) == (3, -1.0)
    monkeypatch.setattr(chaos_module, "drop", lambda _pid, _ports: 0)
    assert chaos.apply(fault(Kind.DROP), now=2.0) == ""
    assert (chaos.done, chaos.left_out) == ({Kind.DROP: 1}, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="pidfd_getfd is Linux's")
def test_connections_of_another_process_end_at_both_ends_and_no_others():
    program = (
        "import socket, sys\n"
        "ours, other = (socket.create_connection(('127.0.0.1', int(p))) for p in sys.argv[1:])\n"
        "print('up', flush=True)\n"
        "print(len(ours.recv(1)), flush=True)\n"
        "other.sendall(b'!')\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:
        ports = [one.getsockname()[1] for one in (a, b)]
        command = [sys.executable, "-c", program, *map(str, ports)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"up\n"
            (ours, _), (other, _) = a.accept(), b.accept()
            with ours, other:
                ours.settimeout(PATIENCE_SECONDS)
                other.settimeout(PATIENCE_SECONDS)
                assert drop(child.pid, {ports[0]}) == 1
                assert ours.recv(1) == b""
                assert child.stdout.readline() == b"0\n"
                assert other.recv(1) == b"!"


def test_processes_below_one_are_found_and_gone_when_they_are():
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        (found,) = (one for one in descendants(os.getpid()) if one[0] == child.pid)
        assert lives(found)
        assert not lives((child.pid, found[1] + 1))  # the id was used again
        child.kill()
    assert not lives(found)


def test_a_node_that_hangs_is_silent_and_holds_up_nobody(grid, monkeypatch):
    let_go = threading.Event()

    def sample(member, at_seconds):
        if member.number == 1:
            let_go.wait(PATIENCE_SECONDS)
        return Sample(at_seconds, member.number, 1, State.UP, Usage(1, 1, 0.0))

    clock = [0.0]
    monkeypatch.setattr(sampling, "sample", sample)
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    sampler = Sampler(grid)
    sampler.begin(1.0)
    assert sampler.take() is None
    clock[0] = ANSWER_SECONDS
    late = sampler.take()
    assert late is not None
    first, second = late
    assert (first.state, second.state) == (State.UP, SILENT)
    sampler.begin(20.0)
    let_go.set()
    clock[0] = ANSWER_SECONDS + 1
    found = None
    while found is None:
        found = sampler.take()
    assert [one.state for one in found] == [State.UP, State.UP]
    assert not sampler.looking
    sampler.close()
