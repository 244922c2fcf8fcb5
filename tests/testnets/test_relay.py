"""The network between namespaces: what becomes of packets, and that real ones are delayed and cut."""

import random
import struct
import time
from pathlib import Path

import pytest
from scripts.testnets.namespaces import Namespaces, socket_in, why_not
from scripts.testnets.options import NAMESPACES, Options
from scripts.testnets.relay import QUEUE_MAX, Network, address_of, number_of

LATENCY_SECONDS = 0.03


def network(latency="20", loss=0.0, seed=1) -> Network:
    return Network(latency, loss, random.Random(seed), seed)


def packet(target: int, body: bytes = b"") -> bytes:
    address = bytes(map(int, address_of(target).split(".")))
    return struct.pack("!B15x", 0x45) + address + body


def arrived(net: Network, now: float) -> list[tuple[int, bytes]]:
    return [(target, data[20:]) for target, data in net.due(now)]


def test_addresses_stand_for_numbers():
    for number in (0, 1, 254, 255, 1000):
        assert number_of(bytes(map(int, address_of(number).split(".")))) == number
    assert number_of(b"\x7f\0\0\1") == number_of(b"") == -1


def test_a_packet_arrives_after_the_delay_of_its_pair_and_in_order():
    net = network("uniform:5-50")
    delay = net.delay_seconds(0, 1)
    assert 0.005 <= delay <= 0.05
    assert net.delay_seconds(1, 0) == delay == network("uniform:5-50").delay_seconds(1, 0)
    assert network("uniform:5-50", seed=2).delay_seconds(0, 1) != delay != net.delay_seconds(0, 2)
    for n in range(3):
        net.put(0, packet(1, b"%d" % n), now=10.0)
    assert net.wait_seconds(10.0) == pytest.approx(delay)
    assert arrived(net, 10.0 + 0.9 * delay) == []
    assert arrived(net, 10.0 + delay) == [(1, b"0"), (1, b"1"), (1, b"2")]
    assert net.wait_seconds(10.0) == -1.0


def test_its_share_is_lost():
    net = network(loss=0.2)
    for _ in range(2000):
        net.put(0, packet(1), now=0.0)
    assert 300 < net.lost < 500
    assert net.lost + net.passed == 2000


def test_the_sides_of_a_partition_do_not_hear_each_other():
    net = network("0")
    net.side = frozenset({0, 1})
    for source, target in ((0, 1), (1, 2), (2, 0), (2, 3)):
        net.put(source, packet(target), now=0.0)
    assert [target for target, _ in net.due(1.0)] == [1, 3]
    assert net.cut_off == 2
    net.side = frozenset()
    net.put(1, packet(2), now=2.0)
    assert [target for target, _ in net.due(3.0)] == [2]


def test_what_is_no_packet_for_a_node_is_dropped_and_a_full_queue_loses():
    net = network()
    for data in (b"", b"\x45", b"\x60" + packet(1)[1:], packet(1)[:18], b"\x45" + bytes(19)):
        net.put(0, data, now=0.0)
    assert net.wait_seconds(0.0) == -1.0
    for _ in range(QUEUE_MAX + 5):
        net.put(0, packet(1), now=0.0)
    assert net.lost == 5


@pytest.mark.process
def test_connections_between_real_namespaces_are_slow_and_are_cut():
    if reason := why_not():
        pytest.skip(reason)
    latency = f"{1000 * LATENCY_SECONDS:g}"
    home = Path("/proc/thread-self/ns/net").readlink()
    net = Namespaces(Options(nodes=2, net=NAMESPACES, latency=latency))
    try:
        with socket_in(net.paths[1]) as listener:
            assert Path("/proc/thread-self/ns/net").readlink() == home
            listener.bind((address_of(1), 4001))
            listener.listen()
            with socket_in(net.paths[0]) as caller:
                began = time.monotonic()
                caller.settimeout(30)
                caller.connect((address_of(1), 4001))
                assert time.monotonic() - began >= 2 * LATENCY_SECONDS  # SYN, and its answer
            net.cut((0,))
            with socket_in(net.paths[0]) as caller:
                caller.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    caller.connect((address_of(1), 4001))
            net.cut(())
            with socket_in(net.paths[0]) as caller:
                caller.settimeout(30)
                caller.connect((address_of(1), 4001))
    finally:
        counted = net.end()
    assert counted["cut_off"] >= 1
    assert counted["passed"] >= 6
    assert not Path(net.paths[0]).exists()
