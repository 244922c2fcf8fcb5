"""The one place where a choice between nodes is made. Pure, and it explains itself.

What a node says of itself is only the last tie-breaker: what was observed of it comes first.
"""

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from aigrid.metagraph.index import Candidate
from aigrid.metagraph.preferences import ANY, Preferences
from aigrid.protocol.more import shown, untaken

_STATES = {"warm": 0, "loading": 1, "on_disk": 2, "can_fetch": 4}
_BUSY = 3
_COUNTED_FAILURES_MAX = 16  # more do not lengthen the pause any more


@dataclass(frozen=True, slots=True)
class Pace:
    """Moving averages in milliseconds; None where nothing was measured.

    Attributes:
        ttft_ms: from the request to the first chunk.
        token_ms: from one token to the next.
    """

    ttft_ms: float | None = None
    token_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """What this node has seen of another.

    Attributes:
        alive: whether it may be asked.
        running: requests it is known to be working on, ours included.
        ttft_ms, token_ms: its pace over all models, see `Pace`.
        models: its pace with each model, by id, where that is known.
        busy_seconds: by model id, how much longer it is not to be asked: it said so.
        stalled: ids of models with which it did not begin when it was asked lately.
        failures_in_row: requests to it that failed since the last one that did not.
        last_failure_age_s: seconds since the last of these.
    """

    alive: bool = True
    running: int = 0
    ttft_ms: float | None = None
    token_ms: float | None = None
    models: Mapping[str, Pace] = field(default_factory=dict)
    busy_seconds: Mapping[str, float] = field(default_factory=dict)
    stalled: Collection[str] = ()
    failures_in_row: int = 0
    last_failure_age_s: float | None = None


@dataclass(frozen=True, slots=True)
class Strategy:
    """How to choose.

    Attributes:
        cooling_failures: failures in a row from which on a node is left alone for a while.
        cooling_seconds: how long after that many; doubled by each further one.
        cooling_max_seconds: never longer than this; a single failure counts against a node as long.
        latency_step: latencies that differ by less than this factor count as equal.
        assumed_latency_ms: where nothing is known.
        assumed_tokens: of an answer; what they take counts as well as the wait for the first.
    """

    cooling_failures: int = 2
    cooling_seconds: float = 5.0
    cooling_max_seconds: float = 60.0
    latency_step: float = 2.0
    assumed_latency_ms: float = 500.0
    assumed_tokens: int = 64


DEFAULT_STRATEGY = Strategy()
_UNKNOWN = Pace()


class Reason(StrEnum):
    """Why a candidate is not asked: it cannot serve, or is not what somebody wants."""

    EXPIRED = "expired"
    DEAD = "dead"
    FULL = "full"
    COOLING = "cooling"
    BUSY = "busy"
    LANGUAGE = "language"
    FORMAT = "format"
    PRECISION = "precision"
    LICENSE = "license"
    REGION = "region"
    WARM = "warm"
    LATENCY = "latency"
    ISSUER = "issuer"
    SIGNER = "signer"
    PARAMETER = "parameter"
    PREFERENCE = "preference"
    FALLBACK = "fallback"


# These stay as they are however long one waits, and whoever is summoned.
UNWANTED = frozenset({Reason.PARAMETER, Reason.PREFERENCE, Reason.PRECISION})


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


