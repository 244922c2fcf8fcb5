"""Yamux over a Noise connection: our own `IMuxedConn`, wire-compatible with /yamux/1.0.0.

Why not the library's: cancelling a write or a read there tears the whole connection (T2), a reader
slower than 5 s loses its stream (T3), end, reset and death look alike (T4), the window is not
enforced, a zero window is polled, and every small read costs a frame. Here a frame is appended
to the outbox synchronously, one task writes whole Noise messages, and one task reads.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import trio
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable

from aigrid.node.network import yamux_frames as frames
from aigrid.node.network.muxed_stream import MuxedStream
from aigrid.protocol.limits import LIMITS

STRANGER_WINDOW_BYTES = frames.INITIAL_WINDOW_BYTES
GOODBYE_SECONDS = 0.05


class SecuredConnection(Protocol):
    """The part of `libp2p.abc.ISecureConn` that is used."""

    is_initiator: bool

    async def read(self, n: int | None = None) -> bytes: ...
    async def write(self, data: bytes) -> None: ...
    async def close(self) -> None: ...
    def get_remote_address(self) -> tuple[str, int] | None: ...
    def get_transport_addresses(self) -> list[Any]: ...
    def get_connection_type(self) -> Any: ...


class Muxer:
    """One connection. `dead` says why it ended, None while it lives."""

    def __init__(self, secured_conn: SecuredConnection, peer_id: Any) -> None:
        self.secured_conn = secured_conn
        self.peer_id = peer_id
        self.is_initiator = secured_conn.is_initiator
        self.dead: str | None = None
        self.window_bytes = STRANGER_WINDOW_BYTES
        self.on_close: Callable[[], Awaitable[None]] | None = None  # set by SwarmConn
        self.event_started, self.event_closed = trio.Event(), trio.Event()
        self.event_shutting_down = trio.Event()
        self.streams: dict[int, MuxedStream] = {}
        self._next_id = 1 if self.is_initiator else 2
        self._inbound = 0
        self._accept_send, self._accept_receive = trio.open_memory_channel[MuxedStream](
            LIMITS.mux_streams_max
        )
        self._parser = frames.Parser(LIMITS.mux_window_bytes)
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._control_bytes = 0
        self._outgoing, self._room, self._flushed = trio.Event(), trio.Event(), trio.Event()
        self._pong = trio.Event()
        self._ping_value = 0
        self._round_trip_seconds = 0.0
        self._scope: trio.CancelScope | None = None

    # What the library looks at

    @property
    def is_established(self) -> bool:
        return self.event_started.is_set() and self.dead is None

    @property
    def is_closed(self) -> bool:
        return self.event_closed.is_set()

    def rtt(self) -> float:
        """Round trip in seconds; 0 until measured."""
        return self._round_trip_seconds

    def get_transport_addresses(self) -> list[Any]:
        return self.secured_conn.get_transport_addresses()

    def get_connection_type(self) -> Any:
        return self.secured_conn.get_connection_type()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self.secured_conn.get_remote_address()

    # Streams

    async def open_stream(self) -> MuxedStream:
        """Raises MuxedConnUnavailable once the connection is gone."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.dead is not None:
            raise MuxedConnUnavailable(self.dead)
        stream = MuxedStream(self._next_id, self, is_initiator=True)
        self._next_id += 2
        self.streams[stream.stream_id] = stream
        increment = stream.grant(self.window_bytes)
        self.send_control(frames.window_update(stream.stream_id, increment, frames.SYN))
        return stream

    async def accept_stream(self) -> MuxedStream:
        """Raises MuxedConnUnavailable once the connection is gone."""
        try:
            return await self._accept_receive.receive()
        except trio.EndOfChannel:
            raise MuxedConnUnavailable(self.dead or "closed") from None

    def forget(self, stream: MuxedStream) -> None:
        if self.streams.pop(stream.stream_id, None) is not None and not stream.is_initiator:
            self._inbound -= 1

    # Output

    @property
    def is_congested(self) -> bool:
        """Whether writers of data should wait."""
        return self._outbox_bytes >= LIMITS.mux_unsent_bytes

    async def wait_room(self) -> None:
        await self._room.wait()

    def send(self, frame: bytes) -> None:
        """Queue a frame; never blocks, so never cancelled half-way (T2)."""
        if self.dead is not None:
            return
        self._outbox.append(frame)
        self._outbox_bytes += len(frame)
        self._outgoing.set()

    def send_control(self, frame: bytes) -> None:
        """As `send`; a peer that provokes frames faster than it reads them is cut off."""
        self._control_bytes += len(frame)
        if self._control_bytes > LIMITS.mux_control_max_bytes:
            self.die("peer provokes more than it reads")
            return
        self.send(frame)

    async def _write_loop(self) -> None:
        while True:
            await self._outgoing.wait()
            while self._outbox:
                batch, control_bytes = self._next_batch()
                with trio.move_on_after(LIMITS.mux_write_seconds) as scope:
                    await self.secured_conn.write(batch)
                if scope.cancelled_caught:
                    self.die("peer stopped reading")
                    return
                self._outbox_bytes -= len(batch)
                self._control_bytes -= control_bytes
                if not self.is_congested:
                    self._room.set()
                    self._room = trio.Event()
            self._outgoing = trio.Event()
            self._flushed.set()
            self._flushed = trio.Event()

    def _next_batch(self) -> tuple[bytes, int]:
        """As many frames as fit one Noise message, and how many bytes of them are control."""
        parts: list[bytes] = []
        size = control_bytes = 0
        while self._outbox and size + len(self._outbox[0]) <= frames.NOISE_MESSAGE_MAX_BYTES:
            part = self._outbox.popleft()
            parts.append(part)
            size += len(part)
            if len(part) == frames.HEADER.size:
                control_bytes += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts), control_bytes

    # Input

    async def _read_loop(self) -> None:
        while self.dead is None:
            for kind, flags, stream_id, length, payload in self._parser.feed(
                await self.secured_conn.read(None)
            ):
                if kind == frames.PING:
                    self._on_ping(flags, length)
                elif kind == frames.GO_AWAY:
                    self.die("closed by peer")
                else:
                    self._on_stream_frame(kind, flags, stream_id, length, payload)

    def _on_ping(self, flags: int, value: int) -> None:
        if flags & frames.SYN:
            self.send_control(frames.ping(value, frames.ACK))
        elif value == self._ping_value:
            self._pong.set()

    def _on_stream_frame(
        self, kind: int, flags: int, stream_id: int, length: int, payload: bytes
    ) -> None:
        if flags & frames.SYN:
            self._on_syn(stream_id)
        stream = self.streams.get(stream_id)
        if stream is None:
            return  # late frames of a stream we gave up
        if kind == frames.DATA:
            stream.on_data(payload)
        elif length:
            stream.on_window(length)
        stream.on_flags(flags)

    def _on_syn(self, stream_id: int) -> None:
        ours = stream_id % 2 == (1 if self.is_initiator else 0)
        if ours or stream_id == 0 or stream_id in self.streams:
            raise frames.ViolationError(f"stream {stream_id} opened")
        stream = MuxedStream(stream_id, self, is_initiator=False)
        if self._inbound >= LIMITS.mux_streams_max or not self._queue(stream):
            self.send_control(frames.window_update(stream_id, 0, frames.RST))
            return
        self.streams[stream_id] = stream
        self._inbound += 1
        increment = stream.grant(self.window_bytes)
        self.send_control(frames.window_update(stream_id, increment, frames.ACK))

    def _queue(self, stream: MuxedStream) -> bool:
        try:
            self._accept_send.send_nowait(stream)
        except (trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            return False
        return True

    # Life

    async def start(self) -> None:
        """Serve the connection until it ends; raises nothing but cancellation."""
        if self.event_started.is_set():
            return
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                for task in (self._read_loop, self._write_loop, self._ping_loop):
                    nursery.start_soon(self._guarded, task)
                self.event_started.set()
                if self.dead is not None:
                    nursery.cancel_scope.cancel()
        finally:
            self.die("closed here")
            with trio.CancelScope(shield=True):
                await self._finish()

    async def _guarded(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except frames.ViolationError as error:
            self.die(f"protocol violation: {error}")
        except Exception as error:  # noqa: BLE001 - boundary: whatever the wire brings ends this connection alone
            self.die(f"connection lost: {type(error).__name__}")

    async def _ping_loop(self) -> None:
        """Notices a peer that vanished without closing."""
        while True:
            self._ping_value = (self._ping_value + 1) & 0xFFFF_FFFF
            self._pong = trio.Event()
            sent_at = trio.current_time()
            self.send_control(frames.ping(self._ping_value, frames.SYN))
            with trio.move_on_after(LIMITS.mux_ping_timeout_seconds):
                await self._pong.wait()
            if not self._pong.is_set():
                self.die("no answer to a ping")
                return
            self._round_trip_seconds = trio.current_time() - sent_at
            await trio.sleep(LIMITS.mux_ping_interval_seconds)

    def die(self, why: str) -> None:
        """End the connection now; every reader and writer learns why."""
        if self.dead is not None:
            return
        self.dead = why
        self.event_shutting_down.set()
        self._accept_send.close()
        self._room.set()
        self._flushed.set()
        for stream in tuple(self.streams.values()):
            stream.wake()
        if self._scope is not None:
            self._scope.cancel()

    async def close(self, error_code: int = frames.GO_AWAY_NORMAL) -> None:
        """Say goodbye if that is quick, then end the connection."""
        with trio.CancelScope(shield=True):
            if self.is_established:
                self.send_control(frames.go_away(error_code))
                with trio.move_on_after(GOODBYE_SECONDS):
                    await self._flushed.wait()
            self.die("closed here")
            await self._finish()

    async def _finish(self) -> None:
        if self.event_closed.is_set():
            return
        self.event_closed.set()
        try:
            await self.secured_conn.close()
        except Exception:  # noqa: BLE001, S110 - boundary: the socket is gone either way
            pass
        if self.on_close is not None:
            await self.on_close()
