"""The eight traps of py-libp2p, each shown to be closed (see `libp2p_transport`)."""

import random
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import trio
from libp2p.stream_muxer.exceptions import MuxedStreamError
from tests.node.network import nodes
from tests.patience import PATIENCE_SECONDS

from aigrid.node.network import compat, connections, negotiation, yamux_frames
from aigrid.node.network.libp2p_transport import Libp2pTransport
from aigrid.node.network.muxed_stream import MuxedStream
from aigrid.node.network.muxer import Muxer
from aigrid.node.network.transport import PeerAddress, Stream
from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.limits import LIMITS

GARBAGE = [
    b"\xff" * 12,
    b"\x04\xff\xfe\xfd\n",
    b"\x05hello",
    b"\xff\xff\xff\xff\x7f" + b"x" * 40,
    (1 << 31).to_bytes(4, "big") + b"y" * 60,
    bytes(range(200)),
    b"\x00" * 50,
    b"\x0a\x0a\x08\x01\x12\x06\xff\xfe\xfd\xfc\xfb\xfa",
]


async def test_handler_that_raises_ends_only_its_stream(start: nodes.Start) -> None:
    async def boom(stream: Stream) -> None:
        raise RuntimeError("handler exploded")

    one, two = await start(), await start(handlers={"/test/boom/1": boom})
    await nodes.befriend(one, two)
    stream = await one.open_stream(two.peer_id, "/test/boom/1")
    with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RemoteError) as caught:
        await stream.receive_some(10)
    assert caught.value.code is Code.CONNECTION_LOST
    assert two.counters()["streams_failed"] == 1
    assert await nodes.ask(one, two.peer_id, b"still there") == b"still there"


async def test_writing_to_a_stream_the_peer_reset_ends_only_that_stream(start: nodes.Start) -> None:
    failures = []

    async def flood(stream: Stream) -> None:
        try:
            while True:
                await stream.send_all(b"x" * 65536)
        except RemoteError as error:
            failures.append(error.code)
            raise

    one, two = await start(), await start(handlers={"/test/flood/1": flood})
    await nodes.befriend(one, two)
    stream = await one.open_stream(two.peer_id, "/test/flood/1")
    await stream.receive_some(100)
    await stream.reset()
    assert await nodes.ask(one, two.peer_id, b"ok") == b"ok"
    assert failures == [Code.CONNECTION_LOST]


async def test_cancel_storm_leaves_the_connection(pair: nodes.Pair) -> None:
    one, two = pair
    rng = random.Random(7)
    steady = await one.open_stream(two.peer_id, nodes.ECHO)
    opened = one.counters()["connections_opened"]
    for _ in range(100):
        stream = None
        with trio.move_on_after(rng.uniform(0, 0.004)):
            stream = await one.open_stream(two.peer_id, nodes.ECHO)
            await stream.send_all(rng.randbytes(300_000))
            while True:
                await stream.receive_some(65536)
        if stream is not None:  # else opening it was cut short
            await stream.reset()
    await steady.send_all(b"steady")
    assert await steady.receive_some(100) == b"steady"
    assert one.counters()["connections_opened"] == opened


async def test_end_reset_and_loss_are_told_apart(start: nodes.Start) -> None:
    async def end(stream: Stream) -> None:
        await stream.send_all(b"last words")

    async def reset(stream: Stream) -> None:
        await stream.reset()

    async def hang(stream: Stream) -> None:
        await trio.sleep_forever()

    handlers = {"/t/end": end, "/t/reset": reset, "/t/hang": hang}
    one, two = await start(), await start(handlers=handlers)
    await nodes.befriend(one, two)
    ended = await one.open_stream(two.peer_id, "/t/end")
    assert [await ended.receive_some(99), await ended.receive_some(99)] == [b"last words", b""]
    was_reset = await one.open_stream(two.peer_id, "/t/reset")
    with pytest.raises(RemoteError):
        await was_reset.receive_some(1)
    lost = await one.open_stream(two.peer_id, "/t/hang")
    link: Any = two._connections.live(one.peer_id)
    link.muxer.secured_conn.conn.read_writer.read_write_closer.stream.abort()
    with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RemoteError) as caught:
        await lost.receive_some(1)
    assert caught.value.code is Code.CONNECTION_LOST


async def test_peer_that_moved_is_reached_at_its_new_address(start: nodes.Start) -> None:
    one, seed = await start(), nodes.new_seed()
    one.admit([nodes.peer_id_of_seed(seed)])
    for message in (b"first", b"second"):
        async with trio.open_nursery() as life:
            two = Libp2pTransport(
                signing_seed=seed, topics=nodes.TOPICS, now_ms=nodes.now_ms, listen=nodes.LOCAL
            )
            two.admit([one.peer_id])
            two.handle_stream(nodes.ECHO, nodes.echo)
            await nodes.run_in(life, two)
            with trio.fail_after(PATIENCE_SECONDS):
                await one.connect(nodes.address(two))
            assert await nodes.ask(one, two.peer_id, message) == message
            life.cancel_scope.cancel()
        await nodes.eventually(lambda: not one.connected())
        with pytest.raises(RemoteError) as caught:  # and the failure is not remembered
            await one.connect(PeerAddress(two.peer_id, two.listen_addresses))
        assert caught.value.code is Code.UNREACHABLE


