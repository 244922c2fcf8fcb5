"""`transport.Stream` over a stream of our muxer."""

from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamEOF, MuxedStreamError

from aigrid.node.network.muxed_stream import MuxedStream, Sink
from aigrid.protocol.errors import Code, RemoteError

LOST = "The peer closed the stream or went away."


class Libp2pStream:
    """See `transport.Stream`. With `receive_max_bytes`, a peer that sends more is cut off."""

    def __init__(
        self, raw: MuxedStream, peer_id: str, receive_max_bytes: int | None = None
    ) -> None:
        self._raw = raw
        self._peer_id = peer_id
        self._left_bytes = receive_max_bytes

    @property
    def peer_id(self) -> str:
        return self._peer_id

    @property
    def remote_host(self) -> str:
        address = self._raw.get_remote_address()
        return "" if address is None else address[0]

    async def send_all(self, data: bytes) -> None:
        try:
            await self._raw.write(data)
        except (MuxedStreamError, MuxedConnUnavailable) as error:
            raise RemoteError(LOST, Code.CONNECTION_LOST, peer=self._peer_id) from error

    async def receive_some(self, max_bytes: int) -> bytes:
        try:
            data = await self._raw.read(max_bytes)
        except MuxedStreamEOF:
            return b""
        except (MuxedStreamError, MuxedConnUnavailable) as error:
            raise RemoteError(LOST, Code.CONNECTION_LOST, peer=self._peer_id) from error
        if self._left_bytes is not None:
            self._left_bytes -= len(data)
            if self._left_bytes < 0:
                self._raw.abandon()
                raise RemoteError(
                    "The peer sent too much.", Code.FRAME_TOO_LARGE, peer=self._peer_id
                )
        return data

    @property
    def room_bytes(self) -> int:
        return self._raw.room_bytes

    def send_now(self, data: bytes) -> None:
        self._raw.write_now(data)

    def deliver(self, sink: Sink) -> None:
        if self._left_bytes is None:
            self._raw.deliver(sink)

    async def close(self) -> None:
        await self._raw.close()

    async def reset(self) -> None:
        await self._raw.reset()
