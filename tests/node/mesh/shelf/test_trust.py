"""Models that may run code: held by whose manifest, and offered only while that one is trusted."""

from dataclasses import replace

import pytest
import trio
from tests.simulation.harness import Simulation, eventually

from aigrid.engines.echo import EchoEngine
from aigrid.node.commands.publishing import (
    Publish,
    PublishRemote,
    propose,
    propose_hub,
    publish_hub,
)
from aigrid.node.commands.status import status_of
from aigrid.node.mesh.shelf.bringing import Wishes
from aigrid.node.workers import inline as inline_workers
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


class Reads(EchoEngine):
    """Takes the same files, and runs nothing that is in them."""

    name = "reads"

    def probe(self):
        return replace(super().probe(), engine=self.name, formats=("program",))

    def estimate(self, source):
        return super().estimate(replace(source, format="echo"))


@pytest.fixture
async def sim(tmp_path, monkeypatch):
    monkeypatch.setattr(inline_workers, "ENGINES", {"echo": EchoEngine, "runs": Runs})
    async with trio.open_nursery() as nursery:
        yield Simulation(12, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def publish(node, **more):
    return await node.hosting.add(
        PROGRAM, {}, name="program", capabilities=("text-generation",), license_id="", **more
    )


async def start_trusting(sim, name, *others):
    """A node that trusts itself, and `others`."""
    did = (await sim.start(name)).node.identity.did
    sim.kill(name)
    trusted = {did, *(other.identity.did for other in others)}
    started = await sim.start(name, incarnation=1, with_authority=True, trusted_publishers=trusted)
    return started.node


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
    for node in (b, c):  # which may publish it again as members that nobody has revoked
        await eventually(node.statuses.known, seconds=10)
    await publish(b)  # it is what `first` signed, to the last byte
    assert b.hosting.trusted(model)
    with pytest.raises(EngineError):
        await publish(c)


async def test_no_stranger_takes_the_trust_from_a_model(sim, autojump_clock):
    a = await start_trusting(sim, "a")
    b = (await sim.start("b", trusted_publishers={a.identity.did})).node
    c = await start_trusting(sim, "c")
    await sim.join("b", "a")
    await sim.join("c", "a")
    model = (await publish(a)).model
    await b.models.add(PROGRAM, {})
    await eventually(b.hosting.offers, seconds=10)
    await trio.sleep(5)
    assert (await publish(c)).model == model  # newer than the one of `a`
    await eventually(lambda: len(b.graph.manifests_of(model, b.now_ms())) == 2, seconds=10)
    (offer,) = b.hosting.offers()
    assert offer.manifest == a.hosting.offers()[0].manifest
    assert b.hosting.trusted(model)
    assert b.hosting.withheld() == []


async def test_what_nobody_signed_is_nobodys_whom_one_trusts(sim, autojump_clock):
    node = await start_trusting(sim, "a")
    model = await node.models.add(PROGRAM, {})
    assert not node.hosting.trusted(model)
    assert not node.models.source(model).trusted


async def test_what_somebody_else_made_is_not_ones_own(sim, autojump_clock):
    node = await start_trusting(sim, "a")
    with pytest.raises(EngineError, match="--trust-publisher") as refused:
        await publish(node, own=False)
    assert refused.value.code is Code.UNSAFE_FILE
    assert node.models.list() == {}


async def test_what_was_brought_stays_somebody_elses_until_a_person_publishes_it(
    sim, autojump_clock, monkeypatch
):
    engines = {"echo": EchoEngine, "runs": Runs, "reads": Reads}
    monkeypatch.setattr(inline_workers, "ENGINES", engines)
    a = await start_trusting(sim, "a")
    model = (await publish(a, own=False)).model  # one engine takes it without running anything
    assert [offer.model for offer in a.hosting.offers()] == [model]
    assert not a.models.source(model).trusted
    sim.kill("a")
    did = a.identity.did
    a = (await sim.start("a", incarnation=2, with_authority=True, trusted_publishers={did})).node
    assert not a.models.source(model).trusted
    await publish(a)
    assert a.models.source(model).trusted
    sim.kill("a")
    a = (await sim.start("a", incarnation=3, with_authority=True, trusted_publishers={did})).node
    assert a.models.source(model).trusted
    await publish(a, own=False)  # the very same, so still vouched for
    assert a.models.source(model).trusted


class AtHand:
    """Stands for a hub from which the model at `path` has been brought."""

    def __init__(self, path):
        self.path, self.name = path, "program"

    async def list(self, source, *, token):
        return self

    async def fetch(self, listing, progress, *, token):
        pass

    def sha256(self, path):
        return ""


async def test_code_from_the_hub_is_not_ones_own(sim, tmp_path, autojump_clock):
    node = await start_trusting(sim, "a")
    path = tmp_path / "brought.program"
    path.write_bytes(b"code")
    node.hub = AtHand(path)

    async def emit(_):
        pass

    mine = await propose(node, Publish(path=str(path), capability="text-generation"), emit)
    assert "does not trust" not in mine["problem"]
    brought = PublishRemote(source="somebody/program", capability="text-generation")
    assert "does not trust" in (await propose_hub(node, brought, emit))["problem"]
    with pytest.raises(EngineError) as refused:
        await publish_hub(node, brought, emit)
    assert refused.value.code is Code.UNSAFE_FILE
    proposal = await node.bringing.propose(path, Wishes(capability="text-generation"), own=False)
    with pytest.raises(EngineError) as refused:  # whatever an engine said of it at first
        await node.bringing.publish(replace(proposal, problem=None))
    assert refused.value.code is Code.UNSAFE_FILE
