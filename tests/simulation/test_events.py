"""Discrete events: a crowd as arrays, of which a sample is real, and both come to the same."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scripts.simulation.checks.judging import NOBODY_KILLED
from scripts.simulation.events.crowd import Crowd, Links
from scripts.simulation.events.found import Found
from scripts.simulation.events.report import events_report
from scripts.simulation.events.run import Events
from scripts.simulation.network.spread import spread
from scripts.simulation.options import Options
from scripts.simulation.plants import planted
from scripts.simulation.reporting.page import page

from aigrid.protocol.reconcile import Reconciler, Step

CROWD = Options(
    mode="events",
    nodes=300,
    connections=3,
    sample=6,
    holders=4,
    publish=2.0,
    duration_seconds=24.0,
    settle_seconds=60.0,
    churn=60.0,
    loss="0.3",
    partition=0.4,
    success_min=0.3,
)


def run(options: Options) -> Found:
    return Events(options, lambda _phase, _share: None).run()


def names(found: Found) -> set[str]:
    return {one.name for one in found.violations}


def test_the_sample_and_the_arrays_come_to_the_same_under_faults() -> None:
    found = run(CROWD)
    assert found.violations == []
    assert found.well_seconds is not None
    assert found.arrived > 0
    assert all(found.checks[name] > 5 for name in ("merged", "reconciled", "agrees", "indexed"))
    assert found.most_acting > 0
    assert {answered for _, answered, _ in found.asked} <= {True, False}


def test_the_same_seed_is_the_same_run_and_another_is_another() -> None:
    small = replace(CROWD, nodes=60, duration_seconds=8.0)
    assert run(small).trace_hash == run(small).trace_hash
    assert run(small).trace_hash != run(replace(small, seed=2)).trace_hash


def test_a_run_in_which_nobody_was_killed_though_some_were_to_be_is_not_well() -> None:
    found = run(replace(CROWD, nodes=12, sample=4, churn=0.5, partition=0.0, duration_seconds=4.0))
    assert not found.checks.get("killed")
    assert NOBODY_KILLED in {one.what for one in found.violations}


def test_who_is_real_is_never_killed_and_others_are_each_time() -> None:
    found = run(replace(CROWD, nodes=14, sample=6, churn=600.0, down_seconds="1"))
    assert "killed" in +Counter(found.checks)
    assert "checked" not in names(found)


def test_a_key_may_have_more_versions_than_two_bytes_count() -> None:
    links = Links(4, 2, spread("10"), spread("0"), np.random.default_rng(1))
    crowd = Crowd(links, 1, 4, np.random.default_rng(1))
    assert crowd.learn(0, 1 << 16, np.array([1])).tolist() == [1]
    assert crowd.held[0].tolist() == [0, 1 << 16, 0, 0]


def test_a_bug_in_merge_is_caught() -> None:
    # Where gossip is lost and reconciled later, older versions come after newer ones.
    with planted("merge"):
        assert names(run(replace(CROWD, latency_ms="exponential:1500"))) & {"merged", "agrees"}


def test_a_bug_in_reconciliation_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Reconciler.reconcile

    def forgetful(self: Reconciler, message: bytes) -> Step:
        return right(self, message)._replace(need_ids=[])

    monkeypatch.setattr(Reconciler, "reconcile", forgetful)
    assert "reconciled" in names(run(CROWD))


def test_the_report_has_the_shape_of_the_others() -> None:
    found = events_report(replace(CROWD, nodes=60), "none", lambda _phase, _share: None)
    assert "real in 6 sampled nodes of 60" in found["model"]
    assert page(found).count("<svg") == 5
    assert len(found["nodes"]) == 10


def test_links_go_both_ways_and_are_as_long_both_ways() -> None:
    links = Links(50, 4, spread("uniform:5-50"), spread("0.1"), np.random.default_rng(1))
    far = {}
    for node in range(50):
        for at in range(links.starts[node], links.starts[node + 1]):
            far[node, int(links.peers[at])] = (int(links.ticks[at]), float(links.losses[at]))
    assert all(a != b and far[b, a] == here for (a, b), here in far.items())
    assert min(np.diff(links.starts)) >= 1
    assert {5 <= ticks <= 50 for ticks, _ in far.values()} == {True}


def test_who_was_asked_by_several_has_what_all_of_them_had() -> None:
    rng = np.random.default_rng(1)
    crowd = Crowd(Links(4, 3, spread("5"), spread("0"), rng), 3, 4, rng)
    crowd.held[:] = [[1, 0, 0, 0], [0, 2, 0, 1], [0, 0, 0, 3]]
    keys, nodes = crowd.reconcile(np.array([0, 1]), np.array([3, 3]))
    assert crowd.held[:, 3].tolist() == [1, 2, 3]
    assert crowd.held[:, 0].tolist() == [1, 1, 3]
    assert crowd.held[:, 1].tolist() == [0, 2, 3]
    assert {(0, 3), (1, 3), (1, 0), (2, 0), (2, 1)} == {
        *zip(keys.tolist(), nodes.tolist(), strict=True)
    }
