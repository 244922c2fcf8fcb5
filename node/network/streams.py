"""Requests between nodes: `RpcServer` answers them, `RpcClient` makes them over pooled streams."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType

import structlog
import trio

from aigrid.node.network.stream_client import ClientStream
from aigrid.node.network.stream_server import RpcHandler, Send, ServerStream
from aigrid.node.network.stream_tasks import lost
from aigrid.node.network.transport import RPC_PROTOCOL, PeerChange, Stream, Transport
from aigrid.protocol.errors import AigridError, Code, InvalidRequestError, LocalError, RemoteError
from aigrid.protocol.exchange_server import RequestBudget
from aigrid.protocol.limits import LIMITS, Limits

__all__ = ["RpcClient", "RpcHandler", "RpcServer", "Send"]

_log = structlog.get_logger()


class RpcServer:
    """Answers requests with `handler(peer_id, request, send)`.

    Returning ends the answer, an AigridError is passed on with its code, any other exception is
    `internal` and says nothing. The handler is cancelled when the client cancels or goes away.
    """

    def __init__(self, handler: RpcHandler, *, limits: Limits = LIMITS) -> None:
        self._handler = handler
        self._limits = limits
        self._streams: dict[str, int] = {}
        self._budgets: dict[str, RequestBudget] = {}

    async def serve(self, stream: Stream) -> None:
        """A StreamHandler; returns when the stream ends."""
        peer_id = stream.peer_id
        count = self._streams.get(peer_id, 0)
        if count >= self._limits.streams_per_peer_max:
            await stream.reset()
            return
        self._streams[peer_id] = count + 1
        room = self._limits.requests_held_max * self._limits.request_max_bytes
        budget = self._budgets.setdefault(peer_id, RequestBudget(room))
        try:
            await ServerStream(stream, self._handler, self._limits, budget).run()
        finally:
            self._streams[peer_id] -= 1
            if not self._streams[peer_id]:
                del self._streams[peer_id], self._budgets[peer_id]


@dataclass(slots=True, eq=False)
class _Peer:
    """A peer's streams: `count` includes those being opened; the last idle one was used last."""

    count: int = 0
    streams: set[ClientStream] = field(default_factory=set)
    idle: deque[ClientStream] = field(default_factory=deque)
    urgent: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    others: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    @property
    def busy(self) -> int:
        """Streams that carry a call, or are being opened for one."""
        return self.count - len(self.idle)

    def wake(self, busy_max: int) -> None:
        """A stream is free or gone: wake one caller that may have it, the urgent first.

        Who is woken without a use for it would have taken the wake-up from one who has. Others
        than the urgent have none while `busy_max` streams are taken.
        """
        if self.urgent:
            self.urgent.unpark()
        elif self.others and self.busy < busy_max:
            self.others.unpark()


