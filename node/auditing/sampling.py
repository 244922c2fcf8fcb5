"""Which answers are checked: more of nodes of which less is known. Pure."""

import random
from collections.abc import Mapping

from aigrid.node.auditing.standing import reputation
from aigrid.protocol.limits import LIMITS


def is_known(standing: float) -> bool:
    """Whether a node of that standing is asked as others are, and is believed."""
    return reputation(standing) >= LIMITS.reputation_suspect


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
    """Which holder checks an answer first, by PeerId: one that is known, if any is.

    Else an accomplice that takes care to stay new would confirm as much as it is asked to. Raises
    IndexError for nobody.
    """
    known = [one for one, of in standings.items() if is_known(of)]
    return rng.choice(sorted(known or standings))


def examinee(standings: Mapping[str, float], rng: random.Random) -> str | None:
    """Who is asked to check what has been found out already: that is how it comes to a standing.

    It is one that is not asked by anybody else, being a suspect; and no client has its answer.
    """
    new = sorted(one for one, of in standings.items() if not is_known(of))
    return rng.choice(new) if new and rng.random() < LIMITS.audit_exams else None


def second_checker(standings: Mapping[str, float], rng: random.Random) -> str:
    """Which decides between an answer and its first check: a draw among those of greatest standing.

    Raises ValueError for nobody.
    """
    most = max(standings.values())
    return rng.choice(sorted(name for name, of in standings.items() if of == most))