async def test_member_garbage_on_every_protocol_leaves_the_host_and_others(
    pair: nodes.Pair, hostile: nodes.Hostile
) -> None:
    one, two = pair
    two.admit([hostile.peer_id])
    protocols = await hostile.protocols(await hostile.connect(two))
    assert {compat.MESHSUB_PROTOCOL, compat.KAD_PROTOCOL, nodes.ECHO} <= protocols
    for protocol in sorted(protocols):
        for junk in GARBAGE:
            muxer = await hostile.connect(two)
            stream = await muxer.open_stream()
            await say(stream, protocol, junk)
            await muxer.close()
        assert await nodes.ask(one, two.peer_id, b"alive") == b"alive"
    await one.publish("topic", b"x")
    assert one.counters()["connections_opened"] == 1


async def say(stream: MuxedStream, protocol: str, junk: bytes) -> None:
    with suppress(MuxedStreamError, RemoteError):
        await negotiation.select(stream, protocol)
        await stream.write(junk)
        with trio.move_on_after(0.02):
            await stream.read(100)
    await stream.reset()


async def test_garbage_before_and_while_negotiating_leaves_the_host(
    pair: nodes.Pair, hostile: nodes.Hostile
) -> None:
    one, two = pair
    muxer = await hostile.connect(two)
    for junk in GARBAGE:
        stream = await muxer.open_stream()
        await stream.write(junk)
        with trio.move_on_after(0.01):
            await stream.read(100)
        await stream.reset()
        raw = await nodes.raw_connection(two)
        await raw.write(junk)
        await raw.close()
    with trio.fail_after(PATIENCE_SECONDS):  # each of them ended only its own stream
        assert await hostile.is_served(muxer, nodes.LOBBY)
    assert two.counters()["streams_failed"] > 0
    assert await nodes.ask(one, two.peer_id, b"alive") == b"alive"


async def test_frames_that_break_yamux_end_only_that_connection(
    pair: nodes.Pair, hostile: nodes.Hostile
) -> None:
    one, two = pair
    for junk in GARBAGE:
        muxer = await hostile.connect(two)
        await muxer.secured_conn.write(junk * 3)
        with trio.fail_after(PATIENCE_SECONDS):
            await muxer.close()
    assert await nodes.ask(one, two.peer_id, b"alive") == b"alive"


async def test_floods_of_frames_end_only_that_connection(
    pair: nodes.Pair, hostile: nodes.Hostile
) -> None:
    one, two = pair
    two.admit([hostile.peer_id])
    for flood in (
        yamux_frames.ping(1, yamux_frames.SYN),
        yamux_frames.window_update(1, 0, yamux_frames.RST),
        b"".join(
            yamux_frames.window_update(1, 0, flag) for flag in (yamux_frames.SYN, yamux_frames.RST)
        ),
    ):
        muxer = await hostile.connect(two)
        muxer.session._next_id = 9001  # else it ends the connection itself, at the first answer
        await nodes.eventually(lambda: hostile.peer_id in two.connected())
        flooded = link_of(two, hostile.peer_id)
        with suppress(Exception):  # the other end closes while we write
            await muxer.secured_conn.write(flood * LIMITS.mux_provocations_max * 2)
        with trio.fail_after(PATIENCE_SECONDS):
            await flooded.event_closed.wait()
        assert flooded.dead is not None
        assert flooded.dead.startswith("protocol violation: ")
        await muxer.close()
        assert await nodes.ask(one, two.peer_id, b"alive") == b"alive"
    assert one.counters()["connections_opened"] == 1


def link_of(node: Libp2pTransport, peer_id: str) -> Muxer:
    link = node._connections.live(peer_id)
    assert link is not None
    return link.muxer


async def test_more_than_250_connections_in_a_lifetime(
    pair: nodes.Pair, hostile: nodes.Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Far fewer at once than come: what one took, the next must get.
    monkeypatch.setattr(connections, "LIMITS", replace(LIMITS, connections_max=40, pre_auth_max=8))
    one, two = pair
    for _ in range(320):
        muxer = await hostile.connect(two)
        await muxer.close()
    assert await hostile.is_served(await hostile.connect(two), nodes.LOBBY)
    assert two.counters()["connections_opened"] >= 320
    assert await nodes.ask(one, two.peer_id, b"alive") == b"alive"
    tasks = trio.lowlevel.current_statistics().tasks_living
    assert tasks < 400
