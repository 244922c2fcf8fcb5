"""TCP below Noise: a buffered byte stream, listening sockets of our own, and interface addresses.

The library's listener binds with SO_REUSEPORT (two nodes on one port, silently) and keeps one task
and one of 250 slots per connection it ever accepted; its stream reads in pieces that
`libp2p.io.utils.read_exactly` gives up on after a hundred. None of it is used.
"""

import errno
import fcntl
import ipaddress
import os
import re
import socket
import sys
import termios
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import ifaddr
import trio
from libp2p.io.exceptions import ConnectionClosedError

from aigrid.protocol.errors import Code, UsageError
from aigrid.protocol.host_names import HOST_NAME
from aigrid.protocol.limits import LIMITS

DEFAULT_PORT = 4711
DEFAULT_PORTS_TRIED = 100
READ_BYTES = 256 * 1024
UNSENT_BYTES = 128 * 1024  # in the system: an answer to a ping stands in line behind it
_NAME = re.compile(HOST_NAME)


@dataclass(slots=True)
class Traffic:
    """Bytes over all connections, ciphertext."""

    received: int = 0
    sent: int = 0


class TcpStream:
    """What Noise reads from and writes to (duck-typed `libp2p.io.abc.ReadWriteCloser`).

    `read(n)` waits until it has `n` bytes and returns fewer only at the end of the stream, so a
    Noise message costs no more calls on a slow network than on a fast one.
    """

    def __init__(self, stream: trio.SocketStream, traffic: Traffic) -> None:
        self._stream = stream
        self._traffic = traffic
        self._buffer = bytearray()
        self.received_bytes = 0
        if (option := getattr(socket, "TCP_NOTSENT_LOWAT", None)) is not None:
            with suppress(OSError):
                stream.socket.setsockopt(socket.IPPROTO_TCP, option, UNSENT_BYTES)
        name = stream.socket.getpeername()
        self._remote = (str(name[0]), int(name[1]))

    async def read(self, n: int | None = None) -> bytes:
        wanted = 1 if n is None else n
        while len(self._buffer) < wanted:
            data = await self._receive()
            if not data:
                break
            self._buffer += data
        taken = bytes(self._buffer if n is None else self._buffer[:n])
        del self._buffer[: len(taken)]
        return taken

    async def receive_some(self) -> bytes:
        """What has arrived, at least one byte; none at the end of the stream."""
        if not self._buffer:
            return await self._receive()
        return await self.read(len(self._buffer))

    async def wait_spoken(self) -> None:
        """Until the peer has said something, which is left unread.

        Raises:
            ConnectionClosedError: it said nothing before its end.
        """
        try:
            said = await self._stream.socket.recv(1, socket.MSG_PEEK)
        except (trio.ClosedResourceError, OSError) as error:
            raise ConnectionClosedError(str(error), transport="tcp") from error
        if not said:
            raise ConnectionClosedError("ended without a word", transport="tcp")

    async def _receive(self) -> bytes:
        sock, data = self._stream.socket, None
        try:
            while data is None:
                # Waiting first: what has come is mostly all there is, and asking again costs.
                await trio.lowlevel.wait_readable(sock)
                with suppress(BlockingIOError):
                    data = os.read(sock.fileno(), READ_BYTES)
        except (trio.ClosedResourceError, OSError) as error:
            raise ConnectionClosedError(str(error), transport="tcp") from error
        self.received_bytes += len(data)
        self._traffic.received += len(data)
        return data

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            raise ConnectionClosedError(str(error), transport="tcp") from error
        self._traffic.sent += len(data)

    def send_now(self, parts: list[bytes] | list[memoryview]) -> int:
        """How many bytes of these, joined, the socket takes at once. Raises OSError."""
        try:
            sent = os.writev(self._stream.socket.fileno(), parts)
        except BlockingIOError:
            return 0
        self._traffic.sent += sent
        return sent

    @property
    def unacknowledged_bytes(self) -> int:
        """Sent, and not known to have reached the peer's system; 0 where ours does not tell."""
        try:
            held = fcntl.ioctl(self._stream.socket.fileno(), termios.TIOCOUTQ, bytes(4))
        except (OSError, ValueError):  # an option of another system, or closed
            return 0
        return int.from_bytes(held, sys.byteorder)

    async def wait_writable(self) -> None:
        """Raises trio.ClosedResourceError once the socket is closed here."""
        await trio.lowlevel.wait_writable(self._stream.socket)

    def abort(self) -> None:
        """Close the socket now, whoever is reading or writing."""
        self._stream.socket.close()

    async def close(self) -> None:
        await self._stream.aclose()

    def get_remote_address(self) -> tuple[str, int]:
        return self._remote


@dataclass(frozen=True, slots=True)
class HostPort:
    """Where to listen or dial."""

    host: str
    port: int

    def __str__(self) -> str:
        """As a multiaddr; that of a name leaves open which kind of address it stands for."""
        try:
            kind = f"ip{ipaddress.ip_address(self.host).version}"
        except ValueError:
            kind = "dns"
        return f"/{kind}/{self.host}/tcp/{self.port}"


