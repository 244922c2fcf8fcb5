"""`aigrid top --grid` over whole nodes: under load, and with members that lie, hide or fall silent."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from tests.simulation.harness import Simulation, eventually
from trio.testing import MockClock

from aigrid.node.app import Node
from aigrid.node.cli.top_table import layout
from aigrid.node.commands.commands import NodeCommands
from aigrid.node.settings.share import ShareConfig
from aigrid.protocol.codes import Code
from aigrid.protocol.errors import AigridError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Ping, encode
from aigrid.protocol.vitals import Examine

WORDS = " ".join(["word"] * 20)


@pytest.fixture
async def sim(tmp_path: Path) -> AsyncIterator[Simulation]:
    async with trio.open_nursery() as nursery:
        yield Simulation(23, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def nothing(_: dict[str, Any]) -> None:
    await trio.lowlevel.checkpoint()


async def look(node: Node, *, grid: bool = True) -> dict[str, Any]:
    return await NodeCommands(node).call("top", {"grid": grid}, nothing)


def by_name(sim: Simulation, body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    names = {one.node.identity.peer_id: name for name, one in sim.nodes.items()}
    return {names[one["peer_id"]]: one for one in body["nodes"] if one["peer_id"] in names}


async def grid_of(sim: Simulation, *others: str, private: str = "") -> Node:
    await sim.start("viewer")
    for name in others:
        await sim.start(name, share=ShareConfig(vitals=name != private))
        await sim.join(name, "viewer")
    viewer = sim.nodes["viewer"].node
    await eventually(lambda: len(viewer.peers.alive_members()) == len(others), seconds=30)
    return viewer


async def test_three_nodes_under_load_are_told_as_they_are(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    viewer = await grid_of(sim, "busy", "calm")
    await sim.publish_echo("busy", "parrot", delay_ms=200)
    await eventually(lambda: [v.name for v in viewer.router.models()] == ["parrot"], seconds=30)
    await sim.ask("viewer", "parrot", WORDS)
    await sim.ask("calm", "parrot", WORDS)
    async with trio.open_nursery() as nursery:
        for asker in ("viewer", "calm"):
            nursery.start_soon(sim.ask, asker, "parrot", WORDS)
        await trio.sleep(2)
        body = await look(viewer)
    rows = by_name(sim, body)
    assert [one["state"] for one in body["nodes"]] == ["fresh"] * 3
    assert list(rows) == ["viewer", "busy", "calm"]
    busy = rows["busy"]["vitals"]
    assert (busy["running"], busy["served"], busy["models"]) == (2, 2, ["parrot"])
    assert 1 < busy["completion_per_second"] < 20
    assert 0.1 < busy["prompt_per_second"] < 20
    assert 100 <= busy["first_p50_ms"] <= 1000
    assert busy["memory"]["cpu"]["budget_bytes"] == 1 << 30
    assert busy["uptime_seconds"] > 0
    assert rows["calm"]["vitals"]["served"] == rows["viewer"]["vitals"]["served"] == 0
    text = [line.text for line in layout(body, width=100)]
    assert text[0] == "3 members: 3 fresh"
    assert all(len(line) <= 100 for line in text)


async def test_without_grid_only_this_node_is_asked(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    viewer = await grid_of(sim, "other")
    body = await look(viewer, grid=False)
    assert [one["peer_id"] for one in body["nodes"]] == [viewer.identity.peer_id]


async def test_private_lying_and_silent_members_are_shown_as_that(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    viewer = await grid_of(sim, "honest", "secret", "liar", "frozen", private="secret")
    liar = sim.nodes["liar"].node
    lie = msgspec.structs.replace(liar.vitals.own(), name="\x1b[2J", running=10**15)
    liar.vitals.own = lambda: lie  # type: ignore[method-assign]
    first = by_name(sim, await look(viewer))
    assert {name: one["state"] for name, one in first.items()} == {
        "viewer": "fresh",
        "honest": "fresh",
        "secret": "private",
        "liar": "unclear",
        "frozen": "fresh",
    }
    assert first["secret"]["vitals"] is first["liar"]["vitals"] is None

    sim.network.freeze(sim.nodes["frozen"].node.identity.peer_id)
    await trio.sleep(1.1)
    before = trio.current_time()
    second = by_name(sim, await look(viewer))
    assert trio.current_time() - before <= LIMITS.vitals_seconds + 0.2
    assert second["honest"]["age_seconds"] < 2
    assert second["frozen"]["state"] == "stale"
    assert second["frozen"]["vitals"] == first["frozen"]["vitals"]

    await trio.sleep(10)
    later = await look(viewer)
    assert by_name(sim, later)["frozen"]["age_seconds"] > 10
    assert any("stale 1" in line.text for line in layout(later, width=80))
    await trio.sleep(LIMITS.vitals_kept_seconds)
    assert "frozen" not in by_name(sim, await look(viewer))


async def test_a_member_that_asks_too_often_is_refused(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    viewer = await grid_of(sim, "other")
    other = sim.nodes["other"].node.identity.peer_id

    async def ask_often() -> None:
        for _ in range(3 * LIMITS.vitals_burst):
            await viewer.rpc.ask(other, encode(Examine()), silence_seconds=5)

    with pytest.raises(AigridError) as caught:
        await ask_often()
    assert caught.value.code is Code.RATE_LIMITED
    await viewer.rpc.ask(other, encode(Ping()), silence_seconds=5)


async def test_those_who_look_at_once_share_a_round(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    viewer = await grid_of(sim, "other")
    measured = []
    other = sim.nodes["other"].node.vitals
    serve = other.serve

    async def counting(*arguments: Any) -> None:
        measured.append(trio.current_time())
        await serve(*arguments)

    other.serve = counting  # type: ignore[method-assign, assignment]
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(look, viewer)
    assert len(measured) == 1


async def test_in_a_large_grid_those_asked_longest_ago_come_first(
    sim: Simulation, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = await grid_of(sim, *(f"n{n}" for n in range(5)))
    monkeypatch.setattr("aigrid.node.discovery.vitals.LIMITS", replace(LIMITS, vitals_asked_max=2))
    monkeypatch.setattr("aigrid.node.commands.top.LIMITS", replace(LIMITS, vitals_asked_max=2))
    heard = []
    for _ in range(3):
        body = await look(viewer)
        heard.append(sum(one["vitals"] is not None for one in body["nodes"][1:]))
        await trio.sleep(1.1)
    assert heard == [2, 4, 5]
    assert any("2 are asked at a time" in line.text for line in layout(body, width=100))
