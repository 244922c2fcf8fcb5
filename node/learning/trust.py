"""Whose word on quality counts how much here, by what the operator says and who is a member."""

from collections.abc import Callable

from aigrid.metagraph.graph import Metagraph
from aigrid.node.settings.trust import TrustConfig
from aigrid.protocol.kinds import MembershipBody


def word_of(trust: TrustConfig, graph: Metagraph, now_ms: int) -> Callable[[str], float]:
    """What the word of a DID counts now, from 0 to 1."""

    def weight(did: str) -> float:
        if did == graph.own_did:
            return 1.0
        if did in trust.named:
            return trust.named[did]
        membership = graph.membership_of(did, now_ms)
        if membership is None:
            return 0.0
        body = membership.body
        leads = isinstance(body, MembershipBody) and body.role == "authority"
        return 1.0 if leads else trust.members

    return weight
