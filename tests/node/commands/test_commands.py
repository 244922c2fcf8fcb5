"""Each method of the control socket, on whole nodes in virtual time."""

from dataclasses import replace

import pytest
import trio
from tests.simulation.harness import Simulation, eventually
from tests.simulation.heavy import content, heavy_grid, knows, publish_heavy

from aigrid.engines.base import Device
from aigrid.node.commands.commands import NodeCommands
from aigrid.node.commands.status import peers_of
from aigrid.node.network.transport import Nearby, PeerAddress
from aigrid.protocol.errors import AigridError, Code, PolicyDeniedError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS

SOMEBODY = Identity(b"\x33" * 32)


class Console:
    """Calls commands of a node; `events` is what they said meanwhile."""

    def __init__(self, node):
        self.node = node
        self.commands = NodeCommands(node)
        self.events = []

    async def emit(self, event):
        self.events.append(event)
        await trio.lowlevel.checkpoint()

    async def __call__(self, method, **params):
        return await self.commands.call(method, params, self.emit)

    async def refused(self, method, **params):
        with pytest.raises(AigridError) as caught:
            await self(method, **params)
        return caught.value.code


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(10, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def two(sim):
    """A founder and a member that know each other."""
    a, b = (await sim.start("a")).node, (await sim.start("b")).node
    await sim.join("b", "a")
    await eventually(lambda: a.peers.alive_members() and b.peers.alive_members(), seconds=10)
    return Console(a), Console(b)


async def test_unknown_methods_and_wrong_parameters_are_usage(sim, autojump_clock):
    a = Console((await sim.start("a")).node)
    assert await a.refused("x" * 1000) is Code.USAGE
    assert await a.refused("status", more=1) is Code.USAGE
    assert await a.refused("publish", path=7, capability="text-generation") is Code.USAGE
    assert await a.refused("find") is Code.USAGE


async def test_status_and_peers(sim, autojump_clock):
    a, b = await two(sim)
    status = await a("status")
    assert status.keys() >= {"peer_id", "did", "grid", "peers", "models", "records"}
    assert (status["peer_id"], status["authority"]) == (a.node.identity.peer_id, True)
    other = b.node.identity
    entry = {"peer_id": other.peer_id, "did": other.did, "alive": True}
    assert await a("peers") == {"peers": [entry]}
    sim.kill("b")
    await eventually(lambda: not a.node.peers.alive(other.peer_id), seconds=2)
    assert await a("peers") == {"peers": [{**entry, "alive": False}]}


async def test_engines(sim, autojump_clock):
    a, _ = await two(sim)
    told = await a("engines")
    assert "echo" in {engine["engine"] for engine in told["engines"] if not engine["problem"]}
    assert told["devices"] == told["devices_not_found"] == []  # the double has no hardware
    assert told["engines_not_found"] == []


async def test_devices_are_told_as_they_are_now_with_what_models_have_reserved(sim, autojump_clock):
    a, _ = await two(sim)
    model = await sim.publish_echo("a", "parrot", memory_bytes=5 << 20)
    card, host = Device("cuda", "card", 400, 200), Device("cpu", "cores", 1000, 900)
    a.node.pool.equip([card])
    a.node._world.spawner.hardware = (host, replace(card, memory_free_bytes=7))
    async with a.node.pool.lease(model):
        told = (await a("engines"))["devices"]
    assert [(d["device"], d["memory_free_bytes"]) for d in told] == [("cpu", 900), ("cuda:0", 7)]
    assert [d["memory_reserved_bytes"] for d in told] == [5 << 20, 0]
    assert [d["memory_budget_bytes"] for d in told] == [1 << 30, 160]


async def test_models_find_and_ask(sim, autojump_clock):
    a, b = await two(sim)
    model = await sim.publish_echo("b", "parrot")
    await eventually(a.node.router.models, seconds=10)
    peer = b.node.identity.peer_id
    nowhere = {"warm": [], "loading": [], "can_fetch": [], "seeds": [peer]}
    listed = {"model": model, "name": "parrot", "names": ["parrot"], "state": "on_disk"}
    listed |= {"on_disk": [peer], **nowhere}
    listed["capabilities"] = ["text-generation"]
    listed["policy"] = [
        {"actions": ["fetch", "host", "invoke", "publish"], "assignees": ["members"]}
    ]
    own = a.node.identity.peer_id
    assert await a("models") == {"models": [listed], "trouble": "", "peer_id": own}
    for called in ("parrot", model, f"urn:aigrid:model:{model}"):
        shown = {**listed, "evaluations": []}
        assert await a("models_show", model=called) == {"model": shown, "peer_id": own}
    assert await a.refused("models_show", model="nothing") is Code.MODEL_NOT_FOUND
    (found,) = (await a("find", capability="text-generation"))["candidates"]
    assert found.keys() == {"model", "name", "record", "node", "signer", "state", "valid_until"}
    assert (found["node"], found["signer"]) == (peer, b.node.identity.did)
    shown = await a("record_show", id=found["record"])
    assert (shown["signer"], shown["state"]) == (b.node.identity.did, "believed")
    assert (shown["received_from"], shown["verified"]["ok"]) == (peer, True)
    answer = await a("ask", text="hello you")
    assert (answer["text"], answer["model"]) == ("hello you", "parrot")
    (segment,) = answer["segments"]
    assert (segment["node"], segment["model"], segment["tokens"]) == (peer, model, 2)
    assert segment["receipted"]
    for console, role in ((a, "asked"), (b, "served")):
        (kept,) = (await console("receipts"))["receipts"]
        assert (kept["id"], kept["role"], kept["completion_tokens"]) == (
            segment["receipt"],
            role,
            2,
        )
    assert "".join(event["text"] for event in a.events) == "hello you"
    assert (await a("ask", text="hi", model=model))["text"] == "hi"


async def test_what_nobody_has(sim, autojump_clock):
    a = Console((await sim.start("a")).node)
    assert await a("find", capability="fill-mask") == {"candidates": []}
    assert await a.refused("find", capability="cooking") is Code.USAGE
    assert await a.refused("ask", text="hi") is Code.NO_CANDIDATE
    assert await a.refused("ask", text="hi", model="nothing") is Code.MODEL_NOT_FOUND
    assert await a.refused("record_show", id="bnothing") is Code.NOT_FOUND
    assert await a.refused("withdraw", model="nothing") is Code.MODEL_NOT_FOUND
    assert await a.refused("models_fetch", name="nothing") is not Code.INTERNAL


async def test_publishing_needs_a_capability_and_a_file(sim, autojump_clock, tmp_path):
    a = Console((await sim.start("a")).node)
    missing = str(tmp_path / "missing.onnx")
    assert await a.refused("publish", path=missing, capability="cooking") is Code.USAGE
    code = await a.refused("publish", path=missing, capability="fill-mask")
    assert code is Code.MODEL_FILE_MISSING


async def test_withdrawing_by_name(sim, autojump_clock):
    a = Console((await sim.start("a")).node)
    model = await sim.publish_echo("a", "parrot")
    await eventually(a.node.router.models, seconds=3)
    assert await a("withdraw", model="parrot") == {"model": model}
    await eventually(lambda: not a.node.router.models(), seconds=3)


async def test_an_invitation_is_printed_and_joins(sim, autojump_clock):
    a, b = Console((await sim.start("a")).node), Console((await sim.start("b")).node)
    invited = await a("invite", did=b.node.identity.did)
    assert invited.keys() == {"invitation", "expires"}
    joined = await b("join", invitation=invited["invitation"])
    assert joined == {"grid": a.node.grid.did, "state": "member"}
    assert await b.refused("invite", did=SOMEBODY.did) is Code.NOT_AUTHORITY
    assert await a.refused("invite", did="did:web:x") is Code.USAGE
    assert await b.refused("join", invitation="rubbish") is Code.INVITATION_INVALID


async def test_a_member_is_removed(sim, autojump_clock):
    a, b = await two(sim)
    did = b.node.identity.did
    assert await b.refused("remove", did=did) is Code.NOT_AUTHORITY
    assert await a("remove", did=did) == {"did": did, "state": "removed"}
    assert await a.refused("remove", did=did) is Code.NOT_MEMBER
    assert await a.refused("remove", did=a.node.identity.did) is Code.DENIED
    assert await a("peers") == {"peers": []} or await eventually(
        lambda: not peers_of(a.node), seconds=2
    )


async def test_a_record_is_imported_once_verified_and_spread(sim, autojump_clock):
    a, b = await two(sim)
    model = await sim.publish_echo("b", "parrot")
    b_manifest = b.node.graph.manifests_of(model, sim.now_ms())[0]
    await eventually(lambda: a.node.graph.store.has(b_manifest.content_id), seconds=10)
    text = b_manifest.raw.decode()
    known = await a("record_import", raw=f"{text}\n")
    assert known == {"ok": True, "code": "", "record": b_manifest.content_id}
    assert await a.refused("record_import", raw=text.replace("parrot", "crow")) is not None
    assert await a.refused("record_import", raw="{}") is Code.UNSIGNED
    stranger = Console((await sim.start("s")).node)
    assert await stranger.refused("record_import", raw=text) is Code.NOT_MEMBER
    record = a.node.graph.store.newest(
        (a.node.grid.did, Kind.MEMBERSHIP.value, b.node.identity.did)
    )
    assert await stranger.refused("record_import", raw=record.raw.decode()) is Code.NOT_MEMBER


async def test_asking_to_join_what_is_nearby(sim, autojump_clock):
    a, b = Console((await sim.start("a")).node), Console((await sim.start("b")).node)
    (grid,) = (await b("nearby"))["grids"]
    assert (grid["grid"], grid["peers"]) == (a.node.grid.did, [a.node.identity.peer_id])
    done = []

    async def ask():
        done.append(await b("join_request", grid=grid["grid"]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await eventually(lambda: b.events and a.node.join_host.waiting(), seconds=10)
        (waiting,) = (await a("requests"))["requests"]
        assert b.events == [{"state": "waiting", "code": waiting["code"]}]
        assert (waiting["did"], waiting["name"]) == (b.node.identity.did, "b")
        approved = await a("approve", id=waiting["id"])
        assert approved["did"] == b.node.identity.did
    assert done == [{"grid": a.node.grid.did, "state": "member"}]
    assert (await a("requests"))["requests"] == []
    assert await a.refused("approve", id="nothing") is Code.JOIN_REFUSED
    assert (await b("nearby"))["grids"] == []


async def test_the_next_host_is_asked_when_one_is_gone(sim, autojump_clock):
    a, b = Console((await sim.start("a")).node), Console((await sim.start("b")).node)
    here = PeerAddress(a.node.identity.peer_id, a.node.transport.listen_addresses)
    gone = PeerAddress(SOMEBODY.peer_id, ("/ip4/10.9.9.9/tcp/1",))
    grid = a.node.grid.did
    b.node.transport.nearby = lambda: tuple(Nearby(peer, grid, "x") for peer in (gone, here))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: b("join_request", grid=grid))
        await eventually(a.node.join_host.waiting, seconds=3 * LIMITS.dial_timeout_seconds)
        a.node.join_host.approve(a.node.join_host.waiting()[0].request)
    assert b.node.grid.did == grid


async def test_a_grid_that_nobody_announces_cannot_be_asked(sim, autojump_clock):
    a = Console((await sim.start("a")).node)
    assert await a.refused("join_request", grid=SOMEBODY.did) is Code.NO_CANDIDATE


async def test_publishing_what_is_behind_a_server_needs_a_plain_address(sim, autojump_clock):
    a = Console((await sim.start("a")).node)
    for url in ("http://host/v1", "openai+http://me:secret@host/v1", "openai+ftp://host"):
        assert await a.refused("publish_upstream", url=url) is Code.USAGE
    good = "openai+http://127.0.0.1:1/v1"
    assert await a.refused("publish_upstream", url=good, capability="cooking") is Code.USAGE
    mapping = {"output": {"top": "many"}}
    assert await a.refused("publish_upstream", url=good, mapping=mapping) is Code.USAGE
    code = await a.refused("publish_upstream", url=good, model="parrot")
    assert code is Code.UNSUPPORTED_MODEL  # the simulation has no such engine


async def test_delegates_are_named_shown_and_taken_back(sim, autojump_clock):
    a, b = await two(sim)
    grid, did = a.node.grid.did, b.node.identity.did
    nobody = await b("delegates")
    assert (nobody["owner"], nobody["delegates"], nobody["quorum"]) == (grid, [], 0)
    assert await b.refused("delegates", dids=[did]) is Code.NOT_AUTHORITY
    assert await a.refused("delegates", dids=[SOMEBODY.did]) is Code.USAGE
    assert await a.refused("delegates", dids=["nonsense"]) is Code.USAGE
    assert await a.refused("delegates", dids=["did:key:nonsense"]) is Code.USAGE
    assert await a.refused("delegates", dids=[did], none=True) is Code.USAGE
    assert await a.refused("delegates", quorum=1) is Code.USAGE
    assert await a.refused("delegates", dids=[did], quorum=2) is Code.USAGE
    assert await a.refused("delegates", dids=[did] * 17) is Code.USAGE
    said = await a("delegates", dids=[b.node.identity.peer_id])
    assert (said["quorum"], said["delegates"]) == (1, [{"did": did, "heard": ""}])
    await trio.sleep(12)  # one that has just started signs a little later
    said = await a("delegates")
    assert said["delegates"][0]["heard"]
    assert said["as_of"] >= said["delegates"][0]["heard"]
    own = await b("delegates", dids=[a.node.identity.did], own=True)
    assert (own["owner"], own["quorum"]) == (did, 1)
    assert (await a("delegates", none=True))["delegates"] == []


async def test_a_delegate_removes_a_member_but_not_the_authority_s_node(sim, autojump_clock):
    a, b = await two(sim)
    c = (await sim.start("c")).node
    await sim.join("c", "a")
    await a("delegates", dids=[b.node.identity.did])
    await eventually(lambda: b.node.statuses.signs(a.node.grid.did), seconds=10)
    await eventually(lambda: c.identity.did in b.node.grid.members(), seconds=10)
    assert await b.refused("remove", did=a.node.identity.did) is Code.DENIED
    with pytest.raises(PolicyDeniedError, match="on the founder's node"):
        await b("remove", did=b.node.identity.did)
    assert await b.refused("remove", did=SOMEBODY.did) is Code.NOT_MEMBER
    assert (await b("remove", did=c.identity.did))["state"] == "removed"
    await eventually(lambda: c.identity.did not in a.node.grid.members(), seconds=5)


async def test_a_model_on_the_grid_is_fetched_by_name_and_dropped(sim, autojump_clock):
    nodes = await heavy_grid(sim, "a", "b")
    a, b = map(Console, nodes)
    model = await publish_heavy(sim, "a", {"weights.bin": content(1000)}, called="parrot")
    await knows(nodes[1], model)
    body = await b("models_fetch", name="parrot")
    assert (body["model"], body["name"]) == (model, "parrot")
    assert any("fetching: 100 %" in event["progress"] for event in b.events)
    told = (await b("status"))["weights"]
    assert (told["fetched_models"], told["cache_bytes"], told["seeds"]) == (1, 1000, 1)
    assert await b("models_fetch", name=model) == body, "it is here"
    assert await a.refused("models_drop", model="parrot") is Code.MODEL_NOT_FOUND
    assert await b("models_drop", model="parrot") == {"model": model}
    assert await b.refused("models_drop", model="parrot") is Code.MODEL_NOT_FOUND
    other = {"weights.bin": content(10)}
    await knows(nodes[1], await publish_heavy(sim, "a", other, called="parrot"))
    assert await b.refused("models_fetch", name="parrot") is Code.AMBIGUOUS_MODEL


async def test_twins_are_dropped_by_their_ids(sim, autojump_clock):
    nodes = await heavy_grid(sim, "a", "b", "c")
    b = Console(nodes[1])
    models = [
        await publish_heavy(sim, name, {"w.bin": content(size)}, called="parrot")
        for name, size in (("a", 1000), ("c", 10))
    ]
    for model in models:
        await knows(nodes[1], model)
        await b("models_fetch", name=model)
    with pytest.raises(AigridError) as caught:
        await b("models_drop", model="parrot")
    assert caught.value.code is Code.AMBIGUOUS_MODEL
    assert all(model in caught.value.message for model in models)
    for model in models:
        assert await b("models_drop", model=model) == {"model": model}


async def test_what_did_not_come_from_others_is_not_dropped_but_withdrawn(sim, autojump_clock):
    a, _ = await two(sim)
    await sim.publish_echo("a", "parrot")
    await a("models_fetch", name="echo")  # a starter model, which nobody has published
    for model in ("parrot", "echo"):
        told = f"did not come from other nodes.*`aigrid withdraw {model}`"
        with pytest.raises(AigridError, match=told):
            await a("models_drop", model=model)
    with pytest.raises(AigridError, match="has fetched no model 'crow'"):
        await a("models_drop", model="crow")


async def test_a_starter_model_tells_which_models_its_name_hides(sim, autojump_clock):
    a, b = await two(sim)
    model = await sim.publish_echo("b", "echo")
    await eventually(a.node.router.models, seconds=10)
    body = await a("models_fetch", name="echo")
    assert body["others"] == [model] != [body["model"]]
    assert (await b("models_fetch", name=model))["others"] == []
    assert await b.refused("models_fetch", name="nobody's") is Code.MODEL_NOT_FOUND
