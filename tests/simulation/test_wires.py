"""TCP in memory: what is written arrives in order, and what a dead or distant peer does to it."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from libp2p.io.exceptions import ConnectionClosedError
from scripts.simulation.network.spread import spread
from scripts.simulation.network.wires import WINDOW_BYTES, Wires
from trio.testing import MockClock

from aigrid.node.network.tcp import HostPort, TcpStream, Traffic
from aigrid.protocol.errors import UsageError

PORT = HostPort("10.0.0.2", 4001)
LATENCY_SECONDS = 0.01


class Pair:
    """A connection of `a` to `b`, both ends."""

    def __init__(self, wires: Wires, near: TcpStream, far: TcpStream) -> None:
        self.wires, self.near, self.far = wires, near, far


@asynccontextmanager
async def connected(loss: str = "0") -> AsyncIterator[Pair]:
    wires = Wires(random.Random(1), spread("10"), spread(loss))
    accepted = list[TcpStream]()

    async def accept(stream: TcpStream) -> None:
        accepted.append(stream)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wires.run)
        listening = await wires.sockets("b", PORT.host).listen((str(PORT),))
        nursery.start_soon(listening.serve, accept, Traffic(), nursery)
        near = wires.sockets("a", "10.0.0.1")
        await trio.testing.wait_all_tasks_blocked()
        stream = await near.dial(PORT, Traffic())
        yield Pair(wires, stream, accepted[0])
        nursery.cancel_scope.cancel()


async def test_a_dial_takes_a_round_trip_and_names_the_dialer(autojump_clock: MockClock) -> None:
    async with connected() as pair:
        assert trio.current_time() == pytest.approx(2 * LATENCY_SECONDS)
        assert pair.near.get_remote_address() == (PORT.host, PORT.port)
        assert pair.far.get_remote_address()[0] == "10.0.0.1"


async def test_who_waits_for_a_word_leaves_it_unread(autojump_clock: MockClock) -> None:
    async with connected() as pair:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.far.wait_spoken)
            await trio.testing.wait_all_tasks_blocked()
            await pair.near.write(b"word")
        assert (pair.far.received_bytes, await pair.far.read(4)) == (0, b"word")
        pair.near.abort()
        with pytest.raises(ConnectionClosedError):
            await pair.far.wait_spoken()


async def test_bytes_arrive_in_order_whatever_is_lost(autojump_clock: MockClock) -> None:
    async with connected(loss="0.5") as pair:
        pair.wires.lossy = True
        for number in range(200):
            await pair.near.write(bytes([number]))
            await trio.sleep(0.003)
        assert await pair.far.read(200) == bytes(range(200))
        assert trio.current_time() > 1.0
        assert pair.wires.bytes["a"] == 200


async def test_a_writer_waits_for_a_reader_that_is_a_window_behind(
    autojump_clock: MockClock,
) -> None:
    async with connected() as pair:
        assert pair.near.send_now([bytes(WINDOW_BYTES), b"more"]) == WINDOW_BYTES
        assert pair.near.send_now([b"more"]) == 0
        with trio.move_on_after(60):
            await pair.near.wait_writable()
            pytest.fail("there is no room")
        assert len(await pair.far.read(WINDOW_BYTES)) == WINDOW_BYTES
        await pair.near.write(b"more")
        assert await pair.far.read(4) == b"more"


async def test_what_was_written_before_a_close_is_read_and_then_the_end(
    autojump_clock: MockClock,
) -> None:
    async with connected() as pair:
        await pair.near.write(b"last words")
        await pair.near.close()
        assert await pair.far.read(64) == b"last words"
        assert await pair.far.read(1) == b""
        with pytest.raises(OSError, match="gone"):
            pair.far.send_now([b"too late"])
        with pytest.raises(ConnectionClosedError):
            await pair.near.read(1)


async def test_a_killed_node_neither_speaks_nor_listens(autojump_clock: MockClock) -> None:
    async with connected() as pair:
        pair.wires.kill("b")
        with pytest.raises(OSError, match="gone"):
            pair.far.send_now([b"from the dead"])
        assert await pair.near.read(1) == b""
        assert trio.current_time() == pytest.approx(3 * LATENCY_SECONDS)
        with pytest.raises(ConnectionRefusedError):
            await pair.wires.sockets("c", "10.0.0.3").dial(PORT, Traffic())


async def test_a_partition_holds_everything_up_in_its_order(autojump_clock: MockClock) -> None:
    async with connected() as pair:
        pair.wires.split(["b"])
        for part in (b"one ", b"two "):
            await pair.near.write(part)
            await trio.sleep(1)
        with trio.move_on_after(60):
            await pair.far.read(1)
            pytest.fail("nothing passes")
        await pair.near.write(b"three")
        pair.wires.join_up()
        assert await pair.far.read(13) == b"one two three"


async def test_a_dial_across_a_partition_is_given_up_by_the_dialer_alone(
    autojump_clock: MockClock,
) -> None:
    async with connected() as pair:
        pair.wires.split(["b"])
        with trio.move_on_after(10) as scope:
            await pair.wires.sockets("a", "10.0.0.1").dial(PORT, Traffic())
        assert scope.cancelled_caught
        pair.wires.join_up()
        await trio.sleep(1)
        assert len(pair.wires.streams["b"]) == 1


async def test_an_address_is_taken_once(autojump_clock: MockClock) -> None:
    async with connected() as pair:
        with pytest.raises(UsageError, match="in use"):
            await pair.wires.sockets("c", "10.0.0.3").listen((str(PORT),))
