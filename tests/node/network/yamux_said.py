"""What a peer may say in Yamux, and what a session says to it."""

from aigrid.node.network import yamux_frames as frames
from aigrid.node.network.yamux_events import Violated, Violation
from aigrid.node.network.yamux_session import Session

SYN = frames.SYN


def listener() -> Session:
    return Session(is_initiator=False)


def opening(stream_id: int = 1, flags: int = 0) -> bytes:
    return frames.window_update(stream_id, 0, SYN | flags)


def piece(stream_id: int, payload: bytes, flags: int = 0) -> bytes:
    return frames.HEADER.pack(0, frames.DATA, flags, stream_id, len(payload)) + payload


def sent_by(session: Session) -> list[tuple[int, int, int, int]]:
    """What it has to send: (type, flags, stream id, length) of each frame, without payloads."""
    out, data = [], b""
    while session.unsent_bytes:
        data += session.next_message()
    while data:
        _, kind, flags, stream_id, length = frames.HEADER.unpack_from(data)
        out.append((kind, flags, stream_id, length))
        data = data[frames.HEADER_BYTES + (length if kind == frames.DATA else 0) :]
    return out


def last_violation(session: Session, data: bytes, now: float = 0.0) -> Violation | None:
    events = session.receive(data, now)
    assert [e for e in events if isinstance(e, Violated)] in ([], events[-1:])
    return events[-1].violation if events and isinstance(events[-1], Violated) else None
