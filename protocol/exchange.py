"""One RPC stream as a state machine, without I/O: bytes in, events and bytes out.

A stream carries one exchange at a time and is used again for the next. Its opener is the client.

    client   REQUEST_PART* REQUEST        its request; CANCEL at any time until the answer's end
    server   DATA* (END | ERROR | CANCEL) its answer; ERROR may come before the request is complete

The rules that keep both sides in agreement:

1. The server closes every exchange with exactly one END, ERROR or CANCEL. A client that sends
   CANCEL ignores DATA and waits for that frame like any other; only then may it start again.
2. The server answers CANCEL with CANCEL once its work has stopped. If it had already closed the
   exchange it ignores the CANCEL, once. Both sides need no numbers for that: bytes arrive in order,
   so a late CANCEL arrives before the next request, never within it.
3. A client that is told ERROR before it has sent its whole request ends the request with CANCEL.
   The server, which discards what is still arriving, takes CANCEL or REQUEST as its end.
4. Flow control: REQUEST_PART and DATA frames cost their size on the wire, header included, so that
   empty ones are not free. Each exchange starts with `stream_credit_bytes` in each direction. A
   side may send while its credit is above zero, the last frame may overdraw it; CREDIT gives back
   what was consumed, in steps of at least half the window. REQUEST costs nothing.
"""

from enum import Enum, auto
from typing import Final, NamedTuple

from aigrid.protocol.errors import AigridError, Code, InvalidRequestError, LocalError, RemoteError
from aigrid.protocol.framing import (
    ERROR_BODY_MAX_BYTES,
    HEADER_BYTES,
    Frame,
    FrameDecoder,
    FrameKind,
    decode_credit,
    decode_error,
    encode,
    encode_credit,
    encode_error,
    header,
)
from aigrid.protocol.limits import LIMITS, Limits

# Control frames are small and answer something, so a peer that reads never lets this many wait.
_CONTROL_MAX_BYTES: Final = 65536


class RequestReceived(NamedTuple):
    """Server: a whole request is here; answer it."""

    body: bytes


class Data(NamedTuple):
    """Client: one body of the answer. Say `consumed` when it is no longer held."""

    body: bytes


class Ended(NamedTuple):
    """Client: the answer is complete; the stream is idle."""


class Failed(NamedTuple):
    """Client: the server answered with an error; the stream is idle."""

    error: RemoteError


class Cancelled(NamedTuple):
    """Client: the cancel is acknowledged, the stream idle. Server: stop the work, then `end`."""


class Credit(NamedTuple):
    """The peer lets us send more."""


Event = RequestReceived | Data | Ended | Failed | Cancelled | Credit

_ENDED, _CANCELLED, _CREDIT = Ended(), Cancelled(), Credit()


class RequestBudget:
    """What the requests of several streams may hold together, in bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._free_bytes = max_bytes

    def take(self, count: int) -> bool:
        """Reserve, or say that there is no room."""
        if count > self._free_bytes:
            return False
        self._free_bytes -= count
        return True

    def give_back(self, count: int) -> None:
        self._free_bytes += count


class _Side:
    """What client and server have in common: frames in and out, and the two windows."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._decoder = FrameDecoder(limits.frame_max_bytes)
        self._out: list[bytes] = []
        self._unsent_bytes = 0
        self._unsent_max_bytes = (
            limits.stream_credit_bytes + 2 * limits.frame_max_bytes + _CONTROL_MAX_BYTES
        )
        self._open_windows()

    def _open_windows(self) -> None:
        self._may_send = self._may_arrive = self._limits.stream_credit_bytes
        self._owed = 0

    @property
    def unsent_bytes(self) -> int:
        """Bytes that `data_to_send` would return."""
        return self._unsent_bytes

    def data_to_send(self) -> bytes:
        """Everything that is ready to be written, joined; empty when there is nothing."""
        out, self._out, self._unsent_bytes = self._out, [], 0
        return out[0] if len(out) == 1 else b"".join(out)

    def _put(self, kind: FrameKind, body: bytes = b"") -> None:
        self._out.append(encode(kind, body))
        self._unsent_bytes += HEADER_BYTES + len(body)
        if self._unsent_bytes > self._unsent_max_bytes:
            raise RemoteError("the peer sends but does not read")

    def _put_flowing(self, kind: FrameKind, body: bytes) -> None:
        cost = HEADER_BYTES + len(body)
        self._may_send -= cost
        self._unsent_bytes += cost
        if cost < 1024:
            self._out.append(encode(kind, body))
        else:
            self._out += (header(kind, len(body)), body)

    def _arrived(self, body: bytes) -> None:
        if self._may_arrive <= 0:
            raise RemoteError("the peer sends beyond its credit")
        self._may_arrive -= HEADER_BYTES + len(body)

    def _give_credit(self, body_bytes: int) -> None:
        self._owed += HEADER_BYTES + body_bytes
        if self._owed * 2 >= self._limits.stream_credit_bytes:
            self._put(FrameKind.CREDIT, encode_credit(self._owed))
            self._may_arrive += self._owed
            self._owed = 0

    def _take_credit(self, body: bytes) -> None:
        self._may_send += decode_credit(body)
        if self._may_send > self._limits.stream_credit_bytes:
            raise RemoteError("the peer gives more credit than it was asked for")


