"""A node changes its key: the old one names the new one, and the new one agrees. Pure.

Both have to sign. The old key says who speaks in its place from now on; the new key's proof keeps
anybody from naming somebody else's key as its successor.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.identity import (
    Identity,
    multibase,
    multibase_decode,
    public_key_of_did,
    verify_signature,
)
from aigrid.protocol.timestamp import format_ms, parse_ms

_PROOF_CHARS_MAX = 100
_PURPOSE = "aigrid-key-rotation-1"


class RotationBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The holder of `id` (a DID, the issuer's) uses `successor` (a DID) instead.

    `rotated` is the record's `validFrom`; `successorProof` the successor's signature, see SPEC.md.
    """

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    successor: Annotated[str, Meta(min_length=1, max_length=128)]
    rotated: Annotated[str, Meta(max_length=24)]
    successor_proof: Annotated[str, Meta(max_length=_PROOF_CHARS_MAX)]


def agreed(old_did: str, successor: Identity, *, rotated_ms: int) -> RotationBody:
    """The body by which `successor` agrees to take the place of `old_did`."""
    rotated = format_ms(rotated_ms)
    proof = successor.sign(_signed(old_did, successor.did, rotated))
    return RotationBody(old_did, successor.did, rotated, multibase(proof))


def check_rotation(issuer: str, body: RotationBody) -> None:
    """Everything but that `rotated` is the record's `validFrom`.

    Raises:
        VerificationError: `issuer_not_key`, `bad_signature` or `malformed`.
    """
    check_own(issuer, body)
    parse_ms(body.rotated)
    key = public_key_of_did(body.successor)
    if body.successor == issuer:
        raise VerificationError("a key is not its own successor")
    proof = multibase_decode(body.successor_proof, max_chars=_PROOF_CHARS_MAX)
    if proof is None or not verify_signature(
        key, _signed(issuer, body.successor, body.rotated), proof
    ):
        raise VerificationError("the successor has not signed", Code.BAD_SIGNATURE)


def check_own(issuer: str, body: msgspec.Struct) -> None:
    """Raise VerificationError(`issuer_not_key`) unless `body` is about the key that signed it."""
    if getattr(body, "id", None) != issuer:
        raise VerificationError("only a key itself names its successor", Code.ISSUER_NOT_KEY)


def _signed(old_did: str, new_did: str, rotated: str) -> bytes:
    """What the successor signs: never 64 bytes long, so no signature of a record is one of it."""
    return f"{_PURPOSE}\n{old_did}\n{new_did}\n{rotated}".encode("ascii", "replace")
