"""Joining, being refused, being removed: the real services in virtual time."""

import pytest
import trio
from tests.simulation.harness import Simulation, eventually

from aigrid.node.discovery.join_wire import read_message, write_message
from aigrid.node.network.transport import JOIN_PROTOCOL, RPC_PROTOCOL, PeerAddress
from aigrid.protocol.errors import AigridError, Code, RemoteError, UsageError
from aigrid.protocol.identity import Identity
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.membership import invitation_text, issue_invitation
from aigrid.protocol.messages import Present, Redeem, Refused, decode_join_answer


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(3, tmp_path, nursery)
        nursery.cancel_scope.cancel()


def address(sim, name):
    node = sim.nodes[name].node
    return PeerAddress(node.identity.peer_id, node.transport.listen_addresses)


async def code_of(awaitable):
    with pytest.raises(AigridError) as caught:
        await awaitable
    return caught.value.code


async def test_a_fresh_node_is_a_private_grid_of_one(sim, autojump_clock):
    node = (await sim.start("a")).node
    assert node.grid.members() == {node.identity.did}
    assert node.grid.authority.did == node.grid.did
    assert node.grid.own_membership().body.role == "authority"


async def test_an_invitation_makes_its_holder_a_member_everywhere(sim, autojump_clock):
    for name in "abc":
        await sim.start(name)
    await sim.join("b", "a")
    await sim.join("c", "a")
    nodes = [sim.nodes[name].node for name in "abc"]
    await eventually(lambda: all(len(n.peers.alive_members()) == 2 for n in nodes), seconds=10)
    assert len({node.grid.did for node in nodes}) == 1
    assert nodes[1].grid.authority is None


async def test_an_invitation_is_redeemed_once(sim, autojump_clock):
    for name in "abc":
        await sim.start(name)
    a, b = sim.nodes["a"].node, sim.nodes["b"].node
    text = invitation_text(a.grid.invite(b.identity.did))
    await b.join_client.redeem(text)
    a.grid.remove(b.identity.did)
    sim.kill("b")
    again = (await sim.start("b", incarnation=2)).node
    again.graph.switch_grid(again.identity.did)  # as if its directory were fresh
    assert await code_of(redeem_raw(sim, again, text)) is Code.INVITATION_USED


async def test_a_welcome_that_was_lost_is_said_again_to_who_is_a_member_still(sim, autojump_clock):
    for name in "ab":
        await sim.start(name)
    a, b = sim.nodes["a"].node, sim.nodes["b"].node
    text = invitation_text(a.grid.invite(b.identity.did))
    lost = await redeem_raw(sim, b, text)
    assert b.grid.did != a.grid.did
    assert (await redeem_raw(sim, b, text)).membership == lost.membership  # nothing new is issued
    await b.join_client.redeem(text)
    assert b.grid.own_membership().raw == lost.membership


async def redeem_raw(sim, node, text):
    """Redeem without the joiner's own checks: what a hostile joiner would send."""
    from aigrid.protocol.membership import parse_invitation

    record, body = parse_invitation(text)
    host = PeerAddress(body.peer_id, body.addresses)
    return await node.join_client._exchange(host, Redeem(record.raw))


async def test_a_stolen_invitation_is_refused(sim, autojump_clock):
    for name in "abc":
        await sim.start(name)
    a, b, thief = (sim.nodes[name].node for name in "abc")
    text = invitation_text(a.grid.invite(b.identity.did))
    assert await code_of(thief.join_client.redeem(text)) is Code.INVITATION_NOT_YOURS
    assert await code_of(redeem_raw(sim, thief, text)) is Code.INVITATION_NOT_YOURS
    assert a.grid.members() == {a.identity.did}
    await b.join_client.redeem(text)  # and the thief did not use it up


async def test_an_expired_invitation_is_refused(sim, autojump_clock):
    a, b = (await sim.start("a")).node, (await sim.start("b")).node
    text = invitation_text(a.grid.invite(b.identity.did, valid_seconds=60))
    await trio.sleep(61)
    assert await code_of(b.join_client.redeem(text)) is Code.INVITATION_EXPIRED
    assert await code_of(redeem_raw(sim, b, text)) is Code.INVITATION_EXPIRED


