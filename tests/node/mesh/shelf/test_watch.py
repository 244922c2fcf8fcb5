"""A model behind a server is offered while the server answers. In virtual time."""

import stat
from typing import ClassVar

import pytest
import trio
from tests.simulation.harness import Simulation, eventually

from aigrid.engines.base import Endpoint, Estimate, Served
from aigrid.engines.echo import EchoEngine
from aigrid.node.commands.status import status_of
from aigrid.node.mesh.shelf.server_model import ServerModel
from aigrid.node.workers import inline as inline_workers
from aigrid.protocol.errors import AigridError, Code, EngineError
from aigrid.protocol.kinds import Kind
from aigrid.protocol.model import MODEL_URN


class Behind(EchoEngine):
    """Echo behind a server that is as well as the test says; `problem` is one for all."""

    name = "behind"
    problem = ""
    endpoints: ClassVar[list[Endpoint]] = []

    def probe(self):
        return type(super().probe())(self.name, "1", (self.name,), (), ())

    def discover(self, endpoint, model):
        self._check()
        return (Served(model or "parrot", "v1"),) if model else (Served("parrot"), Served("owl"))

    def estimate(self, source):
        assert source.upstream is not None
        assert source.endpoint is not None
        return Estimate(0, 4, 512)

    def load(self, source, *, threads):
        self._check()
        self.endpoints.append(source.endpoint)
        self._delay_seconds = 0.0
        return self.estimate(source)

    def stats(self):
        return type(super().stats())(problem=self.problem)

    def _check(self):
        if self.problem:
            raise EngineError(self.problem, Code.UNREACHABLE)


@pytest.fixture
async def sim(tmp_path, monkeypatch):
    monkeypatch.setattr(inline_workers, "ENGINES", {"echo": EchoEngine, "behind": Behind})
    monkeypatch.setattr(Behind, "problem", "")
    monkeypatch.setattr(Behind, "endpoints", [])
    async with trio.open_nursery() as nursery:
        yield Simulation(11, tmp_path, nursery)
        nursery.cancel_scope.cancel()


def parrot(key="k3y"):
    return ServerModel("behind", Endpoint("http://gpu.example:8000/v1", key), "parrot")


async def publish(sim, name="a", key="k3y"):
    node = sim.nodes[name].node
    published = await node.hosting.publish_upstream(parrot(key), capability="text-generation")
    return published.model


def offered(node):
    return [offer.model for offer in node.hosting.offers()]


async def test_it_is_offered_once_the_server_has_answered(sim, autojump_clock):
    node = (await sim.start("a")).node
    model = await publish(sim)
    assert offered(node) == [model]
    await eventually(node.router.models, seconds=5)
    said, _ = await sim.ask("a", "parrot", "hello")
    assert said == "hello"
    (view,) = node.router.models()
    assert (view.name, view.context_tokens) == ("parrot", 512)


async def test_it_is_withdrawn_while_the_server_does_not_answer(sim, autojump_clock):
    a, b = (await sim.start("a")).node, (await sim.start("b")).node
    await sim.join("b", "a")
    model = await publish(sim, "b")
    await eventually(a.router.models, seconds=10)
    Behind.problem = "generation is dead"
    await eventually(lambda: not a.router.models(), seconds=5)
    assert not b.hosting.offered(model)
    problem = {"model": model, "name": "parrot", "problem": "generation is dead"}
    assert status_of(b)["withheld"] == [problem]
    with pytest.raises(AigridError) as refused:
        await sim.ask("a", "parrot", "hello")
    assert refused.value.code is Code.NO_CANDIDATE
    Behind.problem = ""
    await eventually(a.router.models, seconds=5)
    assert status_of(b)["withheld"] == []
    assert (await sim.ask("a", "parrot", "hello"))[0] == "hello"


async def test_after_a_restart_it_is_offered_when_the_server_is_back(sim, autojump_clock):
    await sim.start("a")
    model = await publish(sim)
    sim.kill("a")
    Behind.problem = "not there yet"
    node = (await sim.start("a", incarnation=1, with_authority=True)).node
    await trio.sleep(600)
    assert offered(node) == []
    Behind.problem = ""
    await eventually(lambda: offered(node) == [model], seconds=61)


async def test_its_worker_stays_and_comes_back_when_it_dies(sim, autojump_clock):
    node = (await sim.start("a")).node
    model = await publish(sim)
    spawner = sim.nodes["a"].node._world.spawner
    await trio.sleep(3600)  # far longer than a model may be idle
    (worker,) = spawner.spawned
    assert not worker.died.is_set()
    worker.crash()
    await eventually(lambda: len(spawner.spawned) == 2, seconds=5)
    await eventually(lambda: offered(node) == [model], seconds=5)


