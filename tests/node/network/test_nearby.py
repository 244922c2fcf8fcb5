"""mDNS: announcements are heard, bounded, sanitised and forgotten."""

from collections.abc import Mapping
from types import MappingProxyType

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from tests.node.network import nodes

from aigrid.node.network.nearby import NearbyNodes, encode_text, parse_text, sanitise
from aigrid.protocol.identity import Identity
from aigrid.protocol.limits import LIMITS


def text(number: int = 1, changes: Mapping[str, str] = MappingProxyType({})) -> bytes:
    identity = Identity(number.to_bytes(32, "big"))
    fields = {
        "id": identity.peer_id,
        "grid": identity.did,
        "name": "Anna's desk",
        "a0": "/ip4/192.0.2.1/tcp/4711",
    } | dict(changes)
    return encode_text([f"{key}={value}" for key, value in fields.items()])


def test_announcement_is_read_back() -> None:
    changes = {"a1": "/dns4/node.example/tcp/1", "a2": "rubbish"}
    heard = parse_text(text(changes=changes))
    assert heard is not None
    assert heard.peer.addresses == ("/ip4/192.0.2.1/tcp/4711", "/dns/node.example/tcp/1")
    assert heard.name == "Anna's desk"


@pytest.mark.parametrize(
    "changes", [{"id": "12D3"}, {"grid": "grid"}, {"a0": "/ip4/x/tcp/1"}, {"id": ""}]
)
def test_malformed_announcement_is_ignored(changes: dict[str, str]) -> None:
    assert parse_text(text(changes=changes)) is None


@given(st.binary(max_size=300))
def test_random_bytes_are_no_announcement(data: bytes) -> None:
    assert parse_text(data) is None


@given(st.text(max_size=400))
def test_name_is_printable_and_short(name: str) -> None:
    clean = sanitise(name)
    assert len(clean) <= LIMITS.nearby_name_max_chars
    assert clean.isprintable()


def test_list_is_bounded_forgets_and_leaves_ourselves_out() -> None:
    now = [1000.0]
    own = Identity((1).to_bytes(32, "big")).peer_id
    nodes = NearbyNodes(own, clock=lambda: now[0])
    for number in range(1, 100):
        nodes.heard(text(number))
    assert len(nodes.seen()) == LIMITS.nearby_max
    assert own not in {n.peer.peer_id for n in nodes.seen()}
    nodes.heard(text(99), gone=True)
    assert len(nodes.seen()) == LIMITS.nearby_max - 1
    now[0] += LIMITS.nearby_expiry_seconds - 1
    nodes.heard(text(2))
    now[0] += 2
    assert [n.peer.peer_id for n in nodes.seen()] == [Identity((2).to_bytes(32, "big")).peer_id]


async def test_nodes_see_each_other_on_loopback() -> None:
    one, two = (Identity((n).to_bytes(32, "big")) for n in (7, 8))
    first = NearbyNodes(one.peer_id, interfaces=("127.0.0.1",))
    second = NearbyNodes(two.peer_id, interfaces=("127.0.0.1",))
    first.announce(one.did, "first\x1b[31m\nnode")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.run, ("/ip4/127.0.0.1/tcp/4711",))
        nursery.start_soon(second.run, ("/ip4/127.0.0.1/tcp/4712",))
        try:
            await nodes.eventually(second.seen, 8)
        except trio.TooSlowError:
            nursery.cancel_scope.cancel()
            pytest.skip("no multicast here")
        (seen,) = second.seen()
        assert (seen.peer.peer_id, seen.grid) == (one.peer_id, one.did)
        assert seen.name == "first [31m node"
        nursery.cancel_scope.cancel()


async def test_mdns_that_cannot_start_ends_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    node = NearbyNodes(Identity(b"\x01" * 32).peer_id)

    def fail() -> None:
        raise RuntimeError("no event loop")

    monkeypatch.setattr(node, "_open", fail)
    with trio.fail_after(5):
        await node.run(("/ip4/192.0.2.1/tcp/1",))
