"""Gossip of the memory transport: what one node has seen, and who reads it."""

from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from aigrid.protocol.errors import Code, LocalError

_SEEN_MAX: Final = 8192
_SUBSCRIPTION_MAX: Final = 256

MessageId = tuple[str, float, int]


class Subscription:
    """Messages of one topic that wait for their reader; the oldest is dropped when it is full."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, bytes]] = deque(maxlen=_SUBSCRIPTION_MAX)
        self._arrival = trio.lowlevel.ParkingLot()

    def put(self, message: tuple[str, bytes]) -> None:
        self._waiting.append(message)
        self._arrival.unpark_all()

    def __aiter__(self) -> AsyncIterator[tuple[str, bytes]]:
        return self

    async def __anext__(self) -> tuple[str, bytes]:
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            await self._arrival.park()
        return self._waiting.popleft()


class Gossip:
    """Floods what is new through `forward(topic, data, message_id)`, each message once.

    The first part of a message id is its publisher.
    """

    def __init__(
        self, peer_id: str, forward: Callable[[str, bytes, MessageId], None], max_bytes: int
    ) -> None:
        self._peer_id = peer_id
        self._forward = forward
        self._max_bytes = max_bytes
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._seen: OrderedDict[MessageId, None] = OrderedDict()
        self._published = 0

    def publish(self, topic: str, data: bytes) -> None:
        """Raises LocalError(record_too_large)."""
        if len(data) > self._max_bytes:
            raise LocalError(f"a message of {len(data)} bytes", Code.RECORD_TOO_LARGE)
        self._published += 1
        message_id = (self._peer_id, trio.current_time(), self._published)
        self._remember(message_id)
        self._forward(topic, data, message_id)

    def hear(self, topic: str, data: bytes, message_id: MessageId) -> None:
        """A message that passed the gate; only topics that are read here are forwarded."""
        if message_id in self._seen or topic not in self._subscriptions:
            return
        self._remember(message_id)
        for subscription in self._subscriptions[topic]:
            subscription.put((message_id[0], data))
        self._forward(topic, data, message_id)

    def _remember(self, message_id: MessageId) -> None:
        self._seen[message_id] = None
        if len(self._seen) > _SEEN_MAX:
            self._seen.popitem(last=False)

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[tuple[str, bytes]]]:
        subscription = Subscription()
        readers = self._subscriptions.setdefault(topic, set())
        readers.add(subscription)
        try:
            yield subscription
        finally:
            readers.discard(subscription)
            if not readers and self._subscriptions.get(topic) is readers:
                del self._subscriptions[topic]
