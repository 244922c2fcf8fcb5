"""`spread`: gossip that is dead is seen though repair brings everything in the end."""

from dataclasses import replace
from pathlib import Path

import pytest
from scripts.simulation.checks.promptly import Promptly, kept_from_all, spread_seconds
from scripts.simulation.options import Options
from scripts.simulation.run import simulate

from aigrid.node.discovery.gossip import Gossip

QUIET = Options(
    nodes=5, seed=3, duration_seconds=10.0, settle_seconds=40.0, models=1, holders=2, words=3
)
KEY, OTHER = ("did", "kind", "a"), ("did", "kind", "b")


@pytest.mark.parametrize("dead", ["_on_record", "_receive"], ids=["says nothing", "is deaf"])
def test_dead_gossip_is_caught_though_repair_covers_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead: str
) -> None:
    monkeypatch.setattr(Gossip, dead, lambda *_: None)
    under, after = simulate(QUIET, tmp_path).violations
    assert (under.name, after.name) == ("spread", "spread")
    assert under.what.startswith("under faults ")
    assert after.what.startswith("after the faults ")
    assert after.what.endswith("reached everybody within 2.4 s")


def test_where_faults_may_keep_it_back_gossip_is_judged_once_they_are_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gossip, "_on_record", lambda *_: None)
    (broken,) = simulate(replace(QUIET, loss="0.1", success_min=0.0), tmp_path).violations
    assert (broken.name, broken.what.startswith("after the faults")) == ("spread", True)


def test_as_it_is_everything_is_in_time(tmp_path: Path) -> None:
    outcome = simulate(QUIET, tmp_path)
    assert outcome.violations == []
    assert outcome.watch is not None
    for said in outcome.watch.promptly.values():
        assert (said.late, said.in_time > 3) == (0, True)


def test_what_is_everywhere_in_time_counts_and_what_is_not_is_late() -> None:
    said = Promptly(2.0)
    said.issued(KEY, "one", 1.0, {"a", "b"})
    said.issued(OTHER, "two", 1.5, {"a", "b"})
    for name in ("a", "b", "b"):
        said.learned(KEY, "one", name, 3.0)
    said.learned(OTHER, "two", "a", 3.0)
    said.look(3.5)
    assert (said.in_time, said.late, said.share) == (1, 0, 1.0)
    said.learned(OTHER, "two", "b", 3.6)
    assert (said.in_time, said.late, said.share) == (1, 1, 0.5)


def test_what_is_replaced_counts_only_if_it_was_late_by_then() -> None:
    said = Promptly(2.0)
    said.issued(KEY, "one", 1.0, {"a"})
    said.replaced(KEY, 2.0)
    said.issued(KEY, "two", 2.0, {"a"})
    said.learned(KEY, "one", "a", 2.5)
    assert said.due == 0
    said.replaced(KEY, 4.5)
    assert (said.in_time, said.late) == (0, 1)


def test_nobody_else_is_nobody_to_reach() -> None:
    said = Promptly(2.0)
    said.issued(KEY, "one", 1.0, set())
    said.look(9.0)
    assert (said.due, said.share) == (0, 1.0)


def test_only_silent_attackers_may_keep_it_back_for_good() -> None:
    assert not kept_from_all(QUIET, after=False)
    for fault in (
        {"loss": "uniform:0-0.1"},
        {"partition": 0.4},
        {"churn": 3.0},
        {"slow": 1},
        {"byzantine": 0.2},
    ):
        hindered = replace(QUIET, **fault)
        assert kept_from_all(hindered, after=False), fault
        assert not kept_from_all(hindered, after=True), fault
    assert kept_from_all(replace(QUIET, byzantine=0.2, kind="censor"), after=True)


def test_long_ways_take_longer() -> None:
    assert spread_seconds(replace(QUIET, latency_ms="500", spread_seconds=3.0)) == 7.0
