"""What audits make of a node: its standing, and the reputation that selection reads. Pure.

Standing is a number from 0 to `audit_standing_max`. An answer that held adds 1, one that did not
takes `audit_wrong_cost`, and both ends are held at every step, so that no amount of honest work
buys more than a few lies. 0 is the least there is and where everybody begins: a new key is never
better off than the one it replaces.
"""

from typing import Final

from aigrid.protocol.limits import LIMITS

NOISE: Final = 1 / (1 + LIMITS.audit_wrong_cost)
"""The share of wrong answers from which on standing is expected to fall."""


def moved(standing: float, *, wrong: bool) -> float:
    """Standing after one more answer was checked."""
    step = -float(LIMITS.audit_wrong_cost) if wrong else 1.0
    return min(float(LIMITS.audit_standing_max), max(0.0, standing + step))


def drift(wrong_share: float) -> float:
    """Expected change with each check while neither end holds it; negative above `NOISE`."""
    return (1 - wrong_share) - wrong_share * LIMITS.audit_wrong_cost


def reputation(standing: float) -> float:
    """From `reputation_floor`, of a node that was never checked, to 1."""
    floor = LIMITS.reputation_floor
    return floor + (1 - floor) * standing / LIMITS.audit_standing_max
