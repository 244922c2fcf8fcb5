"""The muxer over real sockets: fused with the socket, through the library, and one of each."""

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL_ID
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.exceptions import MuxedStreamEOF
from tests.node.network import nodes
from tests.patience import PATIENCE_SECONDS

from aigrid.node.network import compat, muxer, negotiation
from aigrid.node.network import yamux_frames as frames
from aigrid.node.network.mux_link import FusedLink, PlainLink
from aigrid.node.network.muxed_stream import ConnectionLostError, MuxedStream
from aigrid.node.network.muxer import Muxer
from aigrid.node.network.tcp import TcpStream, Traffic
from aigrid.protocol.limits import LIMITS, MIB

Ends = tuple[Muxer, Muxer]


async def sockets() -> tuple[TcpStream, TcpStream]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    client = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
    server = await listener.accept()
    await listener.aclose()
    return TcpStream(client, Traffic()), TcpStream(server, Traffic())


async def secured() -> Ends:
    """Muxers that are not started, the dialer's first."""
    dialing, listening = await sockets()
    one, two = (compat.build(nodes.new_seed(), lambda: ()) for _ in range(2))
    ends: list[Muxer] = []

    async def secure(tcp: TcpStream, library: compat.Library, expected: object) -> None:
        ends.append(await compat.secure(tcp, library.noise, expected))

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(secure, dialing, one, two.peer_id)
            nursery.start_soon(secure, listening, two, None)
    ends.sort(key=lambda end: not end.is_initiator)
    return ends[0], ends[1]


def fused(end: Muxer) -> FusedLink:
    assert isinstance(end._link, FusedLink)
    return end._link


def through_the_library(end: Muxer) -> Muxer:
    return Muxer(end.secured_conn, end.peer_id)


def as_is(end: Muxer) -> Muxer:
    return end


@pytest.fixture(
    params=[
        (as_is, as_is),
        (as_is, through_the_library),
        (through_the_library, as_is),
    ],
    ids=["fused", "fused to library", "library to fused"],
)
async def ends(request: pytest.FixtureRequest, nursery: trio.Nursery) -> Ends:
    one, two = (change(end) for change, end in zip(request.param, await secured(), strict=True))
    for end in (one, two):
        nursery.start_soon(end.start)
        await end.event_started.wait()
    return one, two


async def read_all(stream: MuxedStream, most: int = 1 << 20) -> bytes:
    received = bytearray()
    with suppress(MuxedStreamEOF):
        while True:
            received += await stream.read(most)
    return bytes(received)


async def test_bytes_arrive_in_both_directions_at_once(ends: Ends) -> None:
    data = [random.Random(n).randbytes(3 * MIB + n) for n in range(2)]
    got = [b"", b""]
    ours = await ends[0].open_stream()
    pair = ours, await ends[1].accept_stream()

    async def write(here: int) -> None:
        for start in range(0, len(data[here]), 100_000):
            await pair[here].write(data[here][start : start + 100_000])
        await pair[here].close()

    async def read(here: int) -> None:
        got[here] = await read_all(pair[here], 70_000)

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            for here in range(2):
                nursery.start_soon(write, here)
                nursery.start_soon(read, here)
    assert got == data[::-1]


async def test_late_reset_of_a_stream_does_not_end_the_next_of_its_id(ends: Ends) -> None:
    dialer, listener = ends

    async def opened(number: int) -> MuxedStream:
        said = memoryview(b"%d" % number)
        dialer.session._outbox.control(frames.window_update(1, 0, frames.SYN))
        dialer.session._outbox.data(frames.data(1, said))
        dialer.session._outbox.control(frames.window_update(1, 0, frames.FIN))
        dialer.flush()
        stream = await listener.accept_stream()
        assert await read_all(stream) == said
        return stream

    with trio.fail_after(PATIENCE_SECONDS):
        dialer.session.open()
        sent = dialer.session.next_message()
        assert len(sent) == frames.HEADER_BYTES  # said below, each time
        first = await opened(1)
        await first.close()
        second = await opened(2)
        await first.reset()
        assert listener.session.streams == {1: second._state}
        assert listener.streams == {1: second}
        await second.write(b"alive")
        assert listener.dead is None


