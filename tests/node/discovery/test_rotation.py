"""A member changes its key: honoured once, and by nobody but its holder. In virtual time."""

import pytest
import trio
from tests.node.commands.test_commands import Console
from tests.simulation.harness import MemoryKeys, Simulation, eventually

from aigrid.node.commands.status import status_of
from aigrid.node.gateway.openai.answers import error_object
from aigrid.node.key_store.key_change import sign_rotation
from aigrid.node.network.transport import PeerAddress
from aigrid.node.policy.wallet import Terms
from aigrid.protocol.credential_kinds import Permission, StatusDelegationBody, status_list_of
from aigrid.protocol.errors import AigridError, Code, PolicyDeniedError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import Kind, WithdrawnBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.membership import invitation_text
from aigrid.protocol.messages import Rotate, Welcome
from aigrid.protocol.record import build
from aigrid.protocol.rotation import agreed
from aigrid.protocol.status import Standing, standing
from aigrid.protocol.timestamp import format_ms

NEW, OTHER = Identity(b"\x21" * 32), Identity(b"\x22" * 32)


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(5, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def grid_of(sim, names):
    """Nodes of one grid, founded by the first, who have met."""
    for name in names:
        await sim.start(name)
    for name in names[1:]:
        await sim.join(name, names[0])
    nodes = [sim.nodes[name].node for name in names]
    met = len(names) - 1
    await eventually(lambda: all(len(n.peers.alive_members()) == met for n in nodes), seconds=20)
    return nodes


async def come_back(sim, name, *, new=NEW, incarnation=1, rotation=None, former=()):
    """As `aigrid id rotate` and `aigrid up` do it."""
    old = sim.nodes[name].node.identity
    sim.kill(name)
    await trio.sleep(1)
    signed = rotation or sign_rotation(old, new, now_ms=sim.now_ms())
    return (
        await sim.start(name, incarnation=incarnation, identity=new, rotation=signed, former=former)
    ).node, signed


async def present(sim, rotation, *, by, to="a", name="x"):
    """What a host answers to somebody with a key of its own and a rotation."""
    host = sim.nodes[to].node
    if name not in sim.nodes:
        await sim.start(name, identity=by)
    client = sim.nodes[name].node.join_client
    address = PeerAddress(host.identity.peer_id, host.transport.listen_addresses)
    return await client._exchange(address, Rotate(rotation.raw))


async def refused(sim, rotation, **how):
    with pytest.raises(AigridError) as caught:
        await present(sim, rotation, **how)
    return caught.value.code


async def test_a_member_is_the_same_to_all_by_its_new_key_and_offers_what_it_did(
    sim, autojump_clock
):
    a, b, c = await grid_of(sim, "abc")
    model = await sim.publish_echo("b", "parrot")
    await eventually(c.router.models, seconds=10)
    old = b.identity
    b, _ = await come_back(sim, "b")
    await eventually(lambda: not b.rotating.pending, seconds=20)
    await eventually(
        lambda: all(
            n.grid.members() == {a.identity.did, c.identity.did, NEW.did} for n in (a, b, c)
        ),
        seconds=20,
    )
    await eventually(
        lambda: [offer.node for offer in c.router.offers()] == [NEW.peer_id], seconds=20
    )
    assert (await sim.ask("c", model, "hello"))[1] == NEW.peer_id
    assert old.peer_id not in a.transport.members | c.transport.members
    assert c.graph.live_records(sim.now_ms(), issuer=old.did) == []
    assert b.grid.keys.pending_rotation() is None


async def test_a_node_waits_with_its_new_key_until_the_authority_is_back(sim, autojump_clock):
    _, b, c = await grid_of(sim, "abc")
    await sim.publish_echo("b", "parrot")
    await eventually(c.router.models, seconds=10)
    sim.kill("a")
    b, _ = await come_back(sim, "b")
    await trio.sleep(300)
    assert b.rotating.pending
    assert "founder's node" in status_of(b)["rotation_waits_for"]
    assert b.grid.own_membership() is None
    assert [offer.node for offer in c.router.offers()] == []
    # The authority is where it was: the node that waits knows no other address.
    await sim.start("a", with_authority=True, incarnation=0)
    await eventually(
        lambda: [offer.node for offer in c.router.offers()] == [NEW.peer_id], seconds=200
    )


@pytest.mark.parametrize("seconds", [5, 300])
async def test_who_waits_with_a_new_key_hears_that_it_does(sim, autojump_clock, seconds):
    _, b, _ = await grid_of(sim, "abc")
    model = await sim.publish_echo("c", "parrot")
    await eventually(b.router.models, seconds=10)
    sim.kill("a")
    b, _ = await come_back(sim, "b")
    await trio.sleep(seconds)
    trouble = status_of(b)["trouble"]
    assert "`aigrid id rotate` waits for the founder's node" in trouble
    with pytest.raises(PolicyDeniedError) as caught:
        await sim.ask("b", model, "hello")
    assert (caught.value.code, caught.value.message) == (Code.NOT_MEMBER, trouble)
    assert error_object(caught.value)["message"] == f"{trouble}."
    told = await Console(b)("policy_explain", model=model)
    assert (told["code"], told["trouble"]) == ("not_member", trouble)
    assert (await Console(b)("models"))["trouble"] == trouble


async def test_presented_again_it_changes_nothing(sim, autojump_clock):
    a, b = await grid_of(sim, "ab")
    old = b.identity.did
    b, rotation = await come_back(sim, "b")
    await eventually(lambda: not b.rotating.pending, seconds=20)
    before = a.grid.membership_by_did(NEW.did).raw
    answer = await present(sim, rotation, by=NEW, name="b")
    assert isinstance(answer, Welcome)
    assert answer.membership == before
    sim.kill("b")
    assert await refused(sim, rotation, by=OTHER) is Code.ROTATION_REFUSED  # a copy is of no use
    assert a.grid.members() == {a.identity.did, NEW.did}
    assert a.grid.removed_ms(old) is not None


async def test_a_key_has_one_successor(sim, autojump_clock):
    a, b = await grid_of(sim, "ab")
    old = b.identity
    b, _ = await come_back(sim, "b")
    await eventually(lambda: not b.rotating.pending, seconds=20)
    second = sign_rotation(old, OTHER, now_ms=sim.now_ms())
    assert await refused(sim, second, by=OTHER) is Code.ROTATION_REFUSED
    assert a.grid.members() == {a.identity.did, NEW.did}


async def test_what_was_begun_is_finished_after_a_crash_of_the_authority(sim, autojump_clock):
    a, b = await grid_of(sim, "ab")
    admit = a.grid.admit

    def crash(did, *, role="member"):
        a.grid.admit = admit
        raise AigridError("the node dies here")

    a.grid.admit = crash
    b, _ = await come_back(sim, "b")
    await eventually(lambda: not b.rotating.pending, seconds=60)
    assert a.grid.members() == {a.identity.did, NEW.did}


async def test_a_removed_member_does_not_return_by_rotation(sim, autojump_clock):
    a, b, c = await grid_of(sim, "abc")
    before = sign_rotation(b.identity, NEW, now_ms=sim.now_ms())
    a.grid.remove(b.identity.did)
    after = sign_rotation(b.identity, OTHER, now_ms=sim.now_ms())
    assert await refused(sim, before, by=NEW) is Code.NOT_MEMBER
    assert await refused(sim, after, by=OTHER, name="y") is Code.NOT_MEMBER
    assert a.grid.members() == {a.identity.did, c.identity.did}


async def test_a_removed_successor_does_not_return_by_the_same_rotation(sim, autojump_clock):
    a, b = await grid_of(sim, "ab")
    b, rotation = await come_back(sim, "b")
    await eventually(lambda: not b.rotating.pending, seconds=20)
    a.grid.remove(NEW.did)
    sim.kill("b")
    assert await refused(sim, rotation, by=NEW) is Code.ROTATION_REFUSED
    assert a.grid.members() == {a.identity.did}


async def test_a_revoked_successor_does_not_slip_in_before_it_is_withdrawn(sim, autojump_clock):
    a, b = await grid_of(sim, "ab")
    b, rotation = await come_back(sim, "b")
    await eventually(lambda: not b.rotating.pending, seconds=20)
    a.statuses.revoke_membership(NEW.did)  # as it comes from a delegate: nothing has run since
    with pytest.raises(PolicyDeniedError) as caught:
        a.join_host._succession.honour(rotation.raw, peer_id=NEW.peer_id)
    assert caught.value.code is Code.ROTATION_REFUSED
    assert a.grid.members() == {a.identity.did}


async def test_the_old_key_invited_again_is_not_removed_by_a_copy(sim, autojump_clock):
    a, b = await grid_of(sim, "ab")
    old = b.identity
    b, rotation = await come_back(sim, "b")
    await eventually(lambda: not b.rotating.pending, seconds=20)
    await trio.sleep(1)
    a.grid.admit(old.did)
    assert isinstance(await present(sim, rotation, by=NEW, name="b"), Welcome)
    assert a.grid.members() == {a.identity.did, NEW.did, old.did}


async def test_a_stranger_or_a_member_without_the_authority_key_is_no_help(sim, autojump_clock):
    _, b, _ = await grid_of(sim, "abc")
    rotation = sign_rotation(b.identity, NEW, now_ms=sim.now_ms())
    assert await refused(sim, rotation, by=NEW, to="c") is Code.NOT_AUTHORITY
    stranger = sign_rotation(OTHER, NEW, now_ms=sim.now_ms())
    assert await refused(sim, stranger, by=NEW) is Code.NOT_MEMBER


async def test_nobody_takes_another_key_for_successor_or_rotates_another_key(sim, autojump_clock):
    a, b, c = await grid_of(sim, "abc")
    now = sim.now_ms()
    for_new = sign_rotation(b.identity, NEW, now_ms=now)
    assert await refused(sim, for_new, by=OTHER) is Code.ROTATION_REFUSED
    until = now + LIMITS.rotation_ttl_seconds * 1000

    def rotation_of(identity, body, start=now):
        return build(Kind.ROTATION, body, identity, valid_from_ms=start, valid_until_ms=until)

    # NEW agreed to follow b at another time: a record of b's that says so now does not count.
    shifted = rotation_of(b.identity, agreed(b.identity.did, NEW, rotated_ms=now), now + 1)
    assert await refused(sim, shifted, by=NEW, name="y") is Code.ROTATION_REFUSED
    taken_back = rotation_of(b.identity, WithdrawnBody(id=b.identity.did, withdrawn=True))
    assert await refused(sim, taken_back, by=NEW, name="y") is Code.ROTATION_REFUSED
    # A membership or an invitation is no rotation.
    assert await refused(sim, c.grid.own_membership(), by=NEW, name="y") is Code.ROTATION_REFUSED
    # The node that holds the authority's key is not put aside by whoever has a copy of its key.
    own = sign_rotation(a.identity, NEW, now_ms=now)
    assert await refused(sim, own, by=NEW, name="y") is Code.ROTATION_REFUSED
    assert a.grid.members() == {n.identity.did for n in (a, b, c)}


async def test_a_rotation_runs_out(sim, autojump_clock):
    _, b = await grid_of(sim, "ab")
    old = b.identity
    rotation = sign_rotation(old, NEW, now_ms=sim.now_ms() - LIMITS.rotation_ttl_seconds * 1000)
    assert await refused(sim, rotation, by=NEW) is Code.EXPIRED
    sim.kill("x")
    b, _ = await come_back(sim, "b", rotation=rotation)
    assert not b.rotating.pending
    assert b.grid.own_membership() is None


async def test_a_member_does_not_change_its_key_all_the_time(sim, autojump_clock):
    a, b = await grid_of(sim, "ab")
    b, _ = await come_back(sim, "b")
    await eventually(lambda: not b.rotating.pending, seconds=20)
    again = sign_rotation(NEW, OTHER, now_ms=sim.now_ms())
    assert await refused(sim, again, by=OTHER) is Code.RATE_LIMITED
    sim.kill("x")
    b, _ = await come_back(sim, "b", new=OTHER, incarnation=2)
    await trio.sleep(LIMITS.rotation_interval_seconds // 2)
    came_ms = a.local.rotated_to_ms(NEW.did)
    at = format_ms(came_ms + LIMITS.rotation_interval_seconds * 1000)
    assert status_of(b)["rotation_waits_for"].endswith(f"which counts at {at}")
    await trio.sleep(LIMITS.rotation_interval_seconds // 2)
    await eventually(lambda: not b.rotating.pending, seconds=120)
    assert a.grid.members() == {a.identity.did, OTHER.did}


async def test_rotations_that_do_not_hold_take_tokens(sim, autojump_clock):
    await grid_of(sim, "ab")
    rotation = sign_rotation(OTHER, NEW, now_ms=sim.now_ms())
    codes = [await refused(sim, rotation, by=NEW) for _ in range(LIMITS.join_burst + 1)]
    assert codes == [Code.NOT_MEMBER] * LIMITS.join_burst + [Code.RATE_LIMITED]


async def test_the_founder_changes_its_own_key(sim, autojump_clock):
    a, b, c = await grid_of(sim, "abc")
    await sim.publish_echo("a", "parrot")
    await eventually(c.router.models, seconds=10)
    old, authority = a.identity, a.grid.authority.did
    signed = sign_rotation(old, NEW, now_ms=sim.now_ms())
    sim.kill("a")
    await trio.sleep(1)
    a = (
        await sim.start("a", incarnation=1, identity=NEW, rotation=signed, with_authority=True)
    ).node
    everybody = {NEW.did, b.identity.did, c.identity.did}
    await eventually(lambda: all(n.grid.members() == everybody for n in (a, b, c)), seconds=60)
    assert a.grid.own_membership().body.role == "authority"
    assert a.grid.authority.did == authority
    await eventually(
        lambda: [offer.node for offer in c.router.offers()] == [NEW.peer_id], seconds=30
    )
    assert not a.rotating.pending
    await sim.start("d")
    await sim.join("d", "a")  # and it still admits


async def test_a_rotation_that_was_broken_off_is_left_alone(sim, autojump_clock):
    _, b = await grid_of(sim, "ab")
    rotation = sign_rotation(b.identity, NEW, now_ms=sim.now_ms())
    b, _ = await come_back(sim, "b", new=b.identity, rotation=rotation)
    await eventually(b.peers.alive_members, seconds=20)
    assert not b.rotating.pending
    assert isinstance(b.grid.keys, MemoryKeys)
    assert b.grid.keys.rotation is rotation


async def test_an_invitation_ends_the_waiting(sim, autojump_clock):
    a, b = await grid_of(sim, "ab")
    a.grid.remove(b.identity.did)
    b, _ = await come_back(sim, "b")
    await trio.sleep(40)
    assert b.rotating.pending
    await b.join_client.redeem(invitation_text(a.grid.invite(NEW.did)))
    await eventually(lambda: not b.rotating.pending, seconds=120)


async def test_a_lost_key_is_replaced_by_hand_and_the_models_are_offered_again(sim, autojump_clock):
    """Loss: `aigrid remove OLD`, `aigrid invite NEW`; nothing signed by the lost key is needed."""
    a, b, c = await grid_of(sim, "abc")
    model = await sim.publish_echo("b", "parrot")
    await eventually(c.router.models, seconds=10)
    lost = b.identity
    sim.kill("b")
    b = (await sim.start("b", incarnation=1, identity=NEW)).node  # `up` made a new key
    assert not b.rotating.pending
    assert b.grid.own_membership() is None
    a.grid.remove(lost.did)
    await b.join_client.redeem(invitation_text(a.grid.invite(NEW.did)))
    await eventually(
        lambda: [offer.node for offer in c.router.offers()] == [NEW.peer_id], seconds=30
    )
    assert (await sim.ask("c", model, "hello"))[1] == NEW.peer_id
    assert a.grid.members() == {a.identity.did, c.identity.did, NEW.did}
    assert c.graph.live_records(sim.now_ms(), issuer=lost.did) == []


async def test_what_a_former_key_issued_is_revoked_by_the_next_one(sim, autojump_clock):
    _, b, c = await grid_of(sim, "abc")
    permission = Permission(("invoke",), ("*",))
    grants = [
        b.policy.wallet.issue(b.identity, c.identity.did, permission, Terms()) for _ in range(2)
    ]
    await eventually(lambda: standing_at(sim, c, grants[0]) is Standing.GOOD, seconds=20)
    former = [status_delegation_of(b.identity, NEW, sim.now_ms())]
    b, _ = await come_back(sim, "b", former=former)
    await eventually(lambda: not b.rotating.pending, seconds=20)
    await trio.sleep(
        LIMITS.status_age_grant_seconds * 2
    )  # the last list that the key signed is old
    assert [standing_at(sim, n, grants[0]) for n in (b, c)] == [Standing.GOOD, Standing.GOOD]
    b.statuses.revoke(grants[0].status)
    await eventually(lambda: standing_at(sim, c, grants[0]) is Standing.REVOKED, seconds=20)
    assert [standing_at(sim, n, grants[1]) for n in (b, c)] == [Standing.GOOD, Standing.GOOD]


def status_delegation_of(old, new, now_ms):
    body = StatusDelegationBody(status_list_of(old.did), (new.did,), 1)
    until_ms = now_ms + LIMITS.status_delegation_ttl_seconds * 1000
    return build(Kind.STATUS_DELEGATION, body, old, valid_from_ms=now_ms, valid_until_ms=until_ms)


def standing_at(sim, node, credential):
    return standing(credential, node.statuses.known(), sim.now_ms())
