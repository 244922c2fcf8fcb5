"""How requests went, by node, model and capability; what is old counts less. No clock, no disk.

A count is halved every `learned_half_life_seconds`, so what is remembered is about the last days,
and a node that has mended its ways is soon what it is now.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from aigrid.metagraph.selection import Outcomes
from aigrid.node.auditing.standing import moved
from aigrid.protocol.evidence import Finding
from aigrid.protocol.limits import LIMITS

_LATENCY_WEIGHT = 0.3  # of the newest measurement in a moving average
_Amount = Annotated[float, Meta(ge=0, le=1e15)]
_Text = Annotated[str, Meta(max_length=256)]


class Tally(msgspec.Struct):
    """Counts as they were at `at_ms`; `latency_ms` to the first chunk, None: not known."""

    model: _Text
    capability: _Text
    served: _Amount = 0.0
    failed: _Amount = 0.0
    audited: _Amount = 0.0
    wrong: _Amount = 0.0
    latency_ms: _Amount | None = None
    at_ms: int = 0

    def age(self, now_ms: int) -> None:
        """Count less for the time since; a clock that was set back changes nothing."""
        passed_seconds = max(0, now_ms - self.at_ms) / 1000
        left = self.left(now_ms)
        self.served, self.failed = self.served * left, self.failed * left
        self.audited, self.wrong = self.audited * left, self.wrong * left
        self.at_ms += round(passed_seconds * 1000)

    def left(self, now_ms: int) -> float:
        """Share of the counts that is left now."""
        return _left(self.at_ms, now_ms)


def _left(at_ms: int, now_ms: int) -> float:
    passed_seconds = max(0, now_ms - at_ms) / 1000
    return float(0.5 ** (passed_seconds / LIMITS.learned_half_life_seconds))


class _Standing(msgspec.Struct, frozen=True, gc=False):
    """What audits made of a node, as it was at `at_ms`."""

    value: Annotated[float, Meta(ge=0, le=LIMITS.audit_standing_max)] = 0.0
    at_ms: int = 0

    def at(self, now_ms: int) -> float:
        return self.value * _left(self.at_ms, now_ms)


_UNKNOWN = _Standing()
_Tallies = Annotated[list[Tally], Meta(max_length=LIMITS.learned_tallies_max)]


class _Stored(msgspec.Struct):
    """What is written of a node."""

    tallies: _Tallies
    standing: _Standing


class Ledger:
    """Tallies of a bounded number of nodes, and of each a bounded number.

    Where there are more, those go that were not added to for longest.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, dict[tuple[str, str], Tally]] = {}
        self._standings: dict[str, _Standing] = {}

    def note(
        self,
        peer_id: str,
        model: str,
        capability: str,
        *,
        served: bool,
        latency_ms: float | None,
        now_ms: int,
    ) -> tuple[str, ...]:
        """A request was answered to its end, or was not though it should have been.

        Returns:
            The PeerIds of nodes that are forgotten for it.
        """
        tally, forgotten = self._tally(peer_id, model, capability, now_ms)
        if served:
            tally.served += 1
        else:
            tally.failed += 1
        if latency_ms is not None:
            old = tally.latency_ms
            mixed = latency_ms if old is None else old + _LATENCY_WEIGHT * (latency_ms - old)
            tally.latency_ms = mixed
        return forgotten

    def misfit(self, peer_id: str, model: str, capability: str, *, now_ms: int) -> tuple[str, ...]:
        """What was noted as served was no answer of the capability: it has failed instead.

        Returns:
            The PeerIds of nodes that are forgotten for it.
        """
        tally, forgotten = self._tally(peer_id, model, capability, now_ms)
        tally.served = max(0.0, tally.served - 1)
        tally.failed += 1
        return forgotten

    def audited(
        self, peer_id: str, model: str, capability: str, *, wrong: bool, now_ms: int
    ) -> tuple[str, ...]:
        """An answer was checked. Returns the PeerIds of nodes that are forgotten for it."""
        tally, forgotten = self._tally(peer_id, model, capability, now_ms)
        tally.audited += 1
        tally.wrong += wrong
        self._move(peer_id, now_ms, wrong=wrong)
        return forgotten

    def withheld(self, peer_id: str, now_ms: int) -> None:
        """An answer could not be checked for what its node left out: it lives on what it had.

        Not counted as wrong: an engine may not know what it would be checked by.
        """
        if peer_id in self._standings:
            self._move(peer_id, now_ms, wrong=True)

    def _move(self, peer_id: str, now_ms: int, *, wrong: bool) -> None:
        before = self._standings.get(peer_id, _UNKNOWN)
        value = moved(before.at(now_ms), wrong=wrong)
        # A clock that was set back changes nothing.
        self._standings[peer_id] = _Standing(value, max(before.at_ms, now_ms))

    def standing(self, peer_id: str, now_ms: int) -> float:
        """What audits made of a node, from 0 to `audit_standing_max`; it fades like the counts."""
        return self._standings.get(peer_id, _UNKNOWN).at(now_ms)

    def outcomes(
        self, peer_id: str, now_ms: int, is_of: Callable[[str], bool] = lambda _: True
    ) -> Mapping[str, Outcomes]:
        """By model, over the capabilities for which `is_of` holds."""
        found: dict[str, Outcomes] = {}
        for tally in self._nodes.get(peer_id, {}).values():
            if not is_of(tally.capability):
                continue
            left, before = tally.left(now_ms), found.get(tally.model, Outcomes())
            latency_ms = before.latency_ms if tally.latency_ms is None else tally.latency_ms
            found[tally.model] = Outcomes(
                before.served + left * tally.served,
                before.failed + left * tally.failed,
                latency_ms,
            )
        return found

    def audits(self, peer_id: str, now_ms: int) -> tuple[float, float]:
        """How many answers of a node were checked, and how many of these were wrong; decayed."""
        tallies = self._nodes.get(peer_id, {}).values()
        audited = sum(one.audited * one.left(now_ms) for one in tallies)
        return audited, sum(one.wrong * one.left(now_ms) for one in tallies)

    def findings(self, peer_id: str, now_ms: int) -> tuple[Finding, ...]:
        """What an AuditRecord says of a node: the newest tallies that say something."""
        said = []
        for tally in reversed(self._nodes.get(peer_id, {}).values()):
            left = tally.left(now_ms)
            counts = tally.served, tally.failed, tally.audited, tally.wrong
            served, failed, audited, wrong = (round(left * count) for count in counts)
            if served or failed or audited:
                latency_ms = round(tally.latency_ms or 0)
                of = tally.model, tally.capability
                said.append(Finding(*of, served, failed, latency_ms, audited, min(wrong, audited)))
        said = said[: LIMITS.findings_max]
        return tuple(sorted(said, key=lambda one: (one.model, one.capability)))

    def peers(self) -> tuple[str, ...]:
        """PeerIds of the nodes that are remembered, that of the newest last."""
        return tuple(self._nodes)

    def dump(self, peer_id: str) -> str:
        """What is remembered of a node, as JSON."""
        tallies = list(self._nodes.get(peer_id, {}).values())
        standing = self._standings.get(peer_id, _UNKNOWN)
        return msgspec.json.encode(_Stored(tallies, standing)).decode()

    def load(self, peer_id: str, text: str) -> None:
        """Remember what was dumped, tallies alone included. Raises ValueError for what was not."""
        stored = msgspec.json.decode(text, type=_Stored | _Tallies)
        if isinstance(stored, list):  # before there were audits
            stored = _Stored(stored, _UNKNOWN)
        tallies = {(one.model, one.capability): one for one in stored.tallies}
        self._nodes[peer_id], self._standings[peer_id] = tallies, stored.standing

    def _tally(
        self, peer_id: str, model: str, capability: str, now_ms: int
    ) -> tuple[Tally, tuple[str, ...]]:
        """The one to add to, brought to now and put last."""
        of = self._nodes.pop(peer_id, {})
        self._nodes[peer_id] = of
        tally = of.pop((model, capability), None) or Tally(model, capability, at_ms=now_ms)
        of[model, capability] = tally
        tally.age(now_ms)
        if len(of) > LIMITS.learned_tallies_max:
            del of[next(iter(of))]
        return tally, tuple(self._too_many())

    def _too_many(self) -> Iterator[str]:
        while len(self._nodes) > LIMITS.learned_nodes_max:
            oldest = next(iter(self._nodes))
            del self._nodes[oldest]
            self._standings.pop(oldest, None)
            yield oldest
