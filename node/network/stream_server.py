"""The serving side of one RPC stream: its handler, and what ends it."""

import math
from collections.abc import Awaitable, Callable

import structlog
import trio

from aigrid.node.network.stream_tasks import COALESCE_BYTES, StreamTasks, lost
from aigrid.node.network.transport import Stream
from aigrid.protocol.errors import BREACHES, AigridError, LocalError
from aigrid.protocol.exchange import Cancelled, Event, RequestReceived
from aigrid.protocol.exchange_server import RequestBudget, ServerExchange, ServerState
from aigrid.protocol.limits import Limits

Send = Callable[[bytes], Awaitable[None]]
RpcHandler = Callable[[str, bytes, Send], Awaitable[None]]

_log = structlog.get_logger()


class ServerStream(StreamTasks):
    """Answers one exchange after the other with `handler`, in one task for all of them."""

    def __init__(
        self, stream: Stream, handler: RpcHandler, limits: Limits, budget: RequestBudget
    ) -> None:
        self._server = ServerExchange(limits, budget)
        super().__init__(stream, self._server)
        self._handler = handler
        self._limits = limits
        self._request: bytes | None = None
        self._work = trio.CancelScope()
        self._requested = trio.lowlevel.ParkingLot()
        self._sendable = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        """Serve until it ends. Raises the RemoteError with which the peer broke the protocol."""
        try:
            await super().run()
        finally:
            self._server.close()
        if self.failure is not None and self.failure.code in BREACHES:
            raise self.failure  # whoever serves the connection counts it

    def _start(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._answer_all)

    def _wake(self) -> None:
        if self._sendable:  # asking an empty one costs more than this
            self._sendable.unpark_all()
        if self._request is not None:
            self._requested.unpark_all()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._request = event.body
        elif isinstance(event, Cancelled):
            self._work.cancel()

    def _on_read(self) -> None:
        # A request that does not go on would hold its bytes for ever, and so would half a frame.
        arriving = self._server.state in {ServerState.RECEIVING, ServerState.DISCARDING}
        arriving = arriving or self._server.held_bytes > 0
        wait = self._limits.rpc_timeout_seconds if arriving else math.inf
        self._deadline.move(trio.current_time() + wait)

    async def _answer_all(self) -> None:
        while True:
            try:
                with trio.CancelScope() as self._work:  # of many requests, until one is cancelled
                    while not self._work.cancel_called:
                        await self._answer_next()
            except Exception as error:  # what a handler's nursery had beside its cancellation
                if self._server.state is not ServerState.CANCELLING:
                    raise
                _expected(error, self.peer_id)
            self._request = None
            if self._server.state is ServerState.CANCELLING:
                self._server.end()
                self.flush()

    async def _answer_next(self) -> None:
        while self._request is None:
            await self._requested.park()
        request, self._request = self._request, None
        self._server.end(await self._answer(request))
        del request  # not held until the next one comes
        self.flush()

    async def _answer(self, request: bytes) -> AigridError | None:
        try:
            await self._handler(self.peer_id, request, self.send)
        except AigridError as error:
            return error
        except Exception as error:  # noqa: BLE001 - boundary: an RPC handler
            return _expected(error, self.peer_id)
        return None

    async def send(self, body: bytes) -> None:
        """One DATA body, once the client's credit allows it.

        Raises:
            LocalError: `frame_too_large`.
            RemoteError: `connection_lost`.
        """
        server = self._server
        while not server.can_send:
            if self.failure is not None:
                raise lost(self.peer_id)
            await self._sendable.park()
        server.send(body)
        self._writable.unpark()
        if server.unsent_bytes < COALESCE_BYTES:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()


def _expected(error: Exception, peer_id: str) -> AigridError:
    """The one error that a nursery of the handler wrapped; anything else is `internal`, logged."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, AigridError):
        return error
    last, trace = error.__traceback__, ""
    while last is not None:  # where, but not the message: it may quote the request
        trace = f"{last.tb_frame.f_code.co_filename}:{last.tb_lineno}"
        last = last.tb_next
    _log.error("rpc_handler_failed", peer=peer_id, error=type(error).__name__, at=trace)
    return LocalError("the request failed here for a reason that is in this node's log")
