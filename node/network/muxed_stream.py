"""One stream of a Yamux connection (see `muxer`).

Duck-types `libp2p.abc.IMuxedStream`. Reading and writing may be cancelled at any point: a frame
is handed to the connection whole or not at all, and bytes leave the buffer only when returned.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import structlog
import trio
from libp2p.stream_muxer.exceptions import (
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamReset,
)

from aigrid.node.network.receive_buffer import ReceiveBuffer
from aigrid.node.network.yamux_frames import PAYLOAD_MAX_BYTES
from aigrid.node.network.yamux_state import StreamState

if TYPE_CHECKING:
    from aigrid.node.network.muxer import Muxer

CALLS_PER_CHECKPOINT = 16
Sink = Callable[[bytes], bytes | None]
_log = structlog.get_logger(__name__)
WRITTEN_AT_ONCE_BYTES = 4 * PAYLOAD_MAX_BYTES


class ConnectionLostError(MuxedStreamReset):  # type: ignore[misc]  # the library is untyped
    """The connection under the stream is gone (T4: told apart from an end and from a reset)."""


class MuxedStream:
    """A bidirectional stream with one flow-control window per direction."""

    def __init__(self, state: StreamState, conn: "Muxer") -> None:
        self.stream_id = state.stream_id
        self.conn = self.muxed_conn = conn
        self.is_initiator = state.ours
        self._state = state
        self._buffer = ReceiveBuffer()
        self._sink: Sink | None = None
        self._changed: trio.Event | None = None
        self._calls = 0

    # What the rest of the library looks at

    @property
    def closed(self) -> bool:
        """Nothing more will pass in either direction."""
        return self._state.closed

    @property
    def unread_bytes(self) -> int:
        """Received and not yet read."""
        return len(self._buffer)

    def is_closed(self) -> bool:
        return self.closed or self.conn.dead is not None

    def set_deadline(self, _ttl: int) -> None:
        raise NotImplementedError

    def get_remote_address(self) -> tuple[str, int] | None:
        return self.conn.get_remote_address()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_args: object) -> None:
        await self.close()

    # Reading

    async def read(self, n: int | None = None) -> bytes:
        """At least one byte, at most `n` (all that is there if None or negative).

        Raises:
            MuxedStreamEOF: the peer ended its side.
            MuxedStreamReset: either side gave the stream up.
            ConnectionLostError: the connection is gone.
        """
        await self._pause()
        if n == 0:
            return b""
        while not self._buffer:
            if self._state.is_reset:
                raise MuxedStreamReset("reset")
            if self._state.fin_received:
                raise MuxedStreamEOF("end of stream")
            if self.conn.dead is not None:
                raise ConnectionLostError(self.conn.dead)
            await self._wait()
        data = self._buffer.take(len(self._buffer) if n is None or n < 0 else n)
        self.conn.session.consumed(self._state, len(data))
        self.conn.flush()
        return data

    def deliver(self, sink: Sink) -> None:
        """Hand to `sink` what arrives, at once, so that `read` finds nothing but the end.

        What it gives back it does not take now: that, and all behind it, waits for `read` again.
        """
        self._sink = sink
        if self._buffer:
            self._hand_over(self._buffer.take(len(self._buffer)))

    def _hand_over(self, data: bytes) -> None:
        left: bytes | None = None
        if self._sink is not None:
            try:
                left = self._sink(data)
            except Exception as error:  # noqa: BLE001 - boundary: what serves one stream ends no other
                _log.error("stream_sink_failed", error=type(error).__name__)
                self.abandon()
        if left:
            self._sink = None
            self._buffer.append(left)
            self.wake()
        self.conn.session.consumed(self._state, len(data) - len(left or b""))
        self.conn.flush()

    # Writing

    async def write(self, data: bytes) -> None:
        """Hand all of `data` to the connection; waits for the window without a time limit (T3).

        Raises:
            MuxedStreamReset, MuxedStreamClosed, ConnectionLostError: it will not arrive.
        """
        await self._pause()
        conn, view = self.conn, memoryview(data)
        while view:
            self._check_writable()
            if not self._state.send_window:  # no turn is held for it
                await self._wait()
            elif conn.room_bytes:
                view = view[self._send(view, WRITTEN_AT_ONCE_BYTES) :]
            else:
                await conn.turns.wait()
                try:
                    self._check_writable()
                    view = view[self._send(view, PAYLOAD_MAX_BYTES) :]
                finally:
                    conn.turns.grant()

    def _send(self, view: memoryview, most_bytes: int) -> int:
        """How much of it the connection took."""
        taken = self.conn.session.send(self._state, view, most_bytes)
        self.conn.flush()
        return taken

    @property
    def room_bytes(self) -> int:
        """How much `write_now` takes."""
        state, conn = self._state, self.conn
        if state.fin_sent or state.is_reset or conn.dead is not None:
            return 0
        return min(state.send_window, conn.room_bytes)

    def write_now(self, data: bytes) -> None:
        """Hand over at most `room_bytes`, all of it."""
        self.conn.session.send(self._state, memoryview(data), len(data))
        self.conn.flush()

    def _check_writable(self) -> None:
        if self._state.is_reset:
            raise MuxedStreamReset("reset")
        if self._state.fin_sent:
            raise MuxedStreamClosed("closed for writing")
        if self.conn.dead is not None:
            raise ConnectionLostError(self.conn.dead)

    # Ending

    async def close(self) -> None:
        """End our side; the peer's may go on."""
        self.end()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def end(self) -> None:
        self.conn.session.end(self._state)
        self._settle()

    async def reset(self) -> None:
        """Give the stream up on both sides; wakes our reader and writer."""
        self.abandon()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def abandon(self) -> None:
        self._sink = None
        self._buffer.clear()
        self.conn.session.reset(self._state)
        self._settle()

    async def linger(self, seconds: float) -> None:
        """Our handler is done: wait for the peer's end, throwing away what it still sends."""
        self.conn.session.discard(self._state)
        self._sink = None
        self._buffer.clear()
        with trio.move_on_after(seconds):
            while not self.closed and self.conn.dead is None:
                await self._wait()
        self.abandon()

    def _settle(self) -> None:
        self.conn.flush()
        self.settle()

    # From the connection

    def on_data(self, piece: bytes) -> None:
        if self._sink is not None:
            self._hand_over(piece)
            return
        self._buffer.append(piece)
        self.wake()

    def settle(self) -> None:
        """The state has changed."""
        self.wake()
        if self.closed:
            self.conn.forget(self)

    def wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def _wait(self) -> None:
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()

    async def _pause(self) -> None:
        """A full checkpoint now and then: a loop over buffered bytes must not starve others."""
        self._calls += 1
        if self._calls % CALLS_PER_CHECKPOINT:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
