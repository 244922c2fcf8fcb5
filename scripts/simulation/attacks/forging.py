"""Records that somebody else's key should have signed: property `genuine`, that nobody holds one.

What another said, of whatever kind, is made newer than it was, and signed as before or not at all;
and members admit a stranger in the grid's name.
"""

import random
from collections import defaultdict

from scripts.simulation.checks.properties import Watch

from aigrid.node.app import Node
from aigrid.protocol.canonical import canonical, content_id, parse
from aigrid.protocol.identity import Identity, multibase
from aigrid.protocol.kinds import Kind, MembershipBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record, sign
from aigrid.protocol.timestamp import format_ms

KINDS_AT_ONCE = 4
_SIGNATURE_BYTES = 64


def forge(node: Node, watch: Watch, rng: random.Random) -> list[bytes]:
    """One of what is believed of others for each of a few kinds, and a membership."""
    kinds = defaultdict[Kind, list[Record]](list)
    for record in node.graph.live_records(node.now_ms()):
        if record.issuer != node.identity.did:
            kinds[record.kind].append(record)
    few = rng.sample(sorted(kinds), min(KINDS_AT_ONCE, len(kinds)))
    forged = [_newer(rng.choice(kinds[kind]), old=rng.random() < 1 / 2) for kind in few]
    forged.append(_admission(node, Identity(rng.randbytes(32)).did))
    watch.forged.update(map(content_id, forged))
    return forged


def _admission(node: Node, stranger: str) -> bytes:
    """Of a stranger to the grid, by one who is only a member."""
    now_ms = node.now_ms()
    body = MembershipBody(id=stranger, grid=node.grid.did)
    until_ms = now_ms + LIMITS.membership_ttl_seconds * 1000
    return sign(
        Kind.MEMBERSHIP, body, node.identity, valid_from_ms=now_ms, valid_until_ms=until_ms
    ).raw


def _newer(record: Record, *, old: bool) -> bytes:
    """As `record`, and valid as long, but a little later."""
    document, _ = parse(
        record.raw, max_bytes=LIMITS.record_max_bytes, depth_max=LIMITS.record_depth_max
    )
    document["validFrom"] = document["proof"]["created"] = format_ms(record.valid_from_ms + 1)
    document["validUntil"] = format_ms(record.valid_until_ms + 1)
    if not old:
        document["proof"]["proofValue"] = multibase(bytes(_SIGNATURE_BYTES))
    return canonical(document)
