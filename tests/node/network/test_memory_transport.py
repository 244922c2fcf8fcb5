"""The memory transport keeps the promises of the interface: gate, failures, determinism."""

import pytest
import trio
from tests.node.network.pairs import address, network, node, run_until_cancelled, shout, upper
from trio.testing import MockClock

from aigrid.node.network.memory_links import WINDOW_BYTES
from aigrid.node.network.memory_transport import MemoryTransport
from aigrid.node.network.transport import (
    JOIN_PROTOCOL,
    RPC_PROTOCOL,
    PeerAddress,
    PeerChange,
    PeerEvent,
    Stream,
)
from aigrid.protocol.errors import Code, LocalError, RemoteError, UsageError
from aigrid.protocol.limits import LIMITS


async def refused(transport: MemoryTransport, peer_id: str, protocol: str = RPC_PROTOCOL) -> Code:
    with pytest.raises(RemoteError) as caught:
        await transport.open_stream(peer_id, protocol)
    return caught.value.code


async def test_bytes_cross_with_the_latency_of_the_pair(autojump_clock: MockClock) -> None:
    net = network(latency_seconds=(0.1, 0.1))
    a, b = node(net, "a", "b"), node(net, "b", "a")
    b.handle_stream(RPC_PROTOCOL, upper)
    async with a.running(), b.running():
        await a.connect(address("b"))
        assert trio.current_time() == pytest.approx(0.2)
        stream = await a.open_stream("b", RPC_PROTOCOL)
        assert trio.current_time() == pytest.approx(0.4)
        await stream.send_all(b"hello")
        assert await stream.receive_some(100) == b"HELLO"
        assert trio.current_time() == pytest.approx(0.6)
        assert (stream.peer_id, stream.remote_host) == ("b", "b")
        await stream.close()
        assert await stream.receive_some(100) == b""


async def test_bytes_keep_their_order_and_a_clean_end_follows_them(
    autojump_clock: MockClock,
) -> None:
    async def pour(stream: Stream) -> None:
        for number in range(300):
            await stream.send_all(bytes([number % 256]) * (number % 7))
            if not number % 50:
                await trio.sleep(0.02)

    net = network()
    a, b = node(net, "a", "b"), node(net, "b", "a")
    b.handle_stream(RPC_PROTOCOL, pour)
    async with a.running(), b.running():
        await a.connect(address("b"))
        stream = await a.open_stream("b", RPC_PROTOCOL)
        got = b""
        while data := await stream.receive_some(13):
            assert len(data) <= 13
            got += data
        assert got == b"".join(bytes([n % 256]) * (n % 7) for n in range(300))


async def test_a_writer_waits_when_too_much_is_under_way(autojump_clock: MockClock) -> None:
    async def ignore(_stream: Stream) -> None:
        await trio.sleep_forever()

    net = network()
    a, b = node(net, "a", "b"), node(net, "b", "a")
    b.handle_stream(RPC_PROTOCOL, ignore)
    async with a.running(), b.running():
        await a.connect(address("b"))
        stream = await a.open_stream("b", RPC_PROTOCOL)
        written = 0
        with trio.move_on_after(5):
            while True:
                await stream.send_all(bytes(65536))
                written += 65536
        assert written == 1024 * 1024


async def test_a_stranger_reaches_only_what_is_for_strangers(autojump_clock: MockClock) -> None:
    net = network()
    member, stranger = node(net, "member"), node(net, "stranger", "member")
    member.handle_stream(RPC_PROTOCOL, upper)
    member.handle_stream(JOIN_PROTOCOL, upper, strangers=True)
    async with member.running(), stranger.running():
        await stranger.connect(address("member"))
        assert await refused(stranger, "member") is Code.NOT_MEMBER
        assert await shout(stranger, "member", JOIN_PROTOCOL) == b"HELLO"
        assert member.counters()["streams_refused"] == 1
        member.admit(["stranger"])
        assert await shout(stranger, "member") == b"HELLO"


async def test_an_open_grid_serves_strangers(autojump_clock: MockClock) -> None:
    net = network()
    host, stranger = node(net, "host", strangers_welcome=True), node(net, "stranger", "host")
    host.handle_stream(RPC_PROTOCOL, upper)
    async with host.running(), stranger.running():
        await stranger.connect(address("host"))
        assert await shout(stranger, "host") == b"HELLO"


