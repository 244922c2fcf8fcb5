"""Spreading what changed: batches of our own records out, those of our branches in."""

from collections.abc import Callable

import structlog
import trio

from aigrid.metagraph.branches import branches_of, topics_of
from aigrid.metagraph.graph import Metagraph
from aigrid.node.discovery.batches import batches, fits, take_in
from aigrid.node.discovery.grid import NowMs
from aigrid.node.discovery.interests import Interests
from aigrid.node.network.transport import Transport
from aigrid.protocol.errors import AigridError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import RECORDS_TOPIC, Records, decode_records, encode
from aigrid.protocol.record import Record

log = structlog.get_logger()


class Gossip:
    """The first change goes out at once, then what has changed each `gossip_interval_seconds`.

    There is a topic for each branch, and one for what is everybody's: a record goes out on those of
    its own branches, and we listen on those of ours. `spreads(record)` says whether a changed
    record is ours to spread: others' records reach everybody from their own issuers.
    """

    def __init__(
        self,
        transport: Transport,
        graph: Metagraph,
        interests: Interests,
        *,
        now_ms: NowMs,
        spreads: Callable[[Record], bool],
    ) -> None:
        self._transport = transport
        self._graph = graph
        self._interests = interests
        self._now_ms = now_ms
        self._spreads = spreads
        self._outbox: dict[tuple[str, str, str], tuple[Record, bool]] = {}  # and if it is asked for
        self._filled = trio.Event()
        self._moved = trio.Event()
        interests.listeners.append(self._on_interests)
        graph.listeners.append(self._on_record)

    def repeat(self, issuer: str) -> None:
        """Spread again what `issuer` says: whoever listens now has not heard it."""
        for record in self._graph.live_records(self._now_ms(), issuer=issuer):
            self._on_record(record)

    async def flush(self) -> None:
        """Send what waits, now."""
        pending: dict[str, list[bytes]] = {}
        for record, asked_for in self._outbox.values():
            if not (asked_for or self._spreads(record)):
                continue  # no more: it was of a grid that was left meanwhile
            for topic in topics_of(branches_of(record.body)):
                pending.setdefault(topic, []).append(record.raw)
        self._outbox.clear()
        for topic, raws in pending.items():
            for batch in batches(raws):
                await self._transport.publish(topic, encode(Records(batch)))

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        listening: dict[str, trio.CancelScope] = {}
        async with trio.open_nursery() as nursery:
            await self._follow(listening, nursery)
            nursery.start_soon(self._send)
            task_status.started()
            while True:
                await self._moved.wait()
                await self._follow(listening, nursery)

    async def _follow(self, listening: dict[str, trio.CancelScope], nursery: trio.Nursery) -> None:
        """Listen on the topics of our branches, and on no others any more."""
        self._moved = trio.Event()
        wanted = dict.fromkeys((RECORDS_TOPIC, *topics_of(self._interests.branches)))
        for topic in listening.keys() - wanted.keys():
            listening.pop(topic).cancel()
        for topic in wanted:
            if topic not in listening:
                listening[topic] = await nursery.start(self._listen, topic)

    async def _listen(
        self, topic: str, *, task_status: "trio.TaskStatus[trio.CancelScope]"
    ) -> None:
        with trio.CancelScope() as scope:
            async with self._transport.subscribe(topic) as messages:
                task_status.started(scope)
                async for publisher, data in messages:
                    self._receive(publisher, data)

    def _on_interests(self) -> None:
        self._moved.set()

    def spread(self, record: Record) -> None:
        """Put a record into the next batch. One too large for any is left to sync."""
        self._put(record, asked_for=True)

    def _put(self, record: Record, *, asked_for: bool) -> None:
        if not fits(record.raw):
            log.info("record_too_large_for_gossip", kind=record.kind.value)
            return
        self._outbox[record.key] = (record, asked_for)  # only the newest of a key is worth sending
        self._filled.set()

    def _on_record(self, record: Record) -> None:
        if self._spreads(record):
            self._put(record, asked_for=False)

    def _receive(self, publisher: str, data: bytes) -> None:
        try:
            records = decode_records(data).records
            take_in(self._graph, records, now_ms=self._now_ms(), peer_id=publisher)
        except AigridError as error:  # theirs, or our own disk: neither may end the service
            log.info("gossip_refused", peer=publisher, code=error.code.value)

    async def _send(self) -> None:
        while True:
            await self._filled.wait()
            self._filled = trio.Event()
            await self.flush()
            await trio.sleep(LIMITS.gossip_interval_seconds)