async def test_an_invitation_by_somebody_else_is_refused(sim, autojump_clock):
    a, b = (await sim.start("a")).node, (await sim.start("b")).node
    impostor = Identity(b"\x07" * 32)
    forged = issue_invitation(
        impostor,
        b.identity.did,
        peer_id=a.identity.peer_id,
        addresses=a.transport.listen_addresses,
        nonce="0" * 32,
        now_ms=sim.now_ms(),
        valid_ms=60_000,
    )
    code = await code_of(b.join_client.redeem(invitation_text(forged)))
    assert code is Code.INVITATION_INVALID
    assert b.grid.members() == {b.identity.did}


async def test_only_the_authority_invites(sim, autojump_clock):
    for name in "ab":
        await sim.start(name)
    await sim.join("b", "a")
    b = sim.nodes["b"].node
    with pytest.raises(AigridError) as caught:
        b.grid.invite(Identity(b"\x01" * 32).did)
    assert (caught.value.code, caught.value.info.exit) == (Code.NOT_AUTHORITY, 3)


async def test_who_may_not_remove_hears_who_may(sim, autojump_clock):
    for name in "abc":
        await sim.start(name)
    for name in "bc":
        await sim.join(name, "a")
    a, b, c = (sim.nodes[name].node for name in "abc")
    with pytest.raises(AigridError, match=r"at the founder's node$") as caught:
        b.grid.remove(c.identity.did)
    assert (caught.value.code, caught.value.info.exit) == (Code.NOT_AUTHORITY, 3)
    a.statuses.delegate(a.grid.did, [c.identity.did])
    await eventually(lambda: b.statuses.delegates(a.grid.did)[0], seconds=20)
    with pytest.raises(AigridError, match=f"at a delegate: {c.identity.did}"):
        b.grid.remove(c.identity.did)


async def test_a_grid_with_other_members_is_not_left(sim, autojump_clock):
    for name in "abc":
        await sim.start(name)
    await sim.join("b", "a")
    a, b, c = (sim.nodes[name].node for name in "abc")
    to_c = [invitation_text(c.grid.invite(n.identity.did)) for n in (a, b)]
    assert await code_of(a.join_client.redeem(to_c[0])) is Code.GRID_NOT_EMPTY
    assert await code_of(b.join_client.redeem(to_c[1])) is Code.GRID_NOT_EMPTY


async def test_a_stranger_reaches_the_join_protocol_and_nothing_else(sim, autojump_clock):
    a, stranger = (await sim.start("a")).node, (await sim.start("s")).node
    await sim.publish_echo("a", "secret")
    stranger.transport.allow_dial(a.identity.peer_id)
    await stranger.transport.connect(address(sim, "a"))
    assert await code_of(stranger.transport.open_stream(a.identity.peer_id, RPC_PROTOCOL)) in (
        Code.NOT_MEMBER,
        Code.UNREACHABLE,
    )
    assert await code_of(stranger.join_client.greet(address(sim, "a"))) is Code.NOT_MEMBER
    await trio.sleep(20)
    assert all(
        r.issuer in (stranger.identity.did, stranger.grid.did)
        for r in stranger.graph.live_records(sim.now_ms())
    )
    assert stranger.router.models() == ()


async def test_a_removed_member_is_cut_off_at_once_everywhere(sim, autojump_clock):
    for name in "abc":
        await sim.start(name)
    await sim.join("b", "a")
    await sim.join("c", "a")
    a, b, c = (sim.nodes[name].node for name in "abc")
    await eventually(lambda: len(c.peers.alive_members()) == 2, seconds=10)
    await sim.publish_echo("b", "parrot")
    await eventually(lambda: len(c.router.models()) == 1, seconds=5)
    a.grid.remove(b.identity.did)
    b_peer = b.identity.peer_id
    await eventually(
        lambda: b_peer not in a.transport.members and b_peer not in c.transport.members, seconds=3
    )
    assert c.router.models() == ()
    await trio.sleep(30)
    assert b_peer not in a.transport.connected() | c.transport.connected()
    assert await code_of(b.join_client.greet(address(sim, "c"))) is Code.NOT_MEMBER


