"""What a Yamux session knows of one stream, and of its peer's manners."""

from typing import Final

from aigrid.node.network.yamux_frames import INITIAL_WINDOW_BYTES
from aigrid.protocol.limits import Limits

UPDATES_AT_FIRST: Final = 16  # peers widen windows as they find a need


class StreamState:
    """One stream as the session knows it; read by its owner, changed by the session alone.

    The peer may still send `receive_credit` bytes; `unread_bytes` were received and not consumed.
    `updates_due` is how many window updates may yet come: one for each byte that was sent, as of a
    reader that takes byte by byte, and a few to begin with.
    """

    __slots__ = (
        "discarding",
        "fin_received",
        "fin_sent",
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

    @property
    def closed(self) -> bool:
        """Nothing more will pass in either direction."""
        return self.is_reset or (self.fin_sent and self.fin_received)


class Patience:
    """With frames that carry nothing and cost us work: it is used up, and comes back with time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._left = float(limits.mux_provocations_max)
        self._at = 0.0

    def lasts(self, now: float) -> bool:
        """Whether there is any left for one more."""
        limits = self._limits
        refilled = (now - self._at) * limits.mux_provocations_per_second
        self._left = min(self._left + refilled, limits.mux_provocations_max) - 1
        self._at = now
        return self._left >= 0


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
