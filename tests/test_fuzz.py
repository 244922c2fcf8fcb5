"""Every decoder under a few mutated inputs, and the fuzzer under decoders with a fault."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import msgspec
import pytest
from scripts import fuzz_yamux
from scripts.fuzz import main
from scripts.fuzzing import long
from scripts.fuzzing.command import keep
from scripts.fuzzing.coverage import measure, together
from scripts.fuzzing.run import MIB, Bounds, Job, Run, words_of
from scripts.fuzzing.table import target_of, targets
from scripts.fuzzing.target import execute, input_of
from scripts.fuzzing.trees import MSGPACK, Tree

from aigrid.node.network import yamux_frames
from aigrid.node.network.yamux_session import Session

EXECUTIONS = 120
SEED, FAULTY = 257, 100  # each faulty decoder meets the one input exactly once
REFUSED = "ValueError planted.py:22"
TIGHT = Bounds(slow_seconds=0.1, hang_seconds=1.0, grown_bytes=32 * MIB)


def test_no_decoder_raises_what_it_does_not_announce() -> None:
    run = Run([Job(name, 0, EXECUTIONS, 3600) for name in targets()], seed=1)
    run.go()
    assert not run.findings, words_of(run.findings[0], 1)
    assert {tally.executions for tally in run.tallies.values()} == {EXECUTIONS}
    bounced = [name for name, tally in run.tallies.items() if not tally.ends["taken"]]
    assert not bounced  # inputs that are all refused come no further than the first check
    blind = [name for name, tally in run.tallies.items() if not set(tally.ends) - {"taken"}]
    assert not blind  # it would not be seen that a target's inputs are refused


def test_what_an_interrupted_run_found_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Run.go

    def interrupted(run: Run) -> None:
        whole(run)
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "go", interrupted)
    said = ["--target", "planted-error", "--executions", str(FAULTY), "--seed", str(SEED)]
    assert main([*said, "--keep", str(tmp_path)]) == 130
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"77"]


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        ("error", "KeyError at planted.py"),
        ("hang", "hang"),
        ("slow", "slow"),
        ("death", "death with status 139"),
        ("memory", "memory"),
        ("unraisable", "OSError at planted.py"),
    ],
)
def test_a_fault_is_found_and_its_line_repeats_it(fault: str, where: str, tmp_path: Path) -> None:
    run = Run([Job(f"planted-{fault}", 0, FAULTY, 3600)], seed=SEED, bounds=TIGHT)
    run.go()
    first = run.findings[0]
    assert first.where.startswith(where)
    target = target_of(first.target)
    assert input_of(target, target.inputs(), SEED, first.index) == b"77"
    assert run.tallies[first.target].executions == FAULTY
    keep(run.findings[:1], tmp_path, SEED)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"77"]
    if fault == "error":
        assert len(run.findings) == 1
        *_, line = words_of(first, SEED).splitlines()
        command = line.removeprefix("again: ").split()[1:]
        again = [sys.executable, *command]
        said = subprocess.run(again, capture_output=True, text=True, check=False).stderr
        assert "KeyError: 'not announced'" in said


def test_the_long_run_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long, "PIECE_EXECUTIONS", 30)
    names = ["planted-error", "planted-death"]
    run = Run((), SEED, processes=2, bounds=TIGHT)
    long.run_long(run, tmp_path, names, FAULTY - 5)
    journal = tmp_path / "journal.jsonl"
    before = journal.read_text()
    with journal.open("a") as file:
        file.write('{"target": "planted-er')  # it was killed while it wrote
    done = long.run_long(Run((), SEED, bounds=TIGHT), tmp_path, names, FAULTY)
    assert {name: tally.executions for name, tally in done.tallies.items()} == dict.fromkeys(
        names, FAULTY
    )
    again = [json.loads(line) for line in journal.read_text()[len(before) :].splitlines()[1:]]
    assert sum(line["executions"] for line in again if "executions" in line) == 2 * 5
    said = json.loads((tmp_path / "report.json").read_text())["targets"]
    assert [said[name]["executions"] for name in names] == [FAULTY, FAULTY]
    assert (
        said["planted-error"]["ends"]["taken"] + said["planted-error"]["ends"].get(REFUSED, 0) == 99
    )
    assert [said[name]["findings"][0]["where"] for name in names] == [
        "KeyError at planted.py:27",
        "death with status 139",
    ]
    assert {path.read_bytes() for path in tmp_path.glob("planted-*")} == {b"77"}


def test_a_mutator_that_fails_is_a_finding_and_the_long_run_goes_on(tmp_path: Path) -> None:
    executions = 3 * FAULTY
    done = long.run_long(Run((), SEED, bounds=TIGHT), tmp_path, ["planted-mutator"], executions)
    assert done.tallies["planted-mutator"].executions == executions
    (finding,) = done.findings
    assert "a mutator with a fault" in finding["said"]
    assert next(tmp_path.glob("planted-mutator-*")).read_bytes() == b""


def test_trees_of_the_largest_numbers_make_an_input_each_time() -> None:
    seeds = [msgspec.msgpack.encode({"a": [2**64 - 1, 2**64 - 1], "b": [-(2**63)]})]
    mutator = Tree(seeds, MSGPACK)
    for index in range(3000):
        assert isinstance(mutator.make(Random(index)), bytes)


def test_a_long_run_that_goes_on_forgets_what_was_fixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(long, "PIECE_EXECUTIONS", FAULTY)
    said = ["--long", "--target", "planted-error", "--seed", str(SEED), "--keep", str(tmp_path)]

    def go(executions: int) -> tuple[int, int, str]:
        status = main([*said, "--executions", str(executions)])
        journal = (tmp_path / "journal.jsonl").read_text().splitlines()
        found = sum("where" in json.loads(line) for line in journal if line)
        return status, found, capsys.readouterr().out

    assert go(FAULTY)[:2] == (1, 1)
    status, found, told = go(FAULTY * 3)  # which meets it again, at other indices
    assert (status, found) == (1, 1)
    assert "found before: planted-error: KeyError" in told
    kept = next(tmp_path.glob("planted-error-*"))
    assert kept.read_bytes() == b"77"
    kept.write_bytes(b"78")  # as if 77 were an input like any other by now
    status, found, told = go(FAULTY * 3)
    assert (status, found) == (0, 1)
    assert "fixed: planted-error: KeyError" in told
    status, found, told = go(FAULTY * 3)
    assert (status, found) == (0, 1)
    assert "fixed" not in told
    report = json.loads((tmp_path / "report.json").read_text())["targets"]["planted-error"]
    assert [one["where"] for one in report["fixed"]] == ["KeyError at planted.py:27"]
    assert report["findings"] == []
    assert go(FAULTY * 6)[:2] == (1, 2)  # it is back, and that is news


@pytest.mark.parametrize(
    ("flag", "wrong"),
    [
        (flag, wrong)
        for flag in ("--executions", "--seconds", "--jobs", "--index")
        for wrong in ("-5", "nan", "inf", "-inf", "x", "1e99", "9" * 400, "9" * 5000, "0")
        if (flag, wrong) != ("--index", "0")
    ],
)
def test_a_number_that_makes_no_sense_is_refused(
    flag: str, wrong: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "go", lambda _: pytest.fail("it was taken"))
    with pytest.raises(SystemExit) as ended:
        main([f"{flag}={wrong}", "--target", "planted-error"])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].partition(f"argument {flag}: give a ")[2]
    assert not said.out


def test_the_yamux_session_is_among_the_targets_with_both_outcomes() -> None:
    """And a bound that is passed there is found."""
    target = target_of("yamux-sessions")
    mutator, came = target.inputs(), Counter[bool]()
    for index in range(200):
        data = input_of(target, mutator, 1, index)
        came[fuzz_yamux.judge(Random(data), data, compare=True, opens=False)[1]] += 1
    assert min(came[True], came[False]) > 20


def test_cutting_a_yamux_session_adds_no_message_that_carries_nothing() -> None:
    """Such a one is a provocation more, and the peer has none left here."""
    most = fuzz_yamux.TIGHT.mux_provocations_max
    for value in range(300):
        data = b"".join(yamux_frames.ping(value, yamux_frames.SYN) for _ in range(most))
        fuzz_yamux.judge(Random(data), data, compare=True, opens=False)


@pytest.mark.parametrize("compare", [True, False])
def test_a_yamux_session_that_is_not_as_it_should_be_is_a_finding(
    compare: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if compare:  # what is seen depends on the cutting
        taken = Session.receive
        monkeypatch.setattr(Session, "receive", lambda one, data, now: taken(one, data[:40], now))
    else:  # what is read is not counted
        monkeypatch.setattr(
            Session, "consumed", lambda _, stream, __: setattr(stream, "unread_bytes", -1)
        )
    target = target_of("yamux-sessions")
    mutator = target.inputs()
    found = [execute(target, input_of(target, mutator, 1, index)) for index in range(100)]
    assert any(isinstance(one, AssertionError) for one in found)


def test_coverage_tells_what_is_reached_from_what_is_not() -> None:
    few, more = (measure(target_of("status-lists"), 1, count) for count in (1, 400))
    assert few.share()[0] < more.share()[0] <= more.share()[1]
    names = {function for function, _ in few.gaps()}
    assert "protocol/status.py:decode_bits" in names
    assert together({"a": few, "b": more}).share() == more.share()


def test_the_same_seed_makes_the_same_inputs() -> None:
    for name, target in targets().items():
        made = []
        for _ in range(2):
            mutator = target.inputs()
            made.append([input_of(target, mutator, 5, index) for index in range(9)])
        assert made[0] == made[1], name
        assert len(set(made[0])) > 4, name
