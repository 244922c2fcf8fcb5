"""One message each way on a join stream: four bytes of big-endian length, then the body."""

from aigrid.node.network.transport import Stream
from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.limits import LIMITS

_LENGTH_BYTES = 4


async def write_message(stream: Stream, body: bytes) -> None:
    """Send one message. `body` is ours, so too large a one is our bug."""
    if len(body) > LIMITS.join_max_bytes:
        raise ValueError(f"a join message of {len(body)} bytes")
    await stream.send_all(len(body).to_bytes(_LENGTH_BYTES, "big") + body)


async def read_message(stream: Stream) -> bytes:
    """Receive one message.

    Raises:
        RemoteError: `frame_too_large` before anything is buffered; `connection_lost`, also when the
            peer ends in the middle.
    """
    size = int.from_bytes(await _read_exactly(stream, _LENGTH_BYTES), "big")
    if size > LIMITS.join_max_bytes:
        raise RemoteError(
            f"a join message of {size} bytes", Code.FRAME_TOO_LARGE, peer=stream.peer_id
        )
    return await _read_exactly(stream, size)


async def finish(stream: Stream) -> None:
    """Close our side and wait for the other's end, so that the stream is gone on both."""
    await stream.close()
    if await stream.receive_some(1):
        raise RemoteError("the peer went on after its message", peer=stream.peer_id)


async def _read_exactly(stream: Stream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = await stream.receive_some(count - len(data))
        if not piece:
            raise RemoteError(
                "the peer ended in the middle of a message",
                Code.CONNECTION_LOST,
                peer=stream.peer_id,
            )
        data += piece
    return bytes(data)
