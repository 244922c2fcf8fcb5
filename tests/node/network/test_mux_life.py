"""When a connection counts as dead: slow links and pauses of our own are none. Time is virtual."""

import math
import random
from contextlib import suppress

import trio
import trio.testing
from tests.node.network.mux_pipes import Pipe, pipes
from tests.node.network.test_mux_link import fused, secured

from aigrid.node.network import yamux_frames as frames
from aigrid.node.network.mux_link import Ahead, advance_within
from aigrid.node.network.muxed_stream import ConnectionLostError
from aigrid.node.network.muxer import READ_SECONDS, Muxer
from aigrid.protocol.limits import LIMITS, MIB

SLOW_BYTES_PER_SECOND = 20_000
FOUND_SECONDS = LIMITS.mux_ping_interval_seconds + 3 * (
    LIMITS.mux_ping_timeout_seconds + READ_SECONDS
)


class SlowPeer:
    """Takes what comes at its rate, and answers the pings in it; deaf after `most_bytes`."""

    def __init__(self, stream: trio.abc.Stream, most_bytes: float = math.inf) -> None:
        self._stream = stream
        self._most_bytes = most_bytes
        self._data = bytearray()
        self.taken_bytes = 0

    async def run(self) -> None:
        while self.taken_bytes < self._most_bytes:
            piece = await self._stream.receive_some(4000)
            if not piece:
                return
            await trio.sleep(len(piece) / SLOW_BYTES_PER_SECOND)
            self.taken_bytes += len(piece)
            self._data += piece
            for value in self._pings():
                await self._stream.send_all(frames.ping(value, frames.ACK))
        await trio.sleep_forever()

    def _pings(self) -> list[int]:
        values: list[int] = []
        header = frames.HEADER_BYTES
        while len(self._data) >= header:
            _, kind, _, _, length = frames.HEADER.unpack_from(self._data)
            size = header + (length if kind == frames.DATA else 0)
            if len(self._data) < size:
                break
            del self._data[:size]
            if kind == frames.PING:
                values.append(length)
        return values


async def busy(nursery: trio.Nursery, most_bytes: float = math.inf) -> tuple[Muxer, SlowPeer]:
    """A muxer with much to send to a slow peer."""
    left, right = trio.testing.lockstep_stream_pair()
    end, peer = Muxer(Pipe(left, is_initiator=True), "peer"), SlowPeer(right, most_bytes)
    nursery.start_soon(end.start)
    await end.event_started.wait()
    stream = await end.open_stream()
    end.session.receive(frames.window_update(stream.stream_id, 1 << 30), 0.0)

    async def write() -> None:
        with suppress(ConnectionLostError):
            await stream.write(bytes(64 * MIB))

    nursery.start_soon(write)
    nursery.start_soon(peer.run)
    return end, peer


async def test_peer_on_a_slow_link_is_alive_as_long_as_it_takes_something(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    end, peer = await busy(nursery)
    await trio.sleep(600)
    assert end.dead is None
    assert peer.taken_bytes > 500 * SLOW_BYTES_PER_SECOND
    nursery.cancel_scope.cancel()


async def test_peer_that_stops_taking_is_found_in_bounded_time(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    end, peer = await busy(nursery, most_bytes=MIB)
    while peer.taken_bytes < MIB:
        await trio.sleep(1)
        assert end.dead is None
    with trio.fail_after(FOUND_SECONDS):
        await end.event_closed.wait()
    nursery.cancel_scope.cancel()


def test_ping_is_under_way_while_what_stood_before_it_moves() -> None:
    ahead = Ahead(1000, 300)
    assert ahead.moves(1100)
    assert not ahead.moves(1100)
    ahead = Ahead(1000, 300)
    assert ahead.moves(1299)
    assert ahead.moves(1300)  # just taken: the answer has its time
    assert not ahead.moves(5000)  # the system of a peer that has stopped takes more


class Link:
    """A link in virtual time, for `Muxer` and `advance_within`."""

    sends_at_once = True
    is_full = False
    backlog_bytes = 0

    def __init__(self) -> None:
        self.taken_bytes = 0
        self.pinged = trio.Event()
        self.value = 0

    def send(self, messages: list[bytes]) -> None:
        for message in messages:
            _, kind, _, _, value = frames.HEADER.unpack_from(message)
            if kind == frames.PING:
                self.value = value
                self.pinged.set()

    async def advance(self) -> None:
        await trio.sleep_forever()

    async def receive(self) -> list[bytes]:
        """The answer to each ping, at the moment its time is up."""
        await self.pinged.wait()
        self.pinged = trio.Event()
        await trio.sleep(LIMITS.mux_ping_timeout_seconds)
        return [frames.ping(self.value, frames.ACK)]


async def test_what_has_come_is_read_before_a_peer_is_judged(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    """After a pause of our own, the time is up and the answer there at once, in either order."""
    end = Muxer(pipes()[0], "peer", Link())
    nursery.start_soon(end.start)
    await trio.sleep(20 * (LIMITS.mux_ping_interval_seconds + LIMITS.mux_ping_timeout_seconds))
    assert end.dead is None
    nursery.cancel_scope.cancel()


async def test_socket_that_is_not_writable_yet_but_empties_is_waited_for(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    link, began = Link(), trio.current_time()

    async def empty() -> None:
        for _ in range(20):
            await trio.sleep(7)
            link.taken_bytes += 100

    nursery.start_soon(empty)
    assert not await advance_within(link, 10)
    assert 140 < trio.current_time() - began <= 160


async def test_what_the_system_of_the_peer_has_not_taken_is_known(nursery: trio.Nursery) -> None:
    end, other = await secured()
    link, tcp = fused(end), fused(other)._tcp
    sent_bytes = 0
    while not link.is_full:
        link.send([random.Random(1).randbytes(60_000)])
        sent_bytes += 60_000 + 18
    pending = len(link._pending)
    assert link.taken_bytes + link.backlog_bytes == sent_bytes
    assert link.backlog_bytes > pending
    taken_bytes = link.taken_bytes
    read_bytes = 0
    with trio.fail_after(30):
        while link.taken_bytes <= taken_bytes:
            read_bytes += len(await tcp.receive_some())
        assert len(link._pending) == pending  # though nothing of ours was handed on
        nursery.start_soon(link.advance)
        while read_bytes < sent_bytes - pending:
            read_bytes += len(await tcp.receive_some())
