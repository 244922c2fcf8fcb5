"""A Yamux connection without its I/O: bytes in, events out, and frames to send.

Pure: no socket, no clock, no task. What arrives is fed to `receive`, which never raises: a peer
that breaks the protocol ends the session with `Violated` as its last event, and behind a go-away
nothing is looked at. What there is to send is taken with `next_message`. Everything a peer may make
us keep is bounded:

- unread bytes of a stream by its window, those of all streams by `memory_max_bytes`: no window is
  raised beyond, and a stream whose data would not fit is reset;
- streams that it opens by `mux_streams_max`: more are reset;
- data of streams that are over by what these were still allowed, and a window more;
- answers not yet sent by `mux_control_max_bytes`, declared lengths by `mux_window_bytes`, and by a
  budget that refills with time what carries nothing (`Manners`).
"""

from typing import Final

from aigrid.node.network.yamux_events import (
    Ended,
    Event,
    Fault,
    GoneAway,
    Opened,
    Pong,
    Received,
    Violated,
    Violation,
    WasReset,
    Writable,
)
from aigrid.node.network.yamux_frames import (
    ACK,
    DATA,
    FIN,
    FLAGS_ALL,
    GO_AWAY,
    GO_AWAY_VIOLATION,
    HEADER,
    HEADER_BYTES,
    INITIAL_WINDOW_BYTES,
    PAYLOAD_MAX_BYTES,
    PING,
    RST,
    SYN,
    WINDOW_MAX_BYTES,
    WINDOW_UPDATE,
    data,
    go_away,
    ping,
    window_update,
)
from aigrid.node.network.yamux_outbox import Answer, Outbox
from aigrid.node.network.yamux_state import Manners, StreamState
from aigrid.protocol.limits import LIMITS, Limits

_ENDING: Final = FIN | RST
_STEPS_MAX: Final = 32  # headers and payloads looked at in one call


