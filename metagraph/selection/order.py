"""The order of those that may be asked: by tiers, or by a weighted score. Pure."""

import random
from collections.abc import Callable
from dataclasses import replace

import msgspec

from aigrid.metagraph.index import Candidate
from aigrid.metagraph.selection.observation import Observation
from aigrid.metagraph.selection.ranking import Kept
from aigrid.metagraph.selection.score import Judged, Scored, Weighed, weighed
from aigrid.metagraph.selection.strategy import Strategy

_STARTS_SOON = frozenset({"warm", "loading", "on_disk"})


class Placed(msgspec.Struct, frozen=True, gc=False):
    """A candidate that may be asked.

    `wanted` is where models and preferences put it, `said` how it fulfils the constraints.
    """

    wanted: tuple[float, ...]
    scored: Scored
    seen: Observation | None
    said: tuple[str, ...] = ()


def by_tiers(placed: list[Placed], rng: random.Random, strategy: Strategy) -> list[Kept]:
    """Tier after tier; in each, draws decide."""
    tiers: dict[tuple[float, ...], list[Placed]] = {}
    for one in placed:
        tier = one.scored.tier(strategy.latency_step)
        tiers.setdefault((*one.wanted, *tier), []).append(one)
    return [
        Kept(one.scored.candidate, one.scored, before=one.said)
        for tier in sorted(tiers)
        for one in _two_choices(tiers[tier], rng)
    ]


def by_score(
    placed: list[Placed],
    rng: random.Random,
    strategy: Strategy,
    judge: Callable[[Candidate], Judged],
) -> list[Kept]:
    """The greater total first; `judge` says what is known of a candidate beside its offer.

    Where totals are equal the greater part comes first, of those with a weight and in the order of
    `Parts`; else a draw decides. Then one that is not the best may be drawn to come before it.
    """
    shares = strategy.shares
    keyed: list[tuple[tuple[float, ...], Placed, Weighed]] = []
    for one in placed:
        known = weighed(one.scored, one.seen, judge(one.scored.candidate), strategy, shares)
        against = (-part for part, share in zip(known.parts, shares, strict=True) if share)
        keyed.append(((*one.wanted, -known.total, *against, rng.random()), one, known))
    keyed.sort(key=lambda entry: entry[0])
    kept = [
        Kept(one.scored.candidate, one.scored, known, before=one.said) for _, one, known in keyed
    ]
    if rng.random() < strategy.exploration and keyed:
        _, best, known = keyed[0]
        least = known.total - strategy.exploration_margin
        near = [
            number
            for number, (_, other, known) in enumerate(keyed)
            if number and known.total >= least and _may_be_tried(other, best)
        ]
        if near:
            drawn = kept.pop(near[rng.randrange(len(near))])
            kept.insert(0, replace(drawn, explored=True))
    return kept


def _may_be_tried(other: Placed, best: Placed) -> bool:
    """It is as much wanted, and could start soon."""
    soon = not other.scored.full and other.scored.candidate.state in _STARTS_SOON
    return soon and other.wanted == best.wanted


def _two_choices(equals: list[Placed], rng: random.Random) -> list[Placed]:
    """Order equals: again and again draw two and take the less busy, then the faster."""
    ordered: list[Placed] = []
    while len(equals) > 1:
        first = rng.randrange(len(equals))
        second = rng.randrange(len(equals) - 1)
        second += second >= first
        a, b = equals[first].scored, equals[second].scored
        taken = second if (b.load, b.predicted_ms) < (a.load, a.predicted_ms) else first
        ordered.append(equals[taken])
        equals[taken] = equals[-1]
        equals.pop()
    return ordered + equals
