"""Gossip among members: GossipSub with the gate in front and bounded mailboxes behind."""

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
import trio

from aigrid.node.network import compat
from aigrid.node.network.gate import Gate
from aigrid.node.network.gossip_author import Author, author_of, signed_by
from aigrid.node.network.gossip_control import GossipControl
from aigrid.node.network.gossip_heartbeat import GossipHeartbeat
from aigrid.node.network.gossip_patience import SIGNATURE_WORK, FloodError, Patience
from aigrid.node.network.gossip_rates import GossipRates
from aigrid.node.network.gossip_wire import GossipWire, said
from aigrid.protocol.limits import LIMITS

_log = structlog.get_logger(__name__)
_MESSAGE_MOST_BYTES = LIMITS.gossip_max_bytes + 1024  # with all that stands beside its data


class _Mailbox:
    """Messages of one subscription, oldest dropped first."""

    def __init__(self) -> None:
        self.messages: deque[tuple[str, bytes]] = deque(maxlen=LIMITS.gossip_waiting_max)
        self._arrived = trio.Event()

    def put(self, publisher: str, data: bytes) -> bool:
        """Whether it fitted without dropping another."""
        fits = len(self.messages) < LIMITS.gossip_waiting_max
        self.messages.append((publisher, data))
        self._arrived.set()
        return fits

    def __aiter__(self) -> "_Mailbox":
        return self

    async def __anext__(self) -> tuple[str, bytes]:
        """Not a generator: a reader with a time limit may be cancelled and read on."""
        await trio.lowlevel.checkpoint()
        while not self.messages:
            self._arrived = trio.Event()
            await self._arrived.wait()
        return self.messages.popleft()


