"""What puts a candidate where it stands. Pure."""

import math
from dataclasses import dataclass

from aigrid.metagraph.index import Candidate
from aigrid.metagraph.selection.observation import Observation, known_latency, known_token_ms
from aigrid.metagraph.selection.strategy import Strategy

_STATES = {"warm": 0, "loading": 1, "on_disk": 2, "can_fetch": 4}
BUSY = 3


@dataclass(frozen=True, slots=True)
class Scored:
    """Where a candidate stands: in a tier, and among equals by load and time."""

    candidate: Candidate
    tier: tuple[float, ...]
    load: float
    predicted_ms: float
    explanation: tuple[str, ...]


def scored(
    candidate: Candidate,
    seen: Observation | None,
    quickest_ms: float,
    *,
    local: bool,
    strategy: Strategy,
) -> Scored:
    """`quickest_ms` per token is assumed where nothing was timed."""
    first_ms, source = known_latency(candidate, seen) or (strategy.assumed_latency_ms, "assumed")
    token_ms = known_token_ms(candidate, seen)
    doubt, doubt_text = _doubt(seen, strategy)
    running = 0 if seen is None else seen.running
    stalled = seen is not None and candidate.model in seen.stalled
    alone_ms = first_ms + strategy.assumed_tokens * (quickest_ms if token_ms is None else token_ms)
    turns_before = max(0, running + 1 - candidate.slots) / candidate.slots
    predicted_ms = alone_ms * (1 + turns_before)
    return Scored(
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


def _readiness(candidate: Candidate, running: int, *, stalled: bool) -> int:
    """How soon it can start.

    What was last heard of its load may be seconds old, so a node that seems full is asked late
    rather than never; it says `busy` itself if it is. One that did not begin lately is believed
    as little when it says that it could.
    """
    if (stalled or running >= candidate.slots) and candidate.state != "can_fetch":
        return BUSY
    return _STATES[candidate.state]


def _doubt(seen: Observation | None, strategy: Strategy) -> tuple[int, str]:
    if seen is None:
        return 1, "not met yet"
    age = seen.last_failure_age_s
    if seen.failures_in_row and age is not None and age < strategy.cooling_max_seconds:
        return 2, f"failed {age:.0f} s ago"
    return 0, "answers"
