"""What is not of a node's interests it finds all the same, when somebody asks for it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from tests.simulation.harness import Simulation, eventually
from trio.testing import MockClock

from aigrid.node.policy.caller import OPERATOR
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.limits import LIMITS

INTERESTS = {"hub": frozenset[str](), "painter": frozenset({"vision"}), "writer": frozenset[str]()}


@pytest.fixture
async def grid(tmp_path: Path) -> AsyncIterator[Simulation]:
    """The writer offers text; nobody else replicates it."""
    async with trio.open_nursery() as nursery:
        sim = Simulation(11, tmp_path, nursery)
        for name, interests in INTERESTS.items():
            await sim.start(name, interests=interests)
        for name in ("painter", "writer"):
            await sim.join(name, "hub")
        await sim.publish_echo("writer", "poet", capability="text-generation")
        await trio.sleep(2 * LIMITS.sync_interval_seconds)
        yield sim
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("wanted", [{"model": "poet"}, {"capability": "text-generation"}])
async def test_a_request_beyond_the_interests_is_answered(
    grid: Simulation, autojump_clock: MockClock, wanted: dict[str, str]
) -> None:
    painter, writer = grid.nodes["painter"].node, grid.nodes["writer"].node
    assert painter.router.models() == ()
    assert painter.typed_queries.counts["asked"] == 0
    async with painter.router.infer(
        wanted.get("model", ""),
        TextRequest(prompt="hello"),
        request_id="request-1",
        caller=OPERATOR,
        capability=wanted.get("capability", ""),
    ) as answer:
        assert [batch async for batch in answer.chunks]
    assert answer.node == writer.identity.peer_id
    assert painter.typed_queries.counts["asked"] == 1


async def test_what_was_found_goes_when_it_is_not_renewed(
    grid: Simulation, autojump_clock: MockClock
) -> None:
    """The branch is not replicated because one record of it was."""
    painter = grid.nodes["painter"].node
    assert (await grid.ask("painter", "poet", "hello"))[0].strip() == "hello"
    assert [view.name for view in painter.router.models()] == ["poet"]
    await eventually(
        lambda: painter.router.models() == (), seconds=2 * LIMITS.availability_ttl_seconds
    )
    assert painter.typed_queries.counts["asked"] == 1
