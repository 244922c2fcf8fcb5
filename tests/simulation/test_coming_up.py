"""A simulated grid that does not come up says so in bounded virtual time, and says why."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripts.simulation.joining import come_up_seconds, listed
from scripts.simulation.options import Options
from scripts.simulation.run import simulate

from aigrid.node.discovery.join_host import JoinHost
from aigrid.protocol.errors import Code, PolicyDeniedError

SMALL = Options(nodes=4, duration_seconds=4.0, models=1, holders=1)


def _refuse(*_: Any) -> Any:
    raise PolicyDeniedError("no", Code.JOIN_REFUSED)


@pytest.mark.parametrize("storm", [False, True], ids=["one by one", "at once"])
def test_who_cannot_join_is_named_with_the_codes_of_refusal(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    storm: bool,
) -> None:
    monkeypatch.setattr(JoinHost, "_redeem", _refuse)
    options = replace(SMALL, storm=storm)
    outcome = simulate(options, tmp_path)
    (broken,) = outcome.violations
    assert broken.name == "comes_up"
    assert broken.at_seconds == pytest.approx(come_up_seconds(options))
    assert broken.what.startswith("n0001, n0002, n0003 did not join in time; refused: ")
    assert f"{outcome.refused_joins[Code.JOIN_REFUSED]}x join_refused" in broken.what


def test_a_grid_that_never_meets_is_told_of_without_naming_anybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.simulation.run._Run._all_met", lambda _: False)
    (broken,) = simulate(SMALL, tmp_path).violations
    assert (broken.name, broken.what) == ("comes_up", "the grid did not come up in time")
    assert broken.at_seconds == pytest.approx(come_up_seconds(SMALL))


def test_more_nodes_and_longer_ways_have_more_time_to_come_up() -> None:
    few = come_up_seconds(SMALL)
    assert few < come_up_seconds(replace(SMALL, nodes=40))
    assert few < come_up_seconds(replace(SMALL, latency_ms="uniform:5-500"))
    assert few < come_up_seconds(replace(SMALL, storm=True))


def test_few_are_named_and_the_others_counted() -> None:
    names = [f"n{number}" for number in range(7)]
    assert listed(names[:5]) == "n0, n1, n2, n3, n4"
    assert listed(names) == "n0, n1, n2, n3, n4 and 2 more"
