"""Our Yamux: frames, windows, time, and a hostile other end. No sockets; time is virtual."""

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
import trio.testing
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamReset,
)
from tests.node.network.mux_pipes import Pipe, pipes

from aigrid.node.network import yamux_frames as frames
from aigrid.node.network.muxed_stream import ConnectionLostError, MuxedStream
from aigrid.node.network.muxer import Muxer
from aigrid.node.network.yamux_state import StreamState
from aigrid.protocol.limits import LIMITS

Ends = tuple[Muxer, Muxer]


@pytest.fixture
async def ends(nursery: trio.Nursery) -> Ends:
    left, right = pipes()
    both = Muxer(left, "peer"), Muxer(right, "peer")
    for end in both:
        nursery.start_soon(end.start)
        await end.event_started.wait()
    return both


def writes_of(end: Muxer) -> list[bytes]:
    assert isinstance(end.secured_conn, Pipe)
    return end.secured_conn.writes


async def connected_streams(ends: Ends) -> tuple[MuxedStream, MuxedStream]:
    ours = await ends[0].open_stream()
    return ours, await ends[1].accept_stream()


async def test_slow_reader_keeps_its_stream(autojump_clock: object, ends: Ends) -> None:
    """T3: the library resets a stream whose window stays closed for 5 s."""
    for end in ends:
        end.window_bytes = LIMITS.mux_window_bytes
    ours, theirs = await connected_streams(ends)
    data = random.Random(1).randbytes(3 << 20)
    received = bytearray()

    async def write() -> None:
        await ours.write(data)
        await ours.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.sleep(60)
        with suppress(MuxedStreamEOF):
            while True:
                received += await theirs.read(100_000)
    assert bytes(received) == data


async def test_frames_fit_one_noise_message_and_updates_are_rare(
    autojump_clock: object, ends: Ends
) -> None:
    ours, theirs = await connected_streams(ends)
    with trio.move_on_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.write, bytes(4 << 20))
            for _ in range(4 << 10):
                await theirs.read(1024)
            nursery.cancel_scope.cancel()
    assert max(map(len, writes_of(ends[0]))) <= frames.NOISE_MESSAGE_MAX_BYTES
    assert len(writes_of(ends[1])) < 100


async def test_delivered_bytes_include_what_waited_and_no_read_finds_them(
    autojump_clock: object, ends: Ends
) -> None:
    ours, theirs = await connected_streams(ends)
    got: list[bytes] = []
    await ours.write(b"before ")
    await trio.sleep(1)
    theirs.deliver(got.append)
    total = 4 * frames.INITIAL_WINDOW_BYTES  # the window is given back without a read
    with trio.fail_after(5):
        await ours.write(bytes(total))
        await ours.close()
        with pytest.raises(MuxedStreamEOF):
            await theirs.read()
    assert b"".join(got) == b"before " + bytes(total)


async def test_sink_that_raises_costs_only_its_stream(autojump_clock: object, ends: Ends) -> None:
    ours, theirs = await connected_streams(ends)

    def burst(_data: bytes) -> None:
        raise RuntimeError

    theirs.deliver(burst)
    await ours.write(b"x")
    with trio.fail_after(5), pytest.raises(MuxedStreamReset):
        await ours.read()
    await connected_streams(ends)
    assert ends[1].dead is None