class ClientState(Enum):
    """Where the client's side of the stream stands."""

    IDLE = auto()
    SENDING = auto()
    WAITING = auto()
    CANCELLING = auto()


class ClientExchange(_Side):
    """The side that opened the stream.

    Any RemoteError out of `receive` means that the stream is of no further use: reset it.
    """

    def __init__(self, limits: Limits = LIMITS) -> None:
        super().__init__(limits)
        self.state = ClientState.IDLE
        self._request = memoryview(b"")

    @property
    def idle(self) -> bool:
        """Whether `start` may be called."""
        return self.state is ClientState.IDLE

    def start(self, request: bytes) -> None:
        """Begin an exchange; of a large request only as much as the credit allows is sent now.

        Raises:
            InvalidRequestError: `body_too_large`.
        """
        if self.state is not ClientState.IDLE:
            raise LocalError("an exchange is under way on this stream")
        if len(request) > self._limits.request_max_bytes:
            raise InvalidRequestError(f"a request of {len(request)} bytes", Code.BODY_TOO_LARGE)
        self._open_windows()
        self._request = memoryview(request)
        self.state = ClientState.SENDING
        self._pump()

    def _pump(self) -> None:
        most = self._limits.frame_max_bytes
        while len(self._request) > most:
            if self._may_send <= 0:
                return
            self._put_flowing(FrameKind.REQUEST_PART, bytes(self._request[:most]))
            self._request = self._request[most:]
        self._put(FrameKind.REQUEST, bytes(self._request))
        self._request = memoryview(b"")
        self.state = ClientState.WAITING

    def cancel(self) -> None:
        """Give the exchange up; `Cancelled` follows. Does nothing outside an exchange."""
        if self.state in {ClientState.SENDING, ClientState.WAITING}:
            self._put(FrameKind.CANCEL)
            self._request = memoryview(b"")
            self.state = ClientState.CANCELLING

    def consumed(self, body_bytes: int) -> None:
        """One body of that size is no longer held; give the credit back."""
        if self.state is ClientState.WAITING:
            self._give_credit(body_bytes)

    def receive(self, data: bytes) -> list[Event]:
        """What these bytes mean.

        Raises:
            RemoteError: `protocol_violation` or `frame_too_large`; the stream is lost.
        """
        events: list[Event] = []
        for frame in self._decoder.feed(data):
            if frame.kind is FrameKind.DATA and self.state is ClientState.WAITING:
                self._arrived(frame.body)
                events.append(Data(frame.body))
            else:
                event = self._handle(frame)
                if event is not None:
                    events.append(event)
        return events

    def _handle(self, frame: Frame) -> Event | None:
        kind, body = frame
        if self.state is ClientState.IDLE:
            raise RemoteError(f"a {kind.name} frame outside an exchange")
        if kind is FrameKind.CREDIT:
            return self._more_credit(body)
        if self.state is ClientState.CANCELLING:
            if kind is FrameKind.DATA:
                self._arrived(body)
                return None
            if kind in _FINAL:
                _final(kind, body)
                self.state = ClientState.IDLE
                return _CANCELLED
        elif kind is FrameKind.ERROR:
            error = decode_error(body)
            if self.state is ClientState.SENDING:
                self.cancel()
            self.state = ClientState.IDLE
            return Failed(error)
        elif kind is FrameKind.END and self.state is ClientState.WAITING:
            _final(kind, body)
            self.state = ClientState.IDLE
            return _ENDED
        raise RemoteError(f"a {kind.name} frame while {self.state.name.lower()}")

    def _more_credit(self, body: bytes) -> Event | None:
        self._take_credit(body)
        if self.state is ClientState.SENDING:
            self._pump()
        return _CREDIT


_FINAL: Final = frozenset({FrameKind.END, FrameKind.ERROR, FrameKind.CANCEL})


def _final(kind: FrameKind, body: bytes) -> None:
    if len(body) > (ERROR_BODY_MAX_BYTES if kind is FrameKind.ERROR else 0):
        raise RemoteError(f"a {kind.name} frame with a body of {len(body)} bytes")


class ServerState(Enum):
    """Where the server's side of the stream stands."""

    IDLE = auto()
    RECEIVING = auto()
    DISCARDING = auto()
    ANSWERING = auto()
    CANCELLING = auto()