class Listening(Protocol):
    """Where connections come in."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Multiaddrs that others reach it at."""

    async def serve(
        self, accept: Callable[[TcpStream], Awaitable[None]], traffic: Traffic, tasks: trio.Nursery
    ) -> None:
        """Until cancelled: `accept` each connection in a task of `tasks`, and close it after."""


class Tcp(Protocol):
    """How connections are made. `Sockets` is the real one; a simulation has another."""

    async def listen(self, wanted: Iterable[str]) -> Listening:
        """Raises UsageError: see `bind`."""

    async def dial(self, at: HostPort, traffic: Traffic) -> TcpStream:
        """Raises OSError where nobody listens."""


class Sockets:
    """TCP of the operating system."""

    async def listen(self, wanted: Iterable[str]) -> Listening:
        return ListeningSockets(await bind(wanted))

    async def dial(self, at: HostPort, traffic: Traffic) -> TcpStream:
        return TcpStream(await trio.open_tcp_stream(at.host, at.port), traffic)


class ListeningSockets:
    """See `Listening`."""

    def __init__(self, listeners: list[trio.SocketListener]) -> None:
        self._listeners = listeners
        self.addresses = reachable_addresses(listeners)

    async def serve(
        self, accept: Callable[[TcpStream], Awaitable[None]], traffic: Traffic, tasks: trio.Nursery
    ) -> None:
        async def take(stream: trio.SocketStream) -> None:
            try:
                tcp = TcpStream(stream, traffic)
            except OSError:  # gone already
                await trio.aclose_forcefully(stream)
                return
            await accept(tcp)

        await trio.serve_listeners(take, self._listeners, handler_nursery=tasks)


def parse_address(address: str) -> HostPort:
    """`/ip4/A/tcp/P` (or ip6, dns, dns4, dns6), `/p2p/...` behind it ignored. Raises ValueError."""
    match address.split("/"):
        case ["", "ip4", host, "tcp", port, *rest] if _is_tail(rest):
            return HostPort(str(ipaddress.IPv4Address(host)), _port(port))
        case ["", "ip6", host, "tcp", port, *rest] if _is_tail(rest):
            if "%" in host:
                raise ValueError("a zone means something on one machine alone")
            return HostPort(str(ipaddress.IPv6Address(host)), _port(port))
        case ["", "dns" | "dns4" | "dns6", host, "tcp", port, *rest] if _is_tail(rest):
            if _NAME.fullmatch(host) is None:
                raise ValueError(f"not a host name: {host[:128]!r}")
            return HostPort(host, _port(port))
    raise ValueError(f"not a TCP multiaddr: {address[:128]!r}")


def _is_tail(rest: list[str]) -> bool:
    return not rest or (len(rest) == 2 and rest[0] == "p2p")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > 65535:
        raise ValueError(f"not a port: {text[:16]!r}")
    return int(text)


async def bind(listen: Iterable[str]) -> list[trio.SocketListener]:
    """Listening sockets for these multiaddrs; without any, the default port or the next free one.

    Raises:
        UsageError: `port_in_use`, or `usage` for an address that cannot be bound.
    """
    wanted = tuple(listen)
    if not wanted:
        for port in range(DEFAULT_PORT, DEFAULT_PORT + DEFAULT_PORTS_TRIED):
            try:
                return await _bind_one(HostPort("0.0.0.0", port))  # noqa: S104 - a node is reached from its network, behind the gate
            except OSError:
                continue
        return await _bind_one(HostPort("0.0.0.0", 0))  # noqa: S104 - as above
    listeners: list[trio.SocketListener] = []
    try:
        for address in wanted:
            listeners += await _bind_asked(address)
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


async def _bind_asked(address: str) -> list[trio.SocketListener]:
    try:
        return await _bind_one(parse_address(address))
    except ValueError as error:
        raise UsageError(f"Cannot listen on {address}: {error}.") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"The port of {address} is in use.", Code.PORT_IN_USE) from error
        raise UsageError(f"Cannot listen on {address}: {error.strerror}.") from error


async def _bind_one(at: HostPort) -> list[trio.SocketListener]:
    return list(await trio.open_tcp_listeners(at.port, host=at.host, backlog=256))


def reachable_addresses(listeners: Iterable[trio.SocketListener]) -> tuple[str, ...]:
    """Multiaddrs of listening sockets, wildcards expanded to this machine's interfaces."""
    found: dict[str, None] = {}
    for listener in listeners:
        host, port = listener.socket.getsockname()[:2]
        for one in addresses_of(host):
            found.setdefault(str(HostPort(one, port)))
    return tuple(found)[: LIMITS.addresses_max]


def addresses_of(host: str) -> list[str]:
    """An address, or in the place of a wildcard this machine's own of its kind, loopback last."""
    if not ipaddress.ip_address(host).is_unspecified:
        return [host]
    version = ipaddress.ip_address(host).version
    addresses = [
        ipaddress.ip_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0])
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
    ]
    usable = [a for a in addresses if a.version == version and not a.is_link_local]
    loopback = ipaddress.ip_address("127.0.0.1" if version == 4 else "::1")
    return [str(a) for a in sorted({*usable, loopback}, key=lambda a: (a.is_loopback, str(a)))]
