"""The client's side of an RPC stream; the rules are in `exchange`."""

import sys
from enum import Enum, auto
from typing import Final

from aigrid.protocol.errors import Code, InvalidRequestError, LocalError, RemoteError
from aigrid.protocol.exchange import (
    CANCELLED,
    CREDIT,
    ENDED,
    FINAL_KINDS,
    Data,
    Event,
    Failed,
    Side,
    check_final,
)
from aigrid.protocol.framing import Frame, FrameKind, decode_error
from aigrid.protocol.limits import LIMITS, Limits

# Credit comes back once a part is whole: parts as large as the window would each wait for the last
# to arrive, and neither side works while the other does.
_PARTS_UNDER_WAY: Final = 4


class ClientState(Enum):
    """Where the client's side of the stream stands."""

    IDLE = auto()
    SENDING = auto()
    WAITING = auto()
    CANCELLING = auto()


class ClientExchange(Side):
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
        limits = self._limits
        most = min(limits.frame_max_bytes, limits.stream_credit_bytes // _PARTS_UNDER_WAY)
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

    def receive(self, data: bytes, frames_max: int = sys.maxsize) -> list[Event]:
        """What these bytes mean, up to that many frames; the rest of them is `left`.

        Raises:
            RemoteError: `protocol_violation` or `frame_too_large`; the stream is lost.
        """
        events: list[Event] = []
        for frame in self._decoder.feed(data, frames_max):
            if frame.kind is FrameKind.DATA and self.state is ClientState.WAITING:
                self._arrived(frame.body)
                events.append(Data(frame.body))
            else:
                event = self._handle(frame)
                if event is not None:
                    events.append(event)
        self._check_unsent()
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
            if kind in FINAL_KINDS:
                check_final(kind, body)
                self.state = ClientState.IDLE
                return CANCELLED
        elif kind is FrameKind.ERROR:
            error = decode_error(body)
            if self.state is ClientState.SENDING:
                self.cancel()
            self.state = ClientState.IDLE
            return Failed(error)
        elif kind is FrameKind.END and self.state is ClientState.WAITING:
            check_final(kind, body)
            self.state = ClientState.IDLE
            return ENDED
        raise RemoteError(f"a {kind.name} frame while {self.state.name.lower()}")

    def _more_credit(self, body: bytes) -> Event | None:
        self._take_credit(body)
        if self.state is ClientState.SENDING:
            self._pump()
        return CREDIT
