"""Weights restricted to holders of a grant: fetching, hosting, and what becomes of it later."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.node.commands.test_commands import Console
from tests.simulation.harness import Simulation, eventually
from tests.simulation.heavy import content, heavy_grid, knows, publish_heavy
from trio.testing import MockClock

from aigrid.node.app import Node
from aigrid.node.policy.policy_file import parse_policy
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.limits import MIB
from aigrid.protocol.record import Record

DATA = {"weights.bin": content(2 * MIB + 5)}
OWNER_ALONE = '{"rules": [{"actions": ["invoke", "fetch", "host"], "assignees": ["me"]}]}'
FETCH_ALONE = """{"rules": [
    {"actions": ["fetch"], "assignees": ["members"]},
    {"actions": ["host", "publish"], "assignees": ["me"]}
]}"""
HOST_ALONE = """{"rules": [
    {"actions": ["host"], "assignees": ["members"]},
    {"actions": ["fetch"], "assignees": ["me"]}
]}"""


@pytest.fixture
async def sim(tmp_path: Path) -> AsyncIterator[Simulation]:
    async with trio.open_nursery() as nursery:
        yield Simulation(41, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def restricted(sim: Simulation, policy: str) -> tuple[Node, Node, str, Record]:
    """The owner, a member, and the model that the owner published."""
    owner, member = await heavy_grid(sim, "owner", "member")
    rules = parse_policy(policy, me=owner.identity.did)
    model = await publish_heavy(sim, "owner", DATA, policy=rules)
    return owner, member, model, await knows(member, model)


async def refusal(node: Node, model: str, manifest: Record) -> AigridError:
    with pytest.raises(AigridError) as caught:
        await node.weights.fetch(model, manifest)
    return caught.value


async def grant(owner: Node, to: Node, model: str, **terms: Any) -> str:
    """Its id, once the node that holds it knows that it is not revoked."""
    issued = await Console(owner)(
        "credential_issue", to=to.identity.did, models=["parrot"], **terms
    )
    assert issued["delivered"]
    manifest = owner.hosting.manifest(model)
    assert manifest is not None
    await eventually(lambda: to.weights.may_host(model, manifest) is None, seconds=20)
    return str(issued["credential"])


@pytest.mark.parametrize("policy", [OWNER_ALONE, FETCH_ALONE, HOST_ALONE])
async def test_who_has_no_grant_neither_fetches_nor_hosts(
    sim: Simulation, autojump_clock: MockClock, policy: str
) -> None:
    _, member, model, manifest = await restricted(sim, policy)
    error = await refusal(member, model, manifest)
    assert error.code is Code.NO_GRANT
    assert "a grant from" in error.message
    assert not member.models.list()
    assert not member.models.fetching()


async def test_a_member_that_was_removed_is_told_so_and_of_no_grant(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    owner, member, model, _ = await restricted(sim, OWNER_ALONE)
    owner.grid.remove(member.identity.did)
    await eventually(lambda: member.router.own_trouble() is not None, seconds=30)
    for name in (model, "parrot", "no such model"):
        with pytest.raises(AigridError) as caught:
            await Console(member)("models_fetch", name=name)
        assert caught.value.code is Code.NOT_MEMBER
        assert "`aigrid invite DID` on the founder's node" in caught.value.message
        assert "grant" not in caught.value.message


async def test_with_a_grant_it_works_and_stops_after_revocation(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    owner, member, model, manifest = await restricted(sim, OWNER_ALONE)
    credential = await grant(owner, member, model, actions=["fetch", "host", "invoke"])
    await member.weights.fetch(model, manifest)
    assert member.hosting.offered(model)
    assert [one.model for one in member.weights.seeds()] == [model]
    await eventually(lambda: len(owner.weights.holders(model)) == 1, seconds=10)

    await Console(owner)("credential_revoke", id=credential)
    await eventually(lambda: not member.hosting.offered(model), seconds=20)
    (withheld,) = member.hosting.withheld()
    assert (withheld["name"], "revoked" in withheld["problem"]) == ("parrot", True)
    await eventually(lambda: not owner.weights.holders(model), seconds=20)
    await member.weights.drop(model)
    assert (await refusal(member, model, manifest)).code is Code.REVOKED


async def test_the_holder_decides_for_itself(sim: Simulation, autojump_clock: MockClock) -> None:
    """A fetcher that takes everything for permitted is told no all the same."""
    owner, member, model, manifest = await restricted(sim, HOST_ALONE)

    def enough(*_: Any, **__: Any) -> Any:
        membership = member.graph.membership_of(member.identity.did, member.now_ms())
        return (membership,), type("Allowed", (), {"code": None, "check": lambda _: None})()

    member.policy.foresight.enough = enough  # type: ignore[method-assign]
    error = await refusal(member, model, manifest)
    assert error.code is Code.NO_GRANT
    assert owner.weights.giving.denied == {Code.NO_GRANT: 1}
    assert owner.weights.giving.given_bytes == 0


async def test_a_new_manifest_of_the_same_issuer_binds_what_was_fetched(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    owner, member = await heavy_grid(sim, "owner", "member")
    model = await publish_heavy(sim, "owner", DATA)
    await member.weights.fetch(model, await knows(member, model))
    stricter = parse_policy(OWNER_ALONE, me=owner.identity.did)
    assert await publish_heavy(sim, "owner", DATA, policy=stricter) == model
    await eventually(lambda: not member.hosting.offered(model), seconds=20)
    assert "a grant from" in member.hosting.withheld()[0]["problem"]
    assert member.weights.seeds() == ()
    await publish_heavy(
        sim,
        "owner",
        DATA,
        policy=parse_policy(
            '{"rules": [{"actions": ["invoke", "fetch", "host"], "assignees": ["members"]}]}',
            me=owner.identity.did,
        ),
    )
    await eventually(lambda: member.hosting.offered(model), seconds=20)
    await owner.hosting.withdraw(model)
    await eventually(lambda: not member.hosting.offered(model), seconds=20)
    assert "was withdrawn" in member.hosting.withheld()[0]["problem"]


async def test_who_fetched_it_may_not_publish_it_under_looser_rules(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    owner, member, model, manifest = await restricted(sim, OWNER_ALONE)
    await grant(owner, member, model, actions=["fetch", "host"])
    await member.weights.fetch(model, manifest)
    with pytest.raises(AigridError) as caught:
        await publish_heavy(sim, "member", DATA)
    assert caught.value.code is Code.ACTION_NOT_ALLOWED
    assert member.hosting.manifest(model) == manifest