async def test_asking_shows_one_code_on_both_ends_and_needs_approval(sim, autojump_clock):
    a, b = (await sim.start("a")).node, (await sim.start("b")).node
    codes, done = [], trio.Event()

    async def show(code):
        codes.append(code)

    async def ask():
        await b.join_client.ask(address(sim, "a"), sim.nodes["a"].node.grid.did, show)
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await eventually(lambda: codes and a.join_host.waiting(), seconds=5)
        (asking,) = a.join_host.waiting()
        assert codes == [asking.code]
        assert b.grid.did != a.grid.did
        await trio.sleep(40)  # longer than a stranger may stay
        a.join_host.approve(asking.request)
        with trio.fail_after(20):
            await done.wait()
    assert b.grid.did == a.grid.did


async def test_only_the_authority_can_be_asked(sim, autojump_clock):
    for name in "abc":
        await sim.start(name)
    await sim.join("b", "a")
    c = sim.nodes["c"].node

    async def show(code):
        raise AssertionError(code)

    assert (
        await code_of(c.join_client.ask(address(sim, "b"), sim.nodes["b"].node.grid.did, show))
        is Code.NOT_AUTHORITY
    )


async def test_join_messages_that_do_not_hold_are_limited_and_members_are_not(sim, autojump_clock):
    a, s = (await sim.start("a")).node, (await sim.start("s")).node
    codes = [
        await code_of(s.join_client._exchange(address(sim, "a"), Present(b"{}")))
        for _ in range(LIMITS.join_burst + 3)
    ]
    assert codes[: LIMITS.join_burst] == [Code.UNSIGNED] * LIMITS.join_burst
    assert set(codes[LIMITS.join_burst :]) == {Code.RATE_LIMITED}
    assert a.join_host.refused[Code.RATE_LIMITED] == 3
    await sim.start("b")
    await sim.join("b", "a")  # from another address: not affected


async def test_garbage_on_the_join_protocol_ends_only_that_stream(sim, autojump_clock):
    a, s = (await sim.start("a")).node, (await sim.start("s")).node
    s.transport.allow_dial(a.identity.peer_id)
    await s.transport.connect(address(sim, "a"))
    stream = await s.transport.open_stream(a.identity.peer_id, JOIN_PROTOCOL)
    await stream.send_all((1 << 30).to_bytes(4, "big") + b"x" * 100)
    with pytest.raises(RemoteError):
        await read_message(stream)
    stream = await s.transport.open_stream(a.identity.peer_id, JOIN_PROTOCOL)
    await write_message(stream, b"\xff garbage")
    answer = decode_join_answer(await read_message(stream))
    assert isinstance(answer, Refused)
    assert answer.code == Code.PROTOCOL_VIOLATION.value


async def test_a_membership_is_renewed_before_it_runs_out(sim, autojump_clock):
    for name in "ab":
        await sim.start(name)
    await sim.join("b", "a")
    b = sim.nodes["b"].node
    first = b.grid.own_membership()
    with trio.CancelScope():
        node = sim.nodes["a"].node
        half = LIMITS.membership_default_seconds // 2
        sim.skip_seconds(half + 3600)
        await eventually(
            lambda: (m := b.grid.own_membership()) is not None and m.content_id != first.content_id,
            seconds=60,
        )
    assert node.grid.own_membership() is not None


async def test_a_restarted_member_is_back_on_its_new_address(sim, autojump_clock):
    for name in "abc":
        await sim.start(name)
    await sim.join("b", "a")
    await sim.join("c", "a")
    a, c = sim.nodes["a"].node, sim.nodes["c"].node
    await sim.publish_echo("b", "parrot")
    await eventually(lambda: len(c.router.models()) == 1, seconds=10)
    sim.kill("b")
    assert await eventually(lambda: not c.router.models(), seconds=2) <= 2
    b = (await sim.start("b", incarnation=1)).node
    await eventually(lambda: len(c.router.models()) == 1, seconds=10)
    assert b.grid.did == a.grid.did


async def test_a_host_of_another_grid_than_announced_learns_no_nonce(sim, autojump_clock):
    (await sim.start("a")), (await sim.start("b"))
    b = sim.nodes["b"].node

    async def show(code):
        raise AssertionError(code)

    wanted = Identity(b"\x05" * 32).did
    assert await code_of(b.join_client.ask(address(sim, "a"), wanted, show)) is Code.NOT_MEMBER
    assert sim.nodes["a"].node.join_host.waiting() == ()


