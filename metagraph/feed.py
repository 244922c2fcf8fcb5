"""Keeps a dataset elsewhere in step with what is believed here.

Nothing is sent when a record changes: what changed is noted, and sent before the next question.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from aigrid.metagraph.dataset_ipc import BATCH_MAX_BYTES, Update
from aigrid.metagraph.graph import Metagraph
from aigrid.protocol.kinds import Kind
from aigrid.protocol.record import Record, RecordKey

_SCAN = 512  # records read from the store at a time


@dataclass(frozen=True, slots=True)
class _Held:
    content_id: str
    until_ms: int


class Feed:
    """What the dataset holds, and what it should."""

    def __init__(self, graph: Metagraph) -> None:
        self._graph = graph
        self._held: dict[RecordKey, _Held] = {}
        self._changed: dict[RecordKey, Record] = {}
        self._ends: list[tuple[int, RecordKey]] = []
        self._following = False
        self._compare = False
        self._grid = graph.grid
        self._evicted: list[str] = []
        graph.listeners.append(self._on_record)
        graph.eviction_listeners.append(self._on_evicted)
        graph.shift_listeners.append(self._on_shift)

    def start_over(self) -> None:
        """The dataset is a new, empty one."""
        self._stop_noting()
        self._following = self._compare = True

    def stop(self) -> None:
        """There is no dataset any more."""
        self._stop_noting()
        self._following = False

    def updates(self, now_ms: int) -> Iterator[Update]:
        """What brings the dataset up to date, in batches, each to be applied before the next."""
        if self._grid != self._graph.grid:
            self._grid, self._compare = self._graph.grid, True
        gone, self._evicted = self._evicted + self._expired(now_ms), []
        if self._compare:
            self._compare = False
            self._changed.clear()
            yield from self._compared(gone, now_ms)
        else:
            changed, self._changed = list(self._changed.values()), {}
            yield from self._batches(gone, iter(changed), now_ms)

    def _stop_noting(self) -> None:
        self._held.clear()
        self._changed.clear()
        self._ends.clear()
        self._evicted.clear()

    def _on_record(self, record: Record) -> None:
        if not self._following:
            return
        if record.kind is Kind.MEMBERSHIP:  # what its subject said appears, or goes
            self._compare = True
        elif not self._compare:
            self._changed[record.key] = record

    def _on_shift(self) -> None:
        self._compare = self._compare or self._following  # what members said appears, or goes

    def _on_evicted(self, record: Record) -> None:
        self._changed.pop(record.key, None)
        held = self._held.get(record.key)
        if held is not None:  # what is held was that record, or one before it
            del self._held[record.key]
            self._evicted.append(held.content_id)

    def _expired(self, now_ms: int) -> list[str]:
        gone = []
        while self._ends and self._ends[0][0] <= now_ms:
            _, key = heapq.heappop(self._ends)
            held = self._held.get(key)
            if held is not None and held.until_ms <= now_ms:
                del self._held[key]
                gone.append(held.content_id)
                self._compare = self._compare or key[1] == Kind.MEMBERSHIP.value
        return gone

    def _compared(self, gone: list[str], now_ms: int) -> Iterator[Update]:
        wanted = dict.fromkeys(self._graph.believed(now_ms))
        for key, held in list(self._held.items()):
            if held.content_id in wanted:
                del wanted[held.content_id]
            else:
                del self._held[key]
                gone.append(held.content_id)
        missing = list(wanted)
        yield from self._batches(gone, self._stored(missing), now_ms)

    def _stored(self, content_ids: list[str]) -> Iterator[Record]:
        for start in range(0, len(content_ids), _SCAN):
            yield from self._graph.store.records(content_ids[start : start + _SCAN])

    def _batches(self, gone: list[str], records: Iterator[Record], now_ms: int) -> Iterator[Update]:
        added: list[tuple[str, bytes]] = []
        size = 0
        for record in records:
            before = self._held.pop(record.key, None)
            if before is not None:
                gone.append(before.content_id)
            if record.withdrawn or record.valid_until_ms <= now_ms:
                continue
            self._held[record.key] = _Held(record.content_id, record.valid_until_ms)
            heapq.heappush(self._ends, (record.valid_until_ms, record.key))
            added.append((record.content_id, record.raw))
            size += len(record.raw)
            if size >= BATCH_MAX_BYTES:
                yield Update(tuple(gone), tuple(added))
                gone, added, size = [], [], 0
        if gone or added:
            yield Update(tuple(gone), tuple(added))
