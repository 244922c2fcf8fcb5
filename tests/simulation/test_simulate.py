"""`scripts/simulate.py`: the same seed is the same run, and what goes wrong is caught and replayed."""

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from scripts.folders import locked
from scripts.simulate import options_given, parser
from scripts.simulation.checks.propagation import Delays
from scripts.simulation.checks.wrong_clocks import WrongClocks
from scripts.simulation.databases import PREFIX, databases
from scripts.simulation.faults import Faults
from scripts.simulation.network.conditions import Conditions
from scripts.simulation.network.spread import spread
from scripts.simulation.options import Options, options_of, replay_line, scenarios
from scripts.simulation.reporting import repeating
from scripts.simulation.reporting.many_seeds import Ran, run_many, told_by
from scripts.simulation.reporting.page import page
from scripts.simulation.reporting.report import report
from scripts.simulation.run import simulate
from tests.folders import open_folders
from tests.patience import PATIENCE_SECONDS
from trio.testing import MockClock

import aigrid.metagraph.index as index_module

ROOT = Path(__file__).resolve().parents[2]
SMALL = Options(
    nodes=5, seed=3, duration_seconds=16.0, settle_seconds=45.0, models=1, holders=2, words=3
)
IN_SMALL = {"nodes": 8, "duration_seconds": 16.0, "seed": 5}
CHECKED = ("never_back", "members_only", "answered", "expired", "withdrawn")
CUT = replace(SMALL, partition=0.4, success_min=0.0, holders=3)


def run(*words: str, hash_seed: int = 0) -> tuple[int, list[str]]:
    """(exit status, lines) of a process of its own."""
    ended = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return ended.returncode, ended.stdout.splitlines()


def words_of(options: Options) -> list[str]:
    return shlex.split(replay_line(options))[1:]


def told(lines: Sequence[str], *beginnings: str) -> list[str]:
    return [line for line in lines if line.startswith(beginnings)]