class Gossip:
    """Puts itself in place of the parts of `Pubsub` that decide and deliver."""

    def __init__(self, library: compat.Library, gate: Gate, now_ms: Callable[[], int]) -> None:
        self._pubsub, self._router = library.pubsub, library.gossip
        self._own = str(library.peer_id)
        self._gate = gate
        self._mailboxes: dict[str, list[_Mailbox]] = {}
        self._joining: dict[Any, trio.Lock] = {}
        self._subscribing = trio.Lock()
        self._join = self._pubsub._handle_new_peer  # noqa: SLF001 - see compat
        self._pubsub._handle_new_peer = self._join_once  # noqa: SLF001 - as above
        self._pubsub.push_msg = self._push_guarded
        self._pubsub.is_peer_blacklisted = lambda peer: not gate.is_member(str(peer))
        self._patience = Patience()
        self._rates = GossipRates(now_ms)
        wire = GossipWire(self._pubsub, library.gossip, gate, self._patience, self._rates)
        GossipControl(self._pubsub, library.gossip, gate, self._patience, wire.say_again)
        GossipHeartbeat(library.gossip)

    async def publish(self, topic: str, data: bytes) -> None:
        """Waits while others take no more of us. Raises ValueError above `gossip_max_bytes`."""
        if len(data) > LIMITS.gossip_max_bytes:
            raise ValueError(f"a gossip message of {len(data)} bytes")
        while wait_seconds := self._own_wait_seconds(len(data)):  # noqa: ASYNC110 - no condition
            await trio.sleep(wait_seconds)
        # The library adds one. Left alone it counts from when it was made: to others, all that a
        # node says later would seem to have been written then.
        self._pubsub.counter = self._rates.numbers.following(self._pubsub.counter) - 1
        try:
            await self._pubsub.publish(topic, data)
        except Exception as error:  # noqa: BLE001 - boundary: the library; best effort is the promise
            self._gate.counts["tasks_failed"] += 1
            _log.info("not_published", error=type(error).__name__)
        await trio.lowlevel.checkpoint()  # who publishes many lets them go out

    def _own_wait_seconds(self, size: int) -> float:
        return self._rates.own_wait_seconds(self._own, size, trio.current_time())

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[tuple[str, bytes]]]:
        mailbox = _Mailbox()
        boxes = self._mailboxes.setdefault(topic, [])
        boxes.append(mailbox)
        try:
            async with self._subscribing:
                await self._pubsub.subscribe(topic)
            yield mailbox
        finally:
            boxes.remove(mailbox)
            # The library leaves a topic after it has told everybody, whoever joined it meanwhile.
            with trio.CancelScope(shield=True):
                async with self._subscribing:
                    if not boxes and self._mailboxes.get(topic) is boxes:
                        del self._mailboxes[topic]
                        await self._pubsub.unsubscribe(topic)

    async def _join_once(self, peer: Any) -> None:
        """Open the gossip stream to a peer, and one only, though the library asks twice."""
        lock = self._joining.setdefault(peer, trio.Lock())
        try:
            async with lock:
                greeted_with = set(self._pubsub.topic_ids)
                await self._join(peer)  # does nothing if the other was quicker
                self._tell_changes(peer, greeted_with)
        finally:
            if not lock.locked() and self._joining.get(peer) is lock:
                del self._joining[peer]

    def _tell_changes(self, peer: Any, greeted_with: set[str]) -> None:
        """What was subscribed to while the greeting was on its way is told to nobody else."""
        queue = self._pubsub.peer_queues.get(peer)
        if queue is None:
            return
        topics = set(self._pubsub.topic_ids)
        for topic in sorted(topics ^ greeted_with):
            rpc, _ = self._pubsub._build_announce_rpc(topic, subscribe=topic in topics)  # noqa: SLF001 - see compat
            queue.push(rpc)

    async def _push_guarded(self, forwarder: Any, message: Any) -> None:
        """Stands in for `Pubsub.push_msg`, where one failing message would end the host (T6).

        Raises:
            FloodError: the forwarder has brought too much that is of no use.
        """
        try:
            await self._push(forwarder, message)
        except FloodError:
            raise
        except Exception as error:  # noqa: BLE001 - boundary: the library, and what a peer sent
            self._gate.counts["tasks_failed"] += 1
            _log.info("gossip_not_taken", error=type(error).__name__)

    async def _push(self, forwarder: Any, message: Any) -> None:
        """Every message, ours included, before it is delivered and forwarded.

        A mesh brings each message several times: what has been seen is let go first, so a signature
        is verified once per message id. What fails is not marked as seen: a forgery hides nothing.
        """
        via = str(forwarder)
        author = self._admitted(via, message)
        if author is None:
            return
        if via != self._own and not self._is_genuine(via, author, message):
            return
        message.DiscardUnknownFields()  # they are signed by nobody, and would be passed on
        self._pubsub._mark_msg_seen(message)  # noqa: SLF001 - see compat
        if via != self._own:
            if not self._rates.may_write(said(message), trio.current_time()):
                self._is_too_much(via, author, message)
                return
            if via == author.peer_id:
                self._rates.may_tell_itself(said(message), trio.current_time())  # counts it
            self._deliver(author.peer_id, message)
        await self._router.publish(forwarder, message)

    def _admitted(self, via: str, message: Any) -> Author | None:
        """The author, if the message is new and one that this peer may bring.

        Raises:
            FloodError: see `_refuse`.
        """
        ours = via == self._own
        seen = self._pubsub._is_msg_seen(message)  # noqa: SLF001 - see compat
        if not self._gate.is_member(via) or (
            not ours and not self._may_bring(via, message, again=seen)
        ):
            self._refuse(via, LIMITS.gossip_excess_counts)
            return None
        if seen:
            return None
        author = author_of(message)
        if (
            author is None
            or len(message.data) > LIMITS.gossip_max_bytes
            or not self._on_one_topic(message, ours=ours)
        ):
            bloated = message.ByteSize() > _MESSAGE_MOST_BYTES
            self._refuse(via, LIMITS.gossip_refused_counts if bloated else 1)
            return None
        if not self._gate.is_member(author.peer_id):
            self._refuse(via, LIMITS.gossip_excess_counts)  # the forwarder may know more than we
            return None
        return author

    def _may_bring(self, via: str, message: Any, *, again: bool) -> bool:
        return self._rates.may_bring(via, len(message.data), trio.current_time(), again=again)

    def _is_genuine(self, via: str, author: Author, message: Any) -> bool:
        """Whether its author has signed it, and has not said too much already.

        Raises:
            FloodError: see `_refuse`.
        """
        if author.peer_id == self._own:
            return False  # ours of before a restart, or a forgery
        if self._rates.has_written_all(said(message), trio.current_time()):
            self._is_too_much(via, author, message)
            return False
        self._patience.worked(SIGNATURE_WORK)
        if not signed_by(message, author):
            self._refuse(via, 1)
            return False
        return True

    def _is_too_much(self, via: str, author: Author, message: Any) -> None:
        """Of an author. Blamed is that one alone, if so much has come from itself.

        Whoever passes it on has perhaps not had the rest of it, and others may have said again what
        an author said before. A large one counts twice for what it is above a small one: all of it
        was read in vain.
        """
        counts = 2 * self._rates.cost(len(message.data)) - 1
        is_blamed = via == author.peer_id and not self._rates.may_tell_itself(
            said(message), trio.current_time()
        )
        self._refuse(via, counts if is_blamed else 0)

    def _refuse(self, via: str, times: float) -> None:
        """Count it. Raises FloodError: the forwarder has brought too much of this."""
        self._gate.counts["gossip_refused"] += 1
        if via != self._own:
            self._patience.bear(via, times)

    def _on_one_topic(self, message: Any, *, ours: bool) -> bool:
        """What a message is about. The library would keep something for every topic it names.

        Ours may be of a topic that we do not listen to; it goes to peers that do.
        """
        topics = self._pubsub.allowed_topics if ours else self._pubsub.topic_ids
        return len(message.topicIDs) == 1 and message.topicIDs[0] in topics

    def _deliver(self, publisher: str, message: Any) -> None:
        for topic in message.topicIDs:
            for mailbox in self._mailboxes.get(topic, ()):
                if not mailbox.put(publisher, bytes(message.data)):
                    self._gate.counts["gossip_dropped"] += 1
