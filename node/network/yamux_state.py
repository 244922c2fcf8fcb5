"""What a Yamux session knows of one stream, and of its peer's manners."""

from typing import Final

from aigrid.node.network.yamux_frames import ACK, FIN, INITIAL_WINDOW_BYTES, RST, SYN
from aigrid.protocol.limits import Limits

UPDATES_AT_FIRST: Final = 16  # peers widen windows as they find a need


class StreamState:
    """One stream as the session knows it; read by its owner, changed by the session alone.

    The peer may still send `receive_credit` bytes; `unread_bytes` were received and not consumed.
    `updates_due` is how many window updates may yet come: one for each byte that was sent, as of a
    reader that takes byte by byte, and a few to begin with. `has_carried` is whether the peer ever
    sent a byte, `acknowledged` whether it said that it has taken a stream of ours.
    """

    __slots__ = (
        "acknowledged",
        "discarding",
        "fin_received",
        "fin_sent",
        "has_carried",
        "is_reset",
        "ours",
        "receive_credit",
        "send_window",
        "stream_id",
        "unread_bytes",
        "updates_due",
        "window_bytes",
    )

    def __init__(self, stream_id: int, *, ours: bool) -> None:
        self.stream_id = stream_id
        self.ours = ours
        self.send_window = self.receive_credit = self.window_bytes = INITIAL_WINDOW_BYTES
        self.unread_bytes = 0
        self.updates_due = UPDATES_AT_FIRST
        self.fin_sent = self.fin_received = self.is_reset = self.discarding = False
        self.has_carried = False
        self.acknowledged = not ours

    @property
    def closed(self) -> bool:
        """Nothing more will pass in either direction."""
        return self.is_reset or (self.fin_sent and self.fin_received)


class Manners:
    """What of the peer's frames carries nothing, and how much of that is borne.

    Pings, resets, streams refused or ended with nothing in them, pongs that nobody asked for,
    frames that say nothing new, window updates for what was never sent: each uses some patience,
    which comes back with time. Whether one is borne is asked once.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._left = float(limits.mux_provocations_max)
        self._at = 0.0
        self._pongs_due = 0
        self.late = Late()

    def lasts(self, now: float, count: int = 1) -> bool:
        """Whether there is patience for `count` frames more that bring nothing."""
        limits = self._limits
        refilled = (now - self._at) * limits.mux_provocations_per_second
        self._left = min(self._left + refilled, limits.mux_provocations_max) - count
        self._at = now
        return self._left >= 0

    def asked(self) -> None:
        """We have sent a ping: its answer is no provocation, however late."""
        self._pongs_due += 1

    def bears_pong(self, now: float) -> bool:
        due = self._pongs_due > 0
        self._pongs_due -= due
        return due or self.lasts(now)

    def bears_update(self, stream: StreamState | None, now: float) -> bool:
        """Of a window, by at least a byte; `stream` is None where it is over or was refused."""
        if stream is None:
            return self.late.takes_update() or self.lasts(now)
        if stream.updates_due > 0:
            stream.updates_due -= 1
            return True
        return self.lasts(now)

    def bears_empty(self, stream: StreamState | None, flags: int, now: float) -> bool:
        """A frame with neither payload nor window: as long as its flags say something new.

        What opens a stream is bounded by their number, what resets one is counted elsewhere.
        """
        if flags & (SYN | RST):
            return True
        if stream is None:
            news = flags != 0 and self.late.takes_update()
        else:
            news = bool(flags & FIN) and not stream.fin_received
            if flags & ACK and not stream.acknowledged:
                news = stream.acknowledged = True
        return news or self.lasts(now)


class Late:
    """What may yet come for streams that are over, of what these were still allowed."""

    def __init__(self) -> None:
        self._bytes, self._updates = INITIAL_WINDOW_BYTES, 0

    def may_come(self, count: int, updates: int, most: int) -> None:
        """So many bytes of data more, and window updates; never more than `most` of either."""
        self._bytes = min(self._bytes + count, most)
        self._updates = min(self._updates + updates, most)

    def is_over(self, stream: StreamState, most: int) -> None:
        """What that stream still allowed; after a FIN there is nothing to come but updates."""
        data_bytes = 0 if stream.fin_received else stream.receive_credit
        self.may_come(data_bytes, stream.updates_due, most)

    def takes(self, count: int) -> bool:
        """Whether so many bytes were to be expected."""
        self._bytes -= count
        return self._bytes >= 0

    def takes_update(self) -> bool:
        """Whether one more was."""
        expected = self._updates > 0
        self._updates -= expected
        return expected
