"""How to choose among nodes that can answer: what counts how much, and what is tried now and then.

A strategy without weights goes by tiers: see `rank`. One with weights adds up the parts of a score.
Data alone.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import msgspec

from aigrid.protocol.errors import InvalidRequestError
from aigrid.protocol.limits import LIMITS

_NO_SHARES: Final = (0.0,) * 6


class Parts(NamedTuple):
    """What is known of a candidate, each in [0, 1], where more is better.

    Attributes:
        quality: expected of the model by evaluations.
        success: share of its requests that are expected to be answered.
        speed: by how long an answer is predicted to take, until its end.
        warmth: how soon it can start.
        load: how much of it is free.
        locality: whether it is this node.
    """

    quality: float
    success: float
    speed: float
    warmth: float
    load: float
    locality: float


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much each part counts: only their proportions matter. See `Parts`."""

    quality: float = 0.0
    success: float = 0.0
    speed: float = 0.0
    warmth: float = 0.0
    load: float = 0.0
    locality: float = 0.0

    def check(self) -> None:
        """Raises InvalidRequestError for weights that order nothing."""
        values = msgspec.structs.astuple(self)
        if not all(0 <= one <= LIMITS.strategy_weight_max for one in values):
            raise InvalidRequestError(
                f"A weight is a number from 0 to {LIMITS.strategy_weight_max}.", param="strategy"
            )
        if not any(values):
            raise InvalidRequestError(
                f"Give at least one weight: {', '.join(Parts._fields)}.", param="strategy"
            )

    def shares(self) -> Parts:
        """The weights, so that they add up to 1."""
        whole = math.fsum(values := msgspec.structs.astuple(self))
        return Parts(*(one / whole for one in values))


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
        assumed_load_ms: by state, until it could begin.
        name: of the strategy; "" where it has none.
        weights: None: by tiers.
        exploration: how often, from 0 to 1, one that is not the best is asked first.
        exploration_margin: only one whose total is so much less, at most.
        half_speed_ms: of an answer whose speed is 1/2.
    """

    cooling_failures: int = 2
    cooling_seconds: float = 5.0
    cooling_max_seconds: float = 60.0
    latency_step: float = 2.0
    assumed_latency_ms: float = 500.0
    assumed_tokens: int = 64
    assumed_load_ms: Mapping[str, float] = field(
        default_factory=lambda: {"loading": 5_000.0, "on_disk": 10_000.0, "can_fetch": 60_000.0}
    )
    name: str = ""
    weights: Weights | None = None
    exploration: float = 0.0
    exploration_margin: float = LIMITS.exploration_margin
    half_speed_ms: float = 1000.0

    @property
    def shares(self) -> Parts:
        """Of the weights, so that they add up to 1; all 0 where there are none."""
        return Parts(*_NO_SHARES) if self.weights is None else self.weights.shares()


DEFAULT_STRATEGY: Final = Strategy()


def _named(name: str, weights: Weights) -> Strategy:
    return Strategy(name=name, weights=weights, exploration=LIMITS.exploration_share)


STRATEGIES: Final[Mapping[str, Strategy]] = {
    one.name: one
    for one in (
        _named("quality", Weights(quality=8, success=2, speed=0.5, warmth=0.5, load=0.5)),
        _named("fastest", Weights(quality=0.5, success=2, speed=6, warmth=2, load=1)),
        _named("balanced", Weights(quality=4, success=2, speed=2, warmth=1, load=1)),
        # This node wherever it can: no other part, nor all of them together, count as much.
        replace(
            _named(
                "local_first",
                Weights(quality=3, success=2, speed=1, warmth=1, load=1, locality=10),
            ),
            exploration=0.0,
        ),
    )
}


def strategy_of(wanted: str | Mapping[str, float] | None) -> Strategy:
    """The strategy of a name, or with the weights that somebody gives; None: by tiers.

    Raises:
        InvalidRequestError: there is none of that name, or the weights order nothing.
    """
    if wanted is None:
        return DEFAULT_STRATEGY
    if isinstance(wanted, str):
        if wanted not in STRATEGIES:
            raise InvalidRequestError(
                f"There is no strategy {wanted[:64]!r}: name one of {', '.join(STRATEGIES)}, or "
                "give weights.",
                param="strategy",
            )
        return STRATEGIES[wanted]
    try:
        weights = msgspec.convert(dict(wanted), Weights)
    except msgspec.ValidationError:
        raise InvalidRequestError(
            f"Weights are numbers, by name: {', '.join(Parts._fields)}.", param="strategy"
        ) from None
    weights.check()
    return _named("", weights)
