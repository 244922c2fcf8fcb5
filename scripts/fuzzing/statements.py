"""What was really signed: the seeds, and what a mutator signed just now. Nothing else is accepted.

A decoder that takes an input is asked here whether somebody signed what that says. The comparison
is of texts, and the bounds of lifetimes are numbers of SPEC.md written down once more: neither uses
the code that is under test.
"""

import base64
import json
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

_DAY = 86_400
LONGEST_SECONDS = {
    "NodeRecord": 900,
    "AvailabilityRecord": 300,
    "Demand": 300,
    "ModelManifest": 366 * _DAY,
    "CapabilityRecord": 366 * _DAY,
    "EvaluationRecord": 90 * _DAY,
    "AuditRecord": 7 * _DAY,
    "Membership": 366 * _DAY,
    "Invitation": 7 * _DAY,
    "Grant": 366 * _DAY,
    "Delegation": 366 * _DAY,
    "BitstringStatusListCredential": 31 * _DAY,
    "StatusDelegation": 366 * _DAY,
    "Receipt": 366 * _DAY,
    "KeyRotation": 30 * _DAY,
}
PRESENTATION_SECONDS = 300
SKEW_SECONDS = 120
_LATELY = 64  # an input holds a few records, and is executed as soon as it was made

_seeds: set[str] = set()
_lately: deque[str] = deque(maxlen=_LATELY)
_rotations: set[tuple[str, str, str]] = set()


def statement(raw: bytes) -> str:
    """What a signed document says, its options of the proof included; not the signature itself."""
    document = json.loads(raw)
    document.get("proof", {}).pop("proofValue", None)
    return json.dumps(document, sort_keys=True)


def of_seeds(raws: Iterable[bytes]) -> list[bytes]:
    """Note that the seeds were signed by whom they name; the seeds."""
    kept = list(raws)
    for raw in kept:
        _seeds.add(statement(raw))
        if (agreed := _agreed(json.loads(raw))) is not None:
            _rotations.add(agreed)
    return kept


def signed(raw: bytes) -> bytes:
    """Note that a mutator signed this with the key of whom it names; the same bytes."""
    _lately.append(statement(raw))
    return raw


def record_accepted(raw: bytes, now_ms: int | None = None) -> None:
    """A record was accepted: somebody signed it, for no longer than is allowed, and for `now_ms`.

    Of a rotation the new key has to have agreed as well: no mutator has that key sign.
    """
    _look_for(raw)
    document = json.loads(raw)
    begins, ends = (_seconds(document[name]) for name in ("validFrom", "validUntil"))
    assert 0 < ends - begins <= LONGEST_SECONDS[document["type"][1]], "valid for too long"
    _within(begins, ends, now_ms)
    agreed = _agreed(document)
    assert agreed is None or agreed in _rotations, "accepted a rotation that nobody agreed to"
    if now_ms is not None and (renews := document["credentialSubject"].get("renews")):
        record_accepted(base64.urlsafe_b64decode(renews + "=" * (-len(renews) % 4)))


def presentation_verified(raw: bytes) -> None:
    """The form and the signatures of a presentation were accepted: those of its credentials too."""
    _look_for(raw)


def presentation_accepted(raw: bytes, now_ms: int) -> None:
    """A presentation was accepted for a request made now."""
    proof = json.loads(raw)["proof"]
    begins, ends = _seconds(proof["created"]), _seconds(proof["expires"])
    assert 0 < ends - begins <= PRESENTATION_SECONDS, "valid for too long"
    _within(begins, ends, now_ms)


def _look_for(raw: bytes) -> None:
    said = statement(raw)
    assert said in _seeds or said in _lately, "accepted what nobody signed"


def _within(begins: float, ends: float, now_ms: int | None) -> None:
    if now_ms is not None:
        now = now_ms / 1000
        assert begins <= now + SKEW_SECONDS, "accepted before it is valid"
        assert now < ends, "accepted after its end"


def _agreed(document: dict[str, Any]) -> tuple[str, str, str] | None:
    """Who is followed by whom, and when, as the new key signs it; None if it is no rotation."""
    body = document.get("credentialSubject", {})
    if "successorProof" not in body:
        return None
    return document["issuer"], body["successor"], body["rotated"]


def _seconds(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC).timestamp()
