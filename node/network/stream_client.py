"""The calling side of one pooled RPC stream."""

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from aigrid.node.network.stream_tasks import StreamTasks, silent
from aigrid.node.network.transport import Stream
from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.exchange import Cancelled, Data, Ended, Event, Failed
from aigrid.protocol.exchange_client import ClientExchange
from aigrid.protocol.limits import Limits

# A reader that finds bodies waiting lets others run after this many.
_RUN_MAX: Final = 32


class ClientStream(StreamTasks):
    """Carries one call at a time; `on_idle` is told when it may carry the next.

    `heard` says whether anything came back in the current call.
    """

    def __init__(
        self, stream: Stream, limits: Limits, on_idle: "Callable[[ClientStream], None]"
    ) -> None:
        self._limits = limits
        self._client = ClientExchange(limits)
        super().__init__(stream, self._client)
        self._on_idle = on_idle
        self._bodies: deque[bytes] = deque()
        self._outcome: Ended | Failed | None = None
        self._arrival = trio.lowlevel.ParkingLot()
        self._run = 0
        self._released = self._silent = False
        self.heard = False

    @property
    def usable(self) -> bool:
        """Whether a call may begin."""
        return self.failure is None

    def start(self, request: bytes) -> None:
        """Send a request; `receive` gives its answer, `release` ends it in any case.

        Raises:
            InvalidRequestError: `body_too_large`.
        """
        self._bodies.clear()
        self._outcome = None
        self.heard = self._released = False
        self._client.start(request)
        self.flush()

    def release(self) -> None:
        """The caller is done: cancel what is left. The stream is idle again now or later."""
        self._outcome = None  # an error holds the frames that it went through, and their request
        if self.failure is not None:
            return
        self._bodies.clear()
        self._released = True
        if self._client.idle:
            self._rest()
        else:
            self._client.cancel()
            self._deadline.move(trio.current_time() + self._limits.cancel_seconds)
            self.flush()

    def _rest(self) -> None:
        self._deadline.move(trio.current_time() + self._limits.stream_idle_seconds)
        self._on_idle(self)

    async def receive(self, silence_seconds: float) -> bytes | None:
        """The next body, None at the end of the answer.

        Raises:
            RemoteError: `timeout`, `connection_lost`, or what the peer answered.
        """
        bodies = self._bodies
        if self._ready and self._run < _RUN_MAX:
            self._run += 1
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            self._run = 0
            await self._wait(silence_seconds)
        if bodies:
            body = bodies.popleft()
            self._client.consumed(len(body))
            self.flush()
            return body
        self._check_end()
        return None

    @property
    def _ready(self) -> bool:
        return bool(self._bodies) or self._outcome is not None or self.failure is not None

    async def _wait(self, silence_seconds: float) -> None:
        if self._ready:
            await trio.lowlevel.checkpoint()
            return
        self._silent = False
        self._deadline.move(trio.current_time() + silence_seconds)
        while not self._ready:
            if self._silent:
                message = f"nothing came for {silence_seconds:g} s"
                raise RemoteError(message, Code.TIMEOUT, peer=self.peer_id)
            await self._arrival.park()

    def _on_due(self) -> None:
        """It is that of the caller's wait, or of the stream once released.

        That of a caller that does not wait just now says nothing.
        """
        if self._released:
            self.fail(silent())
        elif self._arrival:
            self._silent = True
            self._wake()

    def _check_end(self) -> None:
        if isinstance(self._outcome, Failed):
            self._outcome.error.peer = self.peer_id
            raise self._outcome.error
        if self._outcome is None and self.failure is not None:
            raise RemoteError(self.failure.message, self.failure.code, peer=self.peer_id)

    def _wake(self) -> None:
        if self._arrival:  # asking an empty one costs more than this
            self._arrival.unpark_all()

    def _on_event(self, event: Event) -> None:
        self.heard = True
        if isinstance(event, Data):
            self._bodies.append(event.body)
        elif isinstance(event, Cancelled):
            self._rest()
        elif isinstance(event, (Ended, Failed)):
            self._outcome = event
