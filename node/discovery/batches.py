"""Records on their way, for gossip, sync and queries: split into messages, sent, taken in."""

from collections.abc import Iterable, Iterator

import structlog

from aigrid.metagraph.graph import Metagraph
from aigrid.node.network.streams import Send
from aigrid.protocol.errors import Code
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Records, encode

log = structlog.get_logger()
# What msgpack adds, at most: to a `Records` or `Push` message, and to each record in it.
_OVERHEAD_BYTES = 64
_PER_RECORD_BYTES = 5


def batches(
    raws: Iterable[bytes], max_bytes: int = LIMITS.gossip_max_bytes
) -> Iterator[tuple[bytes, ...]]:
    """Split records, in order, into batches whose message stays within `max_bytes`.

    A record that does not fit into any message is a batch of its own.
    """
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


def fits(raw: bytes) -> bool:
    """Whether a record fits into a batch, alone if need be."""
    return _OVERHEAD_BYTES + len(raw) + _PER_RECORD_BYTES <= LIMITS.gossip_max_bytes


async def send_records(send: Send, raws: Iterable[bytes]) -> None:
    """Answer with `Records` batches; with nothing where there are none."""
    for batch in batches(raws):
        await send(encode(Records(batch)))


def take_in(graph: Metagraph, raws: Iterable[bytes], *, now_ms: int, peer_id: str) -> int:
    """Ingest records from a peer; how many changed something. Others are logged by code."""
    changed, refusals = graph.ingest_batch(raws, now_ms=now_ms, received_from=peer_id)
    for refusal in refusals:
        if refusal.code is Code.SUPERSEDED:
            continue  # the peer has not heard the newer one yet
        log.info("record_refused", peer=peer_id, code=refusal.code.value)
    return len(changed)
