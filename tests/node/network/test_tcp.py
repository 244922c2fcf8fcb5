"""Listening: ports asked for, the default that yields, and the addresses announced."""

import pytest
import trio
from multiaddr import Multiaddr
from tests.node.network import nodes

from aigrid.node.network import tcp
from aigrid.protocol.errors import Code, UsageError


def port_of(listeners: list[trio.SocketListener]) -> int:
    return int(listeners[0].socket.getsockname()[1])


async def close(*listener_lists: list[trio.SocketListener]) -> None:
    for listeners in listener_lists:
        for listener in listeners:
            await listener.aclose()


async def test_port_in_use_is_one_sentence() -> None:
    taken = await tcp.bind(("/ip4/127.0.0.1/tcp/0",))
    with pytest.raises(UsageError) as caught:
        await tcp.bind((f"/ip4/127.0.0.1/tcp/{port_of(taken)}",))
    assert caught.value.code is Code.PORT_IN_USE
    assert "\n" not in str(caught.value)
    await close(taken)


async def test_two_nodes_never_share_a_port(start: nodes.Start) -> None:
    one = await start()
    with pytest.raises(UsageError) as caught:
        await start(listen=one.listen_addresses)
    assert caught.value.code is Code.PORT_IN_USE


async def test_default_port_yields_to_the_next_free_one(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = await tcp.bind(("/ip4/127.0.0.1/tcp/0",))
    monkeypatch.setattr(tcp, "DEFAULT_PORT", port_of(probe))
    await close(probe)
    first, second = await tcp.bind(()), await tcp.bind(())
    assert port_of(first) == tcp.DEFAULT_PORT
    assert port_of(first) < port_of(second) < tcp.DEFAULT_PORT + tcp.DEFAULT_PORTS_TRIED
    await close(first, second)


async def test_wildcard_is_announced_as_real_addresses() -> None:
    listeners = await tcp.bind(("/ip4/0.0.0.0/tcp/0",))
    addresses = tcp.reachable_addresses(listeners)
    assert addresses[-1] == f"/ip4/127.0.0.1/tcp/{port_of(listeners)}"
    assert not [a for a in addresses if "/0.0.0.0/" in a]
    await close(listeners)


@pytest.mark.parametrize(
    "address", ["", "rubbish", "/ip4/1.2.3/tcp/1", "/ip4/127.0.0.1/udp/1", "/ip4/127.0.0.1/tcp/x"]
)
async def test_unusable_listen_address_is_a_usage_error(address: str) -> None:
    with pytest.raises(UsageError) as caught:
        await tcp.bind((address,))
    assert caught.value.code is Code.USAGE


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("/ip4/1.2.3.4/tcp/80", tcp.HostPort("1.2.3.4", 80)),
        ("/ip4/1.2.3.4/tcp/80/p2p/12D3", tcp.HostPort("1.2.3.4", 80)),
        ("/ip6/::1/tcp/0", tcp.HostPort("::1", 0)),
        ("/dns4/node.example/tcp/4711", tcp.HostPort("node.example", 4711)),
        ("/ip4/1.2.3.4/tcp/65536", None),
        ("/ip6/fe80::1%eth0/tcp/80", None),
        ("/dns4/021:db8::1/tcp/80", None),
        ("/dns/node..example/tcp/80", None),
        (f"/dns/{'a' * 64}.example/tcp/80", None),
        (f"/dns/{'a.' * 127}/tcp/80", None),
        ("/ip4/1.2.3.4/tcp/80/ws", None),
        ("/ip4/1.2.3.4/udp/80/quic-v1", None),
        ("1.2.3.4:80", None),
        ("/ip4/1.2.3.4/tcp/80/p2p-circuit/p2p/12D3", None),
    ],
)
def test_addresses_are_parsed_strictly(text: str, parsed: tcp.HostPort | None) -> None:
    if parsed is None:
        with pytest.raises(ValueError):
            tcp.parse_address(text)
    else:
        assert tcp.parse_address(text) == parsed


@pytest.mark.parametrize(
    ("at", "written"),
    [
        (tcp.HostPort("192.0.2.1", 80), "/ip4/192.0.2.1/tcp/80"),
        (tcp.HostPort("2001:db8::1", 80), "/ip6/2001:db8::1/tcp/80"),
        (tcp.HostPort("node.example", 80), "/dns/node.example/tcp/80"),
        (tcp.HostPort("021.1.1.1", 80), "/dns/021.1.1.1/tcp/80"),
    ],
)
def test_what_is_written_of_an_address_is_that_address(at: tcp.HostPort, written: str) -> None:
    assert str(at) == written
    assert str(Multiaddr(written)) == written
    assert tcp.parse_address(written) == at


async def test_stream_reads_what_was_asked_for_over_many_pieces() -> None:
    listeners = await tcp.bind(("/ip4/127.0.0.1/tcp/0",))
    client = await trio.open_tcp_stream("127.0.0.1", port_of(listeners))
    served = tcp.TcpStream(await listeners[0].accept(), tcp.Traffic())

    async def drip() -> None:
        for _ in range(300):  # the library gives up on a message after a hundred pieces
            await client.send_all(b"x")
            await trio.lowlevel.checkpoint()
        await client.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        assert await served.read(250) == b"x" * 250
        assert await served.read(250) == b"x" * 50
    await served.close()
    await close(listeners)
