"""What a node offers, and how a model comes onto its shelf and leaves it."""

from functools import partial

import pytest
import trio
from tests.simulation.harness import Simulation, eventually

from aigrid.node.commands.model_views import models_of
from aigrid.protocol.errors import AigridError, Code, EngineError
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN, ModelDescription


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(9, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def code_of(awaitable):
    with pytest.raises(AigridError) as caught:
        await awaitable
    return caught.value.code


async def test_an_offer_follows_the_state_of_the_model(sim, autojump_clock):
    node = (await sim.start("a")).node
    model = await sim.publish_echo("a", "parrot", slots=3)
    assert [(o.model, o.state, o.slots) for o in node.hosting.offers()] == [(model, "on_disk", 1)]
    assert node.hosting.offered(model)
    await trio.sleep(1)
    await sim.ask("a", "parrot", "hello")
    assert [(o.state, o.slots) for o in node.hosting.offers()] == [("warm", 3)]


@pytest.mark.parametrize("by_name", [True, False])
async def test_what_is_withdrawn_is_gone_here_and_elsewhere(sim, autojump_clock, by_name):
    a, b = (await sim.start("a")).node, (await sim.start("b")).node
    await sim.join("b", "a")
    model = await sim.publish_echo("b", "parrot")
    await eventually(a.router.models, seconds=10)
    assert await b.hosting.withdraw("parrot" if by_name else model) == model
    await eventually(lambda: not a.router.models(), seconds=3)
    assert b.hosting.offers() == ()
    assert not b.hosting.offered(model)
    assert b.graph.store.newest((b.identity.did, Kind.MODEL.value, MODEL_URN + model)).withdrawn
    assert await code_of(b.hosting.withdraw(model)) is Code.MODEL_NOT_FOUND


async def test_a_name_of_two_models_withdraws_neither(sim, autojump_clock):
    node = (await sim.start("a")).node
    models = {await sim.publish_echo("a", "parrot", tag=n) for n in range(2)}
    assert await code_of(node.hosting.withdraw("parrot")) is Code.AMBIGUOUS_MODEL
    assert {offer.model for offer in node.hosting.offers()} == models


async def test_a_model_that_no_engine_runs_leaves_nothing_behind(sim, autojump_clock):
    node = (await sim.start("a")).node

    async def refuse(source):
        raise EngineError("no engine here runs it", Code.UNSUPPORTED_MODEL)

    node.hosting._estimate = refuse
    assert await code_of(sim.publish_echo("a", "parrot")) is Code.UNSUPPORTED_MODEL
    assert node.models.list() == {}
    assert node.hosting.offers() == ()


async def test_a_model_that_was_there_survives_a_failed_publication(sim, autojump_clock):
    node = (await sim.start("a")).node
    model = await sim.publish_echo("a", "parrot")

    async def refuse(source):
        raise EngineError("the worker did not start", Code.ENGINE_TIMEOUT)

    node.hosting._estimate = refuse
    assert await code_of(sim.publish_echo("a", "parrot")) is Code.ENGINE_TIMEOUT
    assert list(node.models.list()) == [model]
    assert [offer.model for offer in node.hosting.offers()] == [model]


async def test_two_holders_of_the_same_model_each_sign_a_manifest(sim, autojump_clock):
    a, b = (await sim.start("a")).node, (await sim.start("b")).node
    await sim.join("b", "a")
    assert await sim.publish_echo("a", "parrot") == await sim.publish_echo("b", "parrot")
    await eventually(lambda: [len(view.nodes) for view in a.router.models()] == [2], seconds=10)
    assert a.hosting.offers()[0].manifest != b.hosting.offers()[0].manifest


async def test_the_manifest_of_another_carries_an_offer_if_that_one_is_trusted(sim, autojump_clock):
    """Whose manifest it is decides who may ask: never just anybody's, however new."""
    a = (await sim.start("a")).node
    b = (await sim.start("b", trusted_publishers=[a.identity.did])).node
    c = (await sim.start("c")).node
    for name in "bc":
        await sim.join(name, "a")
    model = await sim.publish_echo("a", "parrot")
    await eventually(lambda: b.router.models() and c.router.models(), seconds=10)
    description = ModelDescription("echo", "text-generation", (), options={"tag": "parrot"})
    for node in (b, c):  # on the disk, and never described here
        assert await node.models.add(description, {}) == model
    (offer,) = b.hosting.offers()
    assert offer.manifest == a.hosting.offers()[0].manifest
    assert c.hosting.offers() == ()
    assert not c.hosting.offered(model)
    assert "publish it" in c.hosting.withheld()[0]["problem"]


async def test_a_model_is_offered_again_after_a_restart(sim, autojump_clock):
    await sim.start("a")
    model = await sim.publish_echo("a", "parrot")
    sim.kill("a")
    node = (await sim.start("a", incarnation=1, with_authority=True)).node
    assert [offer.model for offer in node.hosting.offers()] == [model]
    await eventually(node.router.models, seconds=3)


async def test_a_model_beyond_what_a_record_holds_is_refused(sim, autojump_clock):
    await sim.start("a")
    for n in range(LIMITS.offers_max):
        await sim.publish_echo("a", f"m{n}")
    with pytest.raises(AigridError) as caught:
        await sim.publish_echo("a", "one-more")
    assert caught.value.code is Code.OVER_QUOTA
    assert len(sim.nodes["a"].node.hosting.offers()) == LIMITS.offers_max


async def test_each_holder_lists_a_model_under_its_own_name(sim, autojump_clock):
    for name in "ab":
        await sim.start(name)
    await sim.join("b", "a")
    description = ModelDescription(format="echo", task="text-generation", files=())
    for name, called in (("a", "parrot"), ("b", "my parrot")):
        await sim.nodes[name].node.hosting.add(
            description, {}, name=called, capabilities=("text-generation",), license_id=""
        )
    listed = partial(models_of, sim.nodes["b"].node)
    await eventually(lambda: [len(m["on_disk"]) for m in listed()] == [2], seconds=10)
    assert [(m["name"], m["names"]) for m in listed()] == [("my parrot", ["my parrot", "parrot"])]
    await sim.nodes["b"].node.hosting.withdraw("my parrot")


async def test_a_name_that_another_model_here_has_is_not_given_twice(sim, autojump_clock):
    node = (await sim.start("a")).node
    model = await sim.publish_echo("a", "parrot")
    node.hosting.check_name("parrot", model)
    node.hosting.check_name("other", "bafyother")
    with pytest.raises(AigridError, match="withdraw") as caught:
        node.hosting.check_name("parrot", "bafyother")
    assert caught.value.code is Code.AMBIGUOUS_MODEL


async def test_a_model_under_another_name_says_what_it_was_called(sim, autojump_clock):
    node = (await sim.start("a")).node
    description = ModelDescription("echo", "text-generation", (), options={"tag": "x"})

    async def add(name):
        about = {"capabilities": ("text-generation",), "license_id": "MIT"}
        return await node.hosting.add(description, {}, name=name, **about)

    assert [(await add(name)).before for name in ("one", "one", "two")] == ["", "", "one"]
