"""Test vectors of section 6.2: to which branches a body belongs, and where it is gossiped."""

import copy
from typing import Any

from scripts.vector_records import NODE, bodies

from aigrid.metagraph.branches import branches_of, topics_of
from aigrid.protocol.kinds import Kind, decode_body, encode_body

NAMED: list[tuple[Kind, str, list[Any]]] = [
    (Kind.MODEL, "capabilities", ["text-to-speech"]),
    (Kind.MODEL, "capabilities", ["document-question-answering", "translation", "text"]),
    (Kind.MODEL, "capabilities", ["translation", "poetry"]),
    (Kind.MODEL, "capabilities", ["translation", f"{NODE.did}#legal-translation"]),
    (Kind.AVAILABILITY, "branches", []),
    (Kind.AVAILABILITY, "branches", ["audio", "text"]),
    (Kind.AVAILABILITY, "branches", ["none"]),
    (Kind.AVAILABILITY, "branches", ["of-tomorrow", "text"]),
    (Kind.NODE, "branches", []),
    (Kind.NODE, "branches", ["vision"]),
    (Kind.NODE, "branches", ["none"]),
    (Kind.NODE, "branches", ["none", "text"]),
    (Kind.AUDIT, "findings", []),
]


def branches() -> Any:
    """Bodies of each kind and of withdrawals, then of those whose fields decide."""
    examples = [(kind, encode_body(body), by.did) for kind, body, by in bodies()]
    first = {kind: body for kind, body, _ in reversed(examples) if "withdrawn" not in body}
    for kind, field, names in NAMED:
        body = copy.deepcopy(first[kind])
        body[field] = names
        examples.append((kind, body, NODE.did))
    return [vector(*example) for example in examples]


def vector(kind: Kind, body: dict[str, Any], issuer: str) -> dict[str, Any]:
    found = branches_of(decode_body(kind, issuer, body))
    return {
        "kind": kind.value,
        "credential_subject": body,
        "branches": sorted(found),
        "topics": list(topics_of(found)),
    }
