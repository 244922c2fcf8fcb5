"""Whole nodes of different interests: each ends up with exactly its branches, and stays there."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.simulation.harness import Simulation, eventually
from trio.testing import MockClock

from aigrid.metagraph.branches import BRANCHES, branches_of
from aigrid.node.commands.status import status_of
from aigrid.node.discovery.sync import RecordSync
from aigrid.node.network.memory_transport import MemoryTransport
from aigrid.protocol.kinds import Kind, NodeBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Fetch, Push

# "all" founds the grid; the others are there for a branch, for two, and for none at all.
INTERESTS: dict[str, frozenset[str] | None] = {
    "all": None,
    "text": frozenset({"text"}),
    "vision": frozenset({"vision"}),
    "both": frozenset({"text", "vision"}),
    "none": frozenset(),
}
CAPABILITIES = {"text": "translation", "vision": "object-detection", "audio": "audio-to-audio"}


@pytest.fixture
async def grid(tmp_path: Path) -> AsyncIterator[Simulation]:
    async with trio.open_nursery() as nursery:
        sim = Simulation(3, tmp_path, nursery)
        for name, interests in INTERESTS.items():
            await sim.start(name, interests=interests)
        for name in list(INTERESTS)[1:]:
            await sim.join(name, "all")
        await eventually(lambda: all(map(everybody_met, sim.nodes.values())), seconds=300)
        await trio.sleep(2 * LIMITS.sync_interval_seconds)
        yield sim
        nursery.cancel_scope.cancel()


def everybody_met(sim_node: Any) -> bool:
    return len(sim_node.node.peers.alive_members()) == len(INTERESTS) - 1


def offered(sim: Simulation, name: str) -> set[str]:
    return {view.name for view in sim.nodes[name].node.router.models()}


def wanted(name: str, published: set[str]) -> set[str]:
    """Which of the models, each named after its branch, a node should know."""
    interests = INTERESTS[name]
    return published if interests is None else published & interests


def as_wanted(sim: Simulation, published: set[str]) -> bool:
    return all(offered(sim, name) == wanted(name, published) for name in INTERESTS)


def held(sim: Simulation, name: str) -> set[str]:
    """Content ids, by what is believed, withdrawals included."""
    node = sim.nodes[name].node
    return set(node.graph.believed(node.now_ms()))


def held_in_branches_of_no_interest(sim: Simulation, name: str) -> list[str]:
    node = sim.nodes[name].node
    if node.interests.everything:
        return []
    return [
        record.kind.value
        for record in node.graph.live_records(node.now_ms())
        if (of := branches_of(record.body)) and not of & node.interests.branches
        if record.issuer != node.identity.did
    ]


async def publish_all(sim: Simulation) -> set[str]:
    """By nodes that were not there for the branch, but for one; they are from now on."""
    for publisher, branch in (("text", "text"), ("all", "vision"), ("all", "audio")):
        await sim.publish_echo(publisher, branch, capability=CAPABILITIES[branch])
    return {"text", "vision", "audio"}


def silence_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_args: object, **_options: object) -> int:
        await trio.lowlevel.checkpoint()
        return 0

    monkeypatch.setattr(RecordSync, "sync", nothing)


def silence_gossip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryTransport, "hear", lambda *_: None)


@pytest.mark.parametrize("silence", [silence_sync, silence_gossip])
async def test_each_node_converges_on_its_branches_one_way_or_the_other(
    grid: Simulation, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, silence: Any
) -> None:
    silence(monkeypatch)
    period_seconds = 10 * LIMITS.sync_interval_seconds  # several: whom to sync with is drawn
    published = await publish_all(grid)
    await eventually(lambda: as_wanted(grid, published), seconds=period_seconds)
    for name in INTERESTS:
        assert held_in_branches_of_no_interest(grid, name) == []

    memberships = {c for c in held(grid, "all") if c in held(grid, "none")}
    late = await grid.start("late", interests=frozenset({"utility"}))
    await grid.join("late", "all")  # its Membership is everybody's
    await eventually(
        lambda: all(
            late.node.identity.did in grid.nodes[name].node.grid.members() for name in INTERESTS
        ),
        seconds=period_seconds,
    )
    assert memberships < held(grid, "none")

    await grid.nodes["all"].node.hosting.withdraw("vision")
    await eventually(lambda: as_wanted(grid, published - {"vision"}), seconds=period_seconds)
    await grid.nodes["text"].node.stop()  # its one record of offers is withdrawn
    await eventually(lambda: as_wanted(grid, {"audio"}), seconds=period_seconds)


async def test_a_second_conversation_finds_nothing_to_send_either_way(
    grid: Simulation, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    silence_gossip(monkeypatch)
    await publish_all(grid)
    await trio.sleep(1)
    nodes = {name: sim_node.node for name, sim_node in grid.nodes.items()}
    sent: list[object] = []
    serve = RecordSync.serve

    async def noted(self: RecordSync, peer_id: str, message: Any, send: Any) -> None:
        sent.append(message)
        await serve(self, peer_id, message, send)

    for one in nodes.values():
        for two in nodes.values():
            if one is two:
                continue
            await one.sync.sync(two.identity.peer_id, push=True)
            with monkeypatch.context() as patch:
                sent.clear()
                patch.setattr(RecordSync, "serve", noted)
                assert await one.sync.sync(two.identity.peer_id, push=True) == 0
                assert await two.sync.sync(one.identity.peer_id, push=True) == 0
                assert sent, "they did not talk"
                assert not [m for m in sent if isinstance(m, Fetch | Push)]


async def test_who_takes_up_a_branch_says_so_and_gets_it(
    grid: Simulation, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish_all(grid)
    await grid.publish_echo("none", "more vision", capability="image-to-image")
    node = grid.nodes["none"].node
    assert node.interests.branches == {"vision"}
    assert status_of(node)["interests"] == ["vision"]
    await eventually(lambda: offered(grid, "none") == {"vision", "more vision"}, seconds=60)
    await eventually(lambda: offered(grid, "vision") == {"vision", "more vision"}, seconds=60)
    await eventually(lambda: said_by(grid, "vision", "none") == ("vision",), seconds=60)
    await node.hosting.withdraw("more vision")
    await eventually(lambda: node.interests.branches == frozenset(), seconds=1)
    await eventually(lambda: offered(grid, "vision") == {"vision"}, seconds=60)
    assert status_of(grid.nodes["all"].node)["interests"] == sorted(BRANCHES)


def said_by(sim: Simulation, at: str, about: str) -> tuple[str, ...] | None:
    """What a node is told of another's interests, by its NodeRecord."""
    did = sim.nodes[about].node.identity.did
    record = sim.nodes[at].node.graph.store.newest((did, Kind.NODE.value, did))
    body = None if record is None else record.body
    return body.branches if isinstance(body, NodeBody) else None
