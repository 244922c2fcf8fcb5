"""95 % confidence intervals of a metric. Pure.

Where every item is right or wrong, Wilson's score interval ("Probable inference", 1927), which
holds with few items, too. Elsewhere the percentiles of a bootstrap over items (Efron, 1979), whose
draws follow from a seed.
"""

import math
import random
from collections.abc import Sequence
from typing import Final

from aigrid.node.evaluating.metrics import Measure, Tally

_Z: Final = 1.959963984540054  # of 95 % under the normal distribution
_TAIL: Final = 0.025
_ROUNDS_MAX, _ROUNDS_MIN = 1000, 200
_DRAWS: Final = 1_000_000  # in all rounds together, where that leaves rounds enough


def interval(measure: Measure, tallies: Sequence[Tally], seed: int) -> tuple[float, float, float]:
    """(value, low, high) of at least one tally, with low <= value <= high."""
    value = measure.value(tallies)
    if measure.name in ("accuracy", "recall", "exact_match") and all(t[1] == 1 for t in tallies):
        low, high = wilson(sum(tally[0] for tally in tallies), len(tallies))
    else:
        low, high = bootstrap(measure, tallies, seed)
    return value, min(low, value), max(high, value)


def wilson(right: float, items: int) -> tuple[float, float]:
    """The interval of a share of `right` among `items`."""
    share = right / items
    spread = _Z * _Z / items
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / items + spread / (4 * items))
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(measure: Measure, tallies: Sequence[Tally], seed: int) -> tuple[float, float]:
    """The interval between which 95 % of the values lie when items are drawn with replacement."""
    rng, items = random.Random(seed), len(tallies)  # noqa: S311 - no secret; has to be repeatable
    rounds = min(_ROUNDS_MAX, max(_ROUNDS_MIN, _DRAWS // items))
    values = sorted(measure.value(rng.choices(tallies, k=items)) for _ in range(rounds))
    cut = int(rounds * _TAIL)
    return values[cut], values[rounds - 1 - cut]
