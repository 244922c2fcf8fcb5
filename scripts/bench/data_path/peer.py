"""What a column has to be able to do, and all of it over any stream of bytes.

Over bytes a request is a frame: four bytes of length, one that says what it is, the rest. An echo
is answered by its body; a write by one empty frame once so many bytes have come that follow it
bare; tokens come a frame and a write each. Nothing is batched here: what lies below may do that.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import trio
from scripts.bench.data_path.figures import ECHO, TOKENS, WRITE, token

READ_BYTES = 1 << 18
Ask = Callable[[bytes], Awaitable[bytes]]


class ByteStream(Protocol):
    """The part of `transport.Stream` that is used."""

    async def send_all(self, data: bytes) -> None: ...
    async def receive_some(self, max_bytes: int) -> bytes: ...
    async def close(self) -> None: ...


class Peer(Protocol):
    """The calling end of one column."""

    async def connect(self) -> None: ...

    async def disconnect(self) -> None: ...

    def asking(self) -> AbstractAsyncContextManager[Ask]:
        """Echo requests, one after the other, on a stream that stays."""

    async def ask_fresh(self, body: bytes) -> bytes | None:
        """One echo on a stream of its own; None where no such thing is done."""

    async def write(self, write_bytes: int, total_bytes: int) -> None:
        """Move so much in writes of that size; returns when all has arrived."""

    def tokens(
        self, count: int, interval_ms: int
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """So many tokens from the other side, as fast as they go where the interval is 0."""


def request(kind: bytes, *numbers: int) -> bytes:
    return kind + b"".join(number.to_bytes(8, "big") for number in numbers)


def numbers(asked: bytes) -> tuple[int, int]:
    """The two that follow the kind."""
    return int.from_bytes(asked[1:9], "big"), int.from_bytes(asked[9:17], "big")


async def timed_tokens(count: int, interval_ms: int) -> AsyncIterator[bytes]:
    """Made when they are due; without an interval, as fast as they are taken."""
    begun = trio.current_time()
    for number in range(count):
        if interval_ms:
            await trio.sleep_until(begun + number * interval_ms / 1000)
        yield token()


class Frames:
    """Whole frames from and to a stream."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._unread = bytearray()

    async def send(self, body: bytes) -> None:
        await self._stream.send_all(len(body).to_bytes(4, "big") + body)

    async def receive(self) -> bytes | None:
        """None at the end of the stream."""
        unread = self._unread
        while len(unread) < 4 or len(unread) < 4 + int.from_bytes(unread[:4], "big"):
            data = await self._stream.receive_some(READ_BYTES)
            if not data:
                return None
            unread += data
        end = 4 + int.from_bytes(unread[:4], "big")
        body = bytes(unread[4:end])
        del unread[:end]
        return body

    async def drain(self, total: int) -> None:
        """Read so many bytes that are no frames, and throw them away."""
        here = min(total, len(self._unread))
        del self._unread[:here]
        left = total - here
        while left > 0:
            data = await self._stream.receive_some(min(left, READ_BYTES))
            if not data:
                raise EOFError
            left -= len(data)


async def serve_bytes(stream: ByteStream) -> None:
    """The answering end over a stream of bytes."""
    frames = Frames(stream)
    while (asked := await frames.receive()) is not None:
        kind = asked[:1]
        if kind == ECHO:
            await frames.send(asked[1:])
        elif kind == WRITE:
            await frames.drain(numbers(asked)[0])
            await frames.send(b"")
        elif kind == TOKENS:
            async for made in timed_tokens(*numbers(asked)):
                await frames.send(made)
    await stream.close()


class BytesPeer:
    """A `Peer` over whatever opens streams of bytes."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[None]],
        disconnect: Callable[[], Awaitable[None]],
        open_stream: Callable[[], Awaitable[ByteStream]],
    ) -> None:
        self._connect = connect
        self._disconnect = disconnect
        self._open = open_stream

    async def connect(self) -> None:
        await self._connect()

    async def disconnect(self) -> None:
        await self._disconnect()

    @asynccontextmanager
    async def _frames(self) -> AsyncIterator[tuple[ByteStream, Frames]]:
        stream = await self._open()
        try:
            yield stream, Frames(stream)
        finally:
            await stream.close()

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[Ask]:
        async with self._frames() as (_, frames):

            async def ask(body: bytes) -> bytes:
                await frames.send(ECHO + body)
                return await frames.receive() or b""

            yield ask

    async def ask_fresh(self, body: bytes) -> bytes | None:
        async with self.asking() as ask:
            return await ask(body)

    async def write(self, write_bytes: int, total_bytes: int) -> None:
        piece = bytes(write_bytes)
        async with self._frames() as (stream, frames):
            await frames.send(request(WRITE, total_bytes))
            for _ in range(total_bytes // write_bytes):
                await stream.send_all(piece)
            if await frames.receive() is None:
                raise EOFError

    @asynccontextmanager
    async def tokens(self, count: int, interval_ms: int) -> AsyncIterator[AsyncIterator[bytes]]:
        async with self._frames() as (_, frames):
            await frames.send(request(TOKENS, count, interval_ms))
            yield _so_many(frames, count)


async def _so_many(frames: Frames, count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        made = await frames.receive()
        if made is None:
            raise EOFError
        yield made