@dataclass(frozen=True, slots=True)
class _Scored:
    candidate: Candidate
    tier: tuple[float, ...]
    load: float
    predicted_ms: float
    explanation: tuple[str, ...]


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
    timed = [ms for candidate, seen in able if (ms := _token_ms(candidate, seen)) is not None]
    quickest_ms = min(timed, default=0.0)
    places = {model: place for place, model in reversed(tuple(enumerate(models)))}
    tiers: dict[tuple[float, ...], list[_Scored]] = {}
    for candidate, seen in able:
        local = candidate.node == own_peer_id
        scored = _score(candidate, seen, quickest_ms, local=local, strategy=strategy)
        wanted = (
            places.get(candidate.model, len(places)),
            preferences.place(candidate),
            _sorted_by(preferences, candidate, seen),
        )
        tiers.setdefault((*wanted, *scored.tier), []).append(scored)
    kept = [
        Kept(scored.candidate, scored.explanation, full=scored.tier[0] == _BUSY)
        for tier in sorted(tiers)
        for scored in _two_choices(tiers[tier], rng)
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
        token_ms = _token_ms(candidate, seen)
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


def _score(
    candidate: Candidate,
    seen: Observation | None,
    quickest_ms: float,
    *,
    local: bool,
    strategy: Strategy,
) -> _Scored:
    first_ms, source = known_latency(candidate, seen) or (strategy.assumed_latency_ms, "assumed")
    token_ms = _token_ms(candidate, seen)
    doubt, doubt_text = _doubt(seen, strategy)
    running = 0 if seen is None else seen.running
    stalled = seen is not None and candidate.model in seen.stalled
    alone_ms = first_ms + strategy.assumed_tokens * (quickest_ms if token_ms is None else token_ms)
    turns_before = max(0, running + 1 - candidate.slots) / candidate.slots
    predicted_ms = alone_ms * (1 + turns_before)
    return _Scored(
        candidate=candidate,
        tier=(
            _readiness(candidate, running, stalled=stalled),
            doubt,
            0 if local else 1,
            math.floor(math.log(max(predicted_ms, 1.0), strategy.latency_step)),
        ),
        load=running / candidate.slots,
        predicted_ms=predicted_ms,
        explanation=(
            candidate.state.replace("_", " "),
            *(("did not begin when it was asked",) if stalled else ()),
            doubt_text,
            "this node" if local else "another node",
            f"{source} {first_ms:.0f} ms to the first chunk",
            *(() if token_ms is None else (f"observed {token_ms:.1f} ms a token",)),
            f"{running} of {candidate.slots} slots in use",
            *((f"predicted {predicted_ms:.0f} ms in all",) if predicted_ms != first_ms else ()),
        ),
    )


def known_latency(candidate: Candidate, seen: Observation | None) -> tuple[float, str] | None:
    """Milliseconds to the first chunk, and whether they were observed or declared, if known.

    What was observed of the model counts before what was observed of the node with others.
    """
    if seen is not None:
        of_model = seen.models.get(candidate.model, _UNKNOWN).ttft_ms
        observed_ms = seen.ttft_ms if of_model is None else of_model
        if observed_ms is not None:
            return observed_ms, "observed"
    return (float(candidate.latency_ms), "declared") if candidate.latency_ms else None


def _token_ms(candidate: Candidate, seen: Observation | None) -> float | None:
    if seen is None:
        return None
    of_model = seen.models.get(candidate.model, _UNKNOWN).token_ms
    return seen.token_ms if of_model is None else of_model


def _readiness(candidate: Candidate, running: int, *, stalled: bool) -> int:
    """How soon it can start.

    What was last heard of its load may be seconds old, so a node that seems full is asked late
    rather than never; it says `busy` itself if it is. One that did not begin lately is believed
    as little when it says that it could.
    """
    if (stalled or running >= candidate.slots) and candidate.state != "can_fetch":
        return _BUSY
    return _STATES[candidate.state]


def _doubt(seen: Observation | None, strategy: Strategy) -> tuple[int, str]:
    if seen is None:
        return 1, "not met yet"
    age = seen.last_failure_age_s
    if seen.failures_in_row and age is not None and age < strategy.cooling_max_seconds:
        return 2, f"failed {age:.0f} s ago"
    return 0, "answers"


def _two_choices(equals: list[_Scored], rng: random.Random) -> list[_Scored]:
    """Order equals: again and again draw two and take the less busy, then the faster."""
    ordered: list[_Scored] = []
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
