"""RPC streams over the memory transport: what holds for every caller and every handler."""

import random
from dataclasses import replace
from functools import partial

import pytest
import trio
from tests.node.network.pairs import SMALL, Stuck, pair
from trio.testing import MockClock

from aigrid.node.network.streams import Send
from aigrid.protocol.errors import (
    Code,
    InvalidRequestError,
    LocalError,
    PolicyDeniedError,
    RemoteError,
)
from aigrid.protocol.limits import LIMITS


async def count_up(_peer_id: str, request: bytes, send: Send) -> None:
    """As many bodies as asked for."""
    for number in range(int(request)):
        await send(b"%d" % number)


async def test_bodies_arrive_in_order_and_as_they_were_sent(autojump_clock: MockClock) -> None:
    async with pair(count_up) as two:
        async with two.client.call("b", b"1000", silence_seconds=5) as answer:
            assert [body async for body in answer] == [b"%d" % number for number in range(1000)]


async def test_bodies_arrive_before_the_answer_ends(autojump_clock: MockClock) -> None:
    async with pair(Stuck()) as two:
        async with two.client.call("b", b"", silence_seconds=5) as answer:
            assert await anext(answer) == b"first"


async def test_the_handler_knows_who_asks(autojump_clock: MockClock) -> None:
    async def who(peer_id: str, _request: bytes, send: Send) -> None:
        await send(peer_id.encode())

    async with pair(who) as two:
        assert await two.client.ask("b", b"", silence_seconds=5) == b"a"


async def test_a_request_of_many_frames_and_its_echo_arrive_whole(
    autojump_clock: MockClock,
) -> None:
    async def pieces(_peer_id: str, request: bytes, send: Send) -> None:
        for start in range(0, len(request), 1000):
            await send(request[start : start + 1000])

    request = random.Random(1).randbytes(20000)
    async with pair(pieces, limits=SMALL) as two:
        async with two.client.call("b", request, silence_seconds=5) as answer:
            assert b"".join([body async for body in answer]) == request


async def test_a_request_that_is_too_large_is_refused_here_and_harms_nothing(
    autojump_clock: MockClock,
) -> None:
    async with pair(limits=SMALL) as two:
        with pytest.raises(InvalidRequestError) as caught:
            await two.client.ask("b", bytes(20001), silence_seconds=5)
        assert caught.value.code is Code.BODY_TOO_LARGE
        assert await two.client.ask("b", b"x", silence_seconds=5) == b"x"
        assert two.pooled == 1


async def test_a_slow_reader_stops_the_sender_at_one_window_and_loses_nothing(
    autojump_clock: MockClock,
) -> None:
    sent = 0

    async def flood(_peer_id: str, _request: bytes, send: Send) -> None:
        nonlocal sent
        for number in range(400):
            await send(number.to_bytes(2, "big") * 50)
            sent += 105

    async with pair(flood, limits=SMALL) as two:
        async with two.client.call("b", b"", silence_seconds=60) as answer:
            await trio.sleep(10)
            assert 4096 <= sent < 4096 + 1024 + 5
            got = [body async for body in answer]
        assert got == [number.to_bytes(2, "big") * 50 for number in range(400)]


async def test_leaving_the_context_cancels_the_work_at_the_peer(autojump_clock: MockClock) -> None:
    stuck = Stuck()
    async with pair(stuck) as two:
        async with two.client.call("b", b"", silence_seconds=5) as answer:
            await anext(answer)
            left_at = trio.current_time()
        await trio.sleep(1)
        assert len(stuck.cancelled_at) == 1
        assert stuck.cancelled_at[0] - left_at < 0.1
        with trio.move_on_after(0.5):
            await two.client.ask("b", b"", silence_seconds=5)
        assert two.pooled == 1, "the stream was used again"


async def test_a_callers_own_cancellation_reaches_the_peer_too(autojump_clock: MockClock) -> None:
    stuck = Stuck()
    async with pair(stuck) as two:
        with trio.move_on_after(1):
            async with two.client.call("b", b"", silence_seconds=5) as answer:
                async for _ in answer:
                    pass
        await trio.sleep(1)
        assert len(stuck.cancelled_at) == 1


