"""Which nodes to ask, in which order. Pure, and it explains itself.

What a node says of itself is only the last tie-breaker: what was observed of it comes first.
"""

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from aigrid.metagraph.index import Candidate
from aigrid.metagraph.preferences import ANY, Preferences
from aigrid.metagraph.selection.constraints import Reason
from aigrid.metagraph.selection.observation import Observation, known_latency, known_token_ms
from aigrid.metagraph.selection.score import BUSY, Scored, scored
from aigrid.metagraph.selection.strategy import DEFAULT_STRATEGY, Strategy
from aigrid.protocol.more import shown, untaken

_COUNTED_FAILURES_MAX = 16  # more do not lengthen the pause any more


@dataclass(frozen=True, slots=True)
class Kept:
    """A candidate that may be asked; `explanation` says what put it where it stands.

    `full`: all its slots seem to be taken, or it did not begin when it was asked lately.
    """

    candidate: Candidate
    explanation: tuple[str, ...]
    full: bool = False


@dataclass(frozen=True, slots=True)
class Dropped:
    """A candidate that may not be asked now; `retry_after_seconds` where that is known."""

    candidate: Candidate
    reason: Reason
    explanation: tuple[str, ...]
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """`kept` best first; every candidate is in one of the two."""

    kept: tuple[Kept, ...]
    dropped: tuple[Dropped, ...]

    @property
    def best(self) -> Candidate | None:
        return self.kept[0].candidate if self.kept else None

    @property
    def retry_after_seconds(self) -> float | None:
        """When the first of the dropped may be asked again, where that is known."""
        known = [d.retry_after_seconds for d in self.dropped if d.retry_after_seconds is not None]
        return min(known, default=None)


def rank(
    candidates: Sequence[Candidate],
    observations: Mapping[str, Observation],
    *,
    rng: random.Random,
    own_peer_id: str | None = None,
    now_ms: int | None = None,
    strategy: Strategy = DEFAULT_STRATEGY,
    models: Sequence[str] = (),
    preferences: Preferences = ANY,
    needed: Collection[str] = (),
) -> Ranking:
    """Drop what cannot serve or is not wanted, order the rest.

    Order: warm before on disk before busy before fetchable; answering peers before unknown ones
    before those that just failed; this node before others; those predicted to be faster before the
    slower, by a factor; and among equals the less busy of two drawn at random, so that not
    everybody asks the same node. Predicted is how long an answer takes: until its first chunk, for
    its tokens, and waiting for a slot behind those that have one. A node whose tokens were never
    timed is taken to be as quick as the quickest that was.

    Before all that come the order of `models`, that of `preferences`, and what they sort by.

    Args:
        candidates: in any order, which does not matter.
        observations: by PeerId; a peer without one is not known to be dead.
        rng: decides among equals; the same state gives the same ranking.
        own_peer_id: of this node.
        now_ms: wall time; None where the candidates come straight from the index.
        strategy: how to choose.
        models: model ids, one to stand in for another, in the order wanted.
        preferences: whom to ask.
        needed: further members of the request, by name, that whoever serves has to take.
    """
    dropped: list[Dropped] = []
    able: list[tuple[Candidate, Observation | None]] = []
    for candidate in sorted(candidates, key=lambda c: (c.node, c.model, c.record)):
        own = Observation() if candidate.node == own_peer_id else None
        seen = observations.get(candidate.node, own)
        refusal = _unwanted(candidate, preferences, needed) or _refusal(
            candidate, seen, now_ms, strategy
        )
        if refusal is not None:
            dropped.append(refusal)
        else:
            able.append((candidate, seen))
    timed = [ms for candidate, seen in able if (ms := known_token_ms(candidate, seen)) is not None]
    quickest_ms = min(timed, default=0.0)
    places = {model: place for place, model in reversed(tuple(enumerate(models)))}
    tiers: dict[tuple[float, ...], list[Scored]] = {}
    for candidate, seen in able:
        local = candidate.node == own_peer_id
        one = scored(candidate, seen, quickest_ms, local=local, strategy=strategy)
        wanted = (
            places.get(candidate.model, len(places)),
            preferences.place(candidate),
            _sorted_by(preferences, candidate, seen),
        )
        tiers.setdefault((*wanted, *one.tier), []).append(one)
    kept = [
        Kept(one.candidate, one.explanation, full=one.tier[0] == BUSY)
        for tier in sorted(tiers)
        for one in _two_choices(tiers[tier], rng)
    ]
    if not preferences.allow_fallbacks:
        why = ("others come before it, and no other may be asked",)
        dropped += [Dropped(other.candidate, Reason.FALLBACK, why) for other in kept[1:]]
        kept = kept[:1]
    return Ranking(tuple(kept), tuple(dropped))


