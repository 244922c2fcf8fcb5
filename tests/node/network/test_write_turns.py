"""Many streams with much to write share a full link, and nobody's turn is lost."""

from collections import Counter

import pytest
import trio
import trio.testing
from tests.node.network.mux_pipes import Pipe

from aigrid.node.network import yamux_frames as frames
from aigrid.node.network.muxed_stream import MuxedStream
from aigrid.node.network.muxer import TURN_BYTES, Muxer
from aigrid.node.network.write_turns import WriteTurns
from aigrid.protocol.limits import LIMITS, MIB

WRITERS = 8


class Reader:
    """The other end of a link: takes what it is told to, and counts payload by stream."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._data = bytearray()
        self.got: Counter[int] = Counter()

    async def take(self, count: int) -> None:
        taken = 0
        while taken < count:
            piece = await self._stream.receive_some(16384)
            taken += len(piece)
            self._data += piece
            self._count()

    def _count(self) -> None:
        header = frames.HEADER_BYTES
        while len(self._data) >= header:
            _, kind, _, stream_id, length = frames.HEADER.unpack_from(self._data)
            body = length if kind == frames.DATA else 0
            if len(self._data) < header + body:
                return
            self.got[stream_id] += body
            del self._data[: header + body]


@pytest.fixture
async def link(nursery: trio.Nursery) -> tuple[Muxer, Reader]:
    """A muxer whose link takes what its other end reads, and no byte more."""
    left, right = trio.testing.lockstep_stream_pair()
    end = Muxer(Pipe(left, is_initiator=True), "peer")
    nursery.start_soon(end.start)
    await end.event_started.wait()
    return end, Reader(right)


async def opened(end: Muxer) -> MuxedStream:
    """A stream whose window never closes."""
    stream = await end.open_stream()
    end.session.receive(frames.window_update(stream.stream_id, 1 << 30), 0.0)
    return stream


@pytest.mark.parametrize("size", [256 * 1024, 1000], ids=["large writes", "small writes"])
async def test_writers_of_a_full_link_get_their_share(
    autojump_clock: object, nursery: trio.Nursery, link: tuple[Muxer, Reader], size: int
) -> None:
    end, reader = link

    async def write(stream: MuxedStream) -> None:
        while True:
            await stream.write(bytes(size))

    for _ in range(WRITERS):
        nursery.start_soon(write, await opened(end))
    await reader.take(4 * MIB)
    counts = [reader.got[2 * n + 1] for n in range(WRITERS)]
    # The first to come filled the empty link.
    assert max(counts) - min(counts) <= 8 * TURN_BYTES + 4 * MIB // WRITERS // 4
    assert min(counts) > 4 * MIB // WRITERS // 2


async def test_who_comes_late_with_little_waits_one_round(
    autojump_clock: object, nursery: trio.Nursery, link: tuple[Muxer, Reader]
) -> None:
    end, reader = link
    for _ in range(WRITERS):
        nursery.start_soon((await opened(end)).write, bytes(16 * MIB))
    await reader.take(2 * MIB)
    late = await opened(end)
    nursery.start_soon(late.write, b"late")
    assert late.room_bytes == 0  # nor past the others by `write_now`
    await trio.sleep(1)
    round_bytes = WRITERS * TURN_BYTES + 2 * LIMITS.mux_unsent_bytes  # with what is queued
    await reader.take(round_bytes + 2 * TURN_BYTES)
    assert reader.got[late.stream_id] == 4


async def test_turns_of_those_who_leave_the_line_are_passed_on(
    autojump_clock: object, nursery: trio.Nursery, link: tuple[Muxer, Reader]
) -> None:
    end, reader = link
    nursery.start_soon((await opened(end)).write, bytes(LIMITS.mux_unsent_bytes * 2))
    leaving = [await opened(end) for _ in range(64)]  # more than a link that empties wakes
    leave = trio.Event()

    async def cancelled(stream: MuxedStream) -> None:
        async with trio.open_nursery() as writing:
            writing.start_soon(stream.write, bytes(MIB))
            await leave.wait()
            writing.cancel_scope.cancel()

    async def broken(stream: MuxedStream) -> None:
        with pytest.raises(Exception, match="reset"):
            await stream.write(bytes(MIB))

    await trio.sleep(1)
    for n, stream in enumerate(leaving):
        nursery.start_soon(cancelled if n % 8 == 0 else broken, stream)
    await trio.sleep(1)
    last = await opened(end)
    nursery.start_soon(last.write, b"last")
    await trio.sleep(1)
    leave.set()
    await trio.sleep(1)
    for stream in leaving:
        await stream.reset()
    await reader.take(LIMITS.mux_unsent_bytes * 2 + 4)
    assert reader.got[last.stream_id] == 4


async def test_turn_granted_to_one_that_is_cancelled_in_the_same_moment_is_the_next_ones(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    turns = WriteTurns(lambda granted: granted == 0)
    had: list[int] = []
    scopes = [trio.CancelScope() for _ in range(4)]

    async def wait(number: int) -> None:
        with scopes[number]:
            await turns.wait()
            had.append(number)

    for number in range(4):
        nursery.start_soon(wait, number)
        await trio.testing.wait_all_tasks_blocked()
    scopes[2].cancel()
    await trio.testing.wait_all_tasks_blocked()
    scopes[0].cancel()
    turns.grant()
    await trio.testing.wait_all_tasks_blocked()
    assert had == [1]
    turns.grant()
    await trio.testing.wait_all_tasks_blocked()
    assert had == [1, 3]
    assert turns.is_free


async def test_all_are_woken_at_the_end(autojump_clock: object, nursery: trio.Nursery) -> None:
    turns = WriteTurns(lambda _granted: False)
    with trio.fail_after(5):
        async with trio.open_nursery() as waiting:
            for _ in range(3):
                waiting.start_soon(turns.wait)
            await trio.testing.wait_all_tasks_blocked()
            turns.end()
        await turns.wait()
    assert turns.is_free
