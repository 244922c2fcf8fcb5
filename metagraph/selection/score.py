"""What puts a candidate where it stands: its tier, or the parts of its score. Pure.

What a node says of itself never makes it better than one of which nothing is known: its declared
latency counts in a score only where it is longer than what is assumed of everybody.
"""

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from aigrid.metagraph.evidence import Quality
from aigrid.metagraph.index import Candidate
from aigrid.metagraph.selection.observation import (
    Observation,
    Outcomes,
    known_latency,
    known_token_ms,
)
from aigrid.metagraph.selection.strategy import Parts, Strategy
from aigrid.protocol.limits import LIMITS

_STATES = {"warm": 0, "loading": 1, "on_disk": 2, "can_fetch": 4}
_BUSY = 3
_WARMTH = {"warm": 1.0, "loading": 0.5, "on_disk": 0.5, "can_fetch": 0.0}
_FAILURES_MAX = 64  # in a row: more make it no worse
_FAILED = 2
_NOTHING = Outcomes()
_PLACES = 9  # of a total: so that every implementation has the same ties


class Standing(NamedTuple):
    """What audits here made of a candidate's node.

    Attributes:
        reputation: from 0 to 1.
        faulted: an answer was found wrong.
    """

    reputation: float = 1.0
    faulted: bool = False

    @property
    def suspect(self) -> bool:
        """Whether others are asked first."""
        return self.reputation < LIMITS.reputation_suspect

    @property
    def explanation(self) -> tuple[str, ...]:
        shown = f"{self.reputation:.2f}"
        if float(shown) >= 1:  # full standing, but for what fades in a moment
            return ()
        if self.faulted:
            return (f"audits found it wrong: reputation {shown}",)
        return (f"not audited enough yet: reputation {shown}",)


UNAUDITED: Final = Standing()
"""Where nobody audits; and this node, to itself."""


class Scored(msgspec.Struct, frozen=True, gc=False):
    """What is known of a candidate that can be asked.

    Attributes:
        local: whether it is this node.
        first_ms, source: until its first chunk, and whether that was observed, declared, assumed.
        token_ms: from one token to the next; None where it was not observed.
        predicted_ms: until the end of an answer, waiting for a slot included, once it is loaded.
        turns: how many answers that is: its own, and those that it waits for.
        running: requests it is known to be working on.
        stalled: whether it did not begin when it was asked lately.
        doubt: 0 it answers, 1 it was not met yet, 2 it failed lately; `doubt_text` says so.
        standing: what audits here made of its node.
    """

    candidate: Candidate
    local: bool
    first_ms: float
    source: str
    token_ms: float | None
    predicted_ms: float
    turns: float
    running: int
    stalled: bool
    doubt: int
    doubt_text: str
    standing: Standing

    @property
    def load(self) -> float:
        """Requests for each slot."""
        return self.running / self.candidate.slots

    @property
    def readiness(self) -> int:
        """How soon it can start.

        What was last heard of its load may be seconds old, so a node that seems full is asked late
        rather than never; it says `busy` itself if it is. One that did not begin lately is believed
        as little when it says that it could.
        """
        candidate = self.candidate
        full = self.stalled or self.running >= candidate.slots
        return _BUSY if full and candidate.state != "can_fetch" else _STATES[candidate.state]

    @property
    def full(self) -> bool:
        return self.readiness == _BUSY

    def tier(self, latency_step: float) -> tuple[int, ...]:
        """The lower, the sooner it is asked; latencies are equal within a factor.

        One that audits do not speak for comes after all others that can answer, yet before a model
        is fetched for its sake.
        """
        step = math.floor(math.log(max(self.predicted_ms, 1.0), latency_step))
        can_answer = self.candidate.state != "can_fetch"
        place = self.readiness, self.doubt, 0 if self.local else 1, step
        return 0 if can_answer else 1, int(self.standing.suspect), *place

    @property
    def explanation(self) -> tuple[str, ...]:
        """Sentences on what is known."""
        first_ms, token_ms, predicted_ms = self.first_ms, self.token_ms, self.predicted_ms
        return (
            self.candidate.state.replace("_", " "),
            *(("did not begin when it was asked",) if self.stalled else ()),
            self.doubt_text,
            *self.standing.explanation,
            "this node" if self.local else "another node",
            f"{self.source} {first_ms:.0f} ms to the first chunk",
            *(() if token_ms is None else (f"observed {token_ms:.1f} ms a token",)),
            f"{self.running} of {self.candidate.slots} slots in use",
            *((f"predicted {predicted_ms:.0f} ms in all",) if predicted_ms != first_ms else ()),
        )


