"""The table of benchmarks against what there is, and what they need."""

import re

import pytest
from scripts.bench.runner.needs import MissingError, Needs
from scripts.bench.runner.programs import HELPERS, PROGRAMS, Program, command
from scripts.bench.runner.running import run
from tests.bench.fakes import BENCH
from tests.patience import PATIENCE_SECONDS


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
