"""Models that may run code: held by whose manifest, and offered only while that one is trusted."""

from dataclasses import replace

import pytest
import trio
from tests.simulation.harness import Simulation, eventually

from aigrid.engines.echo import EchoEngine
from aigrid.node import inline_workers
from aigrid.node.status import status_of
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.model import ModelDescription

PROGRAM = ModelDescription("program", "text-generation", ())


class Runs(EchoEngine):
    """Stands for one that unpickles."""

    name = "runs"

    def probe(self):
        return replace(
            super().probe(), engine=self.name, formats=("program",), code_formats=("program",)
        )

    def estimate(self, source):
        assert source.trusted  # nothing else comes this far
        return super().estimate(replace(source, format="echo"))


@pytest.fixture
async def sim(tmp_path, monkeypatch):
    monkeypatch.setattr(inline_workers, "ENGINES", {"echo": EchoEngine, "runs": Runs})
    async with trio.open_nursery() as nursery:
        yield Simulation(12, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def publish(node):
    return await node.hosting.add(
        PROGRAM, {}, name="program", capabilities=("text-generation",), license_id=""
    )


async def test_ones_own_key_is_not_trusted_unless_it_is_said(sim, autojump_clock):
    node = (await sim.start("a")).node
    with pytest.raises(EngineError, match="--trust-publisher") as refused:
        await publish(node)
    assert refused.value.code is Code.UNSAFE_FILE
    assert node.models.list() == {}
    own = node.identity.did
    sim.kill("a")
    node = (await sim.start("a", incarnation=1, with_authority=True, trusted_publishers={own})).node
    model = (await publish(node)).model
    assert [offer.model for offer in node.hosting.offers()] == [model]
    await eventually(node.router.models, seconds=5)
    assert (await sim.ask("a", "program", "hello"))[0] == "hello"


async def test_what_is_no_longer_trusted_is_withheld(sim, autojump_clock):
    own = (await sim.start("a")).node.identity.did
    sim.kill("a")
    node = (await sim.start("a", incarnation=1, with_authority=True, trusted_publishers={own})).node
    model = (await publish(node)).model
    sim.kill("a")
    node = (await sim.start("a", incarnation=2, with_authority=True)).node
    assert node.hosting.offers() == ()
    assert not node.hosting.offered(model)
    (withheld,) = status_of(node)["withheld"]
    assert withheld["model"] == model
    assert "does not trust" in withheld["problem"]
    with pytest.raises(EngineError) as refused:
        await node.pool.resident(model)
    assert refused.value.code is Code.UNSAFE_FILE


async def test_whose_manifest_it_is_held_under_decides(sim, autojump_clock):
    first = (await sim.start("a")).node.identity.did
    sim.kill("a")
    a = (await sim.start("a", incarnation=1, with_authority=True, trusted_publishers={first})).node
    b = (await sim.start("b", trusted_publishers={first})).node
    c = (await sim.start("c")).node
    await sim.join("b", "a")
    await sim.join("c", "a")
    model = (await publish(a)).model
    await eventually(b.router.models, seconds=10)
    await eventually(c.router.models, seconds=10)
    for node in (b, c):
        await node.models.add(PROGRAM, {})  # on the disk, and never described by this node
    assert b.hosting.trusted(model)
    assert not c.hosting.trusted(model)
    assert [offer.model for offer in b.hosting.offers()] == [model]
    assert c.hosting.offers() == ()
    with pytest.raises(EngineError):  # under its own manifest, it would be its own
        await publish(b)
