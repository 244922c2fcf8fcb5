"""The method behind `aigrid grid delegates`: who may revoke and renew while an issuer sleeps."""

from typing import Any

import msgspec

from aigrid.node.app import Node
from aigrid.node.control import Emit
from aigrid.protocol.errors import UsageError, VerificationError
from aigrid.protocol.identity import did_of_peer_id, public_key_of_did
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.timestamp import format_ms


class Delegates(msgspec.Struct, forbid_unknown_fields=True):
    """Whom to name, by DID or PeerId; none of them only tells.

    Attributes:
        dids: the new delegates, in place of those before.
        quorum: how many of them have to be heard of where the issuer is not; 0: more than half.
        none: name nobody any more.
        own: of this node's own credentials, not of the grid's memberships.
    """

    dids: tuple[str, ...] = ()
    quorum: int = 0
    none: bool = False
    own: bool = False


async def delegates(node: Node, params: Delegates, _: Emit) -> dict[str, Any]:
    """Set or show them.

    Raises:
        UsageError: the arguments, or those named, cannot be.
        PolicyDeniedError: `not_authority`, when the issuer's key is not here.
    """
    owner = node.identity.did if params.own else node.grid.did
    if params.none and (params.dids or params.quorum):
        raise UsageError("name delegates, or --none")
    if params.quorum and not params.dids:
        raise UsageError("a quorum is of the delegates that are named with it")
    if len(params.dids) > LIMITS.status_delegates_max:
        raise UsageError(f"at most {LIMITS.status_delegates_max} may be named")
    if params.dids or params.none:
        named = [_did(one) for one in params.dids]
        node.statuses.delegate(owner, named, params.quorum or None)
    found, quorum = node.statuses.delegates(owner)
    status = node.statuses.known().get(owner)
    as_of_ms = 0 if status is None else status.as_of_ms
    heard = {} if status is None else status.delegates_ms
    return {
        "owner": owner,
        "quorum": quorum,
        "as_of": format_ms(as_of_ms) if as_of_ms else "",
        "delegates": [
            {"did": did, "heard": format_ms(heard[did]) if did in heard else ""} for did in found
        ],
    }


def _did(named: str) -> str:
    """Of a DID or PeerId. Raises UsageError."""
    try:
        did = named if named.startswith("did:") else did_of_peer_id(named)
        public_key_of_did(did)
    except VerificationError:
        text = f"{named[:80]!r} is neither a DID nor a PeerId; `aigrid peers` lists both"
        raise UsageError(text) from None
    return did
