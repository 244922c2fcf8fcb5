"""What was seen of a node that was asked: how quick, how busy, how often it failed. Data alone."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from aigrid.metagraph.index import Candidate
from aigrid.protocol.limits import LIMITS


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
class Outcomes:
    """What came of requests for one model, of whatever capability was asked for.

    Attributes:
        served, failed: how many, those of long ago counting less.
        latency_ms: to the first chunk, a moving average over all that is remembered; None: unknown.
    """

    served: float = 0.0
    failed: float = 0.0
    latency_ms: float | None = None


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
        broke: whether the last of these was an answer that broke the protocol.
        outcomes: by model id, what is remembered of it, also from before this node was started.
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
    outcomes: Mapping[str, Outcomes] = field(default_factory=dict)
    broke: bool = False


_UNKNOWN = Pace()
_NOTHING = Outcomes()


def measured_ms(ms: float | None) -> float | None:
    """A duration that can have been measured, at most `observed_max_ms`; else None.

    Whatever it comes from, what is below zero, or no number, tells nothing of a node.
    """
    if ms is None or math.isnan(ms) or ms < 0:
        return None
    return min(ms, LIMITS.observed_max_ms)


def known_latency(candidate: Candidate, seen: Observation | None) -> tuple[float, str] | None:
    """Milliseconds to the first chunk, and whether they were observed or declared, if known.

    What was observed of the model counts before what is remembered of it, and that before what was
    observed of the node with others.
    """
    if seen is not None:
        observed_ms = measured_ms(seen.models.get(candidate.model, _UNKNOWN).ttft_ms)
        if observed_ms is None:
            observed_ms = measured_ms(seen.outcomes.get(candidate.model, _NOTHING).latency_ms)
        if observed_ms is None:
            observed_ms = measured_ms(seen.ttft_ms)
        if observed_ms is not None:
            return observed_ms, "observed"
    declared_ms = measured_ms(float(candidate.latency_ms))
    return (declared_ms, "declared") if declared_ms else None


def known_token_ms(candidate: Candidate, seen: Observation | None) -> float | None:
    """Milliseconds from one token to the next, where they were observed."""
    if seen is None:
        return None
    of_model = measured_ms(seen.models.get(candidate.model, _UNKNOWN).token_ms)
    return measured_ms(seen.token_ms) if of_model is None else of_model
