"""The composition: what goes wrong in one service does not end the node."""

import pytest
import trio
from tests.simulation.harness import Simulation, eventually

from aigrid.protocol.errors import AigridError, Code, EngineError, UsageError
from aigrid.protocol.limits import LIMITS


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(6, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def test_a_clock_set_back_does_not_end_a_node(sim, autojump_clock):
    await sim.start("a")
    await sim.start("b")
    await sim.join("b", "a")
    await sim.publish_echo("b", "parrot")
    await eventually(sim.nodes["a"].node.router.models, seconds=10)
    sim.skip_seconds(-10 * LIMITS.clock_skew_seconds)
    with pytest.raises(AigridError) as caught:
        await sim.ask("a", "parrot", "hello")
    assert caught.value.code is Code.FROM_FUTURE
    await trio.sleep(10 * LIMITS.clock_skew_seconds)
    assert (await sim.ask("a", "parrot", "again"))[0].strip() == "again"
    await sim.nodes["b"].node.stop()


async def test_a_full_disk_does_not_end_a_node(sim, autojump_clock, monkeypatch):
    a, b = (await sim.start("a")).node, (await sim.start("b")).node
    await sim.join("b", "a")
    await eventually(lambda: a.peers.alive(b.identity.peer_id), seconds=10)

    def full():
        raise UsageError("the disk is full", Code.DATA_DIRECTORY_UNUSABLE)

    with monkeypatch.context() as patch:
        patch.setattr(a.graph.store.database, "transaction", full)
        a.announcer.start_over()
        await sim.publish_echo("b", "parrot")  # gossiped and synced to a
        await trio.sleep(3 * LIMITS.sync_interval_seconds)
        assert a.router.models() == ()
    await eventually(a.router.models, seconds=2 * LIMITS.sync_interval_seconds)


async def test_a_node_whose_engines_cannot_be_probed_routes_and_tries_again(
    sim, autojump_clock, monkeypatch
):
    from aigrid.node.workers.inline import InlineSpawner

    probe, failures = InlineSpawner.probe, [1, 2]

    async def fail_twice(self):
        if failures:
            failures.pop()
            raise EngineError("the worker did not start", Code.ENGINE_TIMEOUT)
        return await probe(self)

    monkeypatch.setattr(InlineSpawner, "probe", fail_twice)
    node = (await sim.start("a")).node
    assert node._describe().engines == ()
    await eventually(lambda: node._describe().engines, seconds=3 * LIMITS.worker_start_seconds)


async def test_an_authority_that_slept_for_months_is_a_member_again(sim, autojump_clock):
    node = (await sim.start("a")).node
    sim.skip_seconds(LIMITS.membership_default_seconds + 1)
    await eventually(lambda: node.grid.own_membership() is not None, seconds=3)


async def test_stopping_takes_offers_back_and_refuses_new_work(sim, autojump_clock):
    a, b = (await sim.start("a")).node, (await sim.start("b")).node
    await sim.join("b", "a")
    await sim.publish_echo("b", "parrot")
    await eventually(a.router.models, seconds=10)
    await b.stop()
    await eventually(lambda: not a.router.models(), seconds=2)
    assert b.serving.refusing
