"""Peers that nobody invited, against real nodes, while a member's requests go on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import httpx
import pytest
import trio
from scripts.nodes import NodeFailedError, NodeProcess, wait_for
from tests.faults import attackers
from tests.faults.attackers import Attacker, read_all
from tests.faults.conftest import ProcessGrid
from tests.faults.test_hostile_network import member_traffic
from tests.patience import PATIENCE_SECONDS

from aigrid.node.network import compat
from aigrid.node.network.transport import JOIN_PROTOCOL
from aigrid.protocol.identity import Identity
from aigrid.protocol.membership import commitment, invitation_text, issue_invitation
from aigrid.protocol.membership import issue_membership as membership
from aigrid.protocol.messages import (
    AskToJoin,
    Challenge,
    Pending,
    Present,
    Refused,
    Reveal,
    Welcome,
    encode,
)

pytestmark = pytest.mark.process
HOUR_MS = 3_600_000
_names = count(1)


@pytest.fixture
def unharmed(grid: ProcessGrid) -> Iterator[None]:
    """Members are served all the while, and every node is the process it was."""
    with _unharmed(grid):
        yield


@contextmanager
def _unharmed(grid: ProcessGrid) -> Iterator[None]:
    pids = [node.pid for node in grid.nodes]
    with member_traffic(grid):
        yield
    assert [node.pid for node in grid.nodes] == pids
    assert all(node.alive for node in grid.nodes)


@contextmanager
def newcomer(grid: ProcessGrid) -> Iterator[NodeProcess]:
    node = grid.add(f"newcomer{next(_names)}")
    try:
        yield node
    finally:
        node.stop()
        grid.nodes.remove(node)


def refused(node: NodeProcess) -> Any:
    return httpx.get(f"{node.gateway}/aigrid/v1/status").json()["refused"]


async def until(node: NodeProcess, *path: str, above: int) -> None:
    """A counter of `node` went beyond what it was."""

    def passed() -> bool:
        found: Any = refused(node)
        for name in path:
            found = found.get(name, 0)
        return bool(found > above)

    await trio.to_thread.run_sync(
        lambda: wait_for(passed, timeout_seconds=PATIENCE_SECONDS, what="/".join(path))
    )


async def test_garbage_on_every_protocol_is_refused(grid, nursery, unharmed):
    before = refused(grid.holder)["network"]
    stranger = Attacker(nursery)
    for protocol in attackers.PROTOCOLS:
        muxer = await stranger.dial(grid.holder)
        served = {JOIN_PROTOCOL, compat.IDENTIFY_PROTOCOL}
        assert await stranger.is_served(muxer, protocol) is (protocol in served)
        for junk in attackers.GARBAGE:
            with suppress(Exception):
                with trio.fail_after(PATIENCE_SECONDS):
                    raw = await muxer.open_stream()
                    await raw.write(junk)  # to multistream
                    raw.abandon()
                    stream = await stranger.open(muxer, protocol)
                    await stream.write(junk)
                    stream.end()
                    await read_all(stream)
        await muxer.close()
    muxer = await stranger.dial(grid.holder)
    await muxer.secured_conn.write(b"\x09" + b"\xff" * 500)  # to Yamux
    with trio.fail_after(PATIENCE_SECONDS):
        await muxer.event_closed.wait()
    await until(grid.holder, "network", "streams_failed", above=before["streams_failed"])


async def test_identify_tells_a_stranger_no_address(grid, nursery):
    stranger = Attacker(nursery)
    stream = await stranger.open(await stranger.dial(grid.holder), compat.IDENTIFY_PROTOCOL)
    told = await read_all(stream)
    assert b"aigrid" in told
    for secret in (compat.MESHSUB_PROTOCOL, compat.KAD_PROTOCOL, "/aigrid/rpc"):
        assert secret.encode() not in told


async def test_join_messages_that_stop_half_way_or_never_begin(grid, nursery, unharmed):
    before = refused(grid.authority)["network"]
    for size, sent in ((1 << 31, b"x"), (100, b"half"), (16385, b"y" * 70_000), (0, b"")):
        stranger = Attacker(nursery)
        muxer = await stranger.dial(grid.authority)
        stream = await stranger.open(muxer, JOIN_PROTOCOL)
        with suppress(Exception):
            await stream.write(size.to_bytes(4, "big") + sent)
        stream.abandon()  # a reset in the middle
        kept = [await stranger.open(muxer, JOIN_PROTOCOL) for _ in range(4)]  # that never finish
        assert not await stranger.is_served(muxer, JOIN_PROTOCOL)
        assert len(kept) == 4
    await until(grid.authority, "network", "streams_refused", above=before["streams_refused"])


@pytest.mark.parametrize("source", ["", attackers.ELSEWHERE])
async def test_an_invited_node_joins_during_a_flood(grid, nursery, source):
    """Of PeerIds and of garbage, from its own address or another; a member comes back, too."""
    before = refused(grid.authority)
    with newcomer(grid) as node, _unharmed(grid):
        did = node.cli("id")["did"]
        invitation = grid.authority.cli("invite", did)["invitation"]

        async def flood() -> None:
            while True:
                with suppress(Exception):
                    stranger = Attacker(nursery, source=source)
                    muxer = await stranger.dial(grid.authority)
                    for _ in range(10):
                        await stranger.join(muxer, b"\x80 garbage")
                    await trio.sleep(1)  # and stays, until somebody else takes the place

        async with trio.open_nursery() as attack:
            for _ in range(24):
                attack.start_soon(flood)
            await until(grid.authority, "joins", above=before["joins"])
            began = time.monotonic()
            await trio.to_thread.run_sync(node.cli, "join", invitation)
            assert time.monotonic() - began < 10
            attack.cancel_scope.cancel()
        assert refused(grid.authority)["joins"] > before["joins"]
        assert node.read_ready_file()["grid"] == grid.authority.ready["grid"]


async def test_no_membership_but_ones_own_in_force_is_worth_anything(grid, nursery):
    authority, other = attackers.new_identity(), attackers.new_identity()
    stranger, now_ms = Attacker(nursery), time.time_ns() // 1_000_000
    own = stranger.identity.did
    real = grid.holder.cli("record", "show", _record_of(grid))
    foreign = membership(authority, own, now_ms=now_ms, valid_ms=HOUR_MS).raw
    tries = {
        "foreign": foreign,
        "tampered": foreign.replace(authority.did[-8:].encode(), b"x" * 8),
        "expired": membership(authority, own, now_ms=now_ms - 2 * HOUR_MS, valid_ms=9).raw,
        "another's": membership(authority, other.did, now_ms=now_ms, valid_ms=HOUR_MS).raw,
        "not one": str(real).encode(),
        "nothing": b"",
    }
    muxer = await stranger.dial(grid.holder)
    for raw in tries.values():
        answer = await stranger.join(muxer, Present(raw))
        assert isinstance(answer, Refused)
    for protocol in (compat.MESHSUB_PROTOCOL, compat.KAD_PROTOCOL, "/aigrid/rpc/1"):
        assert not await stranger.is_served(muxer, protocol)
    assert stranger.peer_id not in str(grid.holder.cli("peers"))


def _record_of(grid: ProcessGrid) -> str:
    (candidate,) = grid.holder.cli("find", "text-generation")["candidates"]
    return str(candidate["record"])


async def test_asking_to_join_is_bounded_and_bound_to_the_one_who_asked(grid, nursery, unharmed):
    before = refused(grid.authority)["joins"]
    one = Attacker(nursery, source="127.0.0.3")
    two = Attacker(nursery, source="127.0.0.4")
    muxer, other = await one.dial(grid.authority), await two.dial(grid.authority)
    nonce = b"n" * 16
    asked = await one.join(muxer, AskToJoin("mallory", commitment(nonce)))
    assert isinstance(asked, Challenge)
    replayed = await two.join(other, Reveal(asked.request, nonce))  # another's
    assert isinstance(replayed, Refused)
    assert isinstance(await one.join(muxer, Reveal(asked.request, nonce)), Pending)
    wrong = await one.join(muxer, Reveal(asked.request, b"m" * 16))
    assert isinstance(wrong, Refused)
    gone = await one.join(muxer, Reveal(asked.request, nonce))  # forgotten with the wrong one
    assert isinstance(gone, Refused)
    codes = set()
    for _ in range(300):
        answer = await two.join(other, AskToJoin("mallory", commitment(nonce)))
        codes.add(getattr(answer, "code", ""))
    assert "rate_limited" in codes
    await until(grid.authority, "joins", above=before + 200)
    assert len(grid.authority.cli("requests")["requests"]) <= 1


async def test_an_invitation_to_a_hostile_host_changes_nothing(grid, nursery):
    """Whatever answers there: the joiner says why it does not join, and stays what it was."""
    host, real, fake = Attacker(nursery), attackers.new_identity(), attackers.new_identity()
    address, now_ms = await host.listen(), time.time_ns() // 1_000_000
    with newcomer(grid) as node:
        before = node.ready["grid"]
        did = node.cli("id")["did"]

        def member(authority: Identity, who: str, valid_ms: int = HOUR_MS) -> bytes:
            return membership(authority, who, now_ms=now_ms - 1000, valid_ms=valid_ms).raw

        good, ours = member(real, did), member(real, host.identity.did)
        answers = [
            Welcome(member(fake, did), member(fake, host.identity.did)),  # of another grid
            Welcome(member(real, host.identity.did), ours),  # of another key
            Welcome(member(real, did, 500), ours),  # expired
            Welcome(good, b"{}"),
            Welcome(good, member(real, fake.did)),  # the host's is another's
            Pending(),
            Refused("invitation_used", "\x1b[2J no"),
            b"\xc1 garbage",
        ]
        for number, answer in enumerate(answers):
            host.table = {JOIN_PROTOCOL: _saying(answer)}
            invitation = issue_invitation(
                real,
                did,
                peer_id=host.peer_id,
                addresses=(address,),
                nonce=f"{number:016}",
                now_ms=now_ms,
                valid_ms=HOUR_MS,
            )
            with pytest.raises(NodeFailedError) as caught:
                await trio.to_thread.run_sync(node.cli, "join", invitation_text(invitation))
            assert caught.value.status in {1, 3}
            assert caught.value.code != "internal"
            assert "\x1b" not in str(caught.value)
            assert node.alive
        assert node.read_ready_file()["grid"] == before == node.cli("status")["grid"]


def _saying(answer: Any) -> attackers.Handler:
    async def serve(stream: Any) -> None:
        await attackers.read_frame(stream)
        body = answer if isinstance(answer, bytes) else encode(answer)
        await stream.write(len(body).to_bytes(4, "big") + body)
        stream.end()
        await attackers.drain(stream)

    return serve
