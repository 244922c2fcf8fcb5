"""Which nodes to ask, in which order. Pure, and it explains itself.

What a node says of itself is only the last tie-breaker: what was observed of it comes first.
"""

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence

from aigrid.metagraph.evidence import NO_EVIDENCE, Evidence
from aigrid.metagraph.index import Candidate
from aigrid.metagraph.preferences import ANY, Preferences
from aigrid.metagraph.selection.constraints import Facts, Filters, Reason, Timing, checks
from aigrid.metagraph.selection.observation import Observation, known_latency, known_token_ms
from aigrid.metagraph.selection.order import Placed, by_score, by_tiers
from aigrid.metagraph.selection.ranking import Dropped, Ranking
from aigrid.metagraph.selection.score import (
    UNAUDITED,
    Judged,
    Standing,
    answer_ms,
    quickest_token_ms,
    scored,
)
from aigrid.metagraph.selection.strategy import DEFAULT_STRATEGY, Strategy
from aigrid.protocol.more import shown, untaken

_COUNTED_FAILURES_MAX = 16  # more do not lengthen the pause any more
_Able = tuple[Candidate, Observation | None, tuple[str, ...]]  # the last: on constraints


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
    constraints: Filters | None = None,
    facts: Facts = lambda _: None,
    evidence: Evidence = NO_EVIDENCE,
) -> Ranking:
    """Drop what cannot serve or is not wanted, order the rest.

    First come the order of `models`, that of `preferences`, and what they sort by. Then, with
    weights: the greater weighted sum of the parts of the score; where sums are equal the greater
    part that has a weight, in the order of `Parts`; else a draw. Now and then one that is not the
    best is drawn to be first: see `Strategy`.

    Without weights: those that can answer before fetchable ones; of them those that audits speak
    for (`reputation_suspect`) before others; warm before on disk before busy; answering peers
    before unknown ones before those that just failed; this node before others; those predicted to
    be faster before the slower, by a factor; and among equals the less busy of two drawn at random,
    so that not everybody asks the same node.

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
        constraints: what a candidate has to be; checked before anything is weighed.
        facts: what records state of a candidate; needed for constraints.
        evidence: of quality, for strategies with weights; of reputation for all.
    """
    dropped: list[Dropped] = []
    able: list[_Able] = []
    for candidate in sorted(candidates, key=lambda c: (c.node, c.model, c.record)):
        own = Observation() if candidate.node == own_peer_id else None
        seen = observations.get(candidate.node, own)
        refusal = _unwanted(candidate, preferences, needed)
        said: tuple[str, ...] = ()
        if refusal is None and constraints is not None:
            sifted = sift(candidate, constraints, facts, seen, strategy)
            if isinstance(sifted, Dropped):
                refusal = sifted
            else:
                said = sifted
        refusal = refusal or _refusal(candidate, seen, now_ms, strategy)
        if refusal is not None:
            dropped.append(refusal)
        else:
            able.append((candidate, seen, said))
    placed = _placed(able, own_peer_id, strategy, (models, preferences), _standings(evidence))
    if strategy.weights is None:
        kept = by_tiers(placed, rng, strategy)
    else:
        kept = by_score(placed, rng, strategy, _Judge(evidence, constraints, placed))
    if not preferences.allow_fallbacks:
        why = ("others come before it, and no other may be asked",)
        dropped += [Dropped(other.candidate, Reason.FALLBACK, why) for other in kept[1:]]
        kept = kept[:1]
    return Ranking(tuple(kept), tuple(dropped))


def _placed(
    able: Sequence[_Able],
    own_peer_id: str | None,
    strategy: Strategy,
    wish: tuple[Sequence[str], Preferences],
    standing_of: Callable[[Candidate], Standing],
) -> list[Placed]:
    """Those that may be asked, with what is known of them and where the request wants them."""
    models, preferences = wish
    quickest_ms = quickest_token_ms((candidate, seen) for candidate, seen, _ in able)
    places = {model: place for place, model in reversed(tuple(enumerate(models)))}
    placed = []
    for candidate, seen, said in able:
        local = candidate.node == own_peer_id
        wanted = (
            places.get(candidate.model, len(places)),
            preferences.place(candidate),
            _sorted_by(preferences, candidate, seen),
        )
        known = scored(
            candidate,
            seen,
            quickest_ms,
            local=local,
            strategy=strategy,
            standing=UNAUDITED if local else standing_of(candidate),
        )
        placed.append(Placed(wanted, known, seen, said))
    return placed


def _standings(evidence: Evidence) -> Callable[[Candidate], Standing]:
    """What audits made of a candidate's node, looked up once for each."""
    found: dict[str, Standing] = {}

    def standing_of(candidate: Candidate) -> Standing:
        node = candidate.signer
        if node not in found:
            reputation = evidence.reputation(node)
            whole = reputation >= 1
            found[node] = UNAUDITED if whole else Standing(reputation, evidence.faulted(node))
        return found[node]

    return standing_of


def sift(
    candidate: Candidate,
    constraints: Filters,
    facts: Facts,
    seen: Observation | None,
    strategy: Strategy,
) -> Dropped | tuple[str, ...]:
    """What is said of each constraint that a candidate fulfils; or why it is not asked."""
    stated = facts(candidate)
    if stated is None:
        return Dropped(candidate, Reason.EXPIRED, ("its manifest is not believed any more",))

    def timing() -> Timing:
        known = scored(candidate, seen, 0.0, local=False, strategy=strategy)
        return Timing(known_latency(candidate, seen), answer_ms(known, strategy))

    found = tuple(checks(constraints, candidate, stated, timing))
    said = (*((stated.how,) if stated.how else ()), *(one.text for one in found))
    missed = tuple(one for one in found if not one.holds)
    if not missed:
        return said
    refusal = _refusal(candidate, seen, None, strategy)
    besides = None if refusal is None else refusal.reason
    return Dropped(candidate, missed[0].reason, said, missed=missed, besides=besides)


class _Judge:
    """What is known of a candidate's model and of its node, each looked up once."""

    def __init__(
        self, evidence: Evidence, constraints: Filters | None, placed: Sequence[Placed]
    ) -> None:
        self._evidence = evidence
        self._capability = "" if constraints is None else constraints.capability
        self._models = evidence.qualities(
            {one.scored.candidate.model for one in placed},
            self._capability,
            {} if constraints is None else constraints.selecting,
        )
        self._nodes: dict[str, Mapping[str, tuple[float, float]]] = {}

    def __call__(self, candidate: Candidate) -> Judged:
        model, node, known = candidate.model, candidate.signer, self._evidence
        if node not in self._nodes:
            self._nodes[node] = known.heard(node, self._capability)
        served, failed = self._nodes[node].get(model, (0.0, 0.0))
        return Judged(self._models[model], served, failed)


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
        text += ", the last time by breaking the protocol" if seen.broke else ""
        reason = Reason.BROKEN if seen.broke else Reason.COOLING
        return Dropped(candidate, reason, (text,), retry_after_seconds=left)
    return None


def _cooling_seconds_left(seen: Observation, strategy: Strategy) -> float:
    beyond = seen.failures_in_row - strategy.cooling_failures
    if beyond < 0 or seen.last_failure_age_s is None:
        return 0.0
    pause = strategy.cooling_seconds * 2.0 ** min(beyond, _COUNTED_FAILURES_MAX)
    return min(pause, strategy.cooling_max_seconds) - seen.last_failure_age_s
