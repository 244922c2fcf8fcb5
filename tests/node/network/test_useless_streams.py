"""Streams that cost a node a negotiation each and bring nothing."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamError
from tests.node.network import nodes
from tests.patience import PATIENCE_SECONDS

from aigrid.node.network import negotiation
from aigrid.node.network.compat import KAD_PROTOCOL
from aigrid.node.network.muxed_stream import MuxedStream
from aigrid.node.network.muxer import Muxer
from aigrid.node.network.streams import RpcServer, Send
from aigrid.node.network.transport import RPC_PROTOCOL
from aigrid.protocol.errors import RemoteError
from aigrid.protocol.limits import LIMITS

BORNE = LIMITS.mux_provocations_max // LIMITS.mux_useless_stream_counts


async def answer(_peer: str, asked: bytes, send: Send) -> None:
    await send(asked)


async def empty(muxer: Muxer) -> None:
    stream = await muxer.open_stream()
    await stream.close()
    await its_end(stream)


async def unserved(muxer: Muxer) -> None:
    stream = await muxer.open_stream()
    with pytest.raises(RemoteError):
        await negotiation.select(stream, "/nobody/serves/1")
    await stream.close()
    await its_end(stream)


async def garbage(muxer: Muxer) -> None:
    stream = await muxer.open_stream()
    await negotiation.select(stream, RPC_PROTOCOL)
    await stream.write(b"z" * 9)
    await its_end(stream)


async def given_up(muxer: Muxer) -> None:
    stream = await muxer.open_stream()
    await stream.reset()


async def nothing_asked(muxer: Muxer) -> None:
    """Of the DHT."""
    stream = await muxer.open_stream()
    await negotiation.select(stream, KAD_PROTOCOL)
    await stream.close()
    await its_end(stream)


async def no_question(muxer: Muxer) -> None:
    stream = await muxer.open_stream()
    await negotiation.select(stream, KAD_PROTOCOL)
    await stream.write(b"\x02\xff\xff")
    await its_end(stream)


async def too_long_a_question(muxer: Muxer) -> None:
    stream = await muxer.open_stream()
    await negotiation.select(stream, KAD_PROTOCOL)
    await stream.write(b"\xff\xff\xff\x7f")
    await its_end(stream)


async def its_end(stream: MuxedStream) -> None:
    with suppress(MuxedStreamError):
        while await stream.read(100):
            pass


@pytest.mark.parametrize(
    "useless",
    [empty, unserved, garbage, given_up, nothing_asked, no_question, too_long_a_question],
)
async def test_useless_streams_without_end_cost_the_connection(
    pair: nodes.Pair, hostile: nodes.Hostile, useless: Callable[[Muxer], Awaitable[None]]
) -> None:
    one, two = pair
    two.admit([hostile.peer_id])
    two.handle_stream(RPC_PROTOCOL, RpcServer(answer).serve)
    muxer, borne = await hostile.connect(two), 0
    with trio.fail_after(PATIENCE_SECONDS):
        while muxer.dead is None:
            with suppress(MuxedStreamError, MuxedConnUnavailable):
                await useless(muxer)
            borne += 1
    await nodes.eventually(lambda: two.counters()["protocol_broken"] == 1)
    assert borne >= BORNE * 0.9
    assert await nodes.ask(one, two.peer_id, b"alive") == b"alive"


async def test_some_useless_streams_cost_nothing(pair: nodes.Pair, hostile: nodes.Hostile) -> None:
    _, two = pair
    two.admit([hostile.peer_id])
    muxer = await hostile.connect(two)
    with trio.fail_after(PATIENCE_SECONDS):
        for _ in range(BORNE // 2):
            await unserved(muxer)
        assert await hostile.is_served(muxer, nodes.ECHO)
    assert muxer.dead is None


async def test_who_tried_again_and_again_while_nobody_answered_is_not_cut_off(
    pair: nodes.Pair, hostile: nodes.Hostile
) -> None:
    """Twice as many calls as one may have, which a node finds that was stopped for so long."""
    _, two = pair
    two.admit([hostile.peer_id])
    muxer = await hostile.connect(two)
    with trio.fail_after(PATIENCE_SECONDS):
        for _ in range(2 * LIMITS.streams_per_peer_max):
            await given_up(muxer)
        assert await hostile.is_served(muxer, nodes.ECHO)
    assert muxer.dead is None
