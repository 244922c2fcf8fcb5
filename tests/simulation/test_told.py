"""What is told of a run is what it came to: of all that was due, and of what was looked at."""

from dataclasses import replace

import pytest
from scripts.simulation.checks.propagation import Propagation
from scripts.simulation.events.report import events_report
from scripts.simulation.reporting.page import page
from scripts.simulation.reporting.report import spreading
from scripts.simulation.reporting.wording import deliveries, everywhere
from tests.simulation.test_events import CROWD

KEY = ("capability", "did", "a")


def silent(_phase: str, _share: float) -> None:
    pass


def test_a_record_has_reached_everybody_once_the_last_of_the_living_has_it() -> None:
    seen = Propagation()
    seen.issue(KEY, "r", 1.0, {"a", "b", "c"})
    seen.learn("r", "a", 1.1)
    seen.learn("r", "a", 1.5)
    seen.gone("c", 2.0)
    assert (seen.each.total, seen.killed, seen.arrived) == (1, 1, 0)
    seen.learn("r", "b", 4.0)
    assert seen.arrived == 1
    assert seen.everywhere.quantile(0.5) == pytest.approx(3.0, rel=0.06)


def test_what_has_not_come_is_due_all_the_same_and_it_is_said_why() -> None:
    seen = Propagation()
    for content_id, key in (("r", KEY), ("s", ("capability", "did", "b"))):
        seen.issue(key, content_id, 1.0, {"a", "b", "c"})
    seen.learn("r", "a", 1.1)
    seen.learn("s", "a", 1.1)
    seen.learn("s", "b", 1.1)
    seen.gone("c", 2.0)  # so that s is wherever it can be, and r is not
    seen.replaced(KEY)
    told = spreading(seen)
    assert told["cdf"][-1][1] == pytest.approx(3 / 6)
    assert (told["issued"], told["reached_everybody"], told["replaced_before"]) == (2, 1, 1)
    assert deliveries(told) == "3 of 6; before 2 the node was killed"
    assert everywhere(told).startswith("1 of 2, ")
    assert "1 replaced before" in everywhere(told)
    assert "not there" not in everywhere(told)


def test_who_is_killed_in_a_crowd_has_been_given_nothing() -> None:
    told = events_report(replace(CROWD, churn=600.0), "none", silent)
    spread = told["propagation"]
    assert spread["killed_before"] > 0
    came, due = spread["each_node"]["count"], spread["due"]
    assert came + spread["killed_before"] <= due
    assert spread["cdf"][-1][1] == pytest.approx(came / due, abs=1e-4)
    missing = spread["issued"] - spread["reached_everybody"] - spread["replaced_before"]
    assert missing == 0, "all agreed in the end, so only what was replaced has not come"
    assert deliveries(spread) in page(told)
