"""Connections to one server, kept for the next request, and how they are read within bounds."""

import contextlib
import io
import socket
import ssl
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from aigrid.engines.base import Cancelled, CancelToken
from aigrid.engines.upstream.address import Location
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import KIB, Limits

READ_BYTES: Final = 64 * KIB
_NOTHING_YET: Final = (BlockingIOError, ssl.SSLWantReadError)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one exchange: seconds without a byte, seconds in all, bytes of the answer's body."""

    silence_seconds: float
    seconds: float
    max_bytes: int


class Line:
    """A connection while one request has it. `reused`: an earlier one had it, too."""

    def __init__(self, connection: socket.socket, token: CancelToken, *, reused: bool) -> None:
        self.connection = connection
        self.reused = reused
        self._lock = threading.Lock()
        self._held = True
        token.on_cancel(self._cut)

    def _cut(self) -> None:
        """Wake whoever reads or writes, from another thread; TLS says no farewell."""
        with self._lock:
            if self._held:
                self._held = False
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self.connection, socket.SHUT_RDWR)

    def release(self) -> bool:
        """The request has it no longer; False where it was cut."""
        with self._lock:
            held, self._held = self._held, False
            return held


class Connections:
    """Threads may share it. What nobody uses for a while is not used again."""

    def __init__(self, location: Location, addresses: tuple[str, ...], limits: Limits) -> None:
        self._location = location
        self._addresses = addresses
        self._limits = limits
        self._tls = ssl.create_default_context() if location.secure else None
        self._idle: deque[tuple[socket.socket, float]] = deque()

    def take(self, token: CancelToken) -> Line | None:
        """One that is kept and, as far as can be told, alive; None where there is none."""
        while True:
            try:
                connection, until_seconds = self._idle.pop()
            except IndexError:
                return None
            if time.monotonic() < until_seconds and _is_quiet(connection):
                return Line(connection, token, reused=True)
            connection.close()

    def keep(self, line: Line) -> None:
        """For the next request: the answer to this one was read to its end."""
        until_seconds = time.monotonic() + self._limits.upstream_idle_seconds
        self._idle.append((line.connection, until_seconds))
        while len(self._idle) > self._limits.upstream_slots:
            with contextlib.suppress(IndexError):
                self._idle.popleft()[0].close()

    def make(self, token: CancelToken) -> Line:
        """A new one. Raises Cancelled, or EngineError: `unreachable`, `engine_failed` for TLS."""
        problem: OSError | None = None
        for address in self._addresses:
            if token.cancelled:
                raise Cancelled
            try:
                return Line(self._connect(address), token, reused=False)
            except ssl.SSLError as error:
                raise _untrusted(error) from None
            except OSError as error:
                problem = error
        why = "it does not answer" if isinstance(problem, TimeoutError) else _reason(problem)
        raise EngineError(f"the server cannot be reached: {why}", Code.UNREACHABLE)

    def _connect(self, address: str) -> socket.socket:
        seconds = self._limits.upstream_connect_seconds
        plain = socket.create_connection((address, self._location.port), seconds)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is None:
                return plain
            return self._tls.wrap_socket(plain, server_hostname=self._location.host)
        except BaseException:
            plain.close()
            raise


class Wire(io.RawIOBase):
    """A connection as http.client uses it: each read is held to the bounds of its part.

    Attributes:
        heard: whether anything has come.
    """

    def __init__(self, connection: socket.socket, bounds: Bounds, header_max_bytes: int) -> None:
        self._connection = connection
        self._bounds = bounds
        self._until = time.monotonic() + bounds.seconds
        # A header may take as long as silence may last, and not a byte a minute.
        self._part_until = time.monotonic() + bounds.silence_seconds
        self._left_bytes = header_max_bytes + READ_BYTES  # a read takes what is there
        self.heard = False

    def begin_body(self) -> None:
        self._part_until = self._until
        # Chunks are framed by a few bytes each; one for each byte would be six times as much.
        self._left_bytes = self._bounds.max_bytes + self._bounds.max_bytes // 2 + READ_BYTES

    def hurry(self, seconds: float) -> None:
        """The rest has to come within so long."""
        self._until = min(self._until, time.monotonic() + seconds)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def sendall(self, data: Any) -> None:
        self._connection.settimeout(self._bounds.silence_seconds)
        self._connection.sendall(data)

    def readinto(self, buffer: Any) -> int:
        left = min(self._part_until, self._until) - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(min(left, self._bounds.silence_seconds))
        count = self._connection.recv_into(buffer)
        self.heard |= count > 0
        self._left_bytes -= count
        if self._left_bytes < 0:
            raise EngineError("the server's answer is too large")
        return count

    def close(self) -> None:
        """The connection is closed by whoever opened it."""


def _is_quiet(connection: socket.socket) -> bool:
    """Whether nothing has come on a connection where nothing may: its end neither."""
    try:
        connection.settimeout(0.0)
        connection.recv(1)
    except _NOTHING_YET:
        return True
    except OSError:
        pass
    return False


def _untrusted(error: ssl.SSLError) -> EngineError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return EngineError(f"the server's certificate is not trusted: {error.verify_message}")
    return EngineError("the server does not speak TLS as it should")


def _reason(error: OSError | None) -> str:
    return (error.strerror if error is not None else None) or "no connection"
