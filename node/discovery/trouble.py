"""Why this node may find nobody to serve it, although others could: it is at fault itself. Pure."""

from aigrid.protocol.errors import AigridError, Code, NoCandidateError, PolicyDeniedError
from aigrid.protocol.limits import LIMITS

# What a node answers to somebody whose membership does not count there.
TURNED_AWAY = frozenset({Code.NOT_MEMBER, Code.REVOKED, Code.SUPERSEDED})


def own_trouble(
    *, is_member: bool, turned_away: bool, clock_ahead_ms: int, rotation_waits_for: str = ""
) -> AigridError | None:
    """What keeps this node out of its grid, as the error of a request; None: nothing does.

    Args:
        is_member: whether it has a membership in force, as far as it knows.
        turned_away: whether those that it reaches do not take it for a member.
        clock_ahead_ms: of the others' clocks.
        rotation_waits_for: what the grid's taking its new key waits for; "": nothing.
    """
    if not is_member and rotation_waits_for:
        return PolicyDeniedError(
            "this node is no member until the grid has taken its new key: `aigrid id rotate` waits"
            f" for {rotation_waits_for}",
            Code.NOT_MEMBER,
        )
    if not is_member or turned_away:
        whose = "others do not take this node for" if is_member else "this node is not"
        return PolicyDeniedError(
            f"{whose} a member of its grid now; `aigrid invite DID` on the founder's node lets it"
            " in again",
            Code.NOT_MEMBER,
        )
    if abs(clock_ahead_ms) > LIMITS.clock_skew_seconds * 1000:
        off = f"{abs(clock_ahead_ms) // 1000} s {'ahead of' if clock_ahead_ms > 0 else 'behind'}"
        return NoCandidateError(
            f"this machine's clock is {off} those of the other nodes, so what they say does not"
            " count here, or the reverse; set it"
        )
    return None
