"""What a peer says of itself is bounded before the library keeps it, and comes seldom."""

from contextlib import suppress
from typing import Any

import pytest
import trio
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamError
from multiaddr import Multiaddr
from tests.node.network import nodes
from tests.patience import PATIENCE_SECONDS

from aigrid.metagraph.quota import TokenBucket
from aigrid.node.network import compat, dht_messages, identify_messages, negotiation
from aigrid.node.network.dht_places import Place
from aigrid.node.network.muxer import Muxer
from aigrid.protocol.limits import LIMITS

ADDRESS = Multiaddr("/ip4/1.2.3.4/tcp/5").to_bytes()


def said(protocols: list[str], addresses: list[bytes]) -> bytes:
    return bytes(
        Identify(protocols=protocols, listen_addrs=addresses, agent_version="x").SerializeToString()
    )


def test_what_is_within_the_limits_stays_as_it_was() -> None:
    data = said(["/a/1", "/b/1"], [ADDRESS])
    assert identify_messages.bounded(data) is data


def test_of_the_rest_the_first_few_that_can_be_something_are_kept() -> None:
    long = "/" + "x" * LIMITS.negotiation_line_max_bytes
    protocols = ["", long, *(f"/a/{number}" for number in range(100))]
    addresses = [b"", bytes(LIMITS.dht_address_bytes + 1), *[ADDRESS] * 100]
    kept = Identify.FromString(identify_messages.bounded(said(protocols, addresses)))
    assert list(kept.protocols) == protocols[2 : 2 + LIMITS.identify_protocols]
    assert list(kept.listen_addrs) == [ADDRESS] * LIMITS.addresses_max
    assert kept.agent_version == "x"


@pytest.mark.parametrize("more", [[], ["/a/1"] * LIMITS.identify_protocols])
def test_a_protocol_that_is_no_text_goes(more: list[str]) -> None:
    data = said(["/b/1", "/broken", *more], []).replace(b"/broken", b"/br\xffken")
    kept = Identify.FromString(identify_messages.bounded(data))
    assert list(kept.protocols) == ["/b/1", *more][: LIMITS.identify_protocols]


def test_bytes_of_protocols_are_counted() -> None:
    longest = "\u00e9" * (LIMITS.negotiation_line_max_bytes // 2)
    kept = Identify.FromString(identify_messages.bounded(said([longest, longest + "x"], [])))
    assert list(kept.protocols) == [longest]


async def push(muxer: Muxer, data: bytes) -> None:
    """It is there, or was refused, when this returns."""
    stream = await muxer.open_stream()
    with suppress(MuxedStreamError):
        await negotiation.select(stream, compat.IDENTIFY_PUSH_PROTOCOL)
        await stream.write(negotiation.encode_varint(len(data)) + data)
        while await stream.read(100):
            pass


async def test_a_push_of_a_megabyte_is_not_read(pair: nodes.Pair, hostile: nodes.Hostile) -> None:
    _, two = pair
    two.admit([hostile.peer_id])
    muxer, store = await hostile.connect(two), two._library.host.get_peerstore()
    with trio.fail_after(PATIENCE_SECONDS):
        await push(muxer, said(["/kept/1"], [ADDRESS]))
        await push(muxer, said([""] * 500_000, []))
        await push(muxer, said(["/not/1"] * 3000, []))
    assert store.get_protocols(hostile.library.peer_id) == ["/kept/1"]


async def test_pushes_without_end_cost_the_connection(
    pair: nodes.Pair, hostile: nodes.Hostile
) -> None:
    one, two = pair
    two.admit([hostile.peer_id])
    muxer, pushed = await hostile.connect(two), 0
    with trio.fail_after(PATIENCE_SECONDS):
        while muxer.dead is None:
            with suppress(MuxedConnUnavailable):
                await push(muxer, said(["/a/1"], [ADDRESS]))
            pushed += 1
    assert pushed >= LIMITS.identify_burst
    await nodes.eventually(lambda: two.counters()["protocol_broken"] == 1)
    assert await nodes.ask(one, two.peer_id, b"alive") == b"alive"


async def test_questions_to_the_dht_are_read_at_a_pace(autojump_clock: Any) -> None:
    rate = TokenBucket(per_second=10.0, burst=5, now_seconds=trio.current_time())
    place = Place("peer", 0.0, lambda: None)
    paced, began = dht_messages.Paced(object(), rate, place), trio.current_time()
    for _ in range(5):
        await paced.turn()
    assert trio.current_time() == began
    for _ in range(20):
        await paced.turn()
    assert trio.current_time() - began == pytest.approx(2.0, abs=0.1)
