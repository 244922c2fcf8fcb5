"""Yamux over a Noise connection: our own `IMuxedConn`, wire-compatible with /yamux/1.0.0.

Why not the library's: cancelling a write or a read there tears the whole connection (T2), a reader
slower than 5 s loses its stream (T3), end, reset and death look alike (T4), the window is not
enforced, a zero window is polled, and every small read costs a frame. Here the protocol is a
machine without I/O (`yamux_session`), and this is the shell around it: one task feeds it what a
read of the link brought, without an await in between; what it has to send goes to the link at once,
and a second task sends only while the link is full (`mux_link`).
"""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import trio
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable

from aigrid.node.network import yamux_frames as frames
from aigrid.node.network.mux_link import Ahead, MuxLink, PlainLink, advance_within
from aigrid.node.network.muxed_stream import MuxedStream
from aigrid.node.network.pass_end import pass_end
from aigrid.node.network.write_turns import WriteTurns
from aigrid.node.network.yamux_events import (
    Ended,
    Event,
    GoneAway,
    Opened,
    Pong,
    Received,
    WasReset,
    Writable,
)
from aigrid.node.network.yamux_session import Session
from aigrid.node.network.yamux_state import StreamState
from aigrid.protocol.limits import LIMITS

GOODBYE_SECONDS = 0.05
READ_SECONDS = 1.0  # to read what has come before a peer is judged, after a pause of our own
MESSAGES_AT_ONCE = 4
GATHERED_BYTES = 16384
TURN_BYTES = frames.PAYLOAD_MAX_BYTES


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

    def __init__(
        self, secured_conn: SecuredConnection, peer_id: Any, link: MuxLink | None = None
    ) -> None:
        self.secured_conn = secured_conn
        self.peer_id = peer_id
        self.is_initiator = secured_conn.is_initiator
        self.dead: str | None = None
        self.on_close: Callable[[], Awaitable[None]] | None = None  # set by SwarmConn
        self.event_started, self.event_closed = trio.Event(), trio.Event()
        self.event_shutting_down = trio.Event()
        self.session = Session(is_initiator=self.is_initiator)
        self.streams: dict[int, MuxedStream] = {}
        self._accept_send, self._accept_receive = trio.open_memory_channel[MuxedStream](
            LIMITS.mux_streams_max
        )
        self._link = PlainLink(secured_conn) if link is None else link
        self._outgoing, self._flushed = trio.Event(), trio.Event()
        self.turns = WriteTurns(self._has_room_for)
        self._gathering = False
        self._pass_end = pass_end()
        self._pong = trio.Event()
        self._ping_value = 0
        self._heard_at = 0.0
        self._round_trip_seconds = 0.0
        self._scope: trio.CancelScope | None = None

    @property
    def window_bytes(self) -> int:
        """Unread bytes that a stream is allowed."""
        return self.session.window_bytes

    @window_bytes.setter
    def window_bytes(self, window_bytes: int) -> None:
        self.session.window_bytes = window_bytes

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
        if not self.session.may_open:
            raise MuxedConnUnavailable("the link is full of openings and ends of streams")
        stream = self._stream(self.session.open())
        self.flush()
        return stream

    def _stream(self, state: StreamState) -> MuxedStream:
        stream = self.streams[state.stream_id] = MuxedStream(state, self)
        return stream

    async def accept_stream(self) -> MuxedStream:
        """Raises MuxedConnUnavailable once the connection is gone."""
        try:
            return await self._accept_receive.receive()
        except trio.EndOfChannel:
            raise MuxedConnUnavailable(self.dead or "closed") from None

    def provoked(self, count: int) -> None:
        """A stream of the peer's was of no use: it costs as much patience as so many pings."""
        self.session.provoked(trio.current_time(), count)
        self.flush()

    def forget(self, stream: MuxedStream) -> None:
        if self.streams.get(stream.stream_id) is stream:  # or the peer has opened it again
            del self.streams[stream.stream_id]

    # Output

    @property
    def room_bytes(self) -> int:
        """How much more data may be queued by who has no turn; at 0, writers wait for theirs."""
        if not self.turns.is_free:
            return 0
        return max(0, LIMITS.mux_unsent_bytes - self.session.unsent_bytes)

    def _has_room_for(self, turns: int) -> bool:
        """Whether a turn more may begin when these write as much as they may."""
        return self.session.unsent_bytes + turns * TURN_BYTES < LIMITS.mux_unsent_bytes

    def flush(self) -> None:
        """Send what the session has to send, as far as the link takes it.

        What comes first in a pass of the scheduler goes at once; more of the same pass is gathered,
        up to its end or a size. Never waits, so it is never cancelled half-way (T2).
        """
        session = self.session
        due = GATHERED_BYTES if self._gathering else 1
        if session.unsent_bytes >= due and self.dead is None:
            self._send()
            if self._link.is_full:
                self._outgoing.set()
            elif self._link.sends_at_once and not self._gathering:
                self._gathering = True
                self._pass_end.call(self._on_pass_end)
        if session.violated is not None:
            violation, detail = session.violated
            self._send()
            self.die(f"protocol violation: {violation}, {detail}")

    def _on_pass_end(self) -> None:
        self._gathering = False
        if self.session.unsent_bytes and self.dead is None:
            self._send()
            if self._link.is_full:
                self._pass_end.soon(self._wake_writer)

    def _wake_writer(self) -> None:
        self._outgoing.set()

    def _send(self) -> None:
        session, link = self.session, self._link
        while session.unsent_bytes and not link.is_full:
            link.send(self._next_messages())

    def _next_messages(self) -> list[bytes]:
        messages = [self.session.next_message()]
        while self.session.unsent_bytes and len(messages) < MESSAGES_AT_ONCE:
            messages.append(self.session.next_message())
        return messages

    async def _write_loop(self) -> None:
        while True:
            await self._outgoing.wait()
            while self._link.is_full:
                if not await advance_within(self._link, LIMITS.mux_write_seconds):
                    self.die("peer stopped reading")
                    return
                self.flush()
                self.turns.grant()
            self._outgoing = trio.Event()
            self._flushed.set()
            self._flushed = trio.Event()

    # Input

    async def _read_loop(self) -> None:
        while self.dead is None:
            messages = await self._link.receive()
            self._heard_at = trio.current_time()
            messages.reverse()
            while messages and self.dead is None:  # popped: the frame holds none while it waits
                self._take(messages.pop())
                while self.session.has_more and self.dead is None:
                    self.flush()
                    await trio.lowlevel.checkpoint()
                    self._take(b"")
            self.flush()

    def _take(self, message: bytes) -> None:
        for event in self.session.receive(message, trio.current_time()):
            self._on_event(event)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Received):
            stream = self.streams.get(event.stream_id)
            if stream is not None:
                stream.on_data(event.data)
        elif isinstance(event, Writable):  # not settled: data behind it may have ended the stream
            stream = self.streams.get(event.stream_id)
            if stream is not None:
                stream.wake()
        elif isinstance(event, Ended | WasReset):
            stream = self.streams.get(event.stream_id)
            if stream is not None:
                stream.settle()
        elif isinstance(event, Opened):
            self._on_opened(event)
        elif isinstance(event, Pong):
            if event.value == self._ping_value:
                self._pong.set()
        elif isinstance(event, GoneAway):
            self.die("closed by peer")

    def _on_opened(self, event: Opened) -> None:
        state = event.state
        if state is None or state.is_reset:  # the peer gave it up at once: nobody hears of it
            self.streams.pop(event.stream_id, None)
            return
        stream = self._stream(state)
        try:
            self._accept_send.send_nowait(stream)
        except (trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            stream.abandon()

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
        except Exception as error:  # noqa: BLE001 - boundary: whatever the wire brings ends this connection alone
            self.die(f"connection lost: {type(error).__name__}")

    async def _ping_loop(self) -> None:
        """Notices a peer that vanished without closing.

        It has the time of the answer again as long as something is heard of it, or what stood
        before the ping still moves: on a slow link, that may take minutes.
        """
        while True:
            self._ping_value = (self._ping_value + 1) & 0xFFFF_FFFF
            self._pong = trio.Event()
            sent_at = trio.current_time()
            self.session.ping(self._ping_value)
            self.flush()
            link = self._link
            ahead = Ahead(link.taken_bytes, link.backlog_bytes + self.session.unsent_bytes)
            while not await self._pong_in_time() and self._heard_at <= sent_at:
                if not ahead.moves(link.taken_bytes):
                    self.die("no answer to a ping")
                    return
            if self._pong.is_set():
                self._round_trip_seconds = trio.current_time() - sent_at
            await trio.sleep(LIMITS.mux_ping_interval_seconds)

    async def _pong_in_time(self) -> bool:
        for seconds in (LIMITS.mux_ping_timeout_seconds, READ_SECONDS):
            with trio.move_on_after(seconds):
                await self._pong.wait()
            if self._pong.is_set():
                return True
        return False

    def die(self, why: str) -> None:
        """End the connection now; every reader and writer learns why."""
        if self.dead is not None:
            return
        self.dead = why
        self.event_shutting_down.set()
        self._accept_send.close()
        self.turns.end()
        self._flushed.set()
        for stream in tuple(self.streams.values()):
            stream.wake()
        if self._scope is not None:
            self._scope.cancel()

    async def close(self, error_code: int = frames.GO_AWAY_NORMAL) -> None:
        """Say goodbye if that is quick, then end the connection."""
        with trio.CancelScope(shield=True):
            if self.is_established:
                self.session.go_away(error_code)
                self._send()
                if self._link.is_full:
                    self._outgoing.set()
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
