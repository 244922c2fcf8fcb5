"""The door of whoever serves, on whole nodes in virtual time: what it costs to be turned away."""

from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest
import trio
from tests.simulation.harness import Simulation, eventually

from aigrid.protocol.credential_kinds import Rule
from aigrid.protocol.errors import AigridError, Code, LocalError
from aigrid.protocol.identity import Identity
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.messages import Infer
from aigrid.protocol.policy import OperatorPolicy
from aigrid.protocol.presentation import Binding, present
from aigrid.protocol.receipt import prefix_hash, request_hash


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(12, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def test_who_is_turned_away_is_neither_written_down_nor_remembered(sim, autojump_clock):
    asker = (await sim.start("asker")).node
    holder = (await sim.start("holder")).node
    await sim.join("holder", "asker")
    await sim.publish_echo("holder", "parrot")
    await eventually(asker.router.models, seconds=30)
    policy, default = holder.policy, holder.policy.decider.own

    def kept():
        return len(policy.nonces), len(policy.admission._verified._items)

    policy.decider.own = replace(default, operator=OperatorPolicy(serves=frozenset()))
    with pytest.raises(AigridError) as caught:
        await sim.ask("asker", "parrot", "hello")
    assert caught.value.code is Code.NOT_SERVED
    assert kept() == (0, 0)
    policy.decider.own = default
    for number in (1, 2):
        await sim.ask("asker", "parrot", "hello")
        assert kept() == (number, 1)


async def test_a_request_for_which_there_is_no_room_costs_none_of_the_day(sim, autojump_clock):
    asker = (await sim.start("asker")).node
    holder = (await sim.start("holder")).node
    await sim.join("holder", "asker")
    await sim.publish_echo("holder", "parrot")
    await eventually(asker.router.models, seconds=30)
    decider, pool = holder.policy.decider, holder.serving._pool
    decider.own = replace(decider.own, operator=OperatorPolicy(requests_per_day=1))

    @asynccontextmanager
    async def full(_model, **_):
        raise LocalError("full", Code.BUSY)
        yield

    holder.serving._pool = SimpleNamespace(lease=full, progress=pool.progress)
    with pytest.raises(AigridError):
        await sim.ask("asker", "parrot", "hello")
    holder.serving._pool = pool
    await sim.ask("asker", "parrot", "hello")
    with pytest.raises(AigridError) as caught:
        await sim.ask("asker", "parrot", "hello")
    assert caught.value.code is Code.OVER_BUDGET


async def test_whoever_passes_on_for_ever_new_keys_is_limited_as_one(sim, autojump_clock):
    """Where anyone is served, keys are free; the peer at the other end is not."""
    node = (await sim.start("a")).node
    model = await sim.publish_echo("a", "parrot")
    (offer,) = node.hosting.offers()
    policy, peer = node.policy, Identity(b"\x41" * 32).did
    policy.decider.own = replace(
        policy.decider.own,
        operator=OperatorPolicy(serves=frozenset({"anyone"}), requests_per_day=2),
    )
    manifest = node.hosting.manifest(model)
    open_to_all = msgspec.structs.replace(manifest.body, policy=(Rule(("invoke",), ("anyone",)),))
    policy.admission._manifest_of = lambda _: replace(manifest, body=open_to_all)
    salt, request = b"s" * 16, TextRequest(prompt="hello")

    def ask(number):
        holder = Identity(bytes([number]) * 32)
        asked = (request_hash(salt, request), prefix_hash(salt, request))
        binding = Binding("invoke", model, offer.manifest, *asked, peer=peer)
        raw = present(
            holder,
            (),
            binding,
            audience=node.identity.did,
            nonce=f"nonce-{number:016}",
            now_ms=sim.now_ms(),
        )
        message = Infer("request-1", model, offer.manifest, request, salt, raw)
        with policy.admission.admit(message, peer) as admitted:
            return admitted.presentation.holder == holder.did

    assert ask(1)
    assert ask(2)
    with pytest.raises(AigridError) as caught:
        ask(3)
    assert caught.value.code is Code.OVER_BUDGET


async def test_what_a_node_shows_to_itself_is_not_written_down(sim, autojump_clock):
    """All its callers' requests are its own, and it is never on a wire where others could see it."""
    node = (await sim.start("a")).node
    await sim.publish_echo("a", "parrot")
    await trio.sleep(1)
    await sim.ask("a", "parrot", "hello")
    assert len(node.policy.nonces) == 0
