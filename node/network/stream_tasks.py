"""The two tasks around one RPC stream: what is common to the client's and the server's side."""

from typing import Final

import trio

from aigrid.node.network.lazy_deadline import LazyDeadline
from aigrid.node.network.transport import Stream
from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.exchange import Event
from aigrid.protocol.exchange_client import ClientExchange
from aigrid.protocol.exchange_server import ServerExchange

_READ_MAX_BYTES: Final = 262144
_RESET_SECONDS: Final = 1.0

# A sender goes on without letting others run until this much is ready: one write instead of many.
COALESCE_BYTES: Final = 16384

# Frames of a stream that are looked at without letting others run: small ones are many.
_FRAMES_AT_ONCE: Final = 128


def lost(peer_id: str) -> RemoteError:
    return RemoteError("the connection to the peer was lost", Code.CONNECTION_LOST, peer=peer_id)


def silent() -> RemoteError:
    return RemoteError("the peer was silent for too long", Code.TIMEOUT)


class StreamTasks:
    """One reader and one writer, both in the nursery of whoever owns the stream.

    What arrives is always taken, so a slow consumer never blocks the connection: what may wait is
    bounded by the credit that the exchange gives. `failure` is set once the stream is of no use.
    """

    def __init__(self, stream: Stream, exchange: ClientExchange | ServerExchange) -> None:
        self._stream = stream
        self._exchange = exchange
        self._scope = trio.CancelScope()
        self._deadline = LazyDeadline()
        self._writable = trio.lowlevel.ParkingLot()
        self._writing = False
        self.failure: RemoteError | None = None

    @property
    def peer_id(self) -> str:
        return self._stream.peer_id

    def fail(self, error: RemoteError) -> None:
        """Give the stream up: its tasks end, it is reset, and everybody who waits is told."""
        if self.failure is None:
            error.peer = self.peer_id
            self.failure = error
            self._scope.cancel()
            self._wake()

    def flush(self) -> None:
        """Send what the exchange has ready: now, or by the writer if that takes waiting."""
        unsent_bytes = self._exchange.unsent_bytes
        if not unsent_bytes:
            return
        if self._writing or unsent_bytes > self._stream.room_bytes:
            self._writable.unpark()
        else:
            self._stream.send_now(self._exchange.data_to_send())

    async def run(self) -> None:
        """Serve the stream until it fails or the peer ends it. Raises nothing but bugs."""
        ended = False
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._deadline.run, self._on_due)
                    self._start(nursery)
                    await self._read()
                    ended = self.failure is None
                    nursery.cancel_scope.cancel()
        finally:
            self.fail(lost(self.peer_id))
            with trio.CancelScope(deadline=trio.current_time() + _RESET_SECONDS, shield=True):
                await (self._stream.close() if ended else self._stream.reset())

    def _start(self, nursery: trio.Nursery) -> None:
        """Tasks beside the reader and the writer."""

    def _on_due(self) -> None:
        """The deadline is reached."""
        self.fail(silent())

    def _wake(self) -> None:
        """Something was received, or the stream failed."""
        raise NotImplementedError

    def _on_event(self, event: Event) -> None:
        raise NotImplementedError

    def _on_read(self) -> None:
        """After the events of one read."""

    async def _read(self) -> None:
        """Most comes by `deliver`, at once; what is too much for that comes here, and the end."""
        stream = self._stream
        stream.deliver(self._arrived)
        try:
            while data := await stream.receive_some(_READ_MAX_BYTES):
                while data := self._arrived(data):
                    await trio.lowlevel.checkpoint()
                stream.deliver(self._arrived)
        except RemoteError as error:
            self.fail(error)

    def _arrived(self, data: bytes) -> bytes:
        """What of it is not looked at yet."""
        # Not in `_read`: its frame would hold the last event, a whole request, as long as it waits.
        if self.failure is not None:
            return b""
        try:
            for event in self._exchange.receive(data, _FRAMES_AT_ONCE):
                self._on_event(event)
        except RemoteError as error:
            self.fail(error)
            return b""
        self._on_read()
        self._wake()
        self.flush()
        return self._exchange.left

    async def _write(self) -> None:
        exchange = self._exchange
        try:
            while True:
                if exchange.unsent_bytes:
                    self._writing = True
                    await self._stream.send_all(exchange.data_to_send())
                    self._writing = False
                else:
                    await self._writable.park()
        except RemoteError as error:
            self.fail(error)