async def test_many_streams_at_once(ends: Ends) -> None:
    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(300):
                nursery.start_soon(answer, await ends[1].accept_stream())

    async def answer(stream: MuxedStream) -> None:
        await stream.write(await read_all(stream))
        await stream.close()

    async def ask(number: int) -> None:
        stream = await ends[0].open_stream()
        await stream.write(bytes([number % 256]) * number)
        await stream.close()
        assert await read_all(stream) == bytes([number % 256]) * number
        answered.append(number)

    answered: list[int] = []
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            for first in range(0, 300, 100):
                async with trio.open_nursery() as some:
                    for number in range(first, first + 100):
                        some.start_soon(ask, number)
    assert sorted(answered) == list(range(300))


async def test_cancelled_writes_and_reads_tear_nothing(ends: Ends) -> None:
    """T2, with a socket that is full most of the time."""
    rng = random.Random(5)
    steady = await ends[0].open_stream()
    other = await ends[1].accept_stream()
    data = rng.randbytes(2 * MIB)
    disturbed = trio.Event()

    async def disturb() -> None:
        for _ in range(60):
            stream = await ends[0].open_stream()
            with trio.move_on_after(rng.uniform(0, 0.003)):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.write, bytes(400_000))
                    nursery.start_soon(stream.read)
            await stream.reset()
        disturbed.set()

    async def accept() -> None:
        """Not one for each that was opened: what is reset in the same read is never seen."""
        while True:
            await ends[1].accept_stream()

    async def write() -> None:
        for start in range(0, len(data), 30_000):
            await steady.write(data[start : start + 30_000])
        await steady.close()

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disturb)
            nursery.start_soon(accept)
            nursery.start_soon(write)
            assert await read_all(other, 10_000) == data
            await disturbed.wait()
            nursery.cancel_scope.cancel()
    assert [end.dead for end in ends] == [None, None]


async def test_frames_sent_along_with_the_handshake_are_not_lost(nursery: trio.Nursery) -> None:
    """Some in the Noise message of the negotiation, some in the next ones of the same segment."""
    dialing, listening = await sockets()
    one, two = (compat.build(nodes.new_seed(), lambda: ()) for _ in range(2))
    ends = []

    async def listen() -> None:
        ends.append(await compat.secure(listening, two.noise, None))

    async def dial() -> None:
        await negotiation.select(dialing, str(NOISE_PROTOCOL_ID))
        session = await one.noise.secure_outbound(RawConnection(dialing, True), two.peer_id)
        lines = negotiation.encode_line(negotiation.HEADER)
        lines += negotiation.encode_line(frames.PROTOCOL_ID)
        whole = frames.window_update(1, 0, frames.SYN) + frames.data(1, memoryview(b"early "))
        rest = frames.data(1, memoryview(b"and late")) + frames.window_update(1, 0, frames.FIN)
        packets = b""
        for message in (lines + whole + rest[:5], rest[5:9], rest[9:]):
            packets += session.conn.read_writer.encode_msg(session.conn.encrypt(message))
        await dialing.write(packets)

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as both:
            both.start_soon(listen)
            both.start_soon(dial)
        (end,) = ends
        fused(end)
        nursery.start_soon(end.start)
        assert await read_all(await end.accept_stream()) == b"early and late"


async def test_anything_but_noise_over_our_tcp_goes_through_the_library() -> None:
    end, other = await secured()
    fused(end)
    session: Any = end.secured_conn
    assert compat.fuse(session) is not None
    raw = session.conn.read_writer.read_write_closer
    tcp, raw.stream = raw.stream, object()
    assert compat.fuse(session) is None
    raw.stream = tcp

    class Changed(SecureSession):  # type: ignore[misc]  # the library is untyped
        pass

    session.__class__ = Changed
    assert compat.fuse(session) is None
    assert isinstance(Muxer(session, end.peer_id)._link, PlainLink)
    for one in (end, other):
        await one.close()