class ServerExchange(_Side):
    """The side that accepted the stream.

    Any RemoteError out of `receive` means that the stream is of no further use: reset it, and call
    `close` in every case, which gives the budget back.
    """

    def __init__(self, limits: Limits = LIMITS, budget: RequestBudget | None = None) -> None:
        super().__init__(limits)
        self.state = ServerState.IDLE
        self._budget = budget if budget is not None else RequestBudget(limits.request_max_bytes)
        self._parts: list[bytes] = []
        self._request_bytes = 0
        self._late_cancel = False

    @property
    def can_send(self) -> bool:
        """Whether `send` may be called now: the credit is not used up, or nobody listens."""
        return self._may_send > 0 or self.state is ServerState.CANCELLING

    def send(self, body: bytes) -> None:
        """One body of the answer; dropped when the client has cancelled."""
        if self.state is ServerState.CANCELLING:
            return
        if self.state is not ServerState.ANSWERING or self._may_send <= 0:
            raise LocalError("nothing may be sent on this stream now")
        if len(body) > self._limits.frame_max_bytes:
            raise LocalError(f"a body of {len(body)} bytes", Code.FRAME_TOO_LARGE)
        self._put_flowing(FrameKind.DATA, body)

    def end(self, error: AigridError | None = None) -> None:
        """Close the exchange: END, the error given, or the acknowledgement of a cancel."""
        if self.state is ServerState.CANCELLING:
            self._put(FrameKind.CANCEL)
        elif self.state is not ServerState.ANSWERING:
            raise LocalError("there is no exchange to end")
        else:
            self._late_cancel = True
            if error is None:
                self._put(FrameKind.END)
            else:
                self._put(FrameKind.ERROR, encode_error(error))
        self.state = ServerState.IDLE
        self.close()

    def close(self) -> None:
        """Forget the request and give its bytes back to the budget."""
        self._parts.clear()
        self._budget.give_back(self._request_bytes)
        self._request_bytes = 0

    def receive(self, data: bytes) -> list[Event]:
        """What these bytes mean.

        Raises:
            RemoteError: `protocol_violation` or `frame_too_large`; the stream is lost.
        """
        events: list[Event] = []
        for kind, body in self._decoder.feed(data):
            if kind is FrameKind.CREDIT:
                self._take_credit(body)
                event: Event | None = _CREDIT
            elif kind is FrameKind.CANCEL:
                _final(kind, body)
                event = self._cancelled()
            elif kind in {FrameKind.REQUEST, FrameKind.REQUEST_PART}:
                event = self._requested(kind, body)
            else:
                raise RemoteError(f"a {kind.name} frame from the client")
            if event is not None:
                events.append(event)
        return events

    def _requested(self, kind: FrameKind, body: bytes) -> Event | None:
        if self.state is ServerState.IDLE:
            self._open_windows()
            self._late_cancel = False
            self.state = ServerState.RECEIVING
        elif self.state not in {ServerState.RECEIVING, ServerState.DISCARDING}:
            raise RemoteError("a second request within an exchange")
        last = kind is FrameKind.REQUEST
        if not last:
            self._arrived(body)
        if self.state is ServerState.RECEIVING:
            return self._keep(body, last=last)
        if last:
            self.state, self._late_cancel = ServerState.IDLE, True
        return None

    def _keep(self, body: bytes, *, last: bool) -> Event | None:
        size = len(body)
        if self._request_bytes + size > self._limits.request_max_bytes:
            return self._refuse(LocalError("the request is too large", Code.BODY_TOO_LARGE), last)
        if not self._budget.take(size):
            wait = self._limits.retry_after_seconds
            busy = LocalError("no room for the request", Code.BUSY, retry_after_seconds=wait)
            return self._refuse(busy, last)
        self._request_bytes += size
        if last:
            self.state = ServerState.ANSWERING
            whole = b"".join((*self._parts, body)) if self._parts else body
            self._parts.clear()
            return RequestReceived(whole)
        self._parts.append(body)
        self._give_credit(size)
        return None

    def _refuse(self, error: AigridError, complete: bool) -> None:  # noqa: FBT001
        self.close()
        self._put(FrameKind.ERROR, encode_error(error))
        self.state = ServerState.IDLE if complete else ServerState.DISCARDING
        self._late_cancel = complete

    def _cancelled(self) -> Event | None:
        if self.state is ServerState.ANSWERING:
            self.state = ServerState.CANCELLING
            return _CANCELLED
        if self.state is ServerState.RECEIVING:
            self._put(FrameKind.CANCEL)
            self.close()
        elif self.state is ServerState.IDLE and self._late_cancel:
            self._late_cancel = False
        elif self.state is not ServerState.DISCARDING:
            raise RemoteError("a CANCEL frame outside an exchange")
        self.state = ServerState.IDLE
        return None
