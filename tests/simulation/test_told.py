"""What is told of a run is what it came to: of all that was due, and of what was looked at."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripts.simulate import _tell
from scripts.simulation.checks.looked_at import COUNTED, without_occasion
from scripts.simulation.checks.promptly import Promptly
from scripts.simulation.checks.propagation import Propagation
from scripts.simulation.events.report import events_report
from scripts.simulation.options import Options, options_of
from scripts.simulation.reporting.page import page
from scripts.simulation.reporting.report import report, spreading
from scripts.simulation.reporting.wording import deliveries, everywhere
from scripts.simulation.run import simulate
from scripts.simulation.workload import Request
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
    assert deliveries(told) == (
        "3 of 6; before 2 the node was killed; 1 of records that have not reached everybody"
    )
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


def test_what_nothing_could_have_broken_is_named() -> None:
    said = Promptly(2.0)
    said.in_time = 1
    checks = Counter(dict.fromkeys((*COUNTED, "named"), 3)) | {"genuine": 0}
    watch: Any = SimpleNamespace(
        checks=checks, attacked=set(), promptly={False: Promptly(2.0), True: said}, receipted=0
    )
    asked = [Request(0, "n1", 1.0, after=False, outcome="busy")]
    assert without_occasion(Options(), watch, asked) == ["attacked", "genuine", "quick", "right"]
    said.in_time = 0
    asked = [replace(asked[0], outcome="ok")]
    quick = Options(first_min=0.5)
    assert without_occasion(quick, watch, asked) == ["attacked", "genuine", "spread"]
    assert without_occasion(quick, watch, []) == [
        *("attacked", "genuine", "quick", "right", "served", "spread")
    ]


def test_a_receipt_that_came_with_an_answer_could_have_counted_twice() -> None:
    watch: Any = SimpleNamespace(checks=Counter(), attacked=set(), promptly={}, receipted=0)
    assert "once" in without_occasion(Options(), watch, [])
    watch.receipted = 1
    assert "once" not in without_occasion(Options(), watch, [])


def test_nothing_is_told_of_what_nobody_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"nodes": 4, "holders": 2, "duration_seconds": 4.0, "rate": 0.0, "publish": 0.0}
    found = report(simulate(options_of("steady", small), tmp_path), "none")
    _tell(found)
    told = capsys.readouterr().out
    assert "None" not in told
    assert "0 of 0" not in told
    assert "records that reached everybody: none was issued under faults\n" in told
    assert "answered under faults: no request was made, afterwards: 100.0% of" in told
    assert found["requests"]["under_faults"]["answered"] is None
    assert found["well"]
    assert found["checks"]["genuine"] == 0
    shown = page(found).partition("<details>")[0]
    assert "None" not in shown
    for whole in (told, shown):
        assert "every property that was looked at held" in whole
        assert "could have been broken: again, attacked, avoided, bounded," in whole


def test_of_a_crowd_nothing_is_told_that_it_does_not_look_at(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = events_report(replace(CROWD, nodes=60), "none", silent)
    _tell(found)
    told = capsys.readouterr().out
    assert "afterwards: no request was made" in told
    for whole in (told, page(found).partition("<details>")[0]):
        assert "None" not in whole
        assert "0.0% of 0" not in whole
