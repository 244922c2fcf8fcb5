"""One stream of a Yamux connection (see `muxer`).

Duck-types `libp2p.abc.IMuxedStream`. Reading and writing may be cancelled at any point: a frame
is handed to the connection whole or not at all, and bytes leave the buffer only when returned.
"""

from typing import TYPE_CHECKING, Self

import trio
from libp2p.stream_muxer.exceptions import (
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamReset,
)

from aigrid.node.network import yamux_frames as frames

if TYPE_CHECKING:
    from aigrid.node.network.muxer import Muxer

CALLS_PER_CHECKPOINT = 16


class ConnectionLostError(MuxedStreamReset):  # type: ignore[misc]  # the library is untyped
    """The connection under the stream is gone (T4: told apart from an end and from a reset)."""


class MuxedStream:
    """A bidirectional stream with one flow-control window per direction."""

    def __init__(self, stream_id: int, conn: "Muxer", *, is_initiator: bool) -> None:
        self.stream_id = stream_id
        self.conn = self.muxed_conn = conn
        self.is_initiator = is_initiator
        self._send_window = frames.INITIAL_WINDOW_BYTES
        self._receive_credit = frames.INITIAL_WINDOW_BYTES
        self._target_window = frames.INITIAL_WINDOW_BYTES
        self._buffer = bytearray()
        self._fin_sent = self._fin_received = self._reset = self._discarding = False
        self._changed: trio.Event | None = None
        self._calls = 0

    # What the rest of the library looks at

    @property
    def closed(self) -> bool:
        """Nothing more will pass in either direction."""
        return self._reset or (self._fin_sent and self._fin_received)

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
            if self._reset:
                raise MuxedStreamReset("reset")
            if self._fin_received:
                raise MuxedStreamEOF("end of stream")
            if self.conn.dead is not None:
                raise ConnectionLostError(self.conn.dead)
            await self._wait()
        return self._take(len(self._buffer) if n is None or n < 0 else n)

    def _take(self, n: int) -> bytes:
        data = bytes(self._buffer[:n])
        del self._buffer[:n]
        self._give_credit()
        return data

    def _give_credit(self) -> None:
        """A window update once half the window was consumed, not on every read."""
        self._target_window = max(self._target_window, self.conn.window_bytes)
        missing = self._target_window - self._receive_credit - len(self._buffer)
        if self._fin_received or self._reset or missing < self._target_window // 2:
            return
        self._receive_credit += missing
        self.conn.send_control(frames.window_update(self.stream_id, missing))

    # Writing

    async def write(self, data: bytes) -> None:
        """Hand all of `data` to the connection; waits for the window without a time limit (T3).

        Raises:
            MuxedStreamReset, MuxedStreamClosed, ConnectionLostError: it will not arrive.
        """
        await self._pause()
        view = memoryview(data)
        while view:
            self._check_writable()
            n = min(self._send_window, frames.PAYLOAD_MAX_BYTES, len(view))
            if n <= 0:
                await self._wait()
                continue
            if self.conn.is_congested:
                await self.conn.wait_room()
                continue
            self._send_window -= n
            self.conn.send(frames.data(self.stream_id, view[:n]))
            view = view[n:]

    def _check_writable(self) -> None:
        if self._reset:
            raise MuxedStreamReset("reset")
        if self._fin_sent:
            raise MuxedStreamClosed("closed for writing")
        if self.conn.dead is not None:
            raise ConnectionLostError(self.conn.dead)

    # Ending

    async def close(self) -> None:
        """End our side; the peer's may go on."""
        self.end()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def end(self) -> None:
        if self._fin_sent or self._reset:
            return
        self._fin_sent = True
        self.conn.send_control(frames.window_update(self.stream_id, 0, frames.FIN))
        self._settle()

    async def reset(self) -> None:
        """Give the stream up on both sides; wakes our reader and writer."""
        self.abandon()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def abandon(self) -> None:
        if self._reset:
            return
        already_over = self.closed
        self._reset = True
        self._buffer.clear()
        if not already_over:
            self.conn.send_control(frames.window_update(self.stream_id, 0, frames.RST))
        self._settle()

    async def linger(self, seconds: float) -> None:
        """Our handler is done: wait for the peer's end, throwing away what it still sends."""
        self._discarding = True
        self._buffer.clear()
        with trio.move_on_after(seconds):
            while not self.closed and self.conn.dead is None:
                await self._wait()
        self.abandon()

    # From the connection

    def on_data(self, payload: bytes) -> None:
        self._receive_credit -= len(payload)
        if self._receive_credit < 0:
            raise frames.ViolationError("more data than the window allows")
        if self._reset or self._discarding or not payload:
            return
        self._buffer += payload
        self.wake()

    def on_window(self, increment: int) -> None:
        self._send_window = min(self._send_window + increment, frames.WINDOW_MAX_BYTES)
        self.wake()

    def on_flags(self, flags: int) -> None:
        if flags & frames.RST:
            self._reset = True
            self._settle()
        elif flags & frames.FIN:
            self._fin_received = True
            self._settle()

    def grant(self, window_bytes: int) -> int:
        """Raise the window we allow; the increment to tell the peer."""
        more = max(0, window_bytes - self._target_window)
        self._target_window += more
        self._receive_credit += more
        return more

    def _settle(self) -> None:
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
