"""One client's HTTP/1.1, within bounds of time and size: h11 parses, everything else is here.

Two tasks for as long as the client stays: one reads, so that its leaving is noticed whatever goes
on, one answers request after request. What h11 refuses is answered and ends the connection; what is
no HTTP/1.0 or 1.1 is refused, and an Upgrade is passed over, as RFC 9110 (7.8) allows.
"""

import math
import re
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterable
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Final, Protocol, TypeVar

import h11
import trio

from aigrid.node.gateway.http.request import ClientGoneError, Request
from aigrid.node.gateway.http.response import Response
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.protocol.errors import InvalidRequestError
from aigrid.protocol.limits import KIB

T = TypeVar("T")
_RECEIVE_MAX_BYTES: Final = 64 * KIB
_UNREAD_MAX_BYTES: Final = 64 * KIB  # of what nobody has asked for yet; one read more may come
_WRITE_MAX_BYTES: Final = 64 * KIB
_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)
_HEARD_OUT: Final = frozenset({h11.DONE, h11.MUST_CLOSE, h11.CLOSED})
_TWO_LENGTHS: Final = frozenset({b"content-length", b"transfer-encoding"})
_BODILESS: Final = frozenset({204, 304})
_VERSIONS: Final = frozenset({b"1.0", b"1.1"})
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_CONTINUE: Final = h11.InformationalResponse(status_code=100, headers=[])
_QUOTED: Final = re.compile(r"\W*\bb?['\"{].*", re.DOTALL)


class Server(Protocol):
    """What connections share; see `server.HttpServer`."""

    app: Callable[[Request], Awaitable[None]]
    refusal: Callable[[int, str], Response]
    limits: GatewayLimits
    tls: ssl.SSLContext | None
    connections: "dict[Connection, None]"
    quiet: "dict[Connection, None]"
    counters: dict[str, int]
    now_seconds: Callable[[], int]
    stopping: bool


