"""All benchmarks, one after the other: the report, its history and page, and how it ends."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scripts.bench.all import LEAST_SECONDS, TIME_OVER, run_all, write
from scripts.bench.reporting import tell
from scripts.bench.runner import history
from scripts.bench.runner.figures import read
from scripts.bench.runner.machine import machine, tree
from scripts.bench.runner.needs import MissingError
from scripts.bench.runner.page import page
from scripts.bench.runner.programs import Program
from scripts.bench.runner.report import lines, quantity, report, spread_text, well
from scripts.bench.runner.running import Ran, State, without_places
from tests.bench.fakes import ABOUT, ROOT, TELLS
from tests.patience import PATIENCE_SECONDS


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
    with subprocess.Popen(  # `env`, since what runs in the background is deaf to Ctrl-C
        ["env", "--default-signal=INT", sys.executable, "-c", main],
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