async def test_write_leaves_at_once() -> None:
    end, other = await secured()
    stream = await end.open_stream()
    await trio.testing.wait_all_tasks_blocked()  # the pass in which it was opened is over
    before = fused(end)._tcp._traffic.sent
    await stream.write(b"x" * 1024)
    # One Noise message of one frame, with no task having run in between
    assert fused(end)._tcp._traffic.sent - before == 2 + 16 + frames.HEADER_BYTES + 1024
    for one in (end, other):
        await one.close()


async def test_flood_of_small_frames_or_messages_leaves_others_their_turns(
    nursery: trio.Nursery,
) -> None:
    end, other = await secured()
    nursery.start_soon(end.start)
    stream = await other.open_stream()
    await end.accept_stream()
    session: Any = other.secured_conn
    small = frames.data(stream.stream_id, memoryview(b"x"))
    sealed = [session.conn.encrypt(plain) for plain in [small] * 3000 + [small * 5000]]
    packets = b"".join(len(one).to_bytes(2, "big") + one for one in sealed)
    with trio.fail_after(PATIENCE_SECONDS):
        await fused(other)._tcp.write(packets)
    turns = 0
    state = end.session.streams[stream.stream_id]
    with trio.fail_after(PATIENCE_SECONDS):
        while state.unread_bytes < 8000:
            await trio.lowlevel.checkpoint()
            turns += 1
    assert turns > 60  # in a few reads of the socket


async def test_socket_that_is_full_at_the_end_of_a_pass_is_written_to_again(
    nursery: trio.Nursery,
) -> None:
    end, other = await secured()
    nursery.start_soon(end.start)
    stream, link = await end.open_stream(), fused(end)
    end.session.receive(frames.window_update(stream.stream_id, 1 << 30), 0.0)
    while not link.is_full:
        await stream.write(b"at once")
        await stream.write(bytes(12_000))  # with the pass
        await trio.lowlevel.checkpoint()

    async def read() -> None:
        while True:
            await fused(other)._tcp.receive_some()

    nursery.start_soon(read)
    await nodes.eventually(lambda: not link.is_full)


async def test_peer_that_reads_nothing_holds_a_bounded_amount_and_is_let_go(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muxer, "LIMITS", replace(LIMITS, mux_write_seconds=0.2))
    end, _deaf = await secured()
    nursery.start_soon(end.start)
    streams = [await end.open_stream() for _ in range(64)]
    for stream in streams:  # as if the peer allowed as much as it can
        end.session.receive(frames.window_update(stream.stream_id, 1 << 30), 0.0)
    for stream in streams:
        nursery.start_soon(expect_lost, stream.write, bytes(MIB))
    await nodes.eventually(lambda: not end.room_bytes)
    one_write = 4 * frames.NOISE_MESSAGE_MAX_BYTES
    assert end.session.unsent_bytes < LIMITS.mux_unsent_bytes + one_write
    assert len(fused(end)._pending) <= one_write + 100
    with trio.fail_after(PATIENCE_SECONDS):
        await end.event_closed.wait()
    assert end.dead == "peer stopped reading"


async def expect_lost(write: Callable[[bytes], Awaitable[None]], data: bytes) -> None:
    with pytest.raises(ConnectionLostError):
        await write(data)


@pytest.mark.parametrize("how", ["cut", "garbage", "empty message"])
async def test_what_is_no_noise_ends_the_connection(nursery: trio.Nursery, how: str) -> None:
    end, other = await secured()
    nursery.start_soon(end.start)
    tcp = fused(other)._tcp
    await tcp.write(
        {"cut": b"\x00\x20half", "garbage": b"\x00\x20" + bytes(32), "empty message": b"\0\0"}[how]
    )
    if how == "cut":
        tcp.abort()
    with trio.fail_after(PATIENCE_SECONDS):
        await end.event_closed.wait()
    assert end.dead is not None
    assert end.dead.startswith("connection lost")