class Connection:
    """One client. The deadline of `_reading` is the only timer of a quiet connection."""

    def __init__(self, server: Server, stream: trio.SocketStream) -> None:
        self._server = server
        self._limits = server.limits
        self._socket = stream
        self._stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = stream
        if server.tls is not None:
            self._stream = trio.SSLStream(stream, server.tls, server_side=True)
        self._http = h11.Connection(
            h11.SERVER, max_incomplete_event_size=self._limits.headers_max_bytes
        )
        self._reading = trio.CancelScope()
        self._watched: trio.CancelScope | None = None
        self._came = trio.lowlevel.ParkingLot()  # where the answering task waits for more
        self._taken = trio.lowlevel.ParkingLot()  # where the reading one does, for it to be read
        self._unread_bytes = 0
        self._head = b""  # of an answer, which leaves with its first bytes
        self._is_bodiless = False
        self._waits_for_request = True
        self._closing = False
        self._broken = False
        self._gone = False

    async def run(self) -> None:
        """Serve the client until it leaves or is cut off."""
        self._server.connections[self] = None
        self._server.quiet[self] = None
        try:
            if not await self._shake_hands():
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve)
                await self._read()
                self._gone = True
                self._came.unpark_all()
                if self._watched is not None:
                    self._watched.cancel()
        finally:
            self._server.quiet.pop(self, None)
            del self._server.connections[self]
            if self._broken:
                # What the client has not read is worth nothing now: drop it with a reset.
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            elif self._closing:
                await self._say_goodbye()
            await trio.aclose_forcefully(self._socket)

    def give_up(self) -> None:
        """Close as soon as possible; wakes the reader."""
        self._reading.cancel()

    # The beginning and the end

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

    async def _close(self) -> None:
        """Nothing more is answered. The client may say the rest of what it is at, for a while.

        An answer that is sent while the client still uploads would be lost to a reset.
        """
        self._server.quiet.pop(self, None)
        if self._gone or self._closing:
            return
        self._closing = True
        self._taken.unpark_all()
        heard_out = self._broken or self._http.their_state in _HEARD_OUT
        linger_seconds = 0.0 if heard_out else self._limits.linger_seconds
        self._reading.deadline = trio.current_time() + linger_seconds
        if not self._broken and isinstance(self._stream, trio.SocketStream):
            try:
                await self._stream.send_eof()
            except _GONE:
                self.give_up()

    async def _say_goodbye(self) -> None:
        """With TLS, the end has to be told: a stream that merely stops may have been cut."""
        if isinstance(self._stream, trio.SSLStream):
            with trio.move_on_after(self._limits.farewell_seconds):
                try:
                    await self._stream.aclose()
                except _GONE:
                    pass

    # What the client says

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
                self._http.receive_data(bytes(data))
                self._unread_bytes += len(data)
                self._came.unpark_all()
                while self._unread_bytes > _UNREAD_MAX_BYTES and not self._closing:
                    await self._taken.park()

    def _set_deadline(self, seconds: float) -> None:
        if not self._closing:
            self._reading.deadline = trio.current_time() + seconds

    async def _next_event(self) -> Any:
        """What the client says next; None once it is gone. Raises h11.RemoteProtocolError."""
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA and event is not h11.PAUSED:
                return event
            if self._gone or self._closing:
                return None
            self._note_unread(0)
            await self._came.park()

    def _note_unread(self, count: int) -> None:
        self._unread_bytes = count
        if count <= _UNREAD_MAX_BYTES:
            self._taken.unpark_all()

    async def receive(self) -> bytes:
        """See `Request.receive`."""
        if self._closing:
            raise ClientGoneError
        if self._http.their_state is not h11.SEND_BODY:
            return b""
        if self._http.they_are_waiting_for_100_continue:
            await self._send(self._http.send(_CONTINUE))
        try:
            event = await self._next_event()
        except h11.RemoteProtocolError as error:
            raise InvalidRequestError(f"The body is none: {_reason(error)}.") from None
        if isinstance(event, h11.Data):
            return bytes(event.data)
        if isinstance(event, h11.EndOfMessage):
            self._note_unread(len(self._http.trailing_data[0]))
            return b""
        raise ClientGoneError

    async def unless_gone(self, work: Awaitable[T]) -> T:
        """See `Request.unless_gone`."""
        with trio.CancelScope() as scope:
            if self._gone:
                scope.cancel()
            self._watched = scope
            try:
                return await work
            finally:
                self._watched = None
        raise ClientGoneError

    # Request after request

    async def _serve(self) -> None:
        while await self._answer_next():
            pass
        await self._close()

    async def _answer_next(self) -> bool:
        """Whether another request may follow."""
        self._is_bodiless = False  # of what comes next, which may be no request at all
        try:
            event = await self._next_event()
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint, f"This is no HTTP/1.1: {_reason(error)}.")
            return False
        if not isinstance(event, h11.Request):
            return False
        self._waits_for_request = False
        self._server.quiet.pop(self, None)
        self._set_deadline(math.inf)
        self._is_bodiless = event.method == b"HEAD"
        status, reason = self._problem(event)
        try:
            request = Request(self, event.method, event.target, list(event.headers))
        except ValueError:
            status, reason = status or 400, reason or "The path is no percent-encoded UTF-8."
        if status:
            await self._refuse(status, reason)
            return False
        await self._server.app(request)
        return await self._goes_on()

    def _problem(self, event: h11.Request) -> tuple[int, str]:
        """The status that refuses a complete header, and why; 0 for one that may be answered."""
        size = len(event.method) + len(event.target)
        size += sum(len(name) + len(value) for name, value in event.headers)
        if event.http_version not in _VERSIONS:
            return 505, "The request is of another version of HTTP."
        if size > self._limits.headers_max_bytes:
            return 431, f"The header has more than {self._limits.headers_max_bytes} bytes."
        if len(event.headers) > self._limits.headers_max:
            return 431, f"There are more than {self._limits.headers_max} headers."
        if _TWO_LENGTHS.issubset(name for name, _ in event.headers):
            # Somebody before us may have taken the other one, and so another request's beginning.
            return 400, "Content-Length and Transfer-Encoding are both there."
        return 0, ""

    async def _goes_on(self) -> bool:
        """Whether the client was heard out and answered, and may ask again."""
        if self._gone or self._closing:
            return False
        if self._http.our_state is h11.SEND_RESPONSE:
            await self._refuse(500, "The request was not answered.")
        try:
            while self._http.their_state is h11.SEND_BODY:  # of a body that nobody wanted
                if self._http.next_event() is h11.NEED_DATA:
                    return False
        except h11.RemoteProtocolError:
            return False
        done = self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
        if not done or self._server.stopping:
            return False
        self._http.start_next_cycle()
        # The next header may have begun already, behind the request just answered.
        begun = len(self._http.trailing_data[0])
        self._note_unread(begun)
        self._waits_for_request = not begun
        self._server.quiet[self] = None
        limits = self._limits
        self._set_deadline(limits.header_seconds if begun else limits.keep_alive_seconds)
        return True

    # What it is answered

    async def _refuse(self, status: int, reason: str) -> None:
        """End with an error, unless an answer has begun."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._server.refusal(status, reason)(self)
        await self._close()

    def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """See `Request.begin`."""
        self._is_bodiless |= status in _BODILESS
        if not self._closing:
            dated = [*headers, (b"date", _date(self._server.now_seconds()))]
            self._head = self._http.send(h11.Response(status_code=status, headers=dated)) or b""

    async def write(self, data: bytes, *, last: bool) -> None:
        """See `Request.write`."""
        if self._closing:
            await trio.lowlevel.checkpoint()
            return
        parts = [self._head]
        self._head = b""
        if data and not self._is_bodiless:
            parts.append(self._http.send(h11.Data(data=data)) or b"")
        if last:
            parts.append(self._http.send(h11.EndOfMessage()) or b"")
        await self._send(b"".join(parts))

    async def _send(self, data: bytes | None) -> None:
        if self._broken or not data:
            await trio.lowlevel.checkpoint()  # so that the reader gets to end the request
            return
        view = memoryview(data)
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


def _reason(error: h11.RemoteProtocolError) -> str:
    """What the parser says, without what the client said."""
    return _QUOTED.sub("", str(error)) or "it cannot be read"


@lru_cache(maxsize=1)
def _date(seconds: int) -> bytes:
    return formatdate(seconds, usegmt=True).encode()