def test_a_signal_leaves_no_databases_in_memory() -> None:
    words = [sys.executable, "scripts/simulate.py", "--nodes", "30", "--duration-seconds", "900"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (folders := open_folders(process.pid, PREFIX)) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 128 + signal.SIGTERM
    assert len(folders) == 1
    assert not folders.pop().exists()


def test_what_a_killed_run_left_in_memory_goes_with_the_next(tmp_path: Path) -> None:
    left, young, other = (tmp_path / f"{PREFIX}{name}" for name in ("left", "young", "other"))
    for folder in (left, young, other):
        folder.mkdir()
        (folder / "node.db").write_bytes(b"x")
    for folder in (left, other):
        os.utime(folder, (0, 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scripts.simulation.databases.MEMORY", str(tmp_path))
        with locked(other), databases(0) as used, databases(0) as second:
            assert used.parent == second.parent == tmp_path
            os.utime(used, (0, 0))
            with databases(0):
                assert set(tmp_path.iterdir()) >= {young, other, used, second}
            assert not left.exists()
    assert set(tmp_path.iterdir()) == {young, other}


def test_output_for_which_there_is_no_room_is_told_of_without_a_traceback() -> None:
    words = ["scripts/simulate.py", "--nodes", "5", "--duration-seconds", "2"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "simulate: no room is left where this run writes to\n"


def test_many_seeds_at_once_are_told_in_order_and_fail_where_one_does(tmp_path: Path) -> None:
    few = replace(SMALL, duration_seconds=4.0, settle_seconds=20.0, nodes=3, seed=5)
    said: list[Ran] = []
    assert run_many(few, 2, 2, said.append)
    assert [(ran.seed, ran.well) for ran in said] == [(5, True), (6, True)]
    assert said[0].trace_hash == simulate(few, tmp_path).trace_hash != said[1].trace_hash
    hopeless = replace(few, crashes=1.0)
    assert not run_many(hopeless, 1, 2, said.append)
    *failed, replay = said[-1].failures
    assert failed
    assert all(line.startswith("FAILED") for line in failed)
    assert replay == f"replay: {replay_line(hopeless)}"


def test_the_same_seed_is_the_same_run_whatever_the_hash_seed() -> None:
    faulty = replace(SMALL, churn=12.0, loss="0.1", crashes=0.1, success_min=0.0)
    faulty = replace(faulty, duration_seconds=8.0)
    status, lines = run(*words_of(faulty), "--repeat", "5")
    assert (status, lines[-1]) == (0, "it repeats"), lines
    *same, other = [line.split()[-1] for line in told(lines, "seed")]
    assert len(same) == 5
    assert {len(trace) for trace in (*same, other)} == {64}
    assert len(set(same)) == 1
    assert other not in same


@pytest.mark.parametrize(
    "traces", ["aab", "aaa", "ab", ["", "", "a"]], ids=["well", "same", "differs", "silent"]
)
def test_what_does_not_repeat_is_told(
    monkeypatch: pytest.MonkeyPatch, traces: Sequence[str]
) -> None:
    left = [Ran(3, trace, bool(trace), ()) for trace in (traces if len(traces) == 3 else "abc")]
    monkeypatch.setattr(repeating, "run_once", lambda *_: left.pop(0))
    assert repeating.repeats(SMALL, 2) is (traces == "aab")


@pytest.mark.parametrize("bad", [0, 2], ids=["this seed", "the other"])
def test_what_repeats_and_is_not_well_is_told_with_its_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bad: int
) -> None:
    ran = [told_by(3, 0, [f"trace {trace}"]) for trace in "aab"]
    assert all(one.well for one in ran)
    lines = [f"trace {ran[bad].trace_hash}", "FAILED served at 1 s: few", "replay: python x"]
    ran[bad] = told_by(3, 1, lines)
    monkeypatch.setattr(repeating, "run_once", lambda *_: ran.pop(0))
    assert not repeating.repeats(SMALL, 2)
    said = capsys.readouterr().out.splitlines()
    assert {*lines[1:]} < {*said}
    assert said[-1].startswith("FAILED")


def test_a_process_that_ends_without_a_word_is_told_of() -> None:
    ran = told_by(3, 2, [])
    assert not ran.well
    assert "ended with 2" in ran.failures[0]


def test_a_planted_bug_is_caught_and_its_line_replays_it() -> None:
    status, lines = run(*words_of(replace(CUT, plant="reconciliation")))
    assert status == 1
    assert told(lines, "FAILED converged")
    (line,) = told(lines, "replay: ")
    again = run(*shlex.split(line.removeprefix("replay: "))[1:], hash_seed=7)
    assert (again[0], told(again[1], "FAILED", "trace")) == (1, told(lines, "FAILED", "trace"))


@pytest.mark.parametrize(
    ("faulty", "caught"),
    [
        (replace(SMALL, plant="merge", churn=12.0, loss="0.3"), "never_back converged"),
        (replace(SMALL, plant="failover", crashes=0.3, holders=3), "served"),
        (replace(SMALL, plant="expiry"), "expired"),
        (replace(SMALL, plant="store", duration_seconds=8.0, settle_seconds=10.0), "converged"),
        (replace(SMALL, plant="index", duration_seconds=8.0, settle_seconds=10.0), "converged"),
        (
            replace(SMALL, plant="withdrawals", duration_seconds=8.0, settle_seconds=10.0),
            "converged spread",
        ),
        (replace(SMALL, plant="restart", churn=12.0, success_min=0.0), "kept"),
    ],
)
def test_other_bugs_are_caught_and_gone_without_the_plant(
    tmp_path: Path, faulty: Options, caught: str
) -> None:
    for plant, expected in ((faulty.plant, {*caught.split()}), ("", set())):
        home = tmp_path / (plant or "right")
        home.mkdir()
        outcome = simulate(replace(faulty, plant=plant), home)
        assert {one.name for one in outcome.violations} == expected


def test_an_index_that_answers_with_what_has_ended_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "_live_record", lambda entry, _: entry and entry.record)
    monkeypatch.setattr(index_module.Index, "remove", lambda *_: None)
    outcome = simulate(SMALL, tmp_path)
    assert any("answers with" in one.what for one in outcome.violations)


@pytest.mark.parametrize("name", ["clock_ahead_288", "clock_behind_288"])
def test_whose_clock_was_wrong_has_to_be_well_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    stop = Faults.stop

    async def and_refuse(faults: Faults) -> None:
        for one in faults.wrong(0.0):
            vars(one.node.graph)["ingest_batch"] = lambda *_, **_more: ([], [])
        await stop(faults)

    monkeypatch.setattr(Faults, "stop", and_refuse)
    outcome = simulate(replace(options_of(name, IN_SMALL), settle_seconds=10.0), tmp_path)
    assert {one.name for one in outcome.violations} == {"converged", "spread"}


@pytest.mark.parametrize(
    ("name", "said", "broken"),
    [
        ("clock_ahead_288", {"without": "expiry"}, "in_time"),
        ("clock_behind_288", {"plant": "expiry"}, "clock"),
    ],
)
def test_what_soon_ends_has_to_end_early_where_clocks_differ(
    tmp_path: Path, name: str, said: dict[str, str], broken: str
) -> None:
    outcome = simulate(options_of(name, {**IN_SMALL, **said}), tmp_path)
    assert broken in {one.name for one in outcome.violations}


def test_a_wrong_clock_stays_wrong_when_its_node_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool, float]] = []

    def look(clocks: WrongClocks) -> dict[str, int]:
        told = looks(clocks)
        sim = vars(clocks)["_sim"]
        nodes = [sim.nodes[name] for name in told]
        seen.extend((one.name, one.scope.cancel_called, one.clock.skew_seconds) for one in nodes)
        return told

    looks = WrongClocks.look
    monkeypatch.setattr(WrongClocks, "look", look)
    ticking = replace(SMALL, nodes=6, duration_seconds=40.0, churn=12.0)
    ticking = replace(ticking, skewed=4, skew_seconds=60.0)
    outcome = simulate(replace(ticking, success_min=0.0), tmp_path)
    assert outcome.violations == []
    back = {what.split()[0] for _, what in outcome.faults if what.endswith("is back")}
    assert back & {name for name, _, _ in seen}
    assert {(dead, skew) for _, dead, skew in seen} == {(False, 60.0)}