async def test_only_members_and_the_invited_are_dialled(autojump_clock: MockClock) -> None:
    net = network()
    a, b = node(net, "a"), node(net, "b")
    b.handle_stream(JOIN_PROTOCOL, upper, strangers=True)
    async with a.running(), b.running():
        with pytest.raises(RemoteError) as caught:
            await a.connect(address("b"))
        assert caught.value.code is Code.NOT_MEMBER
        a.allow_dial("b")
        await a.connect(address("b"))
        assert await shout(a, "b", JOIN_PROTOCOL) == b"HELLO"
        assert await refused(a, "b") is Code.NOT_MEMBER


async def test_strangers_are_few_and_do_not_stay(autojump_clock: MockClock) -> None:
    net = network()
    member = node(net, "member", "friend")
    strangers = [node(net, f"s{n}", "member") for n in range(LIMITS.strangers_max + 3)]
    friend = node(net, "friend", "member")
    async with member.running(), friend.running(), trio.open_nursery() as nursery:
        await friend.connect(address("member"))
        for stranger in strangers:
            await nursery.start(run_until_cancelled, stranger)
            await stranger.connect(address("member"))
        assert len(member.connected()) == 1 + LIMITS.strangers_max
        await trio.sleep(LIMITS.stranger_seconds + 1)
        assert member.connected() == {"friend"}
        nursery.cancel_scope.cancel()


async def test_a_member_removed_is_cut_off(autojump_clock: MockClock) -> None:
    net = network()
    a, b = node(net, "a", "b"), node(net, "b", "a")
    b.handle_stream(RPC_PROTOCOL, upper)
    async with a.running(), b.running():
        await a.connect(address("b"))
        stream = await a.open_stream("b", RPC_PROTOCOL)
        await b.remove("a")
        with pytest.raises(RemoteError) as caught:
            await stream.receive_some(100)
        assert caught.value.code is Code.CONNECTION_LOST
        assert a.connected() == b.connected() == frozenset()
        await a.connect(address("b"))
        assert await refused(a, "b") is Code.NOT_MEMBER


async def test_gossip_reaches_members_once_and_strangers_never(autojump_clock: MockClock) -> None:
    net = network()
    names = ["a", "b", "c", "d"]
    nodes = [node(net, name, *names) for name in names]
    outsider = node(net, "outsider", *names)
    heard: list[tuple[str, str, bytes]] = []

    async def listen(transport: MemoryTransport) -> None:
        async with transport.subscribe("t") as messages:
            async for publisher, data in messages:
                heard.append((transport.peer_id, publisher, data))

    async with trio.open_nursery() as nursery:
        for transport in [*nodes, outsider]:
            await nursery.start(run_until_cancelled, transport)
            nursery.start_soon(listen, transport)
        for here, there in zip(nodes, [*nodes[1:], nodes[0]], strict=True):  # a ring
            await here.connect(address(there.peer_id))
        await outsider.connect(address("a"))
        await nodes[0].publish("t", b"news")
        await outsider.publish("t", b"spam")
        await nodes[0].publish("nobody reads this", b"x")
        await trio.sleep(1)
        assert sorted(heard) == [("b", "a", b"news"), ("c", "a", b"news"), ("d", "a", b"news")]
        assert nodes[0].counters()["gossip_refused"] == 1
        with pytest.raises(LocalError):
            await nodes[0].publish("t", bytes(LIMITS.gossip_max_bytes + 1))
        nursery.cancel_scope.cancel()


async def test_a_slow_subscriber_misses_the_oldest(autojump_clock: MockClock) -> None:
    net = network()
    a, b = node(net, "a", "b"), node(net, "b", "a")
    async with a.running(), b.running(), b.subscribe("t") as messages:
        await a.connect(address("b"))
        for number in range(300):
            await a.publish("t", b"%d" % number)
        await trio.sleep(1)
        assert await anext(messages) == ("a", b"44")


