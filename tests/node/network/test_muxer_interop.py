"""Our Yamux and the library's own, one at each end."""

import random
from contextlib import suppress
from typing import Any

import pytest
import trio
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import Yamux
from tests.node.network.mux_pipes import pipes
from tests.patience import PATIENCE_SECONDS

from aigrid.node.network.muxer import Muxer


async def test_bulk_and_many_streams_with_the_library_yamux(nursery: trio.Nursery) -> None:
    left, right = pipes()
    ours, theirs = Muxer(left, "peer"), Yamux(right, "peer")
    data = random.Random(6).randbytes(2 << 20)

    async def echo(stream: Any) -> None:
        while True:
            try:
                await stream.write(await stream.read(1 << 16))
            except MuxedStreamEOF:
                await stream.close()
                return

    async def serve() -> None:
        while True:
            nursery.start_soon(echo, await theirs.accept_stream())

    async def ask(request: bytes) -> None:
        stream = await ours.open_stream()
        answer = bytearray()

        async def write() -> None:
            await stream.write(request)
            await stream.close()

        async with trio.open_nursery() as both:
            both.start_soon(write)
            with suppress(MuxedStreamEOF):
                while True:
                    answer += await stream.read(100_000)
        assert bytes(answer) == request
        answered.append(len(request))

    answered: list[int] = []
    nursery.start_soon(ours.start)
    nursery.start_soon(theirs.start)
    await ours.event_started.wait()
    await theirs.event_started.wait()
    nursery.start_soon(serve)
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as asking:
            asking.start_soon(ask, data)
            for size in range(60):
                asking.start_soon(ask, data[:size])
        for size in range(300):
            await ask(data[:size])
    assert len(answered) == 361
    nursery.cancel_scope.cancel()


async def test_speaks_with_the_library_yamux(nursery: trio.Nursery) -> None:
    left, right = pipes()
    ours, theirs = Muxer(left, "peer"), Yamux(right, "peer")

    async def echo() -> None:
        while True:
            stream = await theirs.accept_stream()
            await stream.write(await stream.read(1 << 20))
            await stream.close()

    nursery.start_soon(ours.start)
    nursery.start_soon(theirs.start)
    await ours.event_started.wait()
    await theirs.event_started.wait()
    nursery.start_soon(echo)
    with trio.fail_after(5):
        stream = await ours.open_stream()
        await stream.write(b"hello")
        assert await stream.read() == b"hello"
        with pytest.raises(MuxedStreamEOF):
            await stream.read()
        await stream.close()
        back = await theirs.open_stream()
        await back.write(b"other way")
        accepted = await ours.accept_stream()
        assert await accepted.read() == b"other way"
        await back.reset()
        with pytest.raises(MuxedStreamReset):
            await accepted.read()
    nursery.cancel_scope.cancel()