async def test_stream_opened_twice_before_anybody_looked_is_one(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    left, right = trio.testing.memory_stream_pair()
    victim = Muxer(Pipe(right, is_initiator=False), "peer")
    nursery.start_soon(victim.start)
    opening = frames.window_update(1, 0, frames.SYN)
    await left.send_all(
        opening
        + frames.window_update(1, 0, frames.RST)
        + opening
        + frames.data(1, memoryview(b"x"))
        + frames.window_update(3, 0, frames.SYN)
    )
    with trio.fail_after(5):
        assert await (await victim.accept_stream()).read() == b"x"
        assert (await victim.accept_stream()).stream_id == 3


async def test_no_stream_is_opened_while_the_frames_of_earlier_ones_do_not_leave(
    autojump_clock: object,
) -> None:
    stuck = Muxer(pipes()[0], "peer")  # not started
    for _ in range(LIMITS.mux_control_max_bytes // frames.HEADER_BYTES):
        if stuck.session.may_open:
            await (await stuck.open_stream()).reset()
    with pytest.raises(MuxedConnUnavailable):
        await stuck.open_stream()
    assert stuck.dead is None
    assert stuck.session.unsent_bytes < 2 * LIMITS.mux_control_max_bytes


async def test_room_says_what_may_be_written_at_once(autojump_clock: object, ends: Ends) -> None:
    ours, theirs = await connected_streams(ends)
    await trio.sleep(1)
    assert ours.room_bytes == frames.INITIAL_WINDOW_BYTES
    ours.write_now(bytes(1000))
    assert ours.room_bytes == frames.INITIAL_WINDOW_BYTES - 1000
    assert await theirs.read() == bytes(1000)
    await ours.close()
    assert ours.room_bytes == 0
    ends[1].die("gone")
    assert theirs.room_bytes == 0


async def test_window_bounds_what_an_idle_reader_holds(autojump_clock: object, ends: Ends) -> None:
    ours, theirs = await connected_streams(ends)
    with trio.move_on_after(1):
        await ours.write(bytes(8 << 20))
    assert theirs.unread_bytes == frames.INITIAL_WINDOW_BYTES


async def test_every_ending_is_told_apart(autojump_clock: object, ends: Ends) -> None:
    ours, theirs = await connected_streams(ends)
    await ours.write(b"x")
    await ours.close()
    assert await theirs.read() == b"x"
    with pytest.raises(MuxedStreamEOF):
        await theirs.read()
    with pytest.raises(MuxedStreamClosed):
        await ours.write(b"y")
    await theirs.write(b"after your end")
    assert await ours.read(100) == b"after your end"
    await theirs.close()
    with pytest.raises(MuxedStreamEOF):
        await ours.read()
    ours, theirs = await connected_streams(ends)
    await ours.reset()
    with pytest.raises(MuxedStreamReset):
        await theirs.read()
    ours, theirs = await connected_streams(ends)
    ends[0].die("cable cut")
    with pytest.raises(ConnectionLostError):
        await theirs.read()
    with pytest.raises(ConnectionLostError):
        await ours.write(b"z")
    with pytest.raises(MuxedConnUnavailable):
        await ends[0].open_stream()
    await trio.sleep(1)
    assert [len(end.streams) for end in ends] == [1, 1]  # the one whose ends are still held


async def test_reset_wakes_our_own_reader_and_writer(autojump_clock: object, ends: Ends) -> None:
    ours, _ = await connected_streams(ends)
    async with trio.open_nursery() as nursery:

        async def expect(operation: Callable[..., Awaitable[object]], *args: bytes) -> None:
            with pytest.raises(MuxedStreamReset):
                await operation(*args)

        nursery.start_soon(expect, ours.read)
        nursery.start_soon(expect, ours.write, bytes(8 << 20))
        await trio.sleep(1)
        await ours.reset()


async def test_silent_peer_is_noticed(autojump_clock: object, nursery: trio.Nursery) -> None:
    left, right = pipes()
    alone = Muxer(left, "peer")
    nursery.start_soon(alone.start)
    await trio.sleep(1)
    assert alone.is_established
    with trio.fail_after(40):
        await alone.event_closed.wait()
    assert right


@pytest.mark.parametrize(
    "violation",
    [
        frames.HEADER.pack(1, 0, 0, 1, 0),
        frames.HEADER.pack(0, 9, 0, 1, 0),
        frames.HEADER.pack(0, frames.DATA, frames.SYN, 1, (1 << 20) + 1),
        frames.HEADER.pack(0, frames.DATA, frames.SYN, 2, 0),  # not an id of the dialer
        frames.HEADER.pack(0, frames.DATA, frames.SYN, 0, 0),
        frames.window_update(1, 0, frames.SYN) * 2,
        frames.window_update(1, 0, frames.SYN)
        + frames.HEADER.pack(0, frames.DATA, 0, 1, 300_000)
        + bytes(300_000),  # beyond the window
        frames.ping(1, frames.SYN) * 10_000,  # never reading the answers
        b"".join(frames.window_update(i, 0, frames.SYN) for i in range(1, 20_001, 2)),
        frames.HEADER.pack(0, frames.DATA, 0x10, 1, 0),  # a flag that does not exist
        frames.window_update(99, 0, frames.RST) * 10_000,
        frames.HEADER.pack(0, frames.DATA, 0, 99, 0) * 10_000,
    ],
)
async def test_violation_ends_the_connection(
    autojump_clock: object, nursery: trio.Nursery, violation: bytes
) -> None:
    left, right = trio.testing.lockstep_stream_pair()
    victim = Muxer(Pipe(right, is_initiator=False), "peer")
    nursery.start_soon(victim.start)
    await victim.event_started.wait()
    with trio.fail_after(5):
        try:
            await left.send_all(violation)
        except trio.BrokenResourceError:
            pass
        await victim.event_closed.wait()
    assert victim.dead
    assert victim.dead.startswith("protocol violation: ")
    assert not victim.is_established


async def test_data_after_the_end_and_too_much_of_it_cost_only_their_stream(
    autojump_clock: object, ends: Ends
) -> None:
    hostile, victim = ends
    ours, theirs = await connected_streams(ends)
    await ours.close()
    hostile.session._outbox.data(frames.data(ours.stream_id, memoryview(b"more")))
    hostile.flush()
    await trio.sleep(1)
    with pytest.raises(MuxedStreamReset):
        await theirs.read()
    window = frames.INITIAL_WINDOW_BYTES
    held = []
    for _ in range(victim.session.memory_max_bytes // window + 8):
        stream, other = await connected_streams(ends)
        await stream.write(bytes(window))
        held.append(other)
    await trio.sleep(1)
    assert sum(stream.unread_bytes for stream in held) == victim.session.memory_max_bytes
    for stream in held[-8:]:
        with pytest.raises(MuxedStreamReset):
            await stream.read()
    assert len(await held[0].read()) == window
    assert victim.dead is None


async def test_cancelled_reads_and_writes_leave_other_streams_whole(
    autojump_clock: object, ends: Ends
) -> None:
    rng = random.Random(3)
    ours, theirs = await connected_streams(ends)
    sent = rng.randbytes(2 << 20)
    received = bytearray()

    async def read_all() -> None:
        with suppress(MuxedStreamEOF):
            while True:
                received.extend(await theirs.read(5000))

    async def disturb() -> None:
        for _ in range(200):
            one = await ends[0].open_stream()
            with trio.move_on_after(rng.uniform(0, 0.01)):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(one.write, bytes(400_000))
                    nursery.start_soon(one.read)
            await one.reset()
            other = await ends[1].accept_stream()
            await other.reset()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_all)
        nursery.start_soon(disturb)
        for start in range(0, len(sent), 50_000):
            await ours.write(sent[start : start + 50_000])
            await trio.sleep(0.01)
        await ours.close()
    assert bytes(received) == sent


async def test_peer_that_is_heard_may_answer_pings_late_and_one_that_is_silent_may_not(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    """On a slow link the answer stands in line behind data."""
    left, right = pipes()
    end = Muxer(left, "peer")
    nursery.start_soon(end.start)
    for _ in range(20):
        await trio.sleep(LIMITS.mux_ping_timeout_seconds / 2)
        await right.write(frames.ping(0xFFFF, frames.ACK))
        assert end.dead is None
    await trio.sleep(2 * (LIMITS.mux_ping_interval_seconds + LIMITS.mux_ping_timeout_seconds))
    assert end.dead == "no answer to a ping"


async def test_stream_of_an_id_that_is_held_still_has_an_owner(
    autojump_clock: object, ends: Ends
) -> None:
    hostile, victim = ends
    stale = victim.streams[1] = MuxedStream(StreamState(1, ours=False), victim)
    ours = await hostile.open_stream()
    await ours.write(b"x")
    with trio.fail_after(5):
        accepted = await victim.accept_stream()
        assert await accepted.read() == b"x"
    assert accepted is not stale


async def test_stream_that_is_over_does_not_take_the_next_of_its_id_along(ends: Ends) -> None:
    ours, _ = await connected_streams(ends)
    after = ends[0].streams[ours.stream_id] = MuxedStream(ours._state, ends[0])
    ends[0].forget(ours)
    assert ends[0].streams == {ours.stream_id: after}


@pytest.mark.parametrize("seed", range(20))
async def test_an_id_that_comes_again_never_mixes_what_two_streams_carry(
    autojump_clock: object, nursery: trio.Nursery, seed: int
) -> None:
    """However much of it arrives at once: each stream carries one letter, over and over."""
    rng = random.Random(seed)
    pipe, other = pipes()
    muxer = Muxer(other, "peer")
    nursery.start_soon(muxer.start)
    await muxer.event_started.wait()
    read: list[bytes] = []

    async def serve() -> None:
        while True:
            nursery.start_soon(take, await muxer.accept_stream())

    async def take(stream: MuxedStream) -> None:
        got = b""
        with suppress(MuxedStreamEOF, MuxedStreamReset, MuxedStreamClosed):
            while True:
                got += await stream.read(100)
        read.append(got)
        await stream.close()

    nursery.start_soon(serve)
    alive: dict[int, str] = {}
    for letter in range(200):
        said = b""
        for _ in range(rng.randrange(1, 8)):
            stream_id = rng.choice((1, 3, 5))
            if stream_id not in alive:
                alive[stream_id] = chr(33 + letter % 90)
                said += frames.window_update(stream_id, 0, frames.SYN)
            elif rng.random() < 0.3:
                del alive[stream_id]
                said += frames.window_update(stream_id, 0, frames.RST)
            else:
                said += frames.data(
                    stream_id, memoryview(alive[stream_id].encode() * rng.randrange(1, 50))
                )
        await pipe.write(said)
        if rng.random() < 0.3:
            await trio.sleep(0.01)
    await trio.sleep(1)
    assert muxer.dead is None
    assert len(read) > 20
    assert all(len(set(got)) <= 1 for got in read)
