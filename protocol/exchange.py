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

from typing import Final, NamedTuple

from aigrid.protocol.errors import RemoteError
from aigrid.protocol.framing import (
    HEADER_BYTES,
    FrameDecoder,
    FrameKind,
    decode_credit,
    encode,
    encode_credit,
    header,
)
from aigrid.protocol.limits import LIMITS, Limits


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

ENDED, CANCELLED, CREDIT = Ended(), Cancelled(), Credit()


class Side:
    """What client and server have in common: frames in and out, and the two windows."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._decoder = FrameDecoder(limits.frame_max_bytes)
        self._out: list[bytes] = []
        self._unsent_bytes = 0
        # Control frames are small and answer something, so a peer that reads never lets many wait.
        self._unsent_max_bytes = (
            limits.stream_credit_bytes
            + 2 * limits.frame_max_bytes
            + limits.unsent_control_max_bytes
        )
        self._open_windows()

    def _open_windows(self) -> None:
        self._may_send = self._may_arrive = self._limits.stream_credit_bytes
        self._owed = 0

    @property
    def unsent_bytes(self) -> int:
        """Bytes that `data_to_send` would return."""
        return self._unsent_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return self._decoder.held_bytes

    @property
    def left(self) -> bytes:
        """What the last `receive` did not look at, because of its `frames_max`."""
        return self._decoder.left

    def data_to_send(self) -> bytes:
        """Everything that is ready to be written, joined; empty when there is nothing."""
        out, self._out, self._unsent_bytes = self._out, [], 0
        return out[0] if len(out) == 1 else b"".join(out)

    def _put(self, kind: FrameKind, body: bytes = b"") -> None:
        self._out.append(encode(kind, body))
        self._unsent_bytes += HEADER_BYTES + len(body)

    def _check_unsent(self) -> None:
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


FINAL_KINDS: Final = frozenset({FrameKind.END, FrameKind.ERROR, FrameKind.CANCEL})


def check_final(kind: FrameKind, body: bytes) -> None:
    if len(body) > (LIMITS.error_body_max_bytes if kind is FrameKind.ERROR else 0):
        raise RemoteError(f"a {kind.name} frame with a body of {len(body)} bytes")