def _unwanted(
    candidate: Candidate, preferences: Preferences, needed: Collection[str]
) -> Dropped | None:
    if lacking := untaken(needed, candidate.takes):
        return Dropped(candidate, Reason.PARAMETER, (f"does not take {shown(lacking)}",))
    if why := preferences.permits(candidate):
        return Dropped(candidate, Reason.PREFERENCE, (why,))
    if not preferences.fits(candidate.precision):
        stated = candidate.precision or "no precision that is stated"
        return Dropped(candidate, Reason.PRECISION, (f"has {stated}",))
    return None


def _sorted_by(preferences: Preferences, candidate: Candidate, seen: Observation | None) -> float:
    """What is known of the property that counts most, in milliseconds; infinite: nothing is."""
    if preferences.sort is None:
        return 0.0
    if preferences.sort == "throughput":
        token_ms = known_token_ms(candidate, seen)
        return math.inf if token_ms is None else token_ms
    known = known_latency(candidate, seen)
    return math.inf if known is None else known[0]


def _refusal(
    candidate: Candidate,
    seen: Observation | None,
    now_ms: int | None,
    strategy: Strategy,
) -> Dropped | None:
    if now_ms is not None and candidate.valid_until_ms <= now_ms:
        return Dropped(candidate, Reason.EXPIRED, ("the offer has expired",))
    if seen is not None and not seen.alive:
        return Dropped(candidate, Reason.DEAD, ("does not answer",))
    if not candidate.slots:
        return Dropped(candidate, Reason.FULL, ("offers no slots",))
    wait = 0.0 if seen is None else seen.busy_seconds.get(candidate.model, 0.0)
    if wait > 0:
        text = f"said to ask again in {wait:.0f} s"
        return Dropped(candidate, Reason.BUSY, (text,), retry_after_seconds=wait)
    left = 0.0 if seen is None else _cooling_seconds_left(seen, strategy)
    if seen is not None and left > 0:
        text = f"failed {seen.failures_in_row} times in a row"
        return Dropped(candidate, Reason.COOLING, (text,), retry_after_seconds=left)
    return None


def _cooling_seconds_left(seen: Observation, strategy: Strategy) -> float:
    beyond = seen.failures_in_row - strategy.cooling_failures
    if beyond < 0 or seen.last_failure_age_s is None:
        return 0.0
    pause = strategy.cooling_seconds * 2.0 ** min(beyond, _COUNTED_FAILURES_MAX)
    return min(pause, strategy.cooling_max_seconds) - seen.last_failure_age_s


def _two_choices(equals: list[Scored], rng: random.Random) -> list[Scored]:
    """Order equals: again and again draw two and take the less busy, then the faster."""
    ordered: list[Scored] = []
    while len(equals) > 1:
        first = rng.randrange(len(equals))
        second = rng.randrange(len(equals) - 1)
        second += second >= first
        a, b = equals[first], equals[second]
        taken = second if (b.load, b.predicted_ms) < (a.load, a.predicted_ms) else first
        ordered.append(equals[taken])
        equals[taken] = equals[-1]
        equals.pop()
    return ordered + equals
