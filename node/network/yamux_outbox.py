"""Frames of a Yamux session that were not sent yet, and who caused those without payload."""

from collections import deque

from aigrid.node.network.yamux_frames import HEADER_BYTES, NOISE_MESSAGE_MAX_BYTES


class Answer(bytes):
    """A control frame that the peer provoked, unlike one that our own streams cause."""

    __slots__ = ()


class Outbox:
    """In the order in which they are to be sent. Sizes are of frames with their headers."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self.unsent_bytes = 0
        self.answers_bytes = 0
        self.own_control_bytes = 0

    def data(self, frame: bytes) -> None:
        self._frames.append(frame)
        self.unsent_bytes += len(frame)

    def control(self, frame: bytes) -> None:
        """A header alone: an `Answer`, or one of ours."""
        self._frames.append(frame)
        self.unsent_bytes += HEADER_BYTES
        if type(frame) is Answer:
            self.answers_bytes += HEADER_BYTES
        else:
            self.own_control_bytes += HEADER_BYTES

    def clear(self) -> None:
        self._frames.clear()
        self.unsent_bytes = self.answers_bytes = self.own_control_bytes = 0

    def next_message(self) -> bytes:
        """Frames to send, as many as fit one Noise message; none when there is nothing."""
        frames = self._frames
        parts: list[bytes] = []
        size = 0
        while frames and size + len(frames[0]) <= NOISE_MESSAGE_MAX_BYTES:
            part = frames.popleft()
            size += len(part)
            if type(part) is Answer:
                self.answers_bytes -= HEADER_BYTES
            elif len(part) == HEADER_BYTES:
                self.own_control_bytes -= HEADER_BYTES
            parts.append(part)
        self.unsent_bytes -= size
        return parts[0] if len(parts) == 1 else b"".join(parts)
