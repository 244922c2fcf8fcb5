"""What a node says of models: where they are, what they cost here, how long they stay."""

import json
from contextlib import asynccontextmanager

import pytest
import trio
from tests.simulation.harness import Simulation, eventually

from aigrid.node.commands.model_views import models_of, whereabouts
from aigrid.node.commands.status import status_of
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.gateway.openai.answers import model_list
from aigrid.protocol.limits import LIMITS


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(13, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def pair(sim):
    a, b = (await sim.start("a")).node, (await sim.start("b")).node
    await sim.join("b", "a")
    model = await sim.publish_echo("b", "parrot", memory_bytes=5 << 20)
    await eventually(lambda: a.router.models() and b.router.models(), seconds=30)
    return a, b, model


@asynccontextmanager
async def leased(node, model):
    async with node.pool.lease(model):
        yield


async def test_a_model_elsewhere_is_where_its_records_say(sim, autojump_clock):
    a, b, model = await pair(sim)
    (seen,) = models_of(a)
    peer = b.identity.peer_id
    assert (seen["state"], seen["warm"], seen["on_disk"]) == ("on_disk", [], [peer])
    assert "here" not in seen
    async with leased(b, model):
        await eventually(lambda: models_of(a)[0]["warm"] == [peer], seconds=30)
    assert (models_of(a)[0]["state"], models_of(a)[0]["on_disk"]) == ("warm", [])


async def test_a_model_here_tells_its_whole_story(sim, autojump_clock):
    _, b, model = await pair(sim)
    assert models_of(b)[0]["here"]["state"] == "on_disk"
    assert models_of(b)[0]["here"]["cold_start"] is None
    b._world.spawner.start_seconds = 10.0
    b._world.spawner.start_words = 9
    async with trio.open_nursery() as nursery:

        async def use():
            async with leased(b, model):
                await trio.sleep(10)

        nursery.start_soon(use)
        await trio.sleep(5.5)
        here = models_of(b)[0]["here"]
        assert (here["state"], here["waiting"], here["progress"]) == ("loading", 1, "loading: 50 %")
        await trio.sleep(5)
        here = models_of(b)[0]["here"]
        assert (here["state"], here["workers"], here["leases"], here["waiting"]) == (
            "warm",
            1,
            1,
            0,
        )
        assert (here["engine"], here["expires_in_seconds"], here["progress"]) == ("echo", None, "")
        assert here["memory"] == {"cpu": 5 << 20}
    await trio.sleep(20)
    here = models_of(b)[0]["here"]
    assert here["leases"] == 0
    assert here["expires_in_seconds"] == pytest.approx(LIMITS.model_idle_seconds - 20, abs=1)
    assert here["cold_start"]["seconds"] == pytest.approx(10, abs=0.5)
    assert here["cold_start"]["ago_seconds"] == pytest.approx(30, abs=1)
    assert status_of(b)["models"] == models_of(b)
    assert json.loads(json.dumps(status_of(b)["models"], default=str)) == models_of(b)


async def test_a_model_that_is_not_offered_is_listed_with_the_reason(sim, autojump_clock):
    _, b, model = await pair(sim)
    for _ in range(LIMITS.crashes_max):
        await trio.sleep(LIMITS.crash_pause_max_seconds)
        async with leased(b, model):
            b._world.spawner.spawned[-1].crash()
    await trio.sleep(1)
    here = whereabouts(b)[model]["here"]
    assert "crash" in here["problem"]
    await eventually(lambda: b.router.models() == (), seconds=30)
    (seen,) = models_of(b)
    assert (seen["name"], seen["state"]) == ("parrot", "")


async def test_the_list_of_models_says_it_too_and_stays_openais(sim, autojump_clock):
    a, b, model = await pair(sim)
    core = GatewayCore(
        a.router, status=dict, now_ms=a.now_ms, token=str, whereabouts=lambda: whereabouts(a)
    )
    (entry,) = model_list(core.models(), core.whereabouts())["data"]
    assert (entry["id"], entry["object"], entry["owned_by"]) == ("parrot", "model", b.identity.did)
    assert entry["aigrid"]["model"] == model
    assert entry["aigrid"]["on_disk"] == [b.identity.peer_id]
    assert "here" not in entry["aigrid"]