async def test_a_withdrawn_model_leaves_neither_worker_nor_key(sim, tmp_path, autojump_clock):
    node = (await sim.start("a")).node
    model = await publish(sim)
    folder = tmp_path / "a" / "models" / model
    assert stat.S_IMODE((folder / "endpoint.json").stat().st_mode) == 0o600
    assert b"k3y" in (folder / "endpoint.json").read_bytes()
    await node.hosting.withdraw("parrot")
    await trio.sleep(60)
    assert [worker.died.is_set() for worker in node._world.spawner.spawned] == [True]
    assert not folder.exists()
    assert node.hosting.watch.problem(model) == ""


async def test_withdrawing_while_the_worker_starts_anew_leaves_none(sim, autojump_clock):
    node = (await sim.start("a")).node
    model = await publish(sim)
    spawner = node._world.spawner
    await trio.sleep(10)
    spawner.start_seconds = 5.0
    spawner.spawned[0].crash()
    await eventually(lambda: node.pool.states()[model] == "loading", seconds=5)
    await node.hosting.withdraw(model)
    await trio.sleep(60)
    assert len(spawner.spawned) == 1
    assert node.pool.reserved() == {}


@pytest.mark.parametrize("count", [0, 2])
async def test_a_server_that_tells_of_none_or_many_is_not_published(
    sim, autojump_clock, monkeypatch, count
):
    await sim.start("a")
    monkeypatch.setattr(Behind, "discover", lambda *_: (Served("parrot"),) * count)
    with pytest.raises(EngineError, match=f"{count} models") as refused:
        await publish(sim)
    assert refused.value.code is Code.UNSUPPORTED_MODEL


async def test_neither_address_nor_key_is_in_a_record(sim, autojump_clock):
    node = (await sim.start("a")).node
    model = await publish(sim)
    raw = node.graph.store.newest((node.identity.did, Kind.MODEL.value, MODEL_URN + model)).raw
    assert b"gpu.example" not in raw
    assert b"k3y" not in raw
    assert b'"publisher":"' + node.identity.did.encode() in raw


async def test_two_publishers_of_one_server_have_two_models(sim, autojump_clock):
    await sim.start("a")
    await sim.start("b")
    assert await publish(sim, "a") != await publish(sim, "b")


async def test_nobody_offers_the_model_of_another_publisher(sim, autojump_clock):
    a = (await sim.start("a")).node
    b = (await sim.start("b", trusted_publishers=[a.identity.did])).node
    await sim.join("b", "a")
    model = await publish(sim, "a")
    await eventually(b.router.models, seconds=10)
    description = a.models.description(model)
    assert await b.models.add(description, {}, endpoint=Endpoint("http://evil.example")) == model
    b.hosting.watch.poke()
    await eventually(lambda: offered(b) == [model], seconds=10)  # it says so ...
    await trio.sleep(10)
    for node in (a, b):
        (view,) = node.router.models()
        assert view.nodes == (a.identity.peer_id,)  # ... and nobody believes it


async def test_a_server_that_does_not_answer_is_not_published(sim, autojump_clock):
    node = (await sim.start("a")).node
    Behind.problem = "generation is dead"
    with pytest.raises(AigridError) as refused:
        await publish(sim)
    assert refused.value.code is Code.UNREACHABLE
    assert node.models.list() == {}


async def test_publishing_again_takes_a_new_key(sim, autojump_clock):
    node = (await sim.start("a")).node
    model = await publish(sim, key="old")
    assert await publish(sim, key="new") == model
    assert [endpoint.key for endpoint in Behind.endpoints] == ["old", "new"]
    assert offered(node) == [model]


async def test_a_new_address_that_does_not_answer_leaves_the_old_one(sim, autojump_clock):
    node = (await sim.start("a")).node
    model = await publish(sim, key="old")

    async def refuse(model):
        raise EngineError("the server refuses the key", Code.ENGINE_FAILED)

    resident, node.pool.resident = node.pool.resident, refuse
    with pytest.raises(AigridError):
        await publish(sim, key="new")
    node.pool.resident = resident
    assert node.models.endpoint(model).key == "old"
    await eventually(lambda: offered(node) == [model], seconds=70)


async def test_without_a_name_the_servers_models_are_listed(sim, autojump_clock):
    node = (await sim.start("a")).node
    nameless = ServerModel("behind", Endpoint("http://gpu.example"), "")
    with pytest.raises(AigridError) as refused:
        await node.hosting.publish_upstream(nameless, capability="text-generation")
    assert refused.value.code is Code.USAGE
    assert "owl, parrot" in refused.value.message
