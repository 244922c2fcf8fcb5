"""What a Yamux session tells its owner (see `yamux_session`)."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from aigrid.node.network.yamux_state import StreamState


class Violation(StrEnum):
    """How a peer broke the protocol; the connection ends."""

    VERSION = "version"
    TYPE = "type"
    FLAGS = "flags"
    STREAM_ID = "stream_id"  # opened twice, or with an id that is not the peer's to give
    FRAME_TOO_LARGE = "frame_too_large"  # by the length that its header declares
    WINDOW_OVERRUN = "window_overrun"  # more data than it was allowed
    UNREAD_ANSWERS = "unread_answers"  # it provokes frames and does not read them
    FLOOD = "flood"  # frames that cost us work and carry nothing, at a rate no use explains


class Fault(StrEnum):
    """Why we gave up one stream; the connection goes on."""

    DATA_AFTER_END = "data_after_end"
    MEMORY = "memory"  # the connection holds as many unread bytes as it may


@dataclass(frozen=True, slots=True)
class Opened:
    """The peer opened a stream. Its id may come again, what the session knows of it does not."""

    stream_id: int
    state: StreamState | None = field(default=None, compare=False)


class Received(NamedTuple):
    """A piece of a stream, at least one byte. It counts as unread until `Session.consumed`."""

    stream_id: int
    data: bytes


class Writable(NamedTuple):
    """The peer allows more."""

    stream_id: int


class Ended(NamedTuple):
    """The peer will send no more on this stream."""

    stream_id: int


class WasReset(NamedTuple):
    """The stream is over for both sides: the peer gave it up, or we did because of `fault`."""

    stream_id: int
    fault: Fault | None = None


class Pong(NamedTuple):
    """The answer to a ping."""

    value: int


class GoneAway(NamedTuple):
    """The peer ends the connection."""

    code: int


class Violated(NamedTuple):
    """The last event of a session; what comes after it is not looked at."""

    violation: Violation
    detail: str


Event = Opened | Received | Writable | Ended | WasReset | Pong | GoneAway | Violated
