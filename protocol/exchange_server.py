"""The server's side of an RPC stream; the rules are in `exchange`."""

import sys
from enum import Enum, auto
from typing import Final

from aigrid.protocol.errors import AigridError, Code, LocalError, RemoteError
from aigrid.protocol.exchange import CANCELLED, CREDIT, Event, RequestReceived, Side, check_final
from aigrid.protocol.framing import FrameKind, encode_error
from aigrid.protocol.limits import LIMITS, Limits

# Comparing members by identity costs a tenth of looking them up in a set: they hash by name.
_REQUEST, _PART = FrameKind.REQUEST, FrameKind.REQUEST_PART
_JOINED_AT: Final = 1024  # parts, so that a request of very many is not joined all at once


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


class ServerState(Enum):
    """Where the server's side of the stream stands."""

    IDLE = auto()
    RECEIVING = auto()
    DISCARDING = auto()
    ANSWERING = auto()
    CANCELLING = auto()


class ServerExchange(Side):
    """The side that accepted the stream.

    Any RemoteError out of `receive` means that the stream is of no further use: reset it, and call
    `close` in every case, which gives the budget back.
    """

    def __init__(self, limits: Limits = LIMITS, budget: RequestBudget | None = None) -> None:
        super().__init__(limits)
        self.state = ServerState.IDLE
        self._budget = budget if budget is not None else RequestBudget(limits.request_max_bytes)
        self._joined: list[bytes] = []  # many parts each
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
        self._joined.clear()
        self._parts.clear()
        self._budget.give_back(self._request_bytes)
        self._request_bytes = 0

    def receive(self, data: bytes, frames_max: int = sys.maxsize) -> list[Event]:
        """What these bytes mean, up to that many frames; the rest of them is `left`.

        Raises:
            RemoteError: `protocol_violation` or `frame_too_large`; the stream is lost.
        """
        events: list[Event] = []
        for kind, body in self._decoder.feed(data, frames_max):
            if kind is _PART or kind is _REQUEST:
                event = self._requested(kind, body)
            elif kind is FrameKind.CREDIT:
                self._take_credit(body)
                event = CREDIT
            elif kind is FrameKind.CANCEL:
                check_final(kind, body)
                event = self._cancelled()
            else:
                raise RemoteError(f"a {kind.name} frame from the client")
            if event is not None:
                events.append(event)
        self._check_unsent()
        return events

    def _requested(self, kind: FrameKind, body: bytes) -> Event | None:
        state = self.state
        if state is ServerState.IDLE:
            self._open_windows()
            self._late_cancel = False
            state = self.state = ServerState.RECEIVING
        elif state is not ServerState.RECEIVING and state is not ServerState.DISCARDING:
            raise RemoteError("a second request within an exchange")
        last = kind is _REQUEST
        if not last:
            self._arrived(body)
        if state is ServerState.RECEIVING:
            return self._keep(body, last=last)
        if last:
            self.state, self._late_cancel = ServerState.IDLE, True
        return None

    def _keep(self, body: bytes, *, last: bool) -> Event | None:
        size = len(body) if last else max(len(body), self._limits.request_part_least_bytes)
        if self._request_bytes + size > self._limits.request_max_bytes:
            error = LocalError("the request is too large", Code.BODY_TOO_LARGE)
            self._refuse(error, complete=last)
            return None
        if not self._budget.take(size):
            wait = self._limits.retry_after_seconds
            busy = LocalError("no room for the request", Code.BUSY, retry_after_seconds=wait)
            self._refuse(busy, complete=last)
            return None
        self._request_bytes += size
        if last:
            self.state = ServerState.ANSWERING
            whole = b"".join((*self._joined, *self._parts, body))
            self._joined.clear()
            self._parts.clear()
            return RequestReceived(whole)
        self._parts.append(body)
        if len(self._parts) == _JOINED_AT:
            self._joined.append(b"".join(self._parts))
            self._parts.clear()
        self._give_credit(len(body))
        return None

    def _refuse(self, error: AigridError, *, complete: bool) -> None:
        self.close()
        self._put(FrameKind.ERROR, encode_error(error))
        self.state = ServerState.IDLE if complete else ServerState.DISCARDING
        self._late_cancel = complete

    def _cancelled(self) -> Event | None:
        if self.state is ServerState.ANSWERING:
            self.state = ServerState.CANCELLING
            return CANCELLED
        if self.state is ServerState.RECEIVING:
            self._put(FrameKind.CANCEL)
            self.close()
        elif self.state is ServerState.IDLE and self._late_cancel:
            self._late_cancel = False
        elif self.state is not ServerState.DISCARDING:
            raise RemoteError("a CANCEL frame outside an exchange")
        self.state = ServerState.IDLE
        return None
