"""RPC streams when a peer is silent, dies, cancels at random or talks nonsense."""

import random
from dataclasses import replace

import pytest
import trio
from tests.node.network.pairs import SMALL, Stuck, address, echo, node, pair, read_all
from trio.testing import MockClock

from aigrid.node.network.streams import RpcClient, RpcServer, Send
from aigrid.node.network.transport import RPC_PROTOCOL, PeerChange, PeerEvent, Stream
from aigrid.protocol.errors import (
    Code,
    LocalError,
    RemoteError,
)
from aigrid.protocol.framing import FrameKind, encode
from aigrid.protocol.limits import LIMITS


async def test_a_silent_peer_is_a_timeout(autojump_clock: MockClock) -> None:
    async with pair(Stuck()) as two:
        started = trio.current_time()
        async with two.client.call("b", b"", silence_seconds=3) as answer:
            await anext(answer)
            with pytest.raises(RemoteError) as caught:
                await anext(answer)
        assert caught.value.code is Code.TIMEOUT
        assert 3 <= trio.current_time() - started < 3.5


async def test_a_caller_that_takes_its_time_is_not_a_silent_peer(autojump_clock: MockClock) -> None:
    async def twice(_peer: str, _request: bytes, send: Send) -> None:
        await send(b"one")
        await trio.sleep(101)
        await send(b"two")

    async with pair(twice) as two:
        async with two.client.call("b", b"", silence_seconds=3) as answer:
            assert await anext(answer) == b"one"
            await trio.sleep(100)  # at work on it, through the deadline of the last wait
            assert await anext(answer) == b"two"
        assert two.pooled == 1


@pytest.mark.parametrize("request_bytes", [1, 15000])
async def test_a_pause_of_our_own_is_not_the_silence_of_the_peer(
    autojump_clock: MockClock, request_bytes: int
) -> None:
    """Of all here, as in a machine that is suspended; the large request is under way meanwhile."""

    async def count(_peer: str, request: bytes, send: Send) -> None:
        await send(b"%d" % len(request))

    async with pair(count, limits=SMALL) as two:
        await two.client.ask("b", b"", silence_seconds=2)
        (used,) = two.client._peers["b"].streams
        answers: list[bytes] = []

        async def ask() -> None:
            request = bytes(request_bytes)
            answers.append(await two.client.ask("b", request, silence_seconds=2))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(0.06)
            autojump_clock.jump(SMALL.rpc_timeout_seconds + 5)
        assert answers == [b"%d" % request_bytes]
        assert two.client._peers["b"].streams == {used}


async def test_each_wait_has_the_whole_time(autojump_clock: MockClock) -> None:
    async def slow(_peer: str, _request: bytes, send: Send) -> None:
        for _ in range(4):
            await trio.sleep(2)
            await send(b"x")

    async with pair(slow) as two:
        for _ in range(3):
            async with two.client.call("b", b"", silence_seconds=3) as answer:
                assert [body async for body in answer] == [b"x"] * 4


async def test_after_a_timeout_the_stream_serves_the_next_once_the_peer_has_let_go(
    autojump_clock: MockClock,
) -> None:
    stuck = Stuck()

    async def now_and_then(peer: str, request: bytes, send: Send) -> None:
        await (stuck if request == b"stuck" else echo)(peer, request, send)

    async with pair(now_and_then) as two:
        for _ in range(3):
            with pytest.raises(RemoteError):
                async with two.client.call("b", b"stuck", silence_seconds=3) as answer:
                    _ = [body async for body in answer]
            await trio.sleep(1)
            assert await two.client.ask("b", b"next", silence_seconds=3) == b"next"
            assert two.pooled == 1
        assert len(stuck.cancelled_at) == 3


async def test_a_handler_that_fails_while_it_is_cancelled_harms_nothing(
    autojump_clock: MockClock,
) -> None:
    async def failing() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError

    async def groups(_peer: str, request: bytes, send: Send) -> None:
        if request == b"well":
            await send(request)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(failing)
            nursery.start_soon(trio.sleep_forever)
            await send(b"first")
            await trio.sleep_forever()

    async with pair(groups) as two:
        used: set[object] = set()
        for _ in range(3):
            async with two.client.call("b", b"", silence_seconds=3) as answer:
                assert await anext(answer) == b"first"
            await trio.sleep(1)
            assert await two.client.ask("b", b"well", silence_seconds=3) == b"well"
            used |= two.client._peers["b"].streams
        assert len(used) == 1  # it was never reset


async def test_a_frozen_peer_is_a_timeout_and_its_stream_is_given_up(
    autojump_clock: MockClock,
) -> None:
    async with pair() as two:
        await two.client.ask("b", b"", silence_seconds=3)
        two.net.freeze("b")
        with pytest.raises(RemoteError) as caught:
            await two.client.ask("b", b"", silence_seconds=3)
        assert caught.value.code is Code.TIMEOUT
        await trio.sleep(10)
        assert two.pooled == 0
        two.net.thaw("b")
        assert await two.client.ask("b", b"back", silence_seconds=3) == b"back"


