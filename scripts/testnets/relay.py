"""Network namespaces with delay, loss and partitions, in user space: for kernels without netem.

    python -m scripts.testnets.relay '{"nodes": 3, "seed": 1, "latency": "20", "loss": 0.01}'

Needs root on Linux. Each node has a network namespace with one TUN device, whose other end is here:
what comes out of one is put into that of the address it is for, `latency` ms later (drawn once per
pair and the same both ways, so that packets of a pair stay in order), unless it is lost or cut off.
Says on standard output, when all is there, `{"namespaces": [descriptor of this process, ...]}`.
Reads lines from standard input: `{"cut": [0, 2]}` parts these from the others, `{"cut": []}` heals.
It ends when that ends. Nothing has a name, so nothing is left behind, however this ends: a
namespace goes with the last process in it.
"""

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from scripts.simulation.network.spread import spread

# linux/sched.h, linux/if_tun.h
CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x0001 | 0x1000

NETWORK = "10.77.0.0/16"
MTU_BYTES = 1500
QUEUE_MAX = 20_000  # packets under way; more are lost, as in a full router
AT_ONCE = 64  # packets read of one device before the next
_DESTINATION = slice(16, 20)  # of an IPv4 header, RFC 791
_libc = ctypes.CDLL(None, use_errno=True)


def address_of(number: int) -> str:
    """IPv4 address of a node."""
    return f"10.77.{(number + 1) >> 8}.{(number + 1) & 255}"


def number_of(destination: bytes) -> int:
    """The node with this address of 4 bytes; -1 for one outside the network."""
    if len(destination) != 4 or destination[:2] != b"\x0a\x4d":
        return -1
    return (destination[2] << 8 | destination[3]) - 1


@dataclass(slots=True)
class Network:
    """Decides what becomes of a packet. Pure, but for the state in it; seconds of any clock."""

    latency: str
    loss: float
    rng: random.Random
    seed: int
    side: frozenset[int] = frozenset()
    lost: int = 0
    cut_off: int = 0
    passed: int = 0
    _delays: dict[tuple[int, int], float] = field(default_factory=dict)
    _under_way: list[tuple[float, int, int, bytes]] = field(default_factory=list)

    def delay_seconds(self, one: int, other: int) -> float:
        """One way; of the pair, whoever begins."""
        pair = (min(one, other), max(one, other))
        if pair not in self._delays:
            rng = random.Random(f"{self.seed}/{pair}")
            self._delays[pair] = spread(self.latency).draw(rng) / 1000
        return self._delays[pair]

    def put(self, source: int, packet: bytes, now: float) -> None:
        target = number_of(packet[_DESTINATION]) if packet[:1] and packet[0] >> 4 == 4 else -1
        if target < 0:
            return
        if (source in self.side) != (target in self.side):
            self.cut_off += 1
        elif len(self._under_way) >= QUEUE_MAX or (self.loss and self.rng.random() < self.loss):
            self.lost += 1
        else:
            self.passed += 1
            due = now + self.delay_seconds(source, target)
            heapq.heappush(self._under_way, (due, self.passed, target, packet))

    def due(self, now: float) -> list[tuple[int, bytes]]:
        """(node, packet) of what has arrived."""
        found = []
        while self._under_way and self._under_way[0][0] <= now:
            _, _, target, packet = heapq.heappop(self._under_way)
            found.append((target, packet))
        return found

    def wait_seconds(self, now: float) -> float:
        """Until the next one arrives; -1 where none is under way."""
        return max(0.0, self._under_way[0][0] - now) if self._under_way else -1.0


def namespace(number: int) -> tuple[int, int]:
    """Descriptors of a new namespace and of the TUN device in it, which has the node's address."""
    if _libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", b"grid0", _IFF_TUN_NO_PI))
    _, _, bits = NETWORK.partition("/")
    for words in (
        f"addr add {address_of(number)}/{bits} dev grid0",
        f"link set grid0 mtu {MTU_BYTES} up",
        "link set lo up",
    ):
        subprocess.run(["ip", *words.split()], check=True, capture_output=True)
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC), device


def why_not() -> str:
    """Why there can be no namespaces here; "" where there can. Leaves this process in a new one."""
    try:
        for descriptor in namespace(0):
            os.close(descriptor)
    except (OSError, subprocess.CalledProcessError, AttributeError) as error:
        return f"network namespaces with TUN devices need root on Linux, and `ip`: {error}"
    return ""


class Relay:
    """Moves packets between the devices until standard input ends."""

    def __init__(self, network: Network, devices: list[int], clock: Callable[[], float]) -> None:
        self._network = network
        self._devices = devices
        self._clock = clock
        self._numbers = {device: number for number, device in enumerate(devices)}

    def run(self) -> None:
        poll, commands, buffer = select.epoll(), sys.stdin.fileno(), b""
        for descriptor in (commands, *self._devices):
            poll.register(descriptor, select.EPOLLIN)
        while True:
            wait = self._network.wait_seconds(self._clock())
            for descriptor, _ in poll.poll(wait):
                if descriptor != commands:
                    self._read(descriptor)
                    continue
                read = os.read(commands, 65536)
                if not read:
                    return
                *lines, buffer = (buffer + read).split(b"\n")
                for line in lines:
                    self._network.side = frozenset(json.loads(line)["cut"])
            for target, packet in self._network.due(self._clock()):
                self._write(target, packet)

    def _read(self, device: int) -> None:
        for _ in range(AT_ONCE):
            try:
                packet = os.read(device, 65536)
            except BlockingIOError:
                return
            self._network.put(self._numbers[device], packet, self._clock())

    def _write(self, target: int, packet: bytes) -> None:
        if target < len(self._devices):
            with suppress(OSError):  # its queue is full: a router would drop it, too
                os.write(self._devices[target], packet)


def main() -> int:
    if sys.argv[1] == "--why-not":
        reason = why_not()
        print(reason)
        return 1 if reason else 0
    said = json.loads(sys.argv[1])
    network = Network(said["latency"], said["loss"], random.Random(said["seed"]), said["seed"])
    made = [namespace(number) for number in range(said["nodes"])]
    print(json.dumps({"namespaces": [one for one, _ in made]}), flush=True)
    Relay(network, [device for _, device in made], time.monotonic).run()
    counted = {"passed": network.passed, "lost": network.lost, "cut_off": network.cut_off}
    print(json.dumps({**counted, "cpu_seconds": round(time.process_time(), 2)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
