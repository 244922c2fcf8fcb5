"""What the bench of gossip computes, and that it leaves no process behind."""

import subprocess
import sys

import pytest
from scripts.bench import gossip
from scripts.bench.gossip import Measured, compare, graph, middle, started, summed, table


@pytest.mark.parametrize("processes", [2, 6, 20])
def test_all_processes_hang_together_by_few_dials(processes: int) -> None:
    dialed = graph(processes, 1)
    reached = {0}
    for each, others in enumerate(dialed):
        assert len(set(others)) == len(others) <= gossip.DIALS
        assert all(other < each for other in others)
        reached |= {each} if reached & set(others) else set()
    assert reached == set(range(processes))
    assert graph(processes, 1) == dialed


def test_a_round_is_the_sum_of_its_processes() -> None:
    one = {"sent": 2, "cpu": 0.3, "latencies_ms": [1.0, 4.0]}
    two = {"sent": 2, "cpu": 0.3, "latencies_ms": [2.0]}
    assert summed([one, two]) == Measured(delivered=0.75, p50_ms=2.0, p99_ms=4.0, cpu_ms=200.0)
    nothing = summed([{"sent": 2, "cpu": 0.1, "latencies_ms": []}] * 2)
    assert nothing.delivered == 0
    assert nothing.p99_ms == float("inf")


def test_the_middle_of_the_rounds_counts_for_each_figure() -> None:
    rounds = [
        Measured(1.0, 3.0, 9.0, 1.0),
        Measured(0.5, 1.0, 7.0, 3.0),
        Measured(0.9, 2.0, 8.0, 2),
    ]
    assert middle(rounds) == Measured(0.9, 2.0, 8.0, 2.0)


@pytest.mark.parametrize(
    ("ours", "missed"),
    [
        (Measured(0.999, 5.0, 299.0, 3.5), set()),
        (Measured(0.998, 5.0, 299.0, 3.5), {"delivered %"}),
        (Measured(1.0, 5.0, 300.0, 3.5), {"p99 ms"}),
        (Measured(1.0, 5.0, 299.0, 3.6), {"CPU ms per delivery"}),
    ],
)
def test_each_aim_is_held_against_what_was_measured(ours: Measured, missed: set[str]) -> None:
    rows = compare(Measured(0.6, 3000.0, 9000.0, 10.0), ours)
    assert {row.name for row in rows if row.met is False} == missed
    assert next(row.ratio for row in rows if row.name == "p50 ms") == pytest.approx(5 / 3000)
    assert table(rows).count("NOT met") == len(missed)


def test_no_process_outlives_the_round_whatever_ends_it() -> None:
    seen: list[subprocess.Popen[str]] = []
    command = [sys.executable, "-c", "input()"]

    def interrupted() -> None:
        with started([command, command]) as members:
            seen.extend(members)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(FileNotFoundError), started([command, ["no such program"]]):
        pass
    assert [each.poll() is None for each in seen] == [False, False]


def test_a_process_that_ends_early_fails_the_round() -> None:
    with started([[sys.executable, "-c", "pass"]]) as members:
        members[0].wait()
        with pytest.raises(gossip.MemberFailedError):
            gossip.hear(members[0])
        with pytest.raises(gossip.MemberFailedError):
            gossip.tell(members[0], "anything")