def quickest_token_ms(able: Iterable[tuple[Candidate, Observation | None]]) -> float:
    """Of those that were timed: what is assumed of those that were not; 0.0 if none was."""
    timed = (known_token_ms(candidate, seen) for candidate, seen in able)
    return min((ms for ms in timed if ms is not None), default=0.0)


def scored(
    candidate: Candidate,
    seen: Observation | None,
    quickest_ms: float,
    *,
    local: bool,
    strategy: Strategy,
    standing: Standing = UNAUDITED,
) -> Scored:
    """What is known of one that can be asked, without a score.

    Predicted is how long an answer takes: until its first chunk, for its tokens, and waiting for a
    slot behind those that have one. `quickest_ms` per token is assumed where nothing was timed.
    """
    first_ms, source = known_latency(candidate, seen) or (strategy.assumed_latency_ms, "assumed")
    token_ms = known_token_ms(candidate, seen)
    running = 0 if seen is None else max(0, seen.running)
    doubt, doubt_text = _doubt(seen, strategy)
    alone_ms = first_ms + strategy.assumed_tokens * (quickest_ms if token_ms is None else token_ms)
    slots = max(1, candidate.slots)
    turns = 1 + max(0, running + 1 - slots) / slots
    return Scored(
        candidate,
        local,
        first_ms,
        source,
        token_ms,
        alone_ms * turns,
        turns,
        running,
        seen is not None and candidate.model in seen.stalled,
        doubt,
        doubt_text,
        standing,
    )


class Judged(NamedTuple):
    """What is known of a candidate beside its offer and its pace.

    Attributes:
        quality: expected of its model.
        served, failed: requests to the node for the model, as others tell.
    """

    quality: Quality
    served: float = 0.0
    failed: float = 0.0


class Weighed(msgspec.Struct, frozen=True, gc=False):
    """A candidate's score; `quality` is what the part of that name rests on."""

    parts: Parts
    total: float
    quality: Quality


def weighed(
    known: Scored,
    seen: Observation | None,
    judged: Judged,
    strategy: Strategy,
    shares: Parts,
) -> Weighed:
    """The parts of a score, and what they come to: their mean, times the node's reputation.

    Args:
        known: of the candidate.
        seen: what was observed of its node.
        judged: what else is known of it.
        strategy: how to choose.
        shares: of its weights, which add up to 1.
    """
    predicted_ms = known.predicted_ms
    if known.source == "declared":
        predicted_ms += known.turns * max(0.0, strategy.assumed_latency_ms - known.first_ms)
    parts = Parts(
        judged.quality.value,
        _success(known, seen, judged),
        strategy.half_speed_ms / (strategy.half_speed_ms + predicted_ms),
        0.0 if known.stalled else _WARMTH[known.candidate.state],
        1 / (1 + known.load),
        1.0 if known.local else 0.0,
    )
    total = 0.0
    for share, part in zip(shares, parts, strict=True):
        total += share * part
    return Weighed(parts, round(total * known.standing.reputation, _PLACES), judged.quality)


def answer_ms(known: Scored, strategy: Strategy) -> float:
    """How long an answer is predicted to take, with a load before it."""
    return known.predicted_ms + strategy.assumed_load_ms.get(known.candidate.state, 0.0)


def _success(known: Scored, seen: Observation | None, judged: Judged) -> float:
    """Share of requests that are expected to be answered; half for each failure just now."""
    of = _NOTHING if seen is None else seen.outcomes.get(known.candidate.model, _NOTHING)
    prior = LIMITS.success_prior_requests
    served, failures = of.served + judged.served, of.failed + judged.failed
    share = (served + LIMITS.success_prior * prior) / (served + failures + prior)
    failed = seen.failures_in_row if seen is not None and known.doubt == _FAILED else 0
    return share * 0.5 ** min(failed, _FAILURES_MAX)


def _doubt(seen: Observation | None, strategy: Strategy) -> tuple[int, str]:
    if seen is None:
        return 1, "not met yet"
    age = seen.last_failure_age_s
    if seen.failures_in_row and age is not None and age < strategy.cooling_max_seconds:
        return _FAILED, f"failed {age:.0f} s ago"
    return 0, "answers"
