"""A model restricted to holders of a grant: what whole nodes do about it, request by request."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.node.commands.test_commands import Console
from tests.simulation.harness import Simulation, eventually
from trio.testing import MockClock

from aigrid.metagraph.revocations import Revocations
from aigrid.node.app import Node
from aigrid.node.discovery.sync import RecordSync
from aigrid.node.network.memory_transport import MemoryTransport
from aigrid.node.policy.caller import OPERATOR, Caller
from aigrid.node.policy.deciding import Wish
from aigrid.node.policy.policy_file import parse_policy
from aigrid.protocol.credential_kinds import ACTIONS
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import ModelDescription

REQUEST = TextRequest(prompt="hello grid")
OWNER_ALONE = '{"rules": [{"actions": ["invoke", "fetch", "host"], "assignees": ["me"]}]}'


@pytest.fixture
async def sim(tmp_path: Path) -> AsyncIterator[Simulation]:
    """`owner` founded the grid and serves; `gateway` and `laptop` are members."""
    async with trio.open_nursery() as nursery:
        made = Simulation(31, tmp_path, nursery)
        for name in ("owner", "gateway", "laptop"):
            await made.start(name)
            if name != "owner":
                await made.join(name, "owner")
        everybody = [each.node for each in made.nodes.values()]
        await eventually(
            lambda: all(len(one.peers.alive_members()) == 2 for one in everybody), seconds=20
        )
        yield made
        nursery.cancel_scope.cancel()


def node(sim: Simulation, name: str) -> Node:
    return sim.nodes[name].node


async def publish(
    sim: Simulation, name: str, policy: str = OWNER_ALONE, *, heard: bool = True
) -> str:
    holder = node(sim, name)
    description = ModelDescription("echo", "text-generation", (), options={"tag": "parrot"})
    published = await holder.hosting.add(
        description,
        {},
        name="parrot",
        capabilities=("text-generation",),
        license_id="MIT",
        policy=parse_policy(policy, me=holder.identity.did),
    )
    for one in (each.node for each in sim.nodes.values() if heard):
        await eventually(one.router.models, seconds=10)
    return published.model


async def ask(sim: Simulation, name: str, caller: Caller = OPERATOR) -> str:
    """ "" where it was answered, else the code."""
    try:
        async with node(sim, name).router.infer(
            "parrot", REQUEST, request_id="request-1", caller=caller
        ) as answer:
            assert [batch async for batch in answer.chunks]
    except AigridError as error:
        return error.code.value
    assert answer.segments[0].receipted
    return ""


async def grant(sim: Simulation, to: str, **terms: Any) -> str:
    issued = await Console(node(sim, "owner"))(
        "credential_issue", to=node(sim, to).identity.did, models=["parrot"], **terms
    )
    assert issued["delivered"]
    return str(issued["credential"])


async def test_refused_served_and_within_the_stated_age_refused_again(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    """The holder of the weights is the one that revokes; then it is cut off from nobody."""
    await publish(sim, "owner")
    assert await ask(sim, "gateway") == "no_grant"
    credential = await grant(sim, "gateway")
    assert await ask(sim, "gateway") == ""
    assert await ask(sim, "laptop") == "no_grant"
    await Console(node(sim, "owner"))("credential_revoke", id=credential)
    assert await ask(sim, "gateway") == "revoked"


async def test_fetch_and_host_are_decided_alike(sim: Simulation, autojump_clock: MockClock) -> None:
    model = await publish(sim, "owner")
    owner, gateway = node(sim, "owner"), node(sim, "gateway").identity.did
    membership = owner.graph.membership_of(gateway, sim.now_ms())
    manifest = owner.hosting.manifest(model)
    assert membership is not None

    def decided(chain: tuple[Any, ...]) -> set[Code | None]:
        return {
            owner.policy.decider.decide(
                Wish(action, model), gateway, (membership, *chain), manifest=manifest
            ).code
            for action in ACTIONS
            if action != "publish"
        }

    assert decided(()) == {Code.NO_GRANT}
    await grant(sim, "gateway", actions=["fetch", "host", "invoke"])
    (chain,) = node(sim, "gateway").policy.wallet.chains()
    assert decided(chain) == {None}
    await Console(owner)("credential_revoke", id=chain[0].content_id)
    assert decided(chain) == {Code.REVOKED}


async def test_a_gateway_uses_what_an_actor_lent_it_for_that_actor_alone(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await publish(sim, "owner")
    credential = await grant(sim, "laptop", delegable=1)
    laptop, gateway = node(sim, "laptop"), node(sim, "gateway")
    lent = await Console(laptop)(
        "credential_delegate", id=credential, to=gateway.identity.did, on_behalf=True
    )
    assert lent["delivered"]
    await eventually(lambda: laptop.identity.did in node(sim, "owner").statuses.known(), seconds=10)
    actor = Caller("laptop", "signature", laptop.identity.did)
    assert await ask(sim, "gateway", actor) == ""
    assert await ask(sim, "gateway") == "no_grant"
    assert await ask(sim, "gateway", Caller("a key", "key")) == "no_grant"
    other = Caller("another", "signature", node(sim, "owner").identity.did)
    assert await ask(sim, "gateway", other) == "no_grant"
    await Console(laptop)("credential_revoke", id=lent["credential"])
    await eventually(
        lambda: (
            node(sim, "owner").graph.revocations.bits(laptop.identity.did).count(0)
            < LIMITS.status_entries // 8
        ),
        seconds=10,
    )
    assert await ask(sim, "gateway", actor) == "revoked"
    assert await ask(sim, "laptop") == ""  # what it holds itself is untouched


async def test_a_budget_ends_here_and_the_next_holder_goes_on(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    """Counted by each serving node: two of them serve twice as much, and say when there is more."""
    rule = '{"rules": [{"actions": ["invoke"], "assignees": ["%s"]}]}'
    owner = node(sim, "owner").identity.did
    await publish(sim, "owner", rule % owner)
    await publish(sim, "laptop", rule % owner)
    await eventually(
        lambda: [len(one.nodes) for one in node(sim, "gateway").router.models()] == [2],
        seconds=10,
    )
    await grant(sim, "gateway", requests_per_day=2)
    await eventually(lambda: owner in node(sim, "laptop").statuses.known(), seconds=10)
    assert [await ask(sim, "gateway") for _ in range(4)] == ["", "", "", ""]
    with pytest.raises(AigridError) as caught:
        async with node(sim, "gateway").router.infer("parrot", REQUEST, request_id="request-2"):
            raise AssertionError
    assert caught.value.code is Code.OVER_BUDGET
    assert 0 < (caught.value.retry_after_seconds or 0) <= 86_400


async def test_purpose_and_licence_are_asked_for(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await publish(
        sim,
        "owner",
        '{"rules": [{"actions": ["invoke"], "assignees": ["members"],'
        ' "purposes": ["research"], "accept_license": true}]}',
    )
    assert await ask(sim, "gateway") == "purpose_not_allowed"
    researching = Caller("alice", "key", purpose="research")
    assert await ask(sim, "gateway", researching) == "license_not_accepted"
    agreeing = Caller("alice", "key", purpose="research", accepts=("MIT", "apache-2.0"))
    assert await ask(sim, "gateway", agreeing) == ""


async def test_who_has_no_recent_list_is_brought_one(
    sim: Simulation, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The serving node hears of no lists any more; whoever asks has them, and pushes them."""
    await publish(sim, "laptop", '{"rules": [{"actions": ["invoke"], "assignees": ["members"]}]}')
    laptop, grid = node(sim, "laptop"), node(sim, "owner").grid.did
    put = Revocations.put

    def deaf(self: Revocations, record: Any, now_ms: int) -> bool:
        return False if self is laptop.graph.revocations else put(self, record, now_ms)

    with monkeypatch.context() as patch:
        patch.setattr(Revocations, "put", deaf)
        laptop.graph.revocations.clear(grid)
        assert await ask(sim, "gateway") == "status_stale"

    async def silent(*_args: Any, **_options: Any) -> int:
        await trio.lowlevel.checkpoint()
        return 0

    monkeypatch.setattr(MemoryTransport, "publish", silent)
    monkeypatch.setattr(RecordSync, "sync", silent)
    laptop.graph.store.delete(
        [one for one in laptop.graph.store.live(0) if one.issuer == grid and "Status" in one.kind]
    )
    laptop.graph.revocations.clear(grid)
    assert grid not in laptop.statuses.known()
    assert await ask(sim, "gateway") == ""


