"""Without gossip and without sync, nodes find what they hold no record of: by hint and typed query."""

import pytest
import trio
from tests.simulation.harness import Simulation, eventually

from aigrid.node.commands.commands import NodeCommands
from aigrid.node.discovery.sync import RecordSync
from aigrid.node.network.memory_network import MemoryNetwork
from aigrid.node.network.memory_transport import MemoryTransport
from aigrid.node.policy.caller import OPERATOR
from aigrid.protocol.errors import AigridError, Code, LocalError
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.kinds import CapabilityBody, Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import ModelDescription

NAMES = ("hub", "asker", "holder")
REQUEST = TextRequest(prompt="hello grid")


async def drop(*_args, **_options):
    await trio.lowlevel.checkpoint()


async def refuse(*_args, **_options):
    raise LocalError("not today", Code.RATE_LIMITED)


async def nothing_new(*_args, **_options):
    return 0


@pytest.fixture
async def sim(tmp_path, monkeypatch):
    """Asker and holder are in the hub's grid, and have not met."""
    monkeypatch.setattr(MemoryTransport, "publish", drop)
    monkeypatch.setattr(RecordSync, "serve", refuse)
    monkeypatch.setattr(RecordSync, "sync", nothing_new)
    async with trio.open_nursery() as nursery:
        made = Simulation(9, tmp_path, nursery)
        for name in NAMES:
            await made.start(name)
        for name in NAMES[1:]:
            await made.join(name, "hub")
        yield made
        nursery.cancel_scope.cancel()


def node_of(sim, name):
    return sim.nodes[name].node


async def publish(sim, name, model_name="parrot", capability="text-generation"):
    """Offer an echo model; returns once the DHT had time to hear of it."""
    description = ModelDescription(
        format="echo", task="text-generation", files=(), options={"tag": model_name}
    )
    published = await node_of(sim, name).hosting.add(
        description, {}, name=model_name, capabilities=(capability,), license_id=""
    )
    await trio.sleep(5)
    return published.model


def define(sim, name, short, broader):
    """A capability in a node's own namespace."""
    node = node_of(sim, name)
    body = CapabilityBody(id=f"{node.identity.did}#{short}", broader=(broader,), labels={"en": "x"})
    node.graph.issue(Kind.CAPABILITY, body, node.identity, now_ms=sim.now_ms(), ttl_ms=86_400_000)
    return body.id


async def answered(sim, model="", capability=""):
    node = node_of(sim, "asker")
    async with node.router.infer(
        model, REQUEST, request_id="request-1", caller=OPERATOR, capability=capability
    ) as answer:
        assert [batch async for batch in answer.chunks]
    return answer.node


def assert_never_met(sim, model):
    asker, hub, holder = (node_of(sim, name) for name in ("asker", "hub", "holder"))
    did, now_ms = holder.identity.did, sim.now_ms()
    assert holder.identity.peer_id not in asker.transport.members
    assert asker.graph.live_records(now_ms, issuer=did) == []
    for node in (asker, hub):
        assert node.graph.index.offers_of_model(model, now_ms) == ()


@pytest.mark.parametrize("by", ["id", "name", "capability", "broader"])
async def test_a_request_is_answered_by_hint_and_typed_query_alone(sim, autojump_clock, by):
    model = await publish(sim, "holder")
    assert_never_met(sim, model)
    wanted = {
        "id": {"model": model},
        "name": {"model": "parrot"},
        "capability": {"capability": "text-generation"},
        "broader": {"capability": "text"},
    }[by]
    assert await answered(sim, **wanted) == node_of(sim, "holder").identity.peer_id
    assert node_of(sim, "hub").typed_queries.counts["served"] == 0
    assert node_of(sim, "holder").typed_queries.counts["served"] == 1


async def test_a_published_capability_is_found_with_the_records_that_place_it(sim, autojump_clock):
    broad = define(sim, "holder", "legal", "text-generation")
    narrow = define(sim, "holder", "patents", broad)
    assert_never_met(sim, await publish(sim, "holder", capability=narrow))
    asker, now_ms = node_of(sim, "asker"), sim.now_ms()
    assert not asker.graph.index.concepts.known(broad, now_ms)
    assert await answered(sim, capability=broad) == node_of(sim, "holder").identity.peer_id
    assert asker.graph.index.concepts.known(broad, now_ms)


