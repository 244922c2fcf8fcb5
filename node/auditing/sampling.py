"""Which answers are checked: more of nodes of which less is known. Pure."""

import random
from collections.abc import Mapping

from aigrid.node.auditing.standing import reputation
from aigrid.protocol.limits import LIMITS


def share(standing: float, least: float) -> float:
    """The share of a node's answers that is checked.

    Args:
        standing: of the node.
        least: at the greatest standing; 0 for no audits at all.
    """
    if least <= 0:
        return 0.0
    most = max(least, LIMITS.audit_share_new)
    return most + (least - most) * standing / LIMITS.audit_standing_max


def first_checker(standings: Mapping[str, float], rng: random.Random) -> str:
    """Which holder checks an answer first, by PeerId.

    Every second time it is one that is not asked by anybody else, being a suspect: to check is how
    it comes to a standing, and no client has its answer. Raises IndexError for nobody.
    """
    names = sorted(standings)
    new = [one for one in names if reputation(standings[one]) < LIMITS.reputation_suspect]
    if rng.random() < LIMITS.audit_checkers_new and new:
        return rng.choice(new)
    return rng.choice(names)


def second_checker(standings: Mapping[str, float], rng: random.Random) -> str:
    """Which decides between an answer and its first check: a draw among those of greatest standing.

    Raises ValueError for nobody.
    """
    most = max(standings.values())
    return rng.choice(sorted(name for name, of in standings.items() if of == most))
