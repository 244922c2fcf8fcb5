"""Whether a node that starts again holds at once what it held before: property `kept`."""

from collections import Counter
from collections.abc import Callable

from scripts.simulation.world import SimNode

from aigrid.protocol.record import Record

NOTHING = (-1, "")


class Kept:
    """`ends` just before a node is killed, `is_back` once it has started, before it hears more."""

    def __init__(self, checks: Counter[str], violated: Callable[[str, str], None]) -> None:
        self._checks = checks
        self._violated = violated
        self._held: dict[str, list[Record]] = {}

    def ends(self, one: SimNode) -> None:
        self._held[one.name] = list(one.node.graph.store.live(0))

    def is_back(self, one: SimNode) -> None:
        """What is newer under a key is as good; strangers make room for each other."""
        store, now_ms = one.node.graph.store, one.node.now_ms()
        held = {record.key: record.rank for record in store.live(0)}
        members, lost = one.node.grid.members(), Counter[str]()
        for record in self._held.pop(one.name, ()):
            if record.valid_until_ms <= now_ms or record.issuer not in members:
                continue
            self._checks["kept"] += 1
            if held.get(record.key, NOTHING) < record.rank:
                lost[record.kind.value] += 1
        for kind, count in sorted(lost.items()):
            self._violated("kept", f"{one.name} has lost {count} {kind} by starting again")
