"""The taxonomy as it is now: what ships with the node, and what CapabilityRecords add to it.

A published capability counts once everything above it leads up to a shipped one, and for as long
as the records on the way are believed. Those that wait for another's record, or stand in a circle,
are kept and not known.
"""

import difflib
import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from aigrid.metagraph.capabilities import Concept, Taxonomy
from aigrid.protocol.kinds import CapabilityBody
from aigrid.protocol.limits import LIMITS

FOREVER_MS: Final = 2**63 - 1
_SUGGESTED, _COMPARED = 3, 1000  # strangers may publish any number of capabilities


@dataclass(frozen=True, slots=True)
class _Published:
    body: CapabilityBody
    until_ms: int
    record: str

    @property
    def broader(self) -> tuple[str, ...]:
        return self.body.broader


def is_published(name: str) -> bool:
    """Whether a capability's name is an IRI in somebody's own namespace."""
    return "#" in name


class LiveConcepts:
    """Shipped and published capabilities. Order of arrival changes nothing."""

    def __init__(self, shipped: Taxonomy) -> None:
        self._shipped = shipped
        self._published: dict[str, _Published] = {}
        self._above: dict[str, Mapping[str, int]] = {}  # memo of `ancestors`

    def put(self, body: CapabilityBody, until_ms: int, record: str = "") -> None:
        """Believe the body of the CapabilityRecord of that content id until then."""
        self._published[body.id] = _Published(body, until_ms, record)
        self._above.clear()

    def drop(self, iri: str) -> None:
        self._published.pop(iri, None)
        self._above.clear()

    def known(self, name: str, now_ms: int) -> bool:
        """Whether `name` is a shipped capability, or a published one that leads up to one."""
        if self._shipped.known(name):
            return True
        return any(
            until_ms > now_ms and self._shipped.known(above)
            for above, until_ms in self.ancestors(name).items()
        )

    def similar(self, name: str, now_ms: int) -> tuple[str, ...]:
        """Known capabilities that somebody who wrote `name` may have meant, the nearest first."""
        published = (iri for iri in islice(self._published, _COMPARED) if self.known(iri, now_ms))
        by_name = {iri.rpartition("#")[2]: iri for iri in published}
        by_name |= {shipped: shipped for shipped in self._shipped.concepts}
        wanted = name.rpartition("#")[2].lower().replace(" ", "-").replace("_", "-")
        found = difflib.get_close_matches(wanted, by_name, n=_SUGGESTED)
        return tuple(by_name[near] for near in found)

    def shipped(self) -> tuple[Concept, ...]:
        """All that ship with the node, as they are listed there."""
        return tuple(self._shipped.concepts.values())

    def published(self, now_ms: int) -> tuple[tuple[CapabilityBody, str], ...]:
        """What others have published and is known now, with its record's id, by IRI."""
        return tuple(
            (one.body, one.record)
            for iri, one in sorted(self._published.items())
            if self.known(iri, now_ms)
        )

    def published_as(self, iri: str) -> tuple[CapabilityBody, str]:
        """What is said of a published capability, and the id of the record that says so.

        Raises:
            KeyError: nobody says anything.
        """
        published = self._published[iri]
        return published.body, published.record

    def broadest(self) -> tuple[str, ...]:
        """The shipped capabilities with nothing above them, by name."""
        return tuple(sorted(self._shipped.roots))

    def ancestors(self, name: str) -> Mapping[str, int]:
        """Everything broader than `name`, each with the time until which that is so."""
        found = self._above.get(name)
        if found is None:
            found = self._climb(name)
            if name in self._published or self._shipped.known(name):  # not whatever was asked for
                self._above[name] = found
        return found

    def task_of(self, name: str) -> str:
        """The shipped capability nearest above `name`, or itself: what engines know it as."""
        level, seen = [name], {name}
        while level:
            for at in level:
                if self._shipped.known(at):
                    return at
            broader = (self._published[at].broader for at in level if at in self._published)
            level = [above for names in broader for above in names if above not in seen]
            seen.update(level)
        return name

    def satisfied(self, names: Iterable[str]) -> dict[str, int]:
        """What a model with these capabilities can be asked for, and until when."""
        found: dict[str, int] = {}
        for name in names:
            found[name] = FOREVER_MS
            for above, until_ms in self.ancestors(name).items():
                found[above] = max(until_ms, found.get(above, 0))
        return found

    def _climb(self, name: str) -> Mapping[str, int]:
        """Follow `broader` upwards, the ways that hold longest first: each is gone through once.

        Nothing is above one with more published ones above it than `published_above_max`.
        """
        if not is_published(name):
            return dict.fromkeys(self._shipped.ancestors(name), FOREVER_MS)
        best: dict[str, int] = {}
        waiting = [(-FOREVER_MS, name)]
        climbed: set[str] = set()
        while waiting:
            negated_ms, at = heapq.heappop(waiting)
            if at in climbed:
                continue
            climbed.add(at)
            published = self._published.get(at)
            if published is None:
                if self._shipped.known(at):
                    for above in self._shipped.ancestors(at):
                        best[above] = max(-negated_ms, best.get(above, 0))
                continue
            until_ms = min(-negated_ms, published.until_ms)
            for above in published.broader:
                if until_ms > best.get(above, 0):
                    best[above] = until_ms
                    heapq.heappush(waiting, (-until_ms, above))
            if sum(map(is_published, best)) > LIMITS.published_above_max:
                return {}
        best.pop(name, None)
        return best
