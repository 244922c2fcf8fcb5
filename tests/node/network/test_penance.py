"""Handshakes of who broke the protocol come at a rate, the newest first, and others' at once."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from libp2p.io.exceptions import ConnectionClosedError
from tests.node.network import nodes

from aigrid.node.network import compat
from aigrid.node.network.connections import Connections, _dispensable, _Handshake
from aigrid.node.network.gate import Gate
from aigrid.node.network.penance import (
    BREACH_AGAIN_SECONDS,
    BREACH_SECONDS,
    FORGOTTEN_SECONDS,
    LEAST_PER_SECOND,
    MOST_PER_SECOND,
    SPREAD,
    Penance,
)
from aigrid.node.network.tcp import Sockets, TcpStream, Traffic

HOST, OTHER = "192.0.2.1", "192.0.2.2"


def never_late() -> float:
    return 0.0


def test_rate_halves_with_each_breach_down_to_a_bound_and_others_have_none() -> None:
    penance: Penance[int] = Penance(never_late)
    rates = []
    for n in range(6):
        rates.append(penance.per_second(HOST, float(n)))
        penance.broke(HOST, float(n))
    assert rates == [None, 8.0, 4.0, 2.0, 2.0, 2.0]
    assert penance.per_second(OTHER, 8.0) is None
    for n in range(5000):
        penance.broke(HOST, float(n))
    assert penance.per_second(HOST, 5000.0) == LEAST_PER_SECOND


def test_is_forgiven_after_a_time() -> None:
    penance: Penance[int] = Penance(never_late)
    for _ in range(9):
        penance.broke(HOST, 0.0)
    assert penance.per_second(HOST, FORGOTTEN_SECONDS) == LEAST_PER_SECOND
    assert penance.per_second(HOST, FORGOTTEN_SECONDS + 1) is None
    penance.broke(HOST, FORGOTTEN_SECONDS + 1)
    assert penance.per_second(HOST, FORGOTTEN_SECONDS + 1) == MOST_PER_SECOND


def test_a_breach_puts_the_next_turn_off_once_until_somebody_went() -> None:
    penance: Penance[str] = Penance(never_late)
    penance.broke(HOST, 0.0)
    for n in range(9):
        penance.broke(HOST, n / 10)
    assert penance.ask(HOST, "a", 0.9) == BREACH_SECONDS
    assert penance.ask(HOST, "a", BREACH_SECONDS) is None
    penance.broke(HOST, BREACH_SECONDS)
    penance.broke(HOST, BREACH_SECONDS + 0.1)
    assert penance.ask(HOST, "b", BREACH_SECONDS + 0.1) == BREACH_SECONDS + BREACH_AGAIN_SECONDS


def test_who_waits_goes_once_the_host_is_forgiven() -> None:
    penance: Penance[str] = Penance(never_late)
    penance.broke(HOST, 0.0)
    assert penance.ask(HOST, "first", FORGOTTEN_SECONDS) is None
    assert penance.ask(HOST, "old", FORGOTTEN_SECONDS) == FORGOTTEN_SECONDS + 1 / MOST_PER_SECOND
    assert penance.ask(HOST, "new", FORGOTTEN_SECONDS) == FORGOTTEN_SECONDS + 1 / MOST_PER_SECOND
    assert penance.ask(HOST, "old", FORGOTTEN_SECONDS + 1) is None


def test_is_bounded_and_forgets_who_broke_nothing_for_longest() -> None:
    penance: Penance[int] = Penance(never_late)
    for n in range(2000):
        penance.broke(f"host-{n}", 1.0)
    assert penance.per_second("host-1999", 1.0) == MOST_PER_SECOND
    assert penance.per_second("host-0", 1.0) is None


# Steps of 1/64 s, which floats add up exactly: what to do then, and for whom of those that wait.
_steps = st.lists(
    st.tuples(st.integers(0, 32), st.sampled_from(["arrive", "ask", "leave"]), st.integers(0, 9)),
    max_size=200,
)


@given(_steps, st.integers(1, 6), st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1))
def test_never_more_go_than_the_rate_allows_and_the_newest_before_others(
    steps: list[tuple[int, str, int]], breaches: int, chances: list[float]
) -> None:
    now, waiting, went = 0.0, list[int](), list[float]()
    penance: Penance[int] = Penance(lambda: chances[len(went) % len(chances)])
    turn = BREACH_SECONDS
    for _ in range(breaches):
        penance.broke(HOST, now)
    rate = penance.per_second(HOST, now)
    assert rate is not None
    for number, (ticks, action, index) in enumerate(steps):
        now = min(now + ticks / 64, FORGOTTEN_SECONDS)
        if action == "arrive":
            waiting.append(number)
        if not waiting:
            continue
        who = waiting[-1] if action == "arrive" else waiting[index % len(waiting)]
        if action == "leave":
            waiting.remove(who)
            assert penance.leave(HOST, who) == (waiting[-1] if waiting else None)
            continue
        due = penance.ask(HOST, who, now)
        if who != waiting[-1]:
            assert due == math.inf
        elif now < turn:
            assert due == turn
        else:
            assert due is None, "its turn has come"
            waiting.remove(who)
            turn = now + (1 + SPREAD * chances[len(went) % len(chances)]) / rate
            went.append(now)
        assert penance.ask(OTHER, who, now) is None, "whoever is not in penance"
    for first in range(len(went)):
        for last in range(first, len(went)):
            assert last - first + 1 <= 1 + rate * (went[last] - went[first])


class Spoken:
    """A connection on which something is said once `after` seconds have passed."""

    received_bytes = 0

    def __init__(self, after: float) -> None:
        self._after = after

    async def wait_spoken(self) -> None:
        await trio.sleep(self._after)


def table() -> Connections:
    library = compat.build(nodes.new_seed(), lambda: ())
    gate = Gate(str(library.peer_id), open_to_strangers=False)
    made = Connections(library, gate, lambda _event: None, Sockets())
    made._penance._chance = never_late
    return made


async def turns(connections: Connections, *spoken: float, host: str = HOST) -> dict[int, float]:
    """When each had its turn, in this order; all connected at once."""
    began, had = trio.current_time(), dict[int, float]()

    async def wait(number: int, after: float) -> None:
        stream: Any = Spoken(after)
        await connections._turn(_Handshake(host, stream))
        had[number] = round(trio.current_time() - began, 6)

    with trio.move_on_after(5.0):
        async with trio.open_nursery() as nursery:
            for number, after in enumerate(spoken):
                nursery.start_soon(wait, number, after)
    return had


async def test_turns_come_at_a_rate_and_the_newest_is_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    connections = table()
    for _ in range(3):
        connections._penance.broke(HOST, trio.current_time())
    had = await turns(connections, 0.0, 0.1, 0.2, math.inf, 0.3, 0.7)
    assert had == {5: 1.0, 4: 1.5, 2: 2.0, 1: 2.5, 0: 3.0}
    assert list(had) == [5, 4, 2, 1, 0]
    assert not connections._penance._waiting


async def test_who_is_not_in_penance_waits_for_no_word(
    autojump_clock: trio.testing.MockClock,
) -> None:
    connections = table()
    connections._penance.broke(HOST, trio.current_time())
    assert await turns(connections, *[math.inf] * 100, host=OTHER) == dict.fromkeys(range(100), 0.0)


async def test_who_gives_up_waiting_makes_way_for_the_next(
    autojump_clock: trio.testing.MockClock,
) -> None:
    connections, now = table(), trio.current_time()
    connections._penance.broke(HOST, now)
    stream: Any = Spoken(0.0)
    first, old, new = (_Handshake(HOST, stream) for _ in range(3))
    await connections._turn(first)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connections._turn, old)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.05) as gave_up:
            await connections._turn(new)
        assert gave_up.cancelled_caught
    assert trio.current_time() == now + BREACH_SECONDS + 1 / MOST_PER_SECOND


def test_room_is_made_by_the_silent_unless_they_are_few_then_by_those_that_wait() -> None:
    def handshake(received: int = 0, *, spoke: bool = False, waiting: bool = False) -> _Handshake:
        stream: Any = SimpleNamespace(received_bytes=received)
        return _Handshake(HOST, stream, spoke=spoke, waiting=waiting)

    busy, let_in, silent = handshake(9), handshake(spoke=True), handshake()
    waiting, newer = (handshake(spoke=True, waiting=True) for _ in range(2))
    assert _dispensable([busy, silent, handshake(), let_in]) is silent, "half of them"
    assert _dispensable([waiting, silent, handshake(), newer]) is silent
    assert _dispensable([busy, silent, waiting, newer]) is waiting, "who is silent has just come"
    assert _dispensable([silent, busy, let_in]) is busy
    assert _dispensable([silent]) is silent


async def test_waiting_for_a_word_takes_none_of_it() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]

    async def ends() -> tuple[TcpStream, trio.SocketStream]:
        there = await trio.open_tcp_stream("127.0.0.1", port)
        return TcpStream(await listeners[0].accept(), Traffic()), there

    here, there = await ends()
    await there.send_all(b"word")
    await here.wait_spoken()
    await here.wait_spoken()
    assert here.received_bytes == 0
    assert await here.read(4) == b"word"
    await there.aclose()
    with pytest.raises(ConnectionClosedError):
        await here.wait_spoken()
    here, there = await ends()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(abort_when_blocked, here)
        with pytest.raises(ConnectionClosedError):
            await here.wait_spoken()
    await there.aclose()
    await listeners[0].aclose()


async def abort_when_blocked(stream: Any) -> None:
    await trio.testing.wait_all_tasks_blocked()
    stream.abort()
