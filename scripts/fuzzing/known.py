"""The capabilities that decoders are told of: those that are shipped, and two of a stranger's."""

from functools import cache
from itertools import count
from typing import Any

from aigrid.metagraph.capabilities import default_taxonomy
from aigrid.metagraph.concepts import LiveConcepts
from aigrid.node.outcome.contract import Contract
from aigrid.node.outcome.contracts import Contracts
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import CapabilityBody

NOW_MS = 1_790_000_000_000
PUBLISHER = Identity(bytes(32))
LEGAL, RATED = f"{PUBLISHER.did}#legal", f"{PUBLISHER.did}#rated"
_RATED: dict[str, Any] = {
    "type": "object",
    "properties": {"text": {"type": "string", "maxLength": 20}, "stars": {"enum": [1, 2, 3]}},
    "required": ["text"],
}


_records = count()


@cache
def _concepts() -> LiveConcepts:
    return LiveConcepts(default_taxonomy())


@cache
def contracts() -> Contracts:
    """One of the two has schemas of its own, the other those of what it is narrower than."""
    for body in (
        CapabilityBody(id=LEGAL, broader=("translation",), labels={"en": "Legal"}),
        CapabilityBody(
            id=RATED,
            broader=("text-classification",),
            labels={"de": "Bewertet"},
            input_schema=_RATED,
            output_schema={"type": "array"},
            parameters_schema={"type": "object", "properties": {"top_k": {"type": "integer"}}},
        ),
    ):
        _concepts().put(body, NOW_MS + 1, body.id)
    return Contracts(_concepts(), now_ms=lambda: NOW_MS, stated=lambda _: ("domain",))


def fresh(body: CapabilityBody) -> Contract:
    """The contract of a capability that was published just now."""
    _concepts().put(body, NOW_MS + 1, f"record-{next(_records)}")
    return contracts().of(body.id)
