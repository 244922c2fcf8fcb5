"""Frames of an RPC stream that are very small and very many: others have their turns, none is lost."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from libp2p.stream_muxer.exceptions import MuxedStreamEOF
from tests.node.network.mux_pipes import pipes
from trio.testing import MockClock

from aigrid.node.network.libp2p_stream import Libp2pStream
from aigrid.node.network.muxed_stream import MuxedStream
from aigrid.node.network.muxer import Muxer
from aigrid.node.network.stream_client import ClientStream
from aigrid.node.network.streams import RpcServer, Send
from aigrid.protocol.framing import Frame, FrameDecoder, FrameKind, encode
from aigrid.protocol.limits import LIMITS

STREAMS = 4
PARTS = 40_000
IN_ONE_TURN = 256  # of each stream: what is delivered at once, and what the reader takes


class Turns(trio.abc.Instrument):
    """How many frames were taken in, at most, between two steps of the scheduler."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = self._now = 0
        feed = FrameDecoder.feed

        def counted(decoder: FrameDecoder, data: bytes, *most: int) -> list[Frame]:
            frames = feed(decoder, data, *most)
            self._now += len(frames)
            self.most = max(self.most, self._now)
            return frames

        monkeypatch.setattr(FrameDecoder, "feed", counted)

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        self._now = 0


@pytest.fixture
async def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    instrument = Turns(monkeypatch)
    trio.lowlevel.add_instrument(instrument)
    return instrument


@asynccontextmanager
async def two_ends() -> AsyncIterator[tuple[Muxer, Muxer, trio.Nursery]]:
    left, right = (Muxer(end, "peer") for end in pipes())
    async with trio.open_nursery() as nursery:
        for end in (left, right):
            end.window_bytes = LIMITS.mux_window_bytes
            nursery.start_soon(end.start)
            await end.event_started.wait()
        with trio.fail_after(60):
            yield left, right, nursery
        nursery.cancel_scope.cancel()


async def whole(stream: MuxedStream, size: int) -> bytes:
    got = b""
    while len(got) < size:
        got += await stream.read()
    return got


async def test_a_request_in_parts_of_a_byte_is_taken_in_turns(
    autojump_clock: MockClock, turns: Turns
) -> None:
    async def echo(_peer_id: str, request: bytes, send: Send) -> None:
        await send(request)

    server = RpcServer(echo, limits=replace(LIMITS, request_part_least_bytes=1))
    request = random.Random(1).randbytes(PARTS)
    small = b"".join(encode(FrameKind.REQUEST_PART, request[at : at + 1]) for at in range(PARTS))
    said = small + encode(FrameKind.REQUEST)
    due = encode(FrameKind.DATA, request) + encode(FrameKind.END)
    answered = []

    async def ask(client: Muxer) -> None:
        stream = await client.open_stream()
        await stream.write(said)
        got = b""
        while not got.endswith(due):  # what comes before are credits
            got += await stream.read()
        answered.append(got)

    async with two_ends() as (client, node, nursery):
        async with trio.open_nursery() as asking:
            for _ in range(STREAMS):
                asking.start_soon(ask, client)
                raw = await node.accept_stream()
                nursery.start_soon(server.serve, Libp2pStream(raw, "peer"))
    assert len(answered) == STREAMS
    assert 0 < turns.most <= STREAMS * IN_ONE_TURN


async def test_an_answer_in_bodies_of_a_byte_is_taken_in_turns(
    autojump_clock: MockClock, turns: Turns
) -> None:
    answer = random.Random(2).randbytes(PARTS)
    said = b"".join(encode(FrameKind.DATA, answer[at : at + 1]) for at in range(PARTS))
    asked = encode(FrameKind.REQUEST, b"?")
    got: list[bytes] = []

    async def ask(raw: MuxedStream, nursery: trio.Nursery) -> None:
        stream = ClientStream(Libp2pStream(raw, "peer"), LIMITS, lambda _stream: None)
        nursery.start_soon(stream.run)
        stream.start(b"?")
        bodies = []
        while (body := await stream.receive(5.0)) is not None:
            bodies.append(body)
        got.append(b"".join(bodies))

    async with two_ends() as (client, node, nursery):
        async with trio.open_nursery() as asking:
            for _ in range(STREAMS):
                asking.start_soon(ask, await client.open_stream(), nursery)
                raw = await node.accept_stream()
                assert await whole(raw, len(asked)) == asked
                asking.start_soon(raw.write, said + encode(FrameKind.END))
    assert got == [answer] * STREAMS
    assert 0 < turns.most <= STREAMS * IN_ONE_TURN


async def test_what_a_sink_gives_back_comes_first_and_counts_as_unread(
    autojump_clock: MockClock,
) -> None:
    async with two_ends() as (client, node, _):
        ours = await client.open_stream()
        theirs = await node.accept_stream()
        taken: list[bytes] = []

        def picky(data: bytes) -> bytes:
            taken.append(data[:3])
            return data[3:]

        theirs.deliver(picky)
        await ours.write(b"abcdef")
        await trio.sleep(1)
        await ours.write(b"ghi")
        await trio.sleep(1)
        assert taken == [b"abc"]
        assert theirs.unread_bytes == len(b"defghi") == node.session.unread_bytes
        assert await theirs.read(2) == b"de"
        theirs.deliver(picky)
        assert taken == [b"abc", b"fgh"]
        await ours.close()
        assert await theirs.read() == b"i"
        with pytest.raises(MuxedStreamEOF):
            await theirs.read()
        assert node.session.unread_bytes == 0