async def test_a_kill_in_the_middle_of_a_stream_is_connection_lost_at_once(
    autojump_clock: MockClock,
) -> None:
    async with pair(Stuck()) as two:
        async with two.client.call("b", b"", silence_seconds=60) as answer:
            await anext(answer)
            two.net.kill("b")
            started = trio.current_time()
            with pytest.raises(RemoteError) as caught:
                await anext(answer)
        assert (caught.value.code, caught.value.peer) == (Code.CONNECTION_LOST, "b")
        assert trio.current_time() - started < 0.1
        with pytest.raises(RemoteError) as caught:
            await two.client.ask("b", b"", silence_seconds=5)
        assert caught.value.code is Code.UNREACHABLE


async def test_calls_fail_at_once_when_the_transport_says_that_the_peer_is_gone(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(Stuck()) as two:
        async with two.client.call("b", b"", silence_seconds=60) as answer:
            await anext(answer)
            started = trio.current_time()
            monkeypatch.setattr(two.a, "connected", frozenset)
            two.a._events.emit(PeerEvent(PeerChange.DISCONNECTED, "b"))  # the stream itself is well
            with pytest.raises(RemoteError) as caught:
                await anext(answer)
        assert caught.value.code is Code.CONNECTION_LOST
        assert trio.current_time() == started
        await trio.sleep(1)
        assert two.pooled == 0


async def test_a_loss_that_is_heard_of_late_spares_the_streams_of_the_new_connection(
    autojump_clock: MockClock,
) -> None:
    async with pair() as two:
        old = two.client.call("b", b"old", silence_seconds=60)
        async with old as answer:
            await two.a.disconnect("b")
            await trio.sleep(1)
            await two.a.connect(address("b"))
            async with two.client.call("b", b"new", silence_seconds=60) as fresh:
                two.a._events.emit(PeerEvent(PeerChange.DISCONNECTED, "b"))
                await trio.sleep(1)
                assert [body async for body in fresh] == [b"new"]
            with pytest.raises(RemoteError) as caught:
                await anext(answer)
            assert caught.value.code is Code.CONNECTION_LOST
        assert two.pooled == 1


async def test_a_stream_of_a_replaced_connection_fails_by_itself(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(Stuck()) as two:
        monkeypatch.setattr(two.client, "_lost", lambda _peer_id: None)
        async with two.client.call("b", b"", silence_seconds=60) as answer:
            await anext(answer)
            started = trio.current_time()
            await two.a.disconnect("b")
            with pytest.raises(RemoteError) as caught:
                await anext(answer)
        assert caught.value.code is Code.CONNECTION_LOST
        assert trio.current_time() - started < 0.1


async def test_a_stream_whose_caller_gave_up_while_it_was_opened_serves_the_next(
    autojump_clock: MockClock,
) -> None:
    opened = 0

    async def counted(stream: Stream) -> None:
        nonlocal opened
        opened += 1
        await RpcServer(echo).serve(stream)

    async with pair(limits=replace(LIMITS, streams_per_peer_max=1)) as two:
        two.b.handle_stream(RPC_PROTOCOL, counted)
        with trio.move_on_after(0.001):
            await two.client.ask("b", b"x", silence_seconds=5)
        await trio.sleep(1)
        assert await two.client.ask("b", b"y", silence_seconds=5) == b"y"
        assert opened == 1


@pytest.mark.parametrize(
    "begun", [encode(FrameKind.REQUEST_PART, b"x"), encode(FrameKind.REQUEST, b"half a frame")[:-1]]
)
async def test_a_request_that_does_not_go_on_is_given_up(
    autojump_clock: MockClock, begun: bytes
) -> None:
    async with pair() as two:
        stream = await two.a.open_stream("b", RPC_PROTOCOL)
        await stream.send_all(begun)
        started = trio.current_time()
        with pytest.raises(RemoteError):
            await read_all(stream)
        assert trio.current_time() - started == pytest.approx(LIMITS.rpc_timeout_seconds, abs=0.2)


async def test_a_restarted_peer_is_served_again(autojump_clock: MockClock) -> None:
    async with pair() as two:
        await two.client.ask("b", b"x", silence_seconds=5)
        two.net.kill("b")
        await trio.sleep(1)
        again = node(two.net, "b", "a")
        again.handle_stream(RPC_PROTOCOL, RpcServer(echo).serve)
        async with again.running():
            await two.a.connect(address("b"))
            assert await two.client.ask("b", b"y", silence_seconds=5) == b"y"


async def test_a_pooled_stream_that_is_dead_is_replaced_once(autojump_clock: MockClock) -> None:
    served = 0

    async def once(stream: Stream) -> None:
        """Answer one request, then die on the next without having said anything."""
        nonlocal served
        served += 1
        await stream.receive_some(1000)
        await stream.send_all(encode(FrameKind.DATA, b"%d" % served) + encode(FrameKind.END))
        await stream.receive_some(1000)
        await stream.reset()

    async with pair() as two:
        two.b.handle_stream(RPC_PROTOCOL, once)
        assert await two.client.ask("b", b"", silence_seconds=5) == b"1"
        assert await two.client.ask("b", b"", silence_seconds=5) == b"2"
        assert served == 2


async def test_a_fresh_stream_that_dies_is_not_tried_again(autojump_clock: MockClock) -> None:
    served = 0

    async def die(stream: Stream) -> None:
        nonlocal served
        served += 1
        await stream.reset()

    async with pair() as two:
        two.b.handle_stream(RPC_PROTOCOL, die)
        with pytest.raises(RemoteError) as caught:
            await two.client.ask("b", b"", silence_seconds=5)
        assert caught.value.code is Code.CONNECTION_LOST
        assert served == 1


async def test_idle_streams_are_closed_after_a_while(autojump_clock: MockClock) -> None:
    async with pair() as two:
        await two.client.ask("b", b"", silence_seconds=5)
        await trio.sleep(50)
        assert two.pooled == 1
        await trio.sleep(20)
        assert two.pooled == 0
        assert await two.client.ask("b", b"x", silence_seconds=5) == b"x"


async def test_a_call_at_the_moment_when_an_idle_stream_ends_gets_another(
    autojump_clock: MockClock,
) -> None:
    async with pair() as two:
        for moment in range(50):  # around it: when a stream went idle differs by its latencies
            await two.client.ask("b", b"", silence_seconds=5)
            await trio.sleep(LIMITS.stream_idle_seconds + (moment - 25) * 0.001)
            assert await two.client.ask("b", b"x", silence_seconds=5) == b"x"
        # And exactly then.
        await two.client.ask("b", b"", silence_seconds=5)
        await trio.sleep(LIMITS.stream_idle_seconds)
        assert await two.client.ask("b", b"y", silence_seconds=5) == b"y"


async def test_five_hundred_random_cancels_leave_both_sides_able_to_talk(
    autojump_clock: MockClock,
) -> None:
    rng = random.Random(5)
    running = 0

    async def work(_peer_id: str, request: bytes, send: Send) -> None:
        nonlocal running
        running += 1
        try:
            for number in range(request[0]):
                await send(bytes([number]) * 200)
                await trio.sleep(0.001 * (number % 3))
        finally:
            running -= 1

    async def some_call(two_client: RpcClient) -> None:
        count = rng.randrange(60)
        with trio.move_on_after(rng.uniform(0, 0.2)):
            async with two_client.call("b", bytes([count]) * 1500, silence_seconds=5) as answer:
                got = [body async for body in answer]
                assert got == [bytes([number]) * 200 for number in range(count)]

    async with pair(work, limits=SMALL) as two:
        for _ in range(125):
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(some_call, two.client)
        await trio.sleep(1)
        assert running == 0
        assert two.pooled <= 12
        async with two.client.call("b", bytes([9]), silence_seconds=5) as answer:
            assert len([body async for body in answer]) == 9


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 100,
        encode(FrameKind.END),
        encode(FrameKind.REQUEST_PART, b"x") * 10,
        (encode(FrameKind.REQUEST, b"x")) * 2,
    ],
)
async def test_garbage_ends_its_stream_only(autojump_clock: MockClock, garbage: bytes) -> None:
    async with pair(Stuck()) as two:
        async with two.client.call("b", b"", silence_seconds=60) as answer:
            await anext(answer)
            stream = await two.a.open_stream("b", RPC_PROTOCOL)
            await stream.send_all(garbage)
            with pytest.raises(RemoteError) as caught:
                await read_all(stream)
            assert caught.value.code is Code.CONNECTION_LOST
            with trio.move_on_after(5) as scope:
                await anext(answer)
            assert scope.cancelled_caught, "the other stream is still there"


