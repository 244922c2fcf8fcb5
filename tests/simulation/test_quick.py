"""Requests that reach the wrong nodes first are seen though they are answered in the end."""

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripts.simulation.options import options_of
from scripts.simulation.run import simulate

import aigrid.node.mesh.routing.attempts as attempts_module
from aigrid.metagraph.selection import Observation
from aigrid.node.discovery.peers import Peers

SLOW = options_of("slow_node", {"nodes": 6, "duration_seconds": 16.0, "models": 1, "seed": 3})
# Twelve nodes, for each has to find out by itself who is dead.
DEAD = {"nodes": 12, "ready": True, "duration_seconds": 30.0, "words": 2, "seed": 4, "rate": 6.0}
CHURN = options_of("dead_holders", DEAD)


def _worst_first(kept: Iterable[Any]) -> deque[Any]:
    return deque(reversed([*kept]))


def test_who_asks_the_slowest_first_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts_module, "deque", _worst_first)
    (broken,) = simulate(SLOW, tmp_path).violations
    assert (broken.name, broken.what.endswith("were answered within 1 s")) == ("quick", True)


def test_who_asks_the_dead_first_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    observation = Peers.observation

    def all_alive(peers: Peers, peer_id: str) -> Observation:
        return replace(observation(peers, peer_id), alive=True)

    monkeypatch.setattr(Peers, "observation", all_alive)
    (broken,) = simulate(CHURN, tmp_path).violations
    assert (broken.name, broken.what.endswith("by the first one asked")) == ("quick", True)


@pytest.mark.parametrize("options", [SLOW, CHURN], ids=["slow", "churn"])
def test_as_it_is_they_are_quick(tmp_path: Path, options: Any) -> None:
    outcome = simulate(options, tmp_path)
    assert outcome.violations == []
