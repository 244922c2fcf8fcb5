"""HTTP/1.1 connections on trio: Anycorn parses and speaks ASGI, the guards are ours.

Everything we touch of Anycorn's insides is in this file (0.20). Its own TCP layer lacks: a limit on
connections, a limit on writes (it sends in a shield without a timeout, so a client that does not
read hangs the shutdown), a bound on complete headers, a way to keep HTTP/2 and WebSockets out, and
a lingering close (a 413 sent while the client still uploads is lost to a reset).
"""

import errno
import math
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import h11
import structlog
import trio
from anycorn.config import Config
from anycorn.events import Closed, Event, RawData, Updated
from anycorn.protocol.h11 import H11Protocol
from anycorn.task_group import TaskGroup
from anycorn.typing import ConnectionState
from anycorn.utils import wrap_app
from anycorn.worker_context import WorkerContext

from aigrid.node.gateway.http.errors import error_answer
from aigrid.node.gateway.http.turn import Turn
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.node.gateway.openai.answers import error_body
from aigrid.protocol.errors import Code, LocalError, UsageError
from aigrid.protocol.limits import KIB

AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]

_log = structlog.get_logger("aigrid.gateway")
_RECEIVE_MAX_BYTES = 64 * KIB
_WRITE_MAX_BYTES = 64 * KIB
_BACKLOG = 1024
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)
_HEARD_OUT = {h11.DONE, h11.MUST_CLOSE, h11.CLOSED}
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        UsageError: `port_in_use`, or `environment` when the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise _listen_error(error, host, port) from None
    return sock


def _listen_error(error: OSError, host: str, port: int) -> UsageError:
    if error.errno == errno.EADDRINUSE:
        return UsageError(f"Port {port} on {host} is already in use.", Code.PORT_IN_USE)
    return UsageError(f"The gateway cannot listen on {host}:{port}: {error.strerror}.")


class _RefusedError(Exception):
    """A request that was answered before it became a stream; the connection is closing."""


