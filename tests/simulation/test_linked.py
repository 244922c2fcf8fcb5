"""Nodes that take the dead for alive, lose addresses or links, or admit the removed, are seen."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from scripts.simulation import deterministic
from scripts.simulation.checks.linked import link_lags
from scripts.simulation.options import Options, options_of
from scripts.simulation.run import Outcome, simulate
from tests.simulation.harness import Simulation, eventually

from aigrid.node.discovery.known import KnownPeers
from aigrid.node.discovery.peers import Peers
from aigrid.node.network.memory_transport import MemoryTransport
from aigrid.protocol.identity import peer_id_of_did

SMALL = Options(
    nodes=5, seed=3, settle_seconds=20.0, models=1, holders=2, words=3, rate=0.5, success_min=0.0
)
CHURN = replace(SMALL, duration_seconds=30.0, churn=12.0, down_seconds="20")
CUT = replace(SMALL, duration_seconds=32.0, partition=0.4)


def broken(outcome: Outcome) -> set[str]:
    return {one.name for one in outcome.violations}


@pytest.mark.parametrize("options", [CHURN, CUT], ids=["killed", "cut off"])
def test_who_is_gone_is_soon_alive_nowhere(tmp_path: Path, options: Options) -> None:
    outcome = simulate(options, tmp_path)
    assert broken(outcome) == set()
    assert outcome.watch is not None
    assert outcome.watch.checks["gone"] > 20


def test_a_killed_node_that_stays_alive_for_others_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = Peers._lost

    def and_stays(peers: Peers, peer_id: str) -> None:
        state = peers._states.get(peer_id)
        alive = state is not None and state.alive
        lost(peers, peer_id)
        if state is not None:
            state.alive = alive

    monkeypatch.setattr(Peers, "_lost", and_stays)
    assert "gone" in broken(simulate(CHURN, tmp_path))


def test_a_silent_node_that_stays_alive_for_others_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear = Peers._hear

    async def and_stays(peers: Peers, peer_id: str) -> bool:
        state = peers._states.get(peer_id)
        alive = state is not None and state.alive
        revived = await hear(peers, peer_id)
        if state is not None and peer_id in peers._transport.connected():
            state.alive |= alive
        return revived

    monkeypatch.setattr(Peers, "_hear", and_stays)
    assert "gone" in broken(simulate(CUT, tmp_path))


def test_a_new_address_that_is_not_learned_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = KnownPeers.learn

    def only_once(known: KnownPeers, did: str, addresses: tuple[str, ...]) -> None:
        if peer_id_of_did(did) not in known._addresses:
            learn(known, did, addresses)

    monkeypatch.setattr(KnownPeers, "learn", only_once)
    outcome = simulate(CHURN, tmp_path)
    assert any("does not know where" in one.what for one in outcome.violations)


def test_a_removed_member_that_the_transport_still_admits_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stays(*_: Any) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(MemoryTransport, "remove", stays)
    said = {"nodes": 7, "ready": True, "duration_seconds": 16.0, "seed": 5, "rate": 0.5}
    outcome = simulate(options_of("replay", said), tmp_path)
    assert any(" still admits " in one.what for one in outcome.violations)


async def _lags(directory: Path) -> None:
    async with trio.open_nursery() as nursery:
        sim = Simulation(3, directory, nursery)
        one, other, third = [await sim.start(name) for name in ("n0", "n1", "n2")]
        for name in ("n1", "n2"):
            await sim.join(name, "n0")
        await eventually(lambda: not [*link_lags(one, [other, third])], seconds=10)
        with deterministic.limits(connections_wanted=1):
            sim.kill("n2")
            await trio.sleep(1)
            assert [*link_lags(one, [other])] == []
            assert [*link_lags(one, [other, third])] == []
        assert [*link_lags(one, [other, third])] == ["n0 is linked to 1 members, not 2"]
        third = await sim.start("n2", incarnation=1)
        assert "n0 does not know where n2 is" in link_lags(one, [other, third])
        await eventually(lambda: not [*link_lags(one, [other, third])], seconds=20)
        nursery.cancel_scope.cancel()


def test_links_are_counted_up_to_what_a_node_seeks(tmp_path: Path) -> None:
    with deterministic.cheap_nodes():
        deterministic.run(3, _lags, tmp_path)
