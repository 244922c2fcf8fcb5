"""`expired`: what has ended is gone from every store, and from what nodes answer."""

from collections import Counter
from collections.abc import Callable, Iterable

import trio
from scripts.simulation.workload import BRIEF
from scripts.simulation.world import SimNode

from aigrid.protocol.record import Record

# Until it is gone, by the node's own clock: a service looks at that each second.
GONE_SECONDS = 3.0


class Endings:
    """Follows the records of short lives, each until it has been asked for after its end.

    Attributes:
        checks: counts under `expired`; `violated` takes a property and what is wrong.
    """

    def __init__(self, checks: Counter[str], violated: Callable[[str, str], None]) -> None:
        self.checks = checks
        self.violated = violated
        self._brief: list[Record] = []
        self._overdue: dict[str, tuple[int, float]] = {}

    def said(self, record: Record) -> None:
        if is_brief(record):
            self._brief.append(record)

    def look(self, nodes: Iterable[SimNode], now_ms: int) -> None:
        """At `now_ms` by the right clock."""
        nodes = list(nodes)
        self._overdue = {
            one.name: self._overdue[one.name] for one in nodes if one.name in self._overdue
        }
        for one in nodes:
            self._look_at_store(one)
        ended = [r for r in self._brief if r.valid_until_ms + 1000 * GONE_SECONDS <= now_ms]
        self._brief = [record for record in self._brief if record not in ended]
        for record in ended:
            for one in nodes:
                self._look_at_answers(one, record)

    def _look_at_store(self, one: SimNode) -> None:
        """Nothing in it stays for long after its end, whenever its clock was set."""
        self.checks["expired"] += 1
        now, next_ms = trio.current_time(), one.node.graph.store.next_expiry_ms()
        if next_ms is None or next_ms > one.node.now_ms():
            self._overdue.pop(one.name, None)
            return
        oldest_ms, since = self._overdue.get(one.name, (next_ms, now))
        if oldest_ms != next_ms:
            since = now
        self._overdue[one.name] = next_ms, since
        if now - since > GONE_SECONDS:
            self.violated("expired", f"{one.name} has kept for {now - since:.0f} s what has ended")

    def _look_at_answers(self, one: SimNode, record: Record) -> None:
        """Once, of what routing asks; whoever lives in the past may still believe it."""
        graph, now_ms = one.node.graph, one.node.now_ms()
        if record.valid_until_ms + 1000 * GONE_SECONDS > now_ms:
            return
        self.checks["expired"] += 1
        known = graph.index.record(record.key, now_ms) is not None
        if known or graph.index.concepts.known(record.subject, now_ms):
            self.violated(
                "expired", f"{one.name} answers with a {record.kind.value} that has ended"
            )


def is_brief(record: Record) -> bool:
    """Whether it is one of those that the workload says for a moment."""
    return record.subject.rpartition("#")[2].startswith(BRIEF)