class _Http1(H11Protocol):
    """Anycorn's HTTP/1.1, and nothing but HTTP/1.1."""

    limits: GatewayLimits
    sends_header = False

    async def _send_h11_event(self, event: Any) -> None:
        self.sends_header = isinstance(event, h11.Response)
        await super()._send_h11_event(event)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Called for each complete header, before a stream is made of it."""
        size = len(event.target) + sum(len(name) + len(value) for name, value in event.headers)
        if event.http_version not in {b"1.0", b"1.1"}:
            await self._refuse(505)
        if size > self.limits.headers_max_bytes or len(event.headers) > self.limits.headers_max:
            await self._refuse(431)

    async def _refuse(self, status: int) -> None:
        await self._send_error_response(status)
        await self.send(Closed())
        raise _RefusedError

    async def _create_stream(self, request: h11.Request) -> None:
        """Without its Upgrade header a request is a plain one, as RFC 9110 (7.8) allows."""
        if any(name == b"upgrade" for name, _ in request.headers):
            request = h11.Request(
                method=request.method,
                target=request.target,
                headers=[(name, value) for name, value in request.headers if name != b"upgrade"],
                http_version=request.http_version,
            )
        await super()._create_stream(request)


class _Connection:
    """One client. The deadline of `_reading` is the only timer of a quiet connection."""

    def __init__(self, server: "HttpServer", stream: trio.SocketStream) -> None:
        self._server = server
        self._limits = server.limits
        self._socket = stream
        self._stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = stream
        if server.tls is not None:
            self._stream = trio.SSLStream(stream, server.tls, server_side=True)
        self._reading = trio.CancelScope()
        self._turn = Turn()
        self._header = b""  # of an answer, which leaves with its first bytes
        self._waits_for_request = True
        self._closing = False
        self._broken = False

    async def run(self) -> None:
        """Serve the client until it leaves or is cut off.

        Raises:
            OSError: it had left already.
        """
        client = _address(self._socket.socket.getpeername())
        server = _address(self._socket.socket.getsockname())
        self._server.connections[self] = None
        self._server.quiet[self] = None
        try:
            if not await self._shake_hands():
                return
            async with TaskGroup() as tasks:
                protocol = self._protocol = _Http1(
                    self._server.app,
                    self._server.config,
                    self._server.context,
                    tasks,
                    ConnectionState({}),
                    client,
                    server,
                    self._send,
                    None,
                )
                protocol.limits = self._limits
                await self._read()
                await protocol.handle(Closed())
        finally:
            self._server.quiet.pop(self, None)
            del self._server.connections[self]
            if self._broken:
                # What the client has not read is worth nothing now: drop it with a reset.
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            elif self._closing:
                await self._say_goodbye()
            await trio.aclose_forcefully(self._socket)

    async def _shake_hands(self) -> bool:
        """The TLS handshake, in its time; whoever is given up meanwhile fails it, too."""
        if not isinstance(self._stream, trio.SSLStream):
            return True
        self._reading.deadline = trio.current_time() + self._limits.handshake_seconds
        with self._reading:
            try:
                await self._stream.do_handshake()
            except _GONE:
                return False
        if self._reading.cancelled_caught:
            return False
        self._reading = trio.CancelScope()
        return True

    async def _say_goodbye(self) -> None:
        """With TLS, the end has to be told: a stream that merely stops may have been cut."""
        if isinstance(self._stream, trio.SSLStream):
            with trio.move_on_after(self._limits.farewell_seconds):
                try:
                    await self._stream.aclose()
                except _GONE:
                    pass

    def give_up(self) -> None:
        """Close as soon as possible; wakes the reader."""
        self._reading.cancel()

    async def _read(self) -> None:
        self._set_deadline(self._limits.header_seconds)
        with self._reading:
            while True:
                try:
                    data = await self._stream.receive_some(_RECEIVE_MAX_BYTES)
                except _GONE:
                    return
                if not data:
                    return
                if self._closing:
                    continue
                if self._waits_for_request:
                    self._waits_for_request = False
                    self._set_deadline(self._limits.header_seconds)
                try:
                    await self._protocol.handle(RawData(bytes(data)))
                except _RefusedError:
                    self._closing = True

    def _set_deadline(self, seconds: float) -> None:
        if not self._closing:
            self._reading.deadline = trio.current_time() + seconds

    async def _send(self, event: Event) -> None:
        """What the protocol wants done."""
        if isinstance(event, RawData):
            if self._broken or self._closing:
                await trio.lowlevel.checkpoint()  # so that the reader gets to end the request
            elif self._protocol.sends_header:
                self._header = bytes(event.data)
            elif data := self._header + event.data:
                self._header = b""
                await self._write(data)
        elif isinstance(event, Updated):
            self._note(idle=event.idle)
        elif isinstance(event, Closed) and not self._closing:
            self._closing = True
            self._server.quiet.pop(self, None)
            heard_out = self._protocol.connection.their_state in _HEARD_OUT
            seconds = 0.0 if self._broken or heard_out else self._limits.linger_seconds
            self._reading.deadline = trio.current_time() + seconds
            if not self._broken and isinstance(self._stream, trio.SocketStream):
                try:
                    # An answer may be on its way out while the reader meets what is no HTTP.
                    async with self._turn:
                        await self._stream.send_eof()
                except _GONE:
                    self.give_up()
            await self._protocol.handle(Closed())

    def _note(self, *, idle: bool) -> None:
        if idle:
            # The next header may have begun already, behind the request just answered.
            begun = bool(self._protocol.connection.trailing_data[0])
            self._waits_for_request = not begun
            self._server.quiet[self] = None
            limits = self._limits
            self._set_deadline(limits.header_seconds if begun else limits.keep_alive_seconds)
        else:
            self._waits_for_request = False
            self._server.quiet.pop(self, None)
            self._set_deadline(math.inf)

    async def _write(self, data: bytes) -> None:
        view = memoryview(data)
        async with self._turn:
            for start in range(0, len(view), _WRITE_MAX_BYTES):
                with trio.move_on_after(self._limits.write_seconds) as scope:
                    try:
                        await self._stream.send_all(view[start : start + _WRITE_MAX_BYTES])
                    except _GONE:
                        self._broken = True
                    except trio.Cancelled:
                        # A part may be out: nothing that follows would make sense.
                        self._broken = True
                        raise
                if scope.cancelled_caught:
                    self._server.counters["slow_readers_cut"] += 1
                if self._broken:
                    self.give_up()
                    return


def _address(name: Any) -> tuple[str, int]:
    return name[0], name[1]


class HttpServer:
    """Serves an ASGI app on a listening socket of ours.

    Attributes:
        connections: open connections, oldest first.
        quiet: of these, the ones without a request in progress, longest quiet first.
        counters: what the guards did.
        ended: set when nothing is served any more.
    """

    def __init__(
        self,
        app: AsgiApp,
        sock: socket.socket,
        limits: GatewayLimits,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.tls = tls
        self.app = wrap_app(app, 0, "asgi")
        self.limits = limits
        self.context = WorkerContext(None)
        self.config = _config(limits)
        self.connections: dict[_Connection, None] = {}
        self.quiet: dict[_Connection, None] = {}
        self.counters = {
            "connections_evicted": 0,
            "connections_refused": 0,
            "slow_readers_cut": 0,
            "connection_failures": 0,
        }
        self.ended = trio.Event()
        self._socket = sock
        self._accepting = trio.CancelScope()
        self._all = trio.CancelScope(shield=True)
        self._refusal = _refusal(limits)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop_accepting` and the last connection's end, or `cut_off`.

        Deliberately deaf to cancellation from outside: the owner first says goodbye.
        """
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._socket))
        try:
            with self._all:
                async with trio.open_nursery() as nursery:
                    task_status.started()
                    with self._accepting:
                        # Closes the listener when it ends.
                        await trio.serve_listeners(
                            self._serve_one, [listener], handler_nursery=nursery
                        )
        finally:
            self.ended.set()

    async def stop_accepting(self) -> None:
        """Close the listener and whatever has no request in progress."""
        self._accepting.cancel()
        await self.context.terminated.set()
        for connection in tuple(self.quiet):
            connection.give_up()

    def cut_off(self) -> None:
        """Close everything now."""
        self._all.cancel()

    async def _serve_one(self, stream: trio.SocketStream) -> None:
        if len(self.connections) >= self.limits.connections_max:
            if not self.quiet:
                self.counters["connections_refused"] += 1
                with trio.move_on_after(self.limits.farewell_seconds):
                    try:
                        if self.tls is None:  # else it would take a handshake to say so
                            await stream.send_all(self._refusal)
                    except trio.BrokenResourceError:
                        pass
                await trio.aclose_forcefully(stream)
                return
            self.counters["connections_evicted"] += 1
            oldest = next(iter(self.quiet))
            del self.quiet[oldest]
            oldest.give_up()
        try:
            await _Connection(self, stream).run()
        except OSError:
            await trio.aclose_forcefully(stream)  # the client left before we looked
        except Exception as error:  # noqa: BLE001  boundary: one connection fails alone
            self.counters["connection_failures"] += 1
            _log.error("connection_failed", error=type(error).__name__)


def _config(limits: GatewayLimits) -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = None  # the app's own boundary reports, without bodies
    config.include_server_header = False
    config.h11_max_incomplete_size = limits.headers_max_bytes
    config.keep_alive_max_requests = 2**31
    return config


def _refusal(limits: GatewayLimits) -> bytes:
    answer = error_answer(
        LocalError("The gateway serves as many connections as it may.", Code.BUSY),
        error_body,
        retry_after_seconds=limits.retry_after_seconds,
    )
    headers = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
    return (
        f"HTTP/1.1 503 \r\ncontent-type: application/json\r\n{headers}"
        f"content-length: {len(answer.body)}\r\nconnection: close\r\n\r\n"
    ).encode() + answer.body
