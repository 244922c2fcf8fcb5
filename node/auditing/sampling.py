"""Which answers are checked: more of nodes of which less is known. Pure."""

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