async def test_a_kill_is_noticed_after_the_latency_and_the_address_is_free(
    autojump_clock: MockClock,
) -> None:
    net = network(latency_seconds=(0.1, 0.1))
    a, b = node(net, "a", "b"), node(net, "b", "a")
    async with a.running(), b.running(), a.events() as events:
        await a.connect(address("b"))
        net.kill("b")
        assert a.connected() == {"b"}
        assert await events.receive() == PeerEvent(PeerChange.CONNECTED, "b")
        assert await events.receive() == PeerEvent(PeerChange.DISCONNECTED, "b")
        assert trio.current_time() == pytest.approx(0.3)
        with pytest.raises(RemoteError) as caught:
            await a.connect(address("b"))
        assert caught.value.code is Code.UNREACHABLE
        async with node(net, "b", "a").running():
            await a.connect(address("b"))


async def test_a_taken_address_is_port_in_use(autojump_clock: MockClock) -> None:
    net = network()
    async with node(net, "a").running():
        with pytest.raises(UsageError) as caught:
            await run_until_cancelled(node(net, "a"))
        assert caught.value.code is Code.PORT_IN_USE


async def test_another_key_at_the_address_is_unreachable(autojump_clock: MockClock) -> None:
    net = network()
    a, b = node(net, "a", "x"), node(net, "b")
    async with a.running(), b.running():
        with pytest.raises(RemoteError) as caught:
            await a.connect(PeerAddress("x", address("b").addresses))
        assert caught.value.code is Code.UNREACHABLE


@pytest.mark.parametrize("failure", ["partition", "freeze"])
async def test_nothing_passes_until_it_is_healed(autojump_clock: MockClock, failure: str) -> None:
    net = network()
    a, b = node(net, "a", "b", "c"), node(net, "b", "a", "c")
    b.handle_stream(RPC_PROTOCOL, upper)
    async with a.running(), b.running():
        await a.connect(address("b"))
        stream = await a.open_stream("b", RPC_PROTOCOL)
        if failure == "partition":
            net.partition("a", "b")
        else:
            net.freeze("b")
        await stream.send_all(b"hello")
        with trio.move_on_after(20) as scope:
            await stream.receive_some(100)
        assert scope.cancelled_caught
        assert a.connected() == {"b"}
        assert await refused(a, "b") is Code.UNREACHABLE
        if failure == "partition":
            net.heal("a", "b")
        else:
            net.thaw("b")
        assert await stream.receive_some(100) == b"HELLO"


async def test_a_stream_opened_meanwhile_is_there_when_it_is_healed(
    autojump_clock: MockClock,
) -> None:
    net = network()
    a, b = node(net, "a", "b"), node(net, "b", "a")
    b.handle_stream(RPC_PROTOCOL, upper)
    async with a.running(), b.running(), trio.open_nursery() as nursery:
        await a.connect(address("b"))
        net.partition("a", "b")

        async def heal() -> None:
            await trio.sleep(2)
            net.heal("a", "b")

        nursery.start_soon(heal)
        assert await shout(a, "b") == b"HELLO"
        assert trio.current_time() > 2


async def test_two_that_dial_each_other_at_once_share_a_connection(
    autojump_clock: MockClock,
) -> None:
    net = network()
    a, b = node(net, "a", "b"), node(net, "b", "a")
    for transport in (a, b):
        transport.handle_stream(RPC_PROTOCOL, upper)
    async with a.running(), b.running(), a.events() as events:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.connect, address("b"))
            nursery.start_soon(b.connect, address("a"))
        assert await shout(a, "b") == await shout(b, "a") == b"HELLO"
        await events.receive()
        with pytest.raises(trio.WouldBlock):
            events.receive_nowait()


async def test_a_handler_that_raises_ends_only_its_stream(autojump_clock: MockClock) -> None:
    async def fail(stream: Stream) -> None:
        if await stream.receive_some(1) == b"!":
            raise ValueError
        await stream.send_all(b"fine")

    net = network()
    a, b = node(net, "a", "b"), node(net, "b", "a")
    b.handle_stream(RPC_PROTOCOL, fail)
    async with a.running(), b.running():
        await a.connect(address("b"))
        bad = await a.open_stream("b", RPC_PROTOCOL)
        good = await a.open_stream("b", RPC_PROTOCOL)
        await bad.send_all(b"!")
        with pytest.raises(RemoteError):
            await bad.receive_some(10)
        await good.send_all(b"?")
        assert await good.receive_some(10) == b"fine"


