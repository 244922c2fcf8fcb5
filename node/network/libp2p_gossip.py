"""Gossip among members: GossipSub with the gate in front and bounded mailboxes behind."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from aigrid.node.network import compat
from aigrid.node.network.gate import Gate
from aigrid.protocol.limits import LIMITS

MAILBOX_MAX = 1024  # messages of one subscription that wait to be read


class _Mailbox:
    """Messages of one subscription, oldest dropped first."""

    def __init__(self) -> None:
        self.messages: deque[tuple[str, bytes]] = deque(maxlen=MAILBOX_MAX)
        self._arrived = trio.Event()

    def put(self, publisher: str, data: bytes) -> bool:
        """Whether it fitted without dropping another."""
        fits = len(self.messages) < MAILBOX_MAX
        self.messages.append((publisher, data))
        self._arrived.set()
        return fits

    async def read(self) -> AsyncIterator[tuple[str, bytes]]:
        while True:
            while not self.messages:
                self._arrived = trio.Event()
                await self._arrived.wait()
            await trio.lowlevel.checkpoint()
            yield self.messages.popleft()


class Gossip:
    """Puts itself in place of the parts of `Pubsub` that decide and deliver."""

    def __init__(self, library: compat.Library, gate: Gate) -> None:
        self._pubsub = library.pubsub
        self._own = str(library.peer_id)
        self._gate = gate
        self._mailboxes: dict[str, list[_Mailbox]] = {}
        self._push = self._pubsub.push_msg
        self._pubsub.push_msg = self._push_guarded
        self._pubsub.is_peer_blacklisted = lambda peer: not gate.is_member(str(peer))
        self._pubsub.notify_subscriptions = self._deliver

    async def publish(self, topic: str, data: bytes) -> None:
        """Raises ValueError above `limits.gossip_max_bytes`."""
        if len(data) > LIMITS.gossip_max_bytes:
            raise ValueError(f"a gossip message of {len(data)} bytes")
        await self._pubsub.publish(topic, data)

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[tuple[str, bytes]]]:
        mailbox = _Mailbox()
        boxes = self._mailboxes.setdefault(topic, [])
        boxes.append(mailbox)
        try:
            await self._pubsub.subscribe(topic)
            yield mailbox.read()
        finally:
            boxes.remove(mailbox)
            if not boxes:
                del self._mailboxes[topic]
                with trio.CancelScope(shield=True):
                    await self._pubsub.unsubscribe(topic)

    async def _push_guarded(self, forwarder: Any, message: Any) -> None:
        """Every message, ours included, before it is seen, delivered or forwarded."""
        publisher = str(compat.ID(message.from_id))
        if (
            not self._gate.is_member(str(forwarder))
            or not self._gate.is_member(publisher)
            or len(message.data) > LIMITS.gossip_max_bytes
        ):
            self._gate.counts["gossip_refused"] += 1
            return
        await self._push(forwarder, message)

    def _deliver(self, message: Any) -> None:
        publisher = str(compat.ID(message.from_id))
        if publisher == self._own:
            return
        for topic in message.topicIDs:
            for mailbox in self._mailboxes.get(topic, ()):
                if not mailbox.put(publisher, bytes(message.data)):
                    self._gate.counts["gossip_dropped"] += 1