async def test_a_handler_stops_when_the_client_dies(autojump_clock: MockClock) -> None:
    stuck = Stuck()
    async with pair(stuck) as two, trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(RemoteError):
                await two.client.ask("b", b"", silence_seconds=60)

        nursery.start_soon(ask)
        await trio.sleep(1)
        two.net.kill("a")
        await trio.sleep(1)
        assert len(stuck.cancelled_at) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PolicyDeniedError("not you"), Code.DENIED),
        (LocalError("later", Code.BUSY, retry_after_seconds=7.0), Code.BUSY),
        (ExceptionGroup("", [PolicyDeniedError("not you")]), Code.DENIED),
        (ValueError("the prompt was: secret"), Code.INTERNAL),
    ],
)
async def test_error_codes_cross_the_wire(
    autojump_clock: MockClock, error: Exception, code: Code
) -> None:
    async def fail(_peer_id: str, _request: bytes, _send: Send) -> None:
        raise error

    async with pair(fail) as two:
        for _ in range(2):
            with pytest.raises(RemoteError) as caught:
                await two.client.ask("b", b"", silence_seconds=5)
            assert (caught.value.code, caught.value.peer) == (code, "b")
            after = getattr(error, "retry_after_seconds", None)
            assert caught.value.retry_after_seconds == after
            assert "secret" not in str(caught.value)
        assert two.pooled == 1


async def test_bodies_before_an_error_are_delivered(autojump_clock: MockClock) -> None:
    async def fail(_peer_id: str, _request: bytes, send: Send) -> None:
        await send(b"half")
        raise LocalError("broke", Code.ENGINE_CRASHED)

    async with pair(fail) as two:
        async with two.client.call("b", b"", silence_seconds=5) as answer:
            assert await anext(answer) == b"half"
            with pytest.raises(RemoteError) as caught:
                await anext(answer)
        assert caught.value.code is Code.ENGINE_CRASHED


async def test_asking_wants_exactly_one_body(autojump_clock: MockClock) -> None:
    async with pair(count_up) as two:
        for count in (b"0", b"2", b"50"):
            with pytest.raises(RemoteError) as caught:
                await two.client.ask("b", count, silence_seconds=5)
            assert caught.value.code is Code.PROTOCOL_VIOLATION
        assert await two.client.ask("b", b"1", silence_seconds=5) == b"0"


async def test_a_thousand_calls_one_after_the_other_use_one_stream(
    autojump_clock: MockClock,
) -> None:
    async with pair() as two:
        for number in range(1000):
            assert await two.client.ask("b", b"%d" % number, silence_seconds=5) == b"%d" % number
            assert two.pooled == 1


async def test_calls_at_once_are_bounded_by_the_streams_and_all_are_served(
    autojump_clock: MockClock,
) -> None:
    async with pair(limits=replace(LIMITS, streams_per_peer_max=3)) as two:
        answers: list[bytes] = []

        async def ask(number: int) -> None:
            answers.append(await two.client.ask("b", b"%d" % number, silence_seconds=30))
            assert two.pooled <= 3

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(ask, number)
        assert sorted(answers) == sorted(b"%d" % number for number in range(12))


async def test_too_many_waiting_callers_are_told_that_the_peer_is_busy(
    autojump_clock: MockClock,
) -> None:
    async with pair(Stuck(), limits=replace(LIMITS, streams_per_peer_max=1)) as two:
        codes: list[Code] = []

        async def ask() -> None:
            try:
                await two.client.ask("b", b"", silence_seconds=5)
            except RemoteError as error:
                codes.append(error.code)

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(ask)
        assert sorted(codes) == [*[Code.BUSY] * 3, *[Code.TIMEOUT] * 5]


async def test_a_ping_gets_through_while_requests_take_every_other_stream(
    autojump_clock: MockClock,
) -> None:
    async def handler(peer_id: str, body: bytes, send: Send) -> None:
        if body == b"long":
            await trio.sleep(60)
        await send(body)

    async with pair(handler) as two, trio.open_nursery() as nursery:
        for _ in range(2 * LIMITS.streams_per_peer_max):
            nursery.start_soon(partial(two.client.ask, "b", b"long", silence_seconds=200))
        await trio.sleep(1)
        for _ in range(3):
            began = trio.current_time()
            assert await two.client.ask("b", b"ping", silence_seconds=3, urgent=True) == b"ping"
            assert trio.current_time() - began < 1
        nursery.cancel_scope.cancel()


async def test_who_has_a_time_limit_for_a_body_reads_on_where_it_stopped(
    autojump_clock: MockClock,
) -> None:
    async def slow(_peer: str, _asked: bytes, send: Send) -> None:
        for number in range(4):
            await trio.sleep(2)
            await send(b"%d" % number)

    async with pair(slow) as two, two.client.call("b", b"", silence_seconds=10) as answer:
        bodies: list[bytes] = []
        waits = 0
        while len(bodies) < 4:
            with trio.move_on_after(1.5) as limit:
                bodies.append(await anext(answer))
            waits += limit.cancelled_caught
        assert bodies == [b"0", b"1", b"2", b"3"]
        assert waits >= 4
