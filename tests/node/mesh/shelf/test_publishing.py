"""A publication that fails, is broken off, or meets another one. In virtual time."""

import hashlib
from dataclasses import replace

import pytest
import trio
from tests.simulation.harness import Simulation

from aigrid.engines.echo import EchoEngine
from aigrid.node.workers import inline as inline_workers
from aigrid.protocol.errors import AigridError, Code, EngineError
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import ModelDescription, ModelFile, model_id

DATA = b"weights" * 100
BOXED = ModelDescription(
    "boxed",
    "text-generation",
    (ModelFile("w.boxed", hashlib.sha256(DATA).hexdigest(), len(DATA)),),
)
MODEL = model_id(BOXED)


class Boxed(EchoEngine):
    """Echo for a model that has a file."""

    name = "boxed"

    def probe(self):
        return replace(super().probe(), engine=self.name, formats=("boxed",))

    def estimate(self, source):
        return super().estimate(replace(source, format="echo", files={}))


@pytest.fixture
async def sim(tmp_path, monkeypatch):
    monkeypatch.setattr(inline_workers, "ENGINES", {"echo": EchoEngine, "boxed": Boxed})
    async with trio.open_nursery() as nursery:
        yield Simulation(13, tmp_path, nursery)
        nursery.cancel_scope.cancel()


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "brought.boxed"
    path.write_bytes(DATA)
    return path


def publish(node, path, *, name="boxed", **more):
    return node.hosting.add(
        BOXED,
        {"w.boxed": path},
        name=name,
        capabilities=("text-generation",),
        license_id="",
        trial=TextRequest(prompt="hello"),
        **more,
    )


def left_in(node):
    return sorted(path.name for path in (node.config.data_dir / "models").iterdir())


async def test_a_publication_broken_off_leaves_the_model_to_another_one(
    sim, weights, autojump_clock
):
    node = (await sim.start("a")).node
    node._world.spawner.start_seconds = 100.0
    done = []
    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def give_up():
            with first:
                await publish(node, weights)

        async def stay():
            done.append(await publish(node, weights))

        nursery.start_soon(give_up)
        await trio.sleep(1)
        nursery.start_soon(stay)
        await trio.sleep(1)
        first.cancel()
    assert first.cancelled_caught
    assert list(node.models.list()) == [MODEL] == [one.model for one in done]
    (offer,) = node.hosting.offers()
    assert offer.manifest == done[0].record
    assert node.models.source(MODEL).files["w.boxed"].read_bytes() == DATA


async def test_what_is_withdrawn_while_it_is_published_again_is_gone(sim, weights, autojump_clock):
    node = (await sim.start("a")).node
    await publish(node, weights)
    await node.pool.unload(MODEL)
    node._world.spawner.start_seconds = 100.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish, node, weights)
        await trio.sleep(1)
        await node.hosting.withdraw(MODEL)
    assert node.hosting.offers() == ()
    assert node.models.list() == {}
    assert node.hosting._own_manifest(MODEL) is None
    assert left_in(node) == []


async def test_the_reason_survives_a_model_that_was_set_aside(sim, weights, autojump_clock):
    node = (await sim.start("a")).node
    have_answer = node.hosting._trials.have_answer

    async def damaged(model, request, progress):
        (file,) = node.models.source(model).files.values()
        file.write_bytes(b"WEIGHTS" * 100)
        await have_answer(model, request, progress)

    node.hosting._trials.have_answer = damaged
    with pytest.raises(AigridError) as refused:
        await publish(node, weights, take=True)
    assert refused.value.code is Code.HASH_MISMATCH
    assert node.models.list() == {}
    assert left_in(node) == []
    assert weights.exists()  # what was taken has gone back


async def test_a_rollback_that_fails_hides_no_reason(sim, weights, autojump_clock, monkeypatch):
    node = (await sim.start("a")).node

    async def crash(model, request, progress):
        raise EngineError("it crashed", Code.ENGINE_CRASHED)

    async def full(model, *, taken=None):
        raise AigridError("the disk is full", Code.DATA_DIRECTORY_UNUSABLE)

    node.hosting._trials.have_answer = crash
    monkeypatch.setattr(node.models, "discard", full)
    with pytest.raises(AigridError) as refused:
        await publish(node, weights)
    assert refused.value.code is Code.ENGINE_CRASHED
    assert node.models.list() == {}


async def test_a_publication_broken_off_while_it_loads_ends_the_load(sim, weights, autojump_clock):
    node = (await sim.start("a")).node
    spawner = node._world.spawner
    spawner.start_seconds = 100.0
    started = trio.current_time()
    with trio.move_on_after(1):
        await publish(node, weights, take=True)
    assert trio.current_time() - started == 1
    assert node.pool.reserved() == {}
    assert weights.read_bytes() == DATA
    assert left_in(node) == []
    await trio.sleep(200)
    assert spawner.spawned == []


async def test_withdrawing_a_model_that_loads_ends_the_load(sim, weights, autojump_clock):
    node = (await sim.start("a")).node
    await publish(node, weights)
    await node.pool.unload(MODEL)
    node._world.spawner.start_seconds = 100.0
    refused = []

    async def use():
        try:
            async with node.pool.lease(MODEL):
                pass
        except AigridError as error:
            refused.append(error.code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(use)
        await trio.sleep(1)
        assert node.pool.states() == {MODEL: "loading"}
        started = trio.current_time()
        await node.hosting.withdraw(MODEL)
        assert trio.current_time() == started
    assert refused == [Code.MODEL_NOT_FOUND]
    assert node.pool.reserved() == {}
    assert len(node._world.spawner.spawned) == 1


async def test_what_is_told_progress_may_fail_and_comes_out_as_it_is(sim, weights, autojump_clock):
    node = (await sim.start("a")).node

    async def gone(what):
        if "trial" in what:
            raise trio.BrokenResourceError("nobody listens any more")

    with pytest.raises(trio.BrokenResourceError):
        await publish(node, weights, progress=gone)
    assert node.models.list() == {}


async def test_a_trial_ends_some_time(sim, weights, autojump_clock):
    node = (await sim.start("a")).node
    node._world.spawner.start_seconds = 10 * LIMITS.trial_seconds
    started = trio.current_time()
    with pytest.raises(EngineError, match="trial request") as late:
        await publish(node, weights)
    assert late.value.code is Code.ENGINE_TIMEOUT
    assert trio.current_time() - started == LIMITS.trial_seconds
    assert node.models.list() == {}
    assert node.pool.reserved() == {}