async def test_provider_hints_outlive_their_node_and_are_told_to_members(
    autojump_clock: MockClock,
) -> None:
    net = network()
    a, b, other = node(net, "a", "b", "c"), node(net, "b"), node(net, "other")
    async with a.running(), b.running(), other.running(), node(net, "c").running():
        await b.provide("model")
        await other.provide("model")
        assert await a.find_providers("model") == ()
        await a.connect(address("b"))
        assert await a.find_providers("model") == (address("b"), address("other"))  # of whomever
        assert await a.find_providers("nothing") == ()
        await a.connect(address("c"))
        net.kill("b")
        await trio.sleep(1)
        assert address("b") in await a.find_providers("model")


async def test_nearby_nodes_are_seen_while_they_live(autojump_clock: MockClock) -> None:
    net = network()
    a, b, c = node(net, "a"), node(net, "b"), node(net, "c")
    c.lan = "elsewhere"
    async with a.running(), b.running(), c.running():
        b.announce_nearby("did:key:grid", "desk")
        c.announce_nearby("did:key:far", "desk")
        assert [(seen.peer, seen.grid) for seen in a.nearby()] == [(address("b"), "did:key:grid")]
        net.kill("b")
        assert a.nearby() == ()


async def test_what_was_held_up_comes_before_what_was_sent_later(autojump_clock: MockClock) -> None:
    net = network(latency_seconds=(0.1, 0.1))
    a, b = node(net, "a", "b"), node(net, "b", "a")
    got = bytearray()

    async def take(stream: Stream) -> None:
        stream.deliver(got.extend)
        assert await stream.receive_some(9) == b""

    b.handle_stream(RPC_PROTOCOL, take)
    async with a.running(), b.running():
        await a.connect(address("b"))
        stream = await a.open_stream("b", RPC_PROTOCOL)
        net.partition("a", "b")
        stream.send_now(b"1")
        stream.send_now(b"2")
        await trio.sleep(0.3)
        assert not got
        stream.send_now(b"3")
        await trio.sleep(0.1)  # it is due at this very moment
        net.heal("a", "b")
        await stream.close()
        await trio.sleep(0.2)
        assert bytes(got) == b"123"


async def test_a_writer_waits_until_what_it_sent_is_taken(autojump_clock: MockClock) -> None:
    net = network(latency_seconds=(0.1, 0.1))
    a, b = node(net, "a", "b"), node(net, "b", "a")
    taken = trio.Event()

    async def take(stream: Stream) -> None:
        await taken.wait()
        while await stream.receive_some(1 << 20):
            pass

    b.handle_stream(RPC_PROTOCOL, take)
    async with a.running(), b.running():
        await a.connect(address("b"))
        stream = await a.open_stream("b", RPC_PROTOCOL)
        await stream.send_all(bytes(WINDOW_BYTES))
        assert stream.room_bytes == 0
        with trio.move_on_after(5) as scope:
            await stream.send_all(b"more")
        assert scope.cancelled_caught
        taken.set()
        await trio.sleep(0.2)
        assert stream.room_bytes == WINDOW_BYTES
        await stream.send_all(b"more")


async def test_with_a_tick_all_arrives_at_its_multiples(autojump_clock: MockClock) -> None:
    net = network(latency_seconds=(0.0104, 0.0104), tick_seconds=0.01)
    a, b = node(net, "a", "b"), node(net, "b", "a")
    async with a.running(), b.running():
        await a.connect(address("b"))
        assert trio.current_time() == pytest.approx(0.04)


async def test_the_post_goes_on_when_whoever_carried_it_ends(autojump_clock: MockClock) -> None:
    net = network()
    first, a, b = node(net, "first"), node(net, "a", "b"), node(net, "b", "a")
    b.handle_stream(RPC_PROTOCOL, upper)
    async with a.running(), b.running():
        async with first.running():
            pass
        await a.connect(address("b"))
        stream = await a.open_stream("b", RPC_PROTOCOL)
        await stream.send_all(b"x")
        assert await stream.receive_some(1) == b"X"
