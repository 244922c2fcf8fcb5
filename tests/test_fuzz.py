"""Every decoder under a few mutated inputs, and the fuzzer under decoders with a fault."""

import subprocess
import sys
from pathlib import Path

import pytest
from scripts.fuzz import MIB, Bounds, Run, keep, report
from scripts.fuzzing.table import TARGETS, target_of
from scripts.fuzzing.target import input_of

EXECUTIONS = 120
FAULTY = 2000  # one input in a hundred is the one
TIGHT = Bounds(slow_seconds=0.1, hang_seconds=1.0, grown_bytes=32 * MIB)


def test_no_decoder_raises_what_it_does_not_announce() -> None:
    run = Run(tuple(TARGETS), 600, EXECUTIONS, seed=1)
    run.go()
    assert not run.findings, report(run)
    assert {tally.executions for tally in run.tallies.values()} == {EXECUTIONS}


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        ("error", "KeyError at planted.py"),
        ("hang", "hang"),
        ("slow", "slow"),
        ("death", "death with status 139"),
        ("memory", "memory"),
    ],
)
def test_a_fault_is_found_and_its_line_repeats_it(fault: str, where: str, tmp_path: Path) -> None:
    executions = 200 if fault in ("hang", "memory") else FAULTY
    run = Run((f"planted-{fault}",), 600, executions, seed=3, bounds=TIGHT)
    run.go()
    first = run.findings[0]
    assert first.where.startswith(where)
    target = target_of(first.target)
    assert input_of(target, target.inputs(), 3, first.index) == b"77"
    assert run.tallies[first.target].executions == executions
    keep(run.findings[:1], tmp_path, 3)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"77"]
    if fault == "error":
        assert len(run.findings) == 1
        *_, line = report(run).splitlines()
        command = line.removeprefix("again: ").split()[1:]
        assert (
            "KeyError"
            in subprocess.run(
                [sys.executable, *command], capture_output=True, text=True, check=False
            ).stderr
        )


@pytest.mark.parametrize("name", TARGETS)
def test_the_same_seed_makes_the_same_inputs(name: str) -> None:
    target = target_of(name)
    made = [[input_of(target, target.inputs(), 5, index) for index in range(9)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 4
