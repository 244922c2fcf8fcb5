"""What a Yamux session knows of one stream."""

from aigrid.node.network.yamux_frames import INITIAL_WINDOW_BYTES


class StreamState:
    """One stream as the session knows it; read by its owner, changed by the session alone.

    The peer may still send `receive_credit` bytes; `unread_bytes` were received and not consumed.
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
        "window_bytes",
    )

    def __init__(self, stream_id: int, *, ours: bool) -> None:
        self.stream_id = stream_id
        self.ours = ours
        self.send_window = self.receive_credit = self.window_bytes = INITIAL_WINDOW_BYTES
        self.unread_bytes = 0
        self.fin_sent = self.fin_received = self.is_reset = self.discarding = False

    @property
    def closed(self) -> bool:
        """Nothing more will pass in either direction."""
        return self.is_reset or (self.fin_sent and self.fin_received)
