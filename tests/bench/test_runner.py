"""The runner of all benchmarks: tiny programs stand for them, which end in every way there is."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from scripts.bench.all import LEAST_SECONDS, TIME_OVER, run_all, write
from scripts.bench.reporting import FILE_VARIABLE, at_least, at_most, skip, tell
from scripts.bench.runner import history
from scripts.bench.runner.figures import ROUNDS_MAX, read
from scripts.bench.runner.machine import machine, tree
from scripts.bench.runner.needs import MissingError, Needs
from scripts.bench.runner.page import page
from scripts.bench.runner.programs import HELPERS, PROGRAMS, Program, command
from scripts.bench.runner.report import lines, quantity, report, spread_text, well
from scripts.bench.runner.running import Ran, State, run, without_places
from tests.patience import PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "scripts" / "bench"
TELLS = "from scripts.bench.reporting import at_most, tell; tell('a', [2], 'ms', beside=('b', [1]), aim=at_most(3));"
ABOUT: dict[str, Any] = {
    "date": "2026-01-02T03:04:05Z",
    "commit": "abc",
    "dirty": True,
    "quick": True,
    "machine": {
        "cores": 2,
        "memory_gib": 4.0,
        "processor": "x",
        "system": "Linux 6.1",
        "python": "3.11.2",
    },
    "load_before": 0.1,
    "load_after": 0.2,
}


def python(code, bound_seconds=PATIENCE_SECONDS, **options):
    words = [sys.executable, "-c", f"import sys; sys.path.insert(0, '.'); {code}"]
    return run("fake", words, bound_seconds=bound_seconds, **options)


@pytest.fixture
def told(tmp_path, monkeypatch):
    """What has been told until one asks."""
    path = tmp_path / "figures"
    monkeypatch.setenv(FILE_VARIABLE, str(path))
    return lambda: read(path.read_text().splitlines())


# What there is


def test_each_file_is_a_benchmark_of_the_table_or_a_helper_and_not_both():
    there = {path.stem for path in BENCH.glob("[!_.]*") if path.suffix == ".py" or path.is_dir()}
    named = [one.name for one in PROGRAMS]
    assert len(named) == len(set(named))
    assert not set(named) & set(HELPERS)
    assert there - {"__pycache__"} == {*named, *HELPERS}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda one: one.name)
def test_each_benchmark_tells_figures(program):
    place = BENCH / program.name
    files = place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]
    assert any(re.search(r"\btell\(", file.read_text()) for file in files)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda one: one.name)
def test_each_benchmark_has_the_options_that_it_is_started_with(program):
    place = BENCH / program.name
    text = (place / "__main__.py" if place.is_dir() else place.with_suffix(".py")).read_text()
    for word in (*program.arguments, *(program.quick or ())):
        if word.startswith("--"):
            assert f'"{word}"' in text, word


def test_what_is_needed_is_known_and_put_where_it_is_named():
    program = Program("decide", ("{thing}", "--rounds"), ("1",), needs=("thing",))
    words = command(program, lambda name: f"<{name}>", quick=False)
    assert words[1:] == ["scripts/bench/decide.py", "<thing>", "--rounds"]
    assert command(program, str, quick=True)[2:] == ["1"]
    assert command(Program("data_path"), str, quick=True)[1] == "scripts/bench/data_path"


def test_the_needs_of_the_table_are_all_known():
    with Needs() as needs:
        assert {need for one in PROGRAMS for need in one.needs} <= set(needs.known)


def test_a_need_is_looked_for_once_and_missing_with_a_reason():
    def nowhere(only_here):
        asked.append(only_here)
        raise MissingError("it is nowhere")

    asked: list[bool] = []
    with Needs(only_here=True) as needs:
        needs.known = {"it": nowhere, "there": lambda _: "/there"}
        for _ in range(2):
            with pytest.raises(MissingError, match="nowhere"):
                needs.value("it")
        assert needs.value("there") == "/there"
    assert asked == [True]


# What is told


def test_without_somebody_who_asks_nothing_is_told(tmp_path, monkeypatch):
    monkeypatch.delenv(FILE_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    tell("a", [1.0], "ms")
    assert not list(tmp_path.iterdir())


def test_a_ratio_is_of_each_round_where_rounds_are_told(told):
    tell("a", [2, 9, 4], "ms", beside=("b", [1, 3, 4]), aim=at_most(2))
    ((figure,), _) = told()
    assert (figure.ratio.low, figure.ratio.middle, figure.ratio.high) == (1, 2, 3)
    assert (figure.value.middle, figure.other.middle, figure.spread) == (4, 3, "min..max")
    assert figure.met is True


def test_of_many_requests_the_quartiles_are_the_spread_by_the_median_of_the_others(told):
    tell("a", range(1, 102), "ms", beside=("b", [10] * 50))
    ((figure,), _) = told()
    assert figure.count > ROUNDS_MAX
    assert (figure.spread, figure.value.middle, figure.ratio.middle) == ("quartiles", 51, 5.1)
    assert 2 < figure.ratio.low < 3
    assert 7 < figure.ratio.high < 8


@pytest.mark.parametrize(
    ("aim", "met"),
    [
        (at_most(2), True),
        (at_most(1.9), False),
        (at_least(2), True),
        (at_least(2.1), False),
        (at_most(3, of_value=True), False),
        (at_least(4, of_value=True), True),
        (None, None),
    ],
)
def test_an_aim_is_about_the_ratio_or_the_figure(told, aim, met):
    tell("a", [4], "ms", beside=("b", [2]), aim=aim)
    assert told()[0][0].met is met


def test_an_aim_of_a_ratio_that_is_not_there_is_neither_met_nor_missed(told):
    tell("a", [4], "ms", beside=("b", [0]), aim=at_most(2))
    tell("c", [4], "ms", beside=("d", []), aim=at_most(2))
    assert [(one.ratio, one.met) for one in told()[0]] == [(None, None)] * 2


def test_what_is_not_finite_is_no_value(told):
    tell("a", [float("inf"), 3], "ms", beside=("b", [float("nan"), 1]))
    tell("b", [float("nan")], "ms")
    ((figure,), _) = told()
    assert (figure.value.middle, figure.ratio.middle) == (3, 3)


def test_a_torn_line_is_left_out(told):
    tell("a", [1], "ms")
    with Path(os.environ[FILE_VARIABLE]).open("a") as file:
        file.write('{"name": "b", "val')
    assert [one.name for one in told()[0]] == ["a"]


def test_who_can_do_nothing_says_so(told):
    skip("there is no accelerator")
    assert told() == ([], "there is no accelerator")


# How one ends


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


# All of them


def fake(state, *figures):
    return lambda name, *_words, **_options: Ran(name, state, "", figures)


def names(ran):
    return [(one.name, one.state) for one in ran]


def test_one_that_fails_does_not_end_the_others(capsys):
    programs, ran = [Program(name) for name in ("a", "b", "c")], list[Ran]()
    ways: dict[str, State] = {"a": "ran", "b": "failed", "c": "ran"}
    run_all(programs, str, ran, quick=False, runs=lambda name, *_, **__: Ran(name, ways[name]))
    assert names(ran) == [("a", "ran"), ("b", "failed"), ("c", "ran")]
    assert not well(ran)
    assert "[2/3] b failed" in capsys.readouterr().err


def test_what_is_missing_is_a_reason_to_skip():
    def need(name):
        raise MissingError(f"{name} is not installed")

    ran = list[Ran]()
    run_all([Program("a", needs=("torch",))], need, ran, quick=False, runs=fake("ran"))
    assert [(one.state, one.why) for one in ran] == [("skipped", "torch is not installed")]
    assert well(ran)


def test_an_interruption_ends_it_and_what_there_is_counts():
    states: tuple[State, ...] = ("ran", "interrupted", "ran")
    ways, ran = iter(states), list[Ran]()
    programs = [Program(name) for name in "abc"]
    run_all(programs, str, ran, quick=False, runs=lambda name, *_, **__: Ran(name, next(ways)))
    assert names(ran) == [("a", "ran"), ("b", "interrupted")]
    assert not well(ran)


def quick_run(seconds, *programs, too_long=False):
    """What came of each, and the bounds that they had."""
    bounds: dict[str, float] = {}

    def runs(name, _words, *, bound_seconds, **_options):
        bounds[name] = bound_seconds
        state: State = "failed" if too_long else "ran"
        return Ran(name, state, too_long=too_long)

    ran = list[Ran]()
    run_all(programs, str, ran, quick=True, quick_seconds=seconds, runs=runs)
    return {one.name: (one.state, one.why) for one in ran}, bounds


def test_a_quick_run_leaves_out_what_has_none():
    found, bounds = quick_run(99, Program("a", quick=(), quick_bound_seconds=30), Program("b"))
    assert found == {"b": ("skipped", "it has no quick run"), "a": ("ran", "")}
    assert bounds == {"a": 30}


def test_a_quick_run_begins_nothing_when_its_time_is_over():
    found, bounds = quick_run(LEAST_SECONDS - 0.1, Program("a", quick=()))
    assert found == {"a": ("skipped", TIME_OVER)}
    assert not bounds


def test_one_that_the_end_of_a_quick_run_cuts_off_has_not_failed():
    long, short = (Program("a", quick=(), quick_bound_seconds=each) for each in (3000, 3))
    found, bounds = quick_run(100, long, too_long=True)
    assert found == {"a": ("skipped", TIME_OVER)}
    assert 90 < bounds["a"] <= 100
    assert quick_run(100, short, too_long=True)[0] == {"a": ("failed", "")}


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.00159, "s", "1.59 ms"),
        (1570, "us", "1.57 ms"),
        (0, "ms", "0 ms"),
        (2e-10, "s", "0.2 ns"),
        (5.5e6, "B", "5.5 MB"),
        (12, "B", "12 B"),
        (2e3, "1/s", "2 k 1/s"),
    ],
)
def test_a_quantity_is_told_in_a_unit_of_its_size(value, unit, said):
    assert quantity(value, unit) == said


def one_run(middle=2.0, **about):
    ran = [
        Ran("b", "ran", "", python_figures(middle), 1.0, 0.5),
        Ran("c", "failed", "status 1: <b>boom</b>"),
        *(Ran(name, "skipped", "no torch") for name in ("d", "e")),
    ]
    return report(ran, {**ABOUT, **about})


def python_figures(middle):
    line = {
        "name": "an <i>answer</i>",
        "unit": "ms",
        "values": [middle, 2 * middle, 3 * middle],
        "beside": "bare",
        "others": [1, 1, 1],
        "aim": {"bound": 1, "at_least": False, "of_value": False},
    }
    return tuple(read([json.dumps(line)])[0])


def test_the_report_says_what_was_found_and_what_was_aimed_at():
    found = one_run()
    assert found["states"] == {"failed": 1, "ran": 1, "skipped": 2}
    assert found["aims"] == {"met": 0, "not_met": 1}
    text = "\n".join(lines(found))
    for said in (
        "2..6",
        "bare (1 ms)",
        "<= 1 x NOT MET",
        "status 1",
        "no torch: d, e",
        "2 cores",
        "abc with changes",
    ):
        assert said in text, said


@pytest.mark.parametrize(
    ("values", "unit", "said"),
    [([10, 20, 30], "ms", "10..30"), ([0.5, 2, 2000], "ms", "500 us..2 s"), ([7], "ms", "-")],
)
def test_a_spread_without_a_ratio_has_units_where_they_differ(told, values, unit, said):
    tell("a", values, unit)
    ((figure,), _) = told()
    found = report([Ran("b", "ran", "", (figure,))], ABOUT)
    assert spread_text(found["benchmarks"]["b"]["figures"][0]) == said


def test_history_has_a_line_for_each_run_also_after_a_torn_one(tmp_path):
    path = tmp_path / "more" / "history.jsonl"
    history.append(path, one_run(1.0))
    with path.open("a") as file:
        file.write('{"benchmarks": {"b"')
    history.append(path, one_run(2.0))
    runs = history.read(path)
    assert [run["benchmarks"]["b"]["figures"][0]["ratio"][0] for run in runs] == [2, 4]
    assert history.read(tmp_path / "none") == []


def test_only_runs_of_the_same_kind_are_put_beside_each_other():
    other = {**ABOUT["machine"], "cores": 64}
    runs = [one_run(9.0, quick=False), one_run(8.0, machine=other), one_run(1.0), one_run(2.0)]
    (series,) = history.over_time(runs).values()
    assert (series.middles, series.lows, series.highs) == ([2, 4], [1, 2], [3, 6])
    assert history.over_time([]) == {}


def test_the_page_has_a_plot_for_each_figure_and_escapes_what_it_was_told():
    made = page([one_run(), one_run()])
    assert made.count("<svg") == 1
    assert "<b>boom" not in made
    assert "<i>" not in made
    assert "NOT MET" in made
    assert not re.search(r"(src|href)=.?(http|//)", made)


def test_files_are_written_beside_the_history(tmp_path):
    write(one_run(), tmp_path, tmp_path / "h.jsonl")
    assert {path.name for path in tmp_path.iterdir()} == {
        *("report.json", "report.html", "history.png", "h.jsonl"),
    }
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_tells_where_it_ran():
    said = json.dumps([machine(), tree()])
    assert socket.gethostname() not in said
    assert str(ROOT) not in said
    assert without_places(f"{ROOT}/scripts/x.py: {Path.home()}/y") == "./scripts/x.py: ~/y"


def test_ctrl_c_writes_what_there_is(tmp_path):
    begun = tmp_path / "begun"
    hangs = f"import sys; sys.path.insert(0, '.'); {TELLS} open({str(begun)!r}, 'w'); import time; time.sleep(600)"
    main = (
        "import sys; sys.path.insert(0, '.'); from scripts.bench import all as every;"
        f"every.command = lambda *_, **__: [sys.executable, '-c', {hangs!r}];"
        f"sys.argv[1:] = ['--only', 'race', '--out', {str(tmp_path)!r}]; sys.exit(every.main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", main],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not begun.exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 1
    (found,) = json.loads((tmp_path / "report.json").read_text())["benchmarks"].values()
    assert found["state"] == "interrupted"
    assert [one["name"] for one in found["figures"]] == ["a"]


CHEAP = ("decide", "ingest", "race", "reconcile", "scale", "selection", "strangers")


@pytest.mark.parametrize(
    "program", [one for one in PROGRAMS if one.name in CHEAP], ids=lambda one: one.name
)
def test_a_cheap_benchmark_runs(program):
    """So that these at least do not rot; how quick anything is does not matter here."""
    with Needs(only_here=True) as needs:
        words = command(program, needs.value, quick=True)
    ran = run(program.name, words, bound_seconds=5 * PATIENCE_SECONDS)
    assert (ran.state, ran.why) == ("ran", "")
