"""Records that somebody else's key should have signed: property `genuine`, that nobody holds one.

What another said is changed, made newer than what it was, and signed as before or not at all.
"""

import random

from scripts.simulation.properties import Watch

from aigrid.node.app import Node
from aigrid.protocol.canonical import canonical, content_id, parse
from aigrid.protocol.identity import multibase
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record
from aigrid.protocol.timestamp import format_ms

AT_ONCE = 4
_SIGNATURE_BYTES = 64


def forge(node: Node, watch: Watch, rng: random.Random) -> list[bytes]:
    """A few of what is believed of capabilities of others, each with its old signature or none."""
    own = {node.identity.did, node.grid.did}
    believed = [
        record
        for record in node.graph.live_records(node.now_ms())
        if record.kind is Kind.CAPABILITY and record.issuer not in own
    ]
    few = rng.sample(believed, min(AT_ONCE, len(believed)))
    forged = [_changed(record, old=rng.random() < 1 / 2) for record in few]
    watch.forged.update(map(content_id, forged))
    return forged


def _changed(record: Record, *, old: bool) -> bytes:
    """As `record`, but for its label, and a little newer."""
    document, _ = parse(
        record.raw, max_bytes=LIMITS.record_max_bytes, depth_max=LIMITS.record_depth_max
    )
    document["credentialSubject"]["labels"] = {"en": "forged"}
    document["validFrom"] = document["proof"]["created"] = format_ms(record.valid_from_ms + 1)
    if not old:
        document["proof"]["proofValue"] = multibase(bytes(_SIGNATURE_BYTES))
    return canonical(document)
