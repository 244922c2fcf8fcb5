"""Spreading what changed: batches of our own records out, everybody's in."""

from collections.abc import Callable, Iterable, Iterator

import structlog
import trio

from aigrid.metagraph.graph import Metagraph
from aigrid.node.discovery.grid import NowMs
from aigrid.node.network.transport import Transport
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import RECORDS_TOPIC, Records, decode_records, encode
from aigrid.protocol.record import Record

log = structlog.get_logger()
_OVERHEAD_BYTES = 64
_PER_RECORD_BYTES = 5


def batches(raws: Iterable[bytes], max_bytes: int) -> Iterator[tuple[bytes, ...]]:
    """Split records, in order, into batches whose message stays within `max_bytes`."""
    batch: list[bytes] = []
    size = _OVERHEAD_BYTES
    for raw in raws:
        cost = len(raw) + _PER_RECORD_BYTES
        if batch and size + cost > max_bytes:
            yield tuple(batch)
            batch, size = [], _OVERHEAD_BYTES
        batch.append(raw)
        size += cost
    if batch:
        yield tuple(batch)


class Gossip:
    """The first change goes out at once, then at most one batch per `gossip_interval_seconds`.

    `spreads(record)` says whether a changed record is ours to spread: others' records reach
    everybody from their own issuers.
    """

    def __init__(
        self,
        transport: Transport,
        graph: Metagraph,
        *,
        now_ms: NowMs,
        spreads: Callable[[Record], bool],
    ) -> None:
        self._transport = transport
        self._graph = graph
        self._now_ms = now_ms
        self._spreads = spreads
        self._outbox: dict[tuple[str, str, str], Record] = {}
        self._filled = trio.Event()
        graph.listeners.append(self._on_record)

    def repeat(self, issuer: str) -> None:
        """Spread again what `issuer` says: whoever listens now has not heard it."""
        for record in self._graph.live_records(self._now_ms(), issuer=issuer):
            self._on_record(record)

    async def flush(self) -> None:
        """Send what waits, now."""
        pending = [record.raw for record in self._outbox.values()]
        self._outbox.clear()
        for batch in batches(pending, LIMITS.gossip_max_bytes):
            await self._transport.publish(RECORDS_TOPIC, encode(Records(batch)))

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        async with (
            trio.open_nursery() as nursery,
            self._transport.subscribe(RECORDS_TOPIC) as messages,
        ):
            nursery.start_soon(self._send)
            task_status.started()
            async for publisher, data in messages:
                self._receive(publisher, data)

    def spread(self, record: Record) -> None:
        """Put a record into the next batch. One too large for any is left to sync."""
        if _OVERHEAD_BYTES + len(record.raw) + _PER_RECORD_BYTES > LIMITS.gossip_max_bytes:
            log.info("record too large for gossip", kind=record.kind.value)
            return
        self._outbox[record.key] = record  # only the newest of a key is worth sending
        self._filled.set()

    def _on_record(self, record: Record) -> None:
        if self._spreads(record):
            self.spread(record)

    def _receive(self, publisher: str, data: bytes) -> None:
        try:
            records = decode_records(data).records
            take_in(self._graph, list(records), now_ms=self._now_ms(), peer_id=publisher)
        except AigridError as error:  # theirs, or our own disk: neither may end the service
            log.info("gossip refused", peer=publisher, code=error.code.value)

    async def _send(self) -> None:
        while True:
            await self._filled.wait()
            self._filled = trio.Event()
            await self.flush()
            await trio.sleep(LIMITS.gossip_interval_seconds)


def take_in(graph: Metagraph, raws: Iterable[bytes], *, now_ms: int, peer_id: str) -> int:
    """Ingest records from a peer; how many changed something. Others are logged by code."""
    changed, refusals = graph.ingest_batch(raws, now_ms=now_ms, received_from=peer_id)
    for refusal in refusals:
        if refusal.code is Code.SUPERSEDED:
            continue  # the peer has not heard the newer one yet
        log.info("record refused", peer=peer_id, code=refusal.code.value)
    return len(changed)