async def test_without_the_hint_nobody_is_found(sim, autojump_clock, monkeypatch):
    model = await publish(sim, "holder")
    monkeypatch.setattr(MemoryNetwork, "providers", lambda *_: ())
    for wanted, code in (
        ({"model": model}, Code.MODEL_NOT_FOUND),
        ({"capability": "text-generation"}, Code.NO_CANDIDATE),
    ):
        with pytest.raises(AigridError) as caught:
            await answered(sim, **wanted)
        assert caught.value.code is code
    assert_never_met(sim, model)


async def test_without_the_hint_a_member_that_knows_is_enough(sim, autojump_clock, monkeypatch):
    model = await publish(sim, "holder")
    assert_never_met(sim, model)
    monkeypatch.setattr(MemoryNetwork, "providers", lambda *_: ())
    hub, holder = node_of(sim, "hub"), node_of(sim, "holder")
    said = [r.raw for r in holder.graph.live_records(sim.now_ms(), issuer=holder.identity.did)]
    hub.graph.ingest_batch(said, now_ms=sim.now_ms(), received_from=None)
    assert await answered(sim, model) == holder.identity.peer_id
    assert hub.typed_queries.counts["served"] == 1


async def test_a_hint_outlives_its_node_and_is_not_believed(sim, autojump_clock):
    model = await publish(sim, "holder")
    sim.kill("holder")
    with pytest.raises(AigridError) as caught:
        await answered(sim, model)
    assert caught.value.code is Code.MODEL_NOT_FOUND


async def test_who_is_no_member_is_neither_asked_nor_admitted(sim, autojump_clock):
    stranger = (await sim.start("stranger", with_authority=True)).node
    key = f"aigrid/capability/{node_of(sim, 'hub').grid.did}/text-generation"
    await stranger.transport.provide(key)
    asker = node_of(sim, "asker")
    with pytest.raises(AigridError) as caught:
        await answered(sim, capability="text-generation")
    assert caught.value.code is Code.NO_CANDIDATE
    assert stranger.typed_queries.counts["served"] == 0
    assert stranger.identity.peer_id not in asker.transport.members


async def test_what_nobody_offers_is_not_asked_for_again_at_once(sim, autojump_clock):
    asker, hub = node_of(sim, "asker"), node_of(sim, "hub")
    await eventually(lambda: asker.peers.alive(hub.identity.peer_id), seconds=10)
    async with trio.open_nursery() as nursery:  # at the same time, and after one another
        for _ in range(20):
            nursery.start_soon(try_in_vain, sim)
    for _ in range(20):
        await try_in_vain(sim)
    assert (asker.typed_queries.counts["asked"], hub.typed_queries.counts["served"]) == (1, 1)
    await trio.sleep(LIMITS.find_again_seconds)
    await try_in_vain(sim)
    assert (asker.typed_queries.counts["asked"], hub.typed_queries.counts["served"]) == (2, 2)


async def try_in_vain(sim):
    with pytest.raises(AigridError):
        await answered(sim, "nobody-has-this")


async def test_find_asks_when_it_knows_nothing_or_is_told_to(sim, autojump_clock):
    await publish(sim, "holder")
    asker, holder = node_of(sim, "asker"), node_of(sim, "holder")
    commands = NodeCommands(asker)
    for ask, served in ((False, 1), (False, 1), (True, 2)):
        found = await commands.call("find", {"capability": "text", "ask": ask}, drop)
        assert [c["node"] for c in found["candidates"]] == [holder.identity.peer_id]
        assert holder.typed_queries.counts["served"] == served


async def test_what_is_known_stays_found_while_the_holder_is_there(sim, autojump_clock):
    """What a query brought expires as any record does; then it is asked for again."""
    model = await publish(sim, "holder")
    asker, holder = node_of(sim, "asker"), node_of(sim, "holder")
    for _ in range(4):
        assert await answered(sim, model) == holder.identity.peer_id
        await trio.sleep(LIMITS.availability_ttl_seconds)
    assert asker.typed_queries.counts["asked"] == holder.typed_queries.counts["served"] == 4