class Session:
    """One side of a connection. `violated` says how the peer broke it, None while all is well."""

    def __init__(self, *, is_initiator: bool, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self.window_bytes = INITIAL_WINDOW_BYTES  # what streams are allowed, if memory permits
        self.streams: dict[int, StreamState] = {}
        self.violated: Violated | None = None
        self.unread_bytes = 0
        self._promised_bytes = self._inbound = 0  # windows of all streams, and how many are theirs
        self._own_parity = 1 if is_initiator else 0
        self._next_id = 1 if is_initiator else 2
        self._outbox = Outbox()
        self._manners = Manners(limits)
        self._over = False  # broken by the peer, or it has said goodbye
        # Bytes not looked at, a header that is not whole, or the frame whose payload is arriving
        self._rest = b""
        self._partial = bytearray()
        self._body_left = self._body_flags = 0
        self._body_stream: StreamState | None = None

    @property
    def unsent_bytes(self) -> int:
        return self._outbox.unsent_bytes

    @property
    def may_open(self) -> bool:
        """Whether the frames that our streams cause leave, so that there may be more of them."""
        return self._outbox.own_control_bytes <= self._limits.mux_control_max_bytes

    @property
    def memory_max_bytes(self) -> int:
        return self.window_bytes * self._limits.mux_memory_windows

    @property
    def _late_max_bytes(self) -> int:
        return self.window_bytes * self._limits.mux_streams_max

    # What arrives

    @property
    def has_more(self) -> bool:
        """Whether `receive(b"")` has more to tell: one call does so much, others have turns."""
        return bool(self._rest)

    def receive(self, received: bytes, now: float) -> list[Event]:
        """The events of these bytes, however they were cut. `now` is in seconds, monotonic."""
        events: list[Event] = []
        if self._over:
            return events
        if self._rest:
            received, self._rest = self._rest + received, b""
        elif not received:  # a message of the link with nothing in it
            self.provoked(now)
        position, end, steps = 0, len(received), 0
        while position < end and not self._over:
            if steps == _STEPS_MAX:
                self._rest = received[position:]
                break
            steps += 1
            if self._body_left:
                position = self._on_body(received, position, events, now)
            elif not self._partial and end - position >= HEADER_BYTES:
                self._on_header(HEADER.unpack_from(received, position), events, now)
                position += HEADER_BYTES
            else:
                part = received[position : position + HEADER_BYTES - len(self._partial)]
                self._partial += part
                position += len(part)
                if len(self._partial) == HEADER_BYTES:
                    header = HEADER.unpack(self._partial)
                    self._partial.clear()
                    self._on_header(header, events, now)
        if self.violated is not None:
            events.append(self.violated)
        return events

    def _on_body(self, received: bytes, position: int, events: list[Event], now: float) -> int:
        """Take what has arrived of a frame's payload; where the rest begins."""
        piece = received[position : position + self._body_left]
        self._body_left -= len(piece)
        stream = self._body_stream
        if stream is not None and not (stream.is_reset or stream.discarding):
            events.append(Received(stream.stream_id, piece))
        if not self._body_left:
            self._body_stream = None
            if self._body_flags:
                self._on_ending(stream, self._body_flags, events, now)
        return position + len(piece)

    def _on_header(self, header: tuple[int, ...], events: list[Event], now: float) -> None:
        version, kind, flags, stream_id, length = header
        if version != 0:
            self._break(Violation.VERSION, f"version {version}")
        elif flags > FLAGS_ALL:
            self._break(Violation.FLAGS, f"flags {flags:#x}")
        elif kind == DATA:
            self._on_data(flags, stream_id, length, events, now)
        elif kind == WINDOW_UPDATE:
            self._on_window(flags, stream_id, length, events, now)
        elif kind == PING:
            self._on_ping(flags, length, events, now)
        elif kind == GO_AWAY:
            self._over = True
            events.append(GoneAway(length))
        else:
            self._break(Violation.TYPE, f"type {kind}")

    def _on_data(
        self, flags: int, stream_id: int, length: int, events: list[Event], now: float
    ) -> None:
        if length > self._limits.mux_window_bytes:
            self._break(Violation.FRAME_TOO_LARGE, f"{length} bytes")
            return
        stream = self._addressed(flags, stream_id, events, now)
        if not length:
            self._bear(self._manners.bears_empty(stream, flags, now))
            self._on_ending(stream, flags, events, now)
            return
        self._admit(stream, length, events)
        self._body_left, self._body_flags, self._body_stream = length, flags & _ENDING, stream

    def _admit(self, stream: StreamState | None, length: int, events: list[Event]) -> None:
        """Take the payload of a frame into account before it comes, or give the stream up."""
        if stream is None:  # it may have been under way when its stream ended
            if not self._manners.late.takes(length):
                self._break(Violation.WINDOW_OVERRUN, "data that no stream has allowed")
        elif stream.fin_received:
            self._give_up(stream, Fault.DATA_AFTER_END, events)
        elif length > stream.receive_credit:
            self._break(Violation.WINDOW_OVERRUN, f"{length} bytes of {stream.receive_credit}")
        elif stream.discarding:
            stream.receive_credit -= length
        elif self.unread_bytes + length > self.memory_max_bytes:
            self._give_up(stream, Fault.MEMORY, events)
        else:
            stream.receive_credit -= length
            stream.has_carried = True
            stream.unread_bytes += length
            self.unread_bytes += length

    def _on_window(
        self, flags: int, stream_id: int, length: int, events: list[Event], now: float
    ) -> None:
        stream = self._addressed(flags, stream_id, events, now)
        if not length:
            self._bear(self._manners.bears_empty(stream, flags, now))
        else:
            self._bear(self._manners.bears_update(stream, now))
            if stream is not None:
                stream.send_window = min(stream.send_window + length, WINDOW_MAX_BYTES)
                events.append(Writable(stream_id))
        self._on_ending(stream, flags, events, now)

    def _on_ping(self, flags: int, value: int, events: list[Event], now: float) -> None:
        if flags == SYN:
            self.provoked(now)
            self._answer(ping(value, ACK))
        elif flags == ACK:
            self._bear(self._manners.bears_pong(now))
            events.append(Pong(value))
        else:
            self._break(Violation.FLAGS, f"a ping with flags {flags:#x}")

    def _addressed(
        self, flags: int, stream_id: int, events: list[Event], now: float
    ) -> StreamState | None:
        """The stream of a frame; None for late frames of one that is over, and for one refused."""
        stream = self.streams.get(stream_id)
        ours = stream_id & 1 == self._own_parity
        if flags & SYN:
            if stream is not None or ours or not stream_id:
                self._break(Violation.STREAM_ID, f"stream {stream_id} opened")
                return None
            return self._accept(stream_id, events, now)
        if stream is None and (not stream_id or (ours and stream_id >= self._next_id)):
            self._break(Violation.STREAM_ID, f"stream {stream_id} was never opened")
        return stream

    def _accept(self, stream_id: int, events: list[Event], now: float) -> StreamState | None:
        if self._inbound >= self._limits.mux_streams_max:
            self.provoked(now)
            self._manners.late.may_come(INITIAL_WINDOW_BYTES, 0, self._late_max_bytes)
            self._answer(window_update(stream_id, 0, RST))
            return None
        self._inbound += 1
        stream = self._add(StreamState(stream_id, ours=False), ACK)
        events.append(Opened(stream_id, stream))
        return stream

    def _on_ending(
        self, stream: StreamState | None, flags: int, events: list[Event], now: float
    ) -> None:
        """FIN and RST, once all data before them has been told of."""
        if flags & RST:
            self.provoked(now)
            if stream is not None and not stream.is_reset:
                stream.is_reset = True
                self._drop(stream)
                events.append(WasReset(stream.stream_id))
        elif flags & FIN and stream is not None and not (stream.is_reset or stream.fin_received):
            stream.fin_received = True
            if not (stream.ours or stream.has_carried):  # opened for nothing
                self.provoked(now)
            events.append(Ended(stream.stream_id))
            if stream.fin_sent:
                self._drop(stream)

    def _give_up(self, stream: StreamState, fault: Fault, events: list[Event]) -> None:
        self.reset(stream)
        events.append(WasReset(stream.stream_id, fault))

    def _bear(self, borne: bool) -> None:  # noqa: FBT001 - what a method of `Manners` says
        if not borne:
            self._break(Violation.FLOOD, "frames that carry nothing, without end")

    def _break(self, violation: Violation, detail: str) -> None:
        """End the session; all that is still said is why."""
        if self.violated is None:
            self.violated, self._over = Violated(violation, detail), True
            self._outbox.clear()
            self._outbox.control(go_away(GO_AWAY_VIOLATION))

    # What the owner does

    def provoked(self, now: float, count: int = 1) -> None:
        """What the peer said was of no use, and cost as much as `count` pings."""
        self._bear(self._manners.lasts(now, count))

    def open(self) -> StreamState:
        """Open a stream; the peer may use it at once."""
        stream = StreamState(self._next_id, ours=True)
        self._next_id += 2
        return self._add(stream, SYN)

    def send(self, stream: StreamState, payload: memoryview, most_bytes: int) -> int:
        """Queue data in frames, as far as the window and about `most_bytes` allow: how much."""
        taken = min(len(payload), stream.send_window, most_bytes)
        if taken <= 0 or self.violated is not None:
            return 0
        stream.send_window -= taken
        stream.updates_due += taken
        for start in range(0, taken, PAYLOAD_MAX_BYTES):
            piece = payload[start : min(start + PAYLOAD_MAX_BYTES, taken)]
            self._outbox.data(data(stream.stream_id, piece))
        return taken

    def consumed(self, stream: StreamState, count: int) -> None:
        """These bytes were read: allow the peer more, once half the window was consumed."""
        if stream.closed or stream.discarding:
            return
        # A peer may reset a stream and open it again before its owner has looked.
        count = min(count, stream.unread_bytes)
        stream.unread_bytes -= count
        self.unread_bytes -= count
        if stream.fin_received:
            return
        if stream.window_bytes < self.window_bytes:
            self._widen(stream)
        missing = stream.window_bytes - stream.receive_credit - stream.unread_bytes
        if missing * 2 >= stream.window_bytes:
            stream.receive_credit += missing
            self._answer(window_update(stream.stream_id, missing))

    def discard(self, stream: StreamState) -> None:
        """Nothing of this stream will be read any more, though it goes on."""
        if not stream.discarding and not stream.closed:
            self.unread_bytes -= stream.unread_bytes
            stream.unread_bytes = 0
            stream.discarding = True

    def end(self, stream: StreamState) -> None:
        """Send no more; the peer may go on."""
        if stream.fin_sent or stream.is_reset:
            return
        stream.fin_sent = True
        self._control(window_update(stream.stream_id, 0, FIN))
        if stream.fin_received:
            self._drop(stream)

    def reset(self, stream: StreamState) -> None:
        """Give the stream up on both sides."""
        if stream.is_reset:
            return
        if not stream.closed:
            self._control(window_update(stream.stream_id, 0, RST))
        stream.is_reset = True
        self._drop(stream)

    def ping(self, value: int) -> None:
        self._manners.asked()
        self._control(ping(value, SYN))

    def go_away(self, code: int) -> None:
        self._control(go_away(code))

    def next_message(self) -> bytes:
        """Frames to send, as many as fit one Noise message; none when there is nothing."""
        return self._outbox.next_message()

    # Within

    def _add(self, stream: StreamState, flag: int) -> StreamState:
        self.streams[stream.stream_id] = stream
        self._promised_bytes += stream.window_bytes
        more = self._widen(stream)
        stream.receive_credit += more
        queue = self._control if stream.ours else self._answer
        queue(window_update(stream.stream_id, more, flag))
        return stream

    def _widen(self, stream: StreamState) -> int:
        """Raise a stream's window as far as it is due and the memory is not promised to others."""
        room = self.memory_max_bytes - self._promised_bytes
        more = max(0, min(self.window_bytes - stream.window_bytes, room))
        stream.window_bytes += more
        self._promised_bytes += more
        return more

    def _drop(self, stream: StreamState) -> None:
        """Forget a stream that is over; what it holds unread is its reader's from here on."""
        if self.streams.get(stream.stream_id) is stream:  # or its id is another's by now
            del self.streams[stream.stream_id]
            self.unread_bytes -= stream.unread_bytes
            self._promised_bytes -= stream.window_bytes
            stream.unread_bytes = 0
            self._manners.late.is_over(stream, self._late_max_bytes)
            if not stream.ours:
                self._inbound -= 1

    def _control(self, frame: bytes) -> None:
        """Queue what our streams cause: three frames for each, and new ones wait (`may_open`)."""
        if self.violated is None:
            self._outbox.control(frame)

    def _answer(self, frame: bytes) -> None:
        """Queue what the peer causes, as long as it reads."""
        if self.violated is None:
            self._outbox.control(Answer(frame))
            if self._outbox.answers_bytes > self._limits.mux_control_max_bytes:
                self._break(Violation.UNREAD_ANSWERS, "it provokes more than it reads")