class _Opening:
    """A stream that somebody waits for while it is being opened by a task of the client's own."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.result: ClientStream | AigridError | None = None
        self.abandoned = False

    def finish(self, result: ClientStream | AigridError) -> None:
        if self.result is None:
            self.result = result
            self.done.set()


class RpcClient:
    """Makes requests; needs `run` for as long as it is used.

    All streams live in the nursery of `run`: whatever happens to a caller, no write and no
    negotiation of a stream is ever cut in the middle.
    """

    def __init__(self, transport: Transport, *, limits: Limits = LIMITS) -> None:
        self._transport = transport
        self._limits = limits
        self._peers: dict[str, _Peer] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Own the streams, and drop those of a peer whose connection is lost."""
        async with self._transport.events() as events, trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                async for event in events:
                    if event.change is PeerChange.DISCONNECTED:
                        self._lost(event.peer_id)
            finally:
                self._nursery = None
                nursery.cancel_scope.cancel()

    def call(
        self, peer_id: str, request: bytes, *, silence_seconds: float, urgent: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bodies of the answer. Leaving the context early cancels the work at the peer.

        An `urgent` call may use the streams that are kept free of others.

        A request that went out on a pooled stream is sent once more if that stream turns out dead
        before anything came back and the peer is still connected: handlers may see it twice.

        Raises, on entering or iterating:
            RemoteError: with the peer; its own code, or `connection_lost`, `unreachable`,
                `timeout` after `silence_seconds` without a body, `busy`, `not_member`.
            InvalidRequestError: `body_too_large`.
        """
        return _Call(self, peer_id, request, silence_seconds, urgent=urgent)

    async def ask(
        self, peer_id: str, request: bytes, *, silence_seconds: float, urgent: bool = False
    ) -> bytes:
        """The one body of the answer; `protocol_violation` when there is another number of them."""
        call = _Call(self, peer_id, request, silence_seconds, urgent=urgent)
        try:
            await call.start(fresh=False)
            body = await call.next_body()
            if body is not None and await call.next_body() is None:
                return body
        finally:
            call.end()
        raise RemoteError("an answer without a body, or with several", peer=peer_id)

    @property
    def _busy_max(self) -> int:
        """Streams that calls other than the urgent may hold."""
        limits = self._limits
        return max(1, limits.streams_per_peer_max - limits.streams_urgent)

    def may_retry(self, peer_id: str) -> bool:
        """Whether a new stream has a chance."""
        return self._nursery is not None and peer_id in self._transport.connected()

    async def acquire(
        self, peer_id: str, silence_seconds: float, *, fresh: bool, urgent: bool
    ) -> tuple[ClientStream, bool]:
        """A stream of our own until `release`, and whether it was used before."""
        streams_max = self._limits.streams_per_peer_max
        busy_max = streams_max if urgent else self._busy_max
        idle = None if fresh else self._idle(peer_id, busy_max)
        if idle is not None:  # as a rule: worth no scope
            return idle, True
        with trio.move_on_after(silence_seconds):
            while True:
                idle = None if fresh else self._idle(peer_id, busy_max)
                if idle is not None:
                    return idle, True
                peer = self._peers.setdefault(peer_id, _Peer())
                if peer.busy < busy_max:
                    if peer.count < streams_max:
                        return await self._open(peer_id, peer), False
                    if fresh and peer.idle:
                        peer.idle.popleft().fail(lost(peer_id))
                await self._queue(peer_id, peer.urgent if urgent else peer.others)
        raise RemoteError("no stream to the peer in time", Code.TIMEOUT, peer=peer_id)

    def _idle(self, peer_id: str, busy_max: int) -> ClientStream | None:
        peer = self._peers.get(peer_id)
        if peer is None or peer.busy >= busy_max:
            return None
        return _pop_idle(peer)

    async def _queue(self, peer_id: str, waiting: trio.lowlevel.ParkingLot) -> None:
        limits = self._limits
        if len(waiting) >= limits.callers_per_stream_max * limits.streams_per_peer_max:
            wait = limits.retry_after_seconds
            message = "too many requests wait for this peer"
            raise RemoteError(message, Code.BUSY, peer=peer_id, retry_after_seconds=wait)
        await waiting.park()

    async def _open(self, peer_id: str, peer: _Peer) -> ClientStream:
        if self._nursery is None:
            raise LocalError("this node is stopping", Code.SHUTTING_DOWN)
        opening = _Opening()
        peer.count += 1
        self._nursery.start_soon(self._live, peer_id, peer, opening)
        try:
            await opening.done.wait()
        except trio.Cancelled:
            opening.abandoned = True
            if isinstance(opening.result, ClientStream):
                opening.result.release()
            raise
        if not isinstance(opening.result, ClientStream):
            raise opening.result or lost(peer_id)
        return opening.result

    async def _live(self, peer_id: str, peer: _Peer, opening: _Opening) -> None:
        """Open a stream and serve it for the rest of its life."""
        stream: ClientStream | None = None
        try:
            raw = await self._transport.open_stream(peer_id, RPC_PROTOCOL)
            stream = ClientStream(raw, self._limits, partial(self._rest, peer))
            peer.streams.add(stream)
            opening.finish(stream)
            if opening.abandoned:
                stream.release()
            await stream.run()
        except AigridError as error:
            opening.finish(error)
        except Exception as error:  # noqa: BLE001 - boundary: a pooled stream
            _log.warning("rpc_stream_failed", peer=peer_id, error=type(error).__name__)
        finally:
            opening.finish(lost(peer_id))
            peer.count -= 1
            if stream is not None:
                peer.streams.discard(stream)
                if stream in peer.idle:
                    peer.idle.remove(stream)
            if peer.urgent or peer.others:
                peer.wake(self._busy_max)
            elif not peer.count and self._peers.get(peer_id) is peer:
                del self._peers[peer_id]

    def _rest(self, peer: _Peer, stream: ClientStream) -> None:
        peer.idle.append(stream)
        peer.wake(self._busy_max)

    def _lost(self, peer_id: str) -> None:
        """A connection has ended: drop the peer's streams at once, unless it has a new one.

        Events may come late and do not say which connection they are about; streams of one that
        was replaced fail by themselves.
        """
        if peer_id in self._transport.connected():
            return
        peer = self._peers.get(peer_id)
        for stream in tuple(peer.streams) if peer is not None else ():
            stream.fail(lost(peer_id))


def _pop_idle(peer: _Peer) -> ClientStream | None:
    while peer.idle:
        stream = peer.idle.pop()
        if stream.usable:
            return stream
    return None


class _Call:
    """One call: the context that holds a stream, and the bodies that come out of it."""

    def __init__(
        self,
        client: RpcClient,
        peer_id: str,
        request: bytes,
        silence_seconds: float,
        *,
        urgent: bool,
    ) -> None:
        self._client = client
        self._peer_id = peer_id
        self._request = request
        self._silence_seconds = silence_seconds
        self._urgent = urgent
        self._stream: ClientStream | None = None
        self._reused = self._over = False

    async def __aenter__(self) -> AsyncIterator[bytes]:
        await self.start(fresh=False)
        return self

    async def start(self, *, fresh: bool) -> ClientStream:
        stream, self._reused = await self._client.acquire(
            self._peer_id, self._silence_seconds, fresh=fresh, urgent=self._urgent
        )
        self._stream = stream
        try:
            stream.start(self._request)
        except InvalidRequestError:
            self.end()
            raise
        return stream

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """Let go of the stream, and cancel what is left of the answer."""
        if self._stream is not None:
            self._stream.release()
            self._stream = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        body = await self.next_body()
        if body is None:
            raise StopAsyncIteration
        return body

    async def next_body(self) -> bytes | None:
        """None at the end of the answer, and after an error."""
        if self._over or self._stream is None:
            return None
        try:
            body = await self._receive(self._stream)
        except Exception:  # not when cancelled: who has a time limit may read on
            self._over = True
            raise
        self._over = body is None
        return body

    async def _receive(self, stream: ClientStream) -> bytes | None:
        try:
            return await stream.receive(self._silence_seconds)
        except RemoteError:
            if not self._worth_another(stream):
                raise
            return await (await self.start(fresh=True)).receive(self._silence_seconds)

    def _worth_another(self, stream: ClientStream) -> bool:
        died = stream.failure is not None and stream.failure.code is Code.CONNECTION_LOST
        silent = self._reused and not stream.heard
        return died and silent and self._client.may_retry(self._peer_id)
