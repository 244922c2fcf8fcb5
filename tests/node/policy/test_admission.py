"""The door of whoever serves, on whole nodes in virtual time: what it costs to be turned away."""

from dataclasses import replace

import pytest
import trio
from tests.simulation.harness import Simulation, eventually

from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.policy import OperatorPolicy


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(12, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def test_who_is_turned_away_is_not_written_down(sim, autojump_clock):
    asker = (await sim.start("asker")).node
    holder = (await sim.start("holder")).node
    await sim.join("holder", "asker")
    await sim.publish_echo("holder", "parrot")
    await eventually(asker.router.models, seconds=30)
    await sim.ask("asker", "parrot", "hello")
    decider, used = holder.policy.decider, len(holder.policy.nonces)
    assert used == 1
    decider.own = replace(decider.own, operator=OperatorPolicy(serves=frozenset()))
    with pytest.raises(AigridError) as caught:
        await sim.ask("asker", "parrot", "hello")
    assert caught.value.code is Code.NOT_SERVED
    assert len(holder.policy.nonces) == used