async def test_status_counts_what_was_denied(
    sim: Simulation, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that asks in vain all the same."""
    await publish(sim, "owner")
    foresight = node(sim, "gateway").policy.foresight
    enough = type(foresight).enough

    def hopeful(self: Any, *args: Any, **options: Any) -> Any:
        credentials, decision = enough(self, *args, **options)
        return credentials, replace(decision, code=None)

    monkeypatch.setattr(type(foresight), "enough", hopeful)
    assert await ask(sim, "gateway") == "no_grant"
    denied = (await Console(node(sim, "owner"))("status"))["requests"]["denied"]
    assert denied == {"no_grant": 1}


async def test_a_manifest_that_was_just_issued_anew_costs_no_request(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    """The offer under it is said with it; who has not heard of it yet asks again."""
    members = '{"rules": [{"actions": ["invoke"], "assignees": ["members"]}]}'
    model = await publish(sim, "owner", members)
    owner = node(sim, "owner")
    for more in ([], ["science"]):
        policy = json.loads(members)
        policy["rules"][0]["purposes"] = ["research", *more]
        await publish(sim, "owner", json.dumps(policy), heard=False)
        (offer,), manifest = owner.router.offers(), owner.hosting.manifest(model)
        assert manifest is not None
        assert offer.manifest == manifest.content_id
        (known,) = node(sim, "gateway").router.offers()
        assert known.manifest != offer.manifest
        researcher = Caller("alice", "key", purpose="research")
        assert await ask(sim, "owner", researcher) == ""
        assert await ask(sim, "gateway", researcher) == ""