async def test_a_removed_member_does_not_return_by_an_older_invitation(sim, autojump_clock):
    for name in "ab":
        await sim.start(name)
    a, b = sim.nodes["a"].node, sim.nodes["b"].node
    spare = invitation_text(a.grid.invite(b.identity.did))
    await sim.join("b", "a")
    a.grid.remove(b.identity.did)
    b.graph.switch_grid(b.identity.did)
    await trio.sleep(1)  # its connection is cut
    assert await code_of(redeem_raw(sim, b, spare)) is Code.INVITATION_USED
    fresh = invitation_text(a.grid.invite(b.identity.did))
    assert (await redeem_raw(sim, b, fresh)).membership


async def test_a_removed_member_returns_by_a_newer_invitation(sim, autojump_clock):
    for name in "abc":
        await sim.start(name)
    await sim.join("b", "a")
    await sim.join("c", "a")
    a, b, c = (sim.nodes[name].node for name in "abc")
    await sim.publish_echo("b", "parrot")
    await eventually(lambda: len(c.router.models()) == 1, seconds=10)
    a.grid.remove(b.identity.did)
    await eventually(lambda: b.identity.did not in c.grid.members(), seconds=5)
    await trio.sleep(5)
    text = invitation_text(a.grid.invite(b.identity.did))
    b.graph.ingest(  # as one that has heard of its removal
        a.graph.store.newest((a.grid.did, "Membership", b.identity.did)).raw,
        now_ms=sim.now_ms(),
        received_from=None,
    )
    assert b.grid.own_membership() is None
    await b.join_client.redeem(text)
    await eventually(lambda: len(c.router.models()) == 1, seconds=30)
    await eventually(lambda: len(b.peers.alive_members()) == 2, seconds=10)


async def test_a_member_whose_membership_ran_out_is_invited_again(sim, autojump_clock):
    for name in "ab":
        await sim.start(name)
    await sim.join("b", "a")
    await trio.sleep(3)
    sim.kill("b")
    sim.skip_seconds(LIMITS.membership_default_seconds + 1)
    await trio.sleep(3)
    a, b = sim.nodes["a"].node, (await sim.start("b", incarnation=1)).node
    assert b.grid.own_membership() is None
    await b.join_client.redeem(invitation_text(a.grid.invite(b.identity.did)))
    await eventually(lambda: b.peers.alive_members() and a.peers.alive_members(), seconds=10)


async def test_a_member_in_good_standing_redeems_nothing(sim, autojump_clock):
    for name in "ab":
        await sim.start(name)
    await sim.join("b", "a")
    a, b = sim.nodes["a"].node, sim.nodes["b"].node
    again = invitation_text(a.grid.invite(b.identity.did))
    assert await code_of(b.join_client.redeem(again)) is Code.GRID_NOT_EMPTY


async def test_a_node_killed_just_after_it_joined_finds_its_grid_again(sim, autojump_clock):
    for name in "ab":
        await sim.start(name)
    await sim.join("b", "a")
    sim.kill("b")
    b = (await sim.start("b", incarnation=1)).node
    await eventually(b.peers.alive_members, seconds=10)


async def test_a_host_too_busy_to_be_polled_does_not_end_the_asking(sim, autojump_clock):
    a, b = (await sim.start("a")).node, (await sim.start("b")).node
    done = trio.Event()

    async def show(code):
        while a.join_host._all.take(trio.current_time()):
            pass  # as if others had asked

    async def ask():
        await b.join_client.ask(address(sim, "a"), a.grid.did, show)
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await eventually(lambda: a.join_host.refused[Code.RATE_LIMITED], seconds=60)
        a.join_host.approve(a.join_host.waiting()[0].request)
        with trio.fail_after(60):
            await done.wait()
    assert b.grid.did == a.grid.did


async def test_the_authority_key_goes_out_of_use_only_once_the_new_grid_is_kept(
    sim, autojump_clock
):
    a, b = (await sim.start("a")).node, (await sim.start("b")).node
    kept = []

    class Keys:
        def retire_authority(self):
            kept.append((b.local.grid, b.grid.own_membership() is not None))
            raise UsageError("the disk is full", Code.DATA_DIRECTORY_UNUSABLE)

    b.grid.keys = Keys()
    await sim.join("b", "a")
    assert kept == [(a.grid.did, True)]
    assert b.grid.did == a.grid.did


