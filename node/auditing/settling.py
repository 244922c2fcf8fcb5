"""Who was wrong, by what those say who did the same work again. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from aigrid.node.auditing.comparing import Verdict


@dataclass(frozen=True, slots=True)
class Check:
    """What one holder makes of an answer.

    Attributes:
        node: its PeerId.
        verdict: on the answer.
        own: it is the node that audits, which believes itself.
    """

    node: str
    verdict: Verdict
    own: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """PeerIds of those whose work held, and of those whose work did not; both empty: unsettled."""

    right: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()


UNSETTLED = Settled()


def settle(answered: str, checks: Sequence[Check], *, alike: bool = True) -> Settled | None:
    """What follows from the checks so far; None: one more is needed.

    One that agrees is enough. One that does not may be wrong itself, so a second decides, unless it
    is this node's own work. Where that one agrees with neither, nobody is blamed.

    Args:
        answered: PeerId of the node whose answer it is.
        checks: at most two that are not `unclear`; others are passed over.
        alike: whether the work of the two checkers agrees; of text, where each judges the answer
            and none has an answer of its own, it does.
    """
    clear = [one for one in checks if one.verdict != "unclear"]
    if not clear:
        return None
    first, *others = clear
    if first.own or first.verdict == "same":
        agreed = first.verdict == "same"
        # This node audits others, not itself.
        with_it = () if first.own else (first.node,)
        return Settled((answered, *with_it)) if agreed else Settled(with_it, (answered,))
    if not others:
        return None
    second = others[0]
    mine = () if second.own else (second.node,)
    if second.verdict == "same":
        return Settled((answered, *mine), (first.node,))
    return Settled((first.node, *mine), (answered,)) if alike else UNSETTLED
