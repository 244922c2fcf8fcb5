"""What a benchmark tells, and what is made of it: medians, ratios, spreads, aims."""

import os
from pathlib import Path

import pytest
from scripts.bench.reporting import FILE_VARIABLE, at_least, at_most, skip, tell
from scripts.bench.runner.figures import ROUNDS_MAX


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
