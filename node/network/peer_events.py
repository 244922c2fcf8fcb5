"""Peer events to subscribers that may be slow: none is missed, and what waits is bounded."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from aigrid.node.network.transport import PeerChange, PeerEvent


class _Pending:
    """What one subscriber has not seen yet: at most a loss and a return per peer."""

    def __init__(self) -> None:
        self._events: dict[str, deque[PeerEvent]] = {}
        self._arrived = trio.Event()

    def put(self, event: PeerEvent) -> None:
        """A connection that came and went again unseen leaves no trace."""
        events = self._events.setdefault(event.peer_id, deque())
        unseen = bool(events) and events[-1].change is PeerChange.CONNECTED
        if unseen and event.change is PeerChange.DISCONNECTED:
            events.pop()
        else:
            events.append(event)
        if not events:
            del self._events[event.peer_id]
        self._arrived.set()

    def take(self) -> PeerEvent | None:
        for peer_id, events in self._events.items():
            event = events.popleft()
            if not events:
                del self._events[peer_id]
            return event
        return None

    async def forward(self, channel: trio.MemorySendChannel[PeerEvent]) -> None:
        async with channel:
            while True:
                self._arrived = trio.Event()
                while (event := self.take()) is not None:
                    await channel.send(event)
                await self._arrived.wait()


class EventFeed:
    """Fans events out."""

    def __init__(self) -> None:
        self._subscribers: list[_Pending] = []

    def put(self, event: PeerEvent) -> None:
        for pending in self._subscribers:
            pending.put(event)

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[trio.MemoryReceiveChannel[PeerEvent]]:
        send, receive = trio.open_memory_channel[PeerEvent](0)
        pending = _Pending()
        self._subscribers.append(pending)
        failure: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pending.forward, send)
                try:
                    yield receive
                except Exception as error:  # noqa: BLE001 - raised again below, not inside a group
                    failure = error
                nursery.cancel_scope.cancel()
        finally:
            self._subscribers.remove(pending)
            receive.close()
        if failure is not None:
            raise failure