async def test_garbage_from_the_serving_side_is_a_violation(autojump_clock: MockClock) -> None:
    async def babble(stream: Stream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(b"\xff" * 100)

    async with pair() as two:
        two.b.handle_stream(RPC_PROTOCOL, babble)
        with pytest.raises(RemoteError) as caught:
            await two.client.ask("b", b"", silence_seconds=5)
        assert (caught.value.code, caught.value.peer) == (Code.FRAME_TOO_LARGE, "b")


async def test_a_peer_may_not_open_more_streams_than_the_limit(autojump_clock: MockClock) -> None:
    async with pair(limits=replace(LIMITS, streams_per_peer_max=2)) as two:
        streams = [await two.a.open_stream("b", RPC_PROTOCOL) for _ in range(3)]
        with pytest.raises(RemoteError):
            await streams[2].receive_some(1)
        await streams[0].send_all(encode(FrameKind.REQUEST, b"x"))
        assert await streams[0].receive_some(100) == encode(FrameKind.DATA, b"x") + encode(
            FrameKind.END
        )


async def test_without_its_run_a_client_says_that_the_node_is_stopping(
    autojump_clock: MockClock,
) -> None:
    async with pair() as two:
        with pytest.raises(LocalError) as caught:
            await RpcClient(two.a).ask("b", b"", silence_seconds=5)
        assert caught.value.code is Code.SHUTTING_DOWN
