"""A node that is itself at fault says so, instead of that nobody serves. In virtual time."""

import pytest
import trio
from tests.simulation.harness import Simulation, eventually

from aigrid.node.commands.status import status_of
from aigrid.node.discovery.trouble import own_trouble
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.limits import LIMITS


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(7, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def grid_with_a_model(sim):
    for name in "abc":
        await sim.start(name)
    for name in "bc":
        await sim.join(name, "a")
    model = await sim.publish_echo("b", "parrot")
    a, b, c = (sim.nodes[name].node for name in "abc")
    await eventually(c.router.models, seconds=20)
    assert status_of(c)["trouble"] == ""
    assert status_of(c)["member_until"]
    return a, b, c, model


async def refusal(sim, model):
    with pytest.raises(AigridError) as caught:
        await sim.ask("c", model, "hello")
    return caught.value.code, caught.value.message


async def test_a_member_that_was_removed_hears_of_it(sim, autojump_clock):
    a, _, c, model = await grid_with_a_model(sim)
    a.grid.remove(c.identity.did)
    await trio.sleep(600)
    code, message = await refusal(sim, model)
    assert code is Code.NOT_MEMBER
    assert "aigrid invite" in message
    assert status_of(c)["trouble"] == message
    await sim.join("c", "a")
    await eventually(c.router.models, seconds=60)
    assert status_of(c)["trouble"] == ""


async def test_a_removed_member_that_still_knows_of_offers_hears_the_same(sim, autojump_clock):
    a, _, c, model = await grid_with_a_model(sim)
    a.grid.remove(c.identity.did)
    await eventually(lambda: c.grid.own_membership() is None, seconds=60)
    sim.kill("c")
    c = (await sim.start("c", incarnation=1, identity=c.identity)).node
    assert [one.model for one in c.graph.index.models(sim.now_ms())] == [model]
    assert await refusal(sim, model) == (Code.NOT_MEMBER, status_of(c)["trouble"])


async def test_a_member_that_slept_through_its_removal_hears_of_it(sim, autojump_clock):
    a, _, c, model = await grid_with_a_model(sim)
    identity = c.identity
    sim.kill("c")
    a.grid.remove(identity.did)
    await trio.sleep(5)
    c = (await sim.start("c", incarnation=1, identity=identity)).node
    await trio.sleep(60)
    code, message = await refusal(sim, model)
    assert code is Code.NOT_MEMBER
    assert message == status_of(c)["trouble"]
    assert "member of its grid" in message


async def test_a_node_whose_clock_is_off_is_told_so(sim, autojump_clock):
    _, _, c, model = await grid_with_a_model(sim)
    ahead_ms = 5 * LIMITS.clock_skew_seconds * 1000
    for one in (c.peers, c.router, c.router._candidates):
        one._now_ms = lambda: sim.now_ms() + ahead_ms
    await trio.sleep(60)
    code, message = await refusal(sim, model)
    assert code is Code.NO_CANDIDATE
    assert "600 s ahead" in message
    assert status_of(c)["trouble"] == message


def test_a_clock_within_the_skew_is_no_trouble():
    skew_ms = LIMITS.clock_skew_seconds * 1000
    for ahead_ms in (0, skew_ms, -skew_ms):
        assert own_trouble(is_member=True, turned_away=False, clock_ahead_ms=ahead_ms) is None
    behind = own_trouble(is_member=True, turned_away=False, clock_ahead_ms=-skew_ms - 1000)
    assert behind is not None
    assert "121 s behind" in behind.message