async def test_the_key_of_a_grid_that_was_left_admits_nobody(sim, autojump_clock):
    for name in "ab":
        await sim.start(name)
    await sim.join("b", "a")
    grid = sim.nodes["b"].node.grid.did
    sim.kill("b")
    # As when the node died before it could put the key of its grid of one away.
    b = (await sim.start("b", incarnation=1, with_authority=True)).node
    assert (b.grid.did, b.grid.authority) == (grid, None)


async def test_a_removed_member_may_ask_to_be_let_in_again(sim, autojump_clock):
    for name in "ab":
        await sim.start(name)
    await sim.join("b", "a")
    a, b = sim.nodes["a"].node, sim.nodes["b"].node
    await eventually(b.peers.alive_members, seconds=10)
    a.grid.remove(b.identity.did)
    withdrawal = a.graph.store.newest((a.grid.did, "Membership", b.identity.did))
    await trio.sleep(5)
    b.graph.ingest_batch([withdrawal.raw], now_ms=sim.now_ms(), received_from=None)

    async def show(code):
        pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(b.join_client.ask, address(sim, "a"), a.grid.did, show)
        await eventually(a.join_host.waiting, seconds=10)
        a.join_host.approve(a.join_host.waiting()[0].request)
    await eventually(b.peers.alive_members, seconds=10)


async def test_a_delegation_that_does_not_hold_changes_nothing(sim, autojump_clock):
    for name in "abc":
        await sim.start(name)
    await sim.join("b", "a")
    a, b, c = (sim.nodes[name].node for name in "abc")
    c.statuses.delegate(c.grid.did, [c.identity.did], 1)  # of its own grid of one
    own = b.grid.own_membership().raw
    for delegation in (b"garbage", own, c.grid.delegation(), b"x" * 9000):
        answer = await b.join_client._exchange(address(sim, "a"), Present(own, delegation))
        assert answer.ours == a.grid.own_membership().raw
        assert a.grid.delegation() == b""
    renewed = Present(c.grid.own_membership().raw, c.grid.delegation())
    assert await code_of(c.join_client._exchange(address(sim, "a"), renewed)) is Code.NOT_MEMBER
    assert c.identity.did not in a.grid.members()


async def test_an_invitation_from_before_a_delegate_s_removal_brings_nobody_back(
    sim, autojump_clock
):
    for name in "abc":
        await sim.start(name)
    for name in "bc":
        await sim.join(name, "a")
    a, b, c = (sim.nodes[name].node for name in "abc")
    spare = invitation_text(a.grid.invite(c.identity.did))
    a.statuses.delegate(a.grid.did, [b.identity.did], 1)
    await eventually(lambda: b.statuses.signs(a.grid.did), seconds=10)
    await eventually(lambda: c.identity.did in b.grid.members(), seconds=10)
    b.grid.remove(c.identity.did)
    await eventually(lambda: a.grid.removed_ms(c.identity.did) is not None, seconds=10)
    c.graph.switch_grid(c.identity.did)
    await trio.sleep(1)
    assert await code_of(redeem_raw(sim, c, spare)) is Code.INVITATION_USED


async def test_a_host_that_has_not_heard_of_our_removal_does_not_bring_us_back(sim, autojump_clock):
    for name in "abc":
        await sim.start(name)
    for name in "bc":
        await sim.join(name, "a")
    a, b, c = (sim.nodes[name].node for name in "abc")
    a.statuses.delegate(a.grid.did, [b.identity.did], 1)
    spare = invitation_text(a.grid.invite(c.identity.did))
    await eventually(lambda: b.statuses.signs(a.grid.did), seconds=10)
    await eventually(lambda: c.grid.delegation() != b"", seconds=10)
    await eventually(lambda: c.identity.did in b.grid.members(), seconds=10)
    sim.network.partition(a.identity.peer_id, b.identity.peer_id)
    b.grid.remove(c.identity.did)
    said = b.graph.revocations.list_of(a.grid.did, b.identity.did, sim.now_ms())
    c.graph.ingest(said.raw, now_ms=sim.now_ms(), received_from=None)
    assert c.identity.did in a.grid.members()
    assert await code_of(c.join_client.redeem(spare)) is Code.REVOKED