@pytest.mark.parametrize(
    "name",
    ["churn", "clock_behind_288", "join_storm", "mixed"],  # attacks: see test_attacks.py
)
def test_scenarios_hold_in_small(tmp_path: Path, name: str) -> None:
    small = options_of(name, IN_SMALL)
    outcome = simulate(small, tmp_path)
    assert outcome.violations == [], replay_line(small)
    assert outcome.watch is not None
    assert all(outcome.watch.checks[kind] for kind in CHECKED)
    if name == "clock_behind_288":  # each of three and of five nodes, and of both sides' records
        assert outcome.watch.checks["clock"] > 3 * 5 * 3


def test_without_the_bug_nothing_is_found_and_the_report_tells_of_it(tmp_path: Path) -> None:
    outcome = simulate(replace(CUT, publish=3.0), tmp_path)  # some are replaced meanwhile
    assert outcome.violations == []
    assert outcome.well_seconds is not None
    found = report(outcome, "none")
    assert found["propagation"]["issued"] > found["propagation"]["reached_everybody"] > 0
    assert found["requests"]["afterwards"]["answered"] == 1
    assert [what for _, what in found["faults"]][:2] == [
        "2 nodes are cut off",
        "the partition heals",
    ]
    assert page(found).count("<svg") == 5


@pytest.mark.parametrize("name", scenarios())
def test_a_replay_line_says_every_option_that_matters(name: str) -> None:
    options = options_of(name, {"seed": 9, "nodes": 33, "latency_ms": "lognormal:40,0.5"})
    assert options_given(parser().parse_args(words_of(options)[1:])) == options


def test_what_is_no_option_is_refused() -> None:
    for said in ({"nodez": 3}, {"nodes": "3"}, {"loss": "a fifth"}, {"nodes": 1}):
        with pytest.raises(ValueError, match=r"."):
            options_of("", said)
    with pytest.raises(ValueError, match="churn"):
        options_of("chrun", {})


def test_distributions_draw_what_they_say() -> None:
    rng = random.Random(1)
    assert spread("20").draw(rng) == 20
    assert 5 <= spread("uniform:5-50").draw(rng) <= 50
    drawn = sorted(spread("lognormal:40,0.5").draw(rng) for _ in range(2001))
    assert 35 < drawn[1000] < 45
    for wrong in ("uniform:5", "20-30", "exponential:1-2", ""):
        with pytest.raises(ValueError, match="distribution"):
            spread(wrong)


async def test_losses_lose_gossip_delay_the_rest_and_keep_its_order(
    autojump_clock: MockClock,
) -> None:
    network = Conditions(random.Random(1), spread("10"), spread("0.5"))
    assert network.travel_seconds("a", "b", 5) == pytest.approx(0.01)
    network.lossy = True
    gossip = [network.travel_seconds("a", "b", 5, lossy=True) for _ in range(1000)]
    assert 400 < sum(travel is None for travel in gossip) < 600
    arrivals = []
    for _ in range(100):
        travel = network.travel_seconds("a", "b", 5)
        assert travel is not None
        arrivals.append(trio.current_time() + travel)
        await trio.sleep(0.01)
    assert arrivals == sorted(arrivals)
    assert max(arrivals) > 1.3
    assert network.bytes["a"] == 5 * 1101


def test_a_partition_blocks_what_crosses_it() -> None:
    network = Conditions(random.Random(1), spread("10"), spread("0"))
    network.split(["a", "b"])
    assert network.blocked("a", "c")
    assert not network.blocked("a", "b")
    assert not network.blocked("c", "d")
    network.join_up()
    assert not network.blocked("a", "c")


def test_quantiles_of_delays_are_within_a_step() -> None:
    delays = Delays()
    for n in range(1, 1001):
        delays.add(n / 1000)
    assert delays.quantile(0.5) == pytest.approx(0.5, rel=0.06)
    assert delays.quantile(0.99) == pytest.approx(0.99, rel=0.06)
    assert delays.cdf(1000)[-1][1] == 1
    assert Delays().quantile(0.5) is None
