"""Records: W3C Verifiable Credentials 2.0 with an `eddsa-jcs-2022` proof.

One format for everything that is known on the grid. On the wire a record is its JCS bytes, proof
included; its content id is the CID of these. Sources: VC Data Model 2.0, VC Data Integrity 1.0,
Data Integrity EdDSA Cryptosuites 1.0 (section 3.3, eddsa-jcs-2022).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aigrid.protocol import plain_json
from aigrid.protocol.canonical import canonical, content_id, parse
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.identity import (
    Identity,
    multibase,
    multibase_decode,
    public_key_of_did,
    verify_signature,
)
from aigrid.protocol.kinds import (
    KINDS,
    Body,
    Kind,
    WithdrawnBody,
    decode_body,
    encode_body,
)
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record_status import StatusEntry, read_status
from aigrid.protocol.timestamp import format_ms, parse_ms

CONTEXTS = ["https://www.w3.org/ns/credentials/v2", "https://w3id.org/aigrid/v1"]
_CREDENTIAL = "VerifiableCredential"
_MEMBERS = {
    "@context",
    "type",
    "issuer",
    "validFrom",
    "validUntil",
    "credentialSubject",
    "proof",
}
_STATUS = "credentialStatus"
_PROOF_CHARS_MAX = 100

RecordKey = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Record:
    """A record whose signature and form were checked. Times are milliseconds since the epoch.

    `status` says where it is revoked, if it can be.
    """

    kind: Kind
    issuer: str
    subject: str
    valid_from_ms: int
    valid_until_ms: int
    body: Body
    content_id: str
    raw: bytes
    status: StatusEntry | None = None

    def __hash__(self) -> int:
        return hash(self.content_id)  # a body may hold a dict, which has no hash

    @property
    def key(self) -> RecordKey:
        """(issuer, kind, subject): of two records with one key only the newer one counts."""
        return (self.issuer, self.kind.value, self.subject)

    @property
    def withdrawn(self) -> bool:
        return isinstance(self.body, WithdrawnBody)

    @property
    def rank(self) -> tuple[int, str]:
        """Merge order among records of one key."""
        return (self.valid_from_ms, self.content_id)


def newer(a: Record, b: Record) -> Record:
    """The one of two records of the same key that counts. Commutative and associative."""
    return a if a.rank >= b.rank else b


def remembered_until_ms(kind: Kind, valid_from_ms: int) -> int:
    """How long the newest `validFrom` of a key must be remembered so nothing old comes back.

    An older record of the key was valid from before `valid_from_ms`, for at most the kind's longest
    validity: after that it is expired wherever it still circulates.
    """
    return valid_from_ms + KINDS[kind].ttl_seconds * 1000


def build(
    kind: Kind,
    body: Body,
    identity: Identity,
    *,
    valid_from_ms: int,
    valid_until_ms: int,
    status: StatusEntry | None = None,
) -> Record:
    """Sign a record, and check it as any receiver will.

    The issuer must make `valid_from_ms` greater than that of what it replaces, and
    `valid_until_ms` no smaller.

    Raises:
        VerificationError: when the result would be refused elsewhere.
    """
    signed = sign(
        kind,
        body,
        identity,
        valid_from_ms=valid_from_ms,
        valid_until_ms=valid_until_ms,
        status=status,
    )
    return verify_form_and_signature(signed.raw)


def sign(
    kind: Kind,
    body: Body,
    identity: Identity,
    *,
    valid_from_ms: int,
    valid_until_ms: int,
    status: StatusEntry | None = None,
) -> Record:
    """The same unchecked, at half the cost, for bodies that are known to hold what they may."""
    document: dict[str, Any] = {
        "@context": CONTEXTS,
        "type": [_CREDENTIAL, kind.value],
        "issuer": identity.did,
        "validFrom": format_ms(valid_from_ms),
        "validUntil": format_ms(valid_until_ms),
        "credentialSubject": encode_body(body),
    }
    if status is not None:
        document[_STATUS] = status.document()
    proof = {
        "@context": CONTEXTS,
        "type": "DataIntegrityProof",
        "cryptosuite": "eddsa-jcs-2022",
        "created": format_ms(valid_from_ms),
        "verificationMethod": verification_method(identity.did),
        "proofPurpose": "assertionMethod",
    }
    document["proof"] = {**proof, "proofValue": sign_jcs(document, proof, identity)}
    raw = canonical(document)
    return Record(
        kind,
        identity.did,
        document["credentialSubject"]["id"],
        valid_from_ms,
        valid_until_ms,
        body,
        content_id(raw),
        raw,
        status,
    )


def verify(raw: bytes, *, now_ms: int) -> Record:
    """Check everything that can be checked without knowing the grid.

    Raises:
        VerificationError: with the code of the first rule that is broken.
    """
    record = verify_form_and_signature(raw)
    check_time(record, now_ms)
    return record


def check_time(record: Record, now_ms: int) -> None:
    """Raise VerificationError(`from_future` | `expired`) unless the record is valid now."""
    if record.valid_from_ms > now_ms + LIMITS.clock_skew_seconds * 1000:
        raise VerificationError("valid only in the future", Code.FROM_FUTURE)
    if record.valid_until_ms <= now_ms:
        raise VerificationError("no longer valid", Code.EXPIRED)


def verify_form_and_signature(raw: bytes) -> Record:
    """Everything but the clock: the result depends on `raw` alone and may be memoised."""
    document, plain = parse(
        raw, max_bytes=LIMITS.record_max_bytes, depth_max=LIMITS.record_depth_max
    )
    kind = _check_envelope(document)
    issuer = document["issuer"]
    valid_from_ms = parse_ms(document["validFrom"])
    valid_until_ms = parse_ms(document["validUntil"])
    lifetime_ms = valid_until_ms - valid_from_ms
    if lifetime_ms <= 0:
        raise VerificationError("validUntil is not after validFrom")
    if lifetime_ms > KINDS[kind].ttl_seconds * 1000:
        raise VerificationError("valid for longer than its kind allows", Code.TTL_TOO_LONG)
    body = decode_body(kind, issuer, document["credentialSubject"])
    status = _status(document, kind, body, issuer)
    if not plain and canonical(document) != raw:
        raise VerificationError("not in canonical form (RFC 8785)", Code.NOT_CANONICAL)
    _check_proof(document, issuer, plain_json.write_part if plain else canonical)
    return Record(
        kind, issuer, body.id, valid_from_ms, valid_until_ms, body, content_id(raw), raw, status
    )


def sign_jcs(document: dict[str, Any], proof: dict[str, Any], identity: Identity) -> str:
    """The `proofValue` of eddsa-jcs-2022 for an unsecured document and a proof configuration."""
    return multibase(identity.sign(jcs_hash(document, proof)))


def jcs_hash(
    document: dict[str, Any],
    proof: dict[str, Any],
    write: Callable[[Any], bytes] = canonical,
) -> bytes:
    """SHA-256 of the canonical proof configuration, then of the canonical document: 64 bytes.

    `write` gives the canonical form of either.
    """
    return hashlib.sha256(write(proof)).digest() + hashlib.sha256(write(document)).digest()


def verification_method(did: str) -> str:
    """The did:key URL of the one key of `did`."""
    return f"{did}#{did.removeprefix('did:key:')}"


def _check_envelope(document: Any) -> Kind:
    if not isinstance(document, dict):
        raise VerificationError("a record is a JSON object")
    if "proof" not in document:
        raise VerificationError("there is no proof", Code.UNSIGNED)
    unknown = document.keys() - _MEMBERS - {_STATUS}
    if unknown:
        raise VerificationError(f"unknown member {min(unknown)[:64]!r}", Code.UNKNOWN_FIELD)
    missing = _MEMBERS - document.keys()
    if missing:
        raise VerificationError(f"member {min(missing)!r} is missing")
    if document["@context"] != CONTEXTS:
        raise VerificationError("unknown @context", Code.UNKNOWN_CONTEXT)
    types = document["type"]
    if not isinstance(types, list) or len(types) != 2 or types[0] != _CREDENTIAL:
        raise VerificationError("type is not [VerifiableCredential, kind]")
    try:
        kind = Kind(types[1])
    except ValueError:
        raise VerificationError("unknown kind of record", Code.UNKNOWN_KIND) from None
    if not isinstance(document["issuer"], str):
        raise VerificationError("issuer is not a string")
    return kind


def _status(document: dict[str, Any], kind: Kind, body: Body, issuer: str) -> StatusEntry | None:
    """The status entry; a membership's is its grid's, whoever renewed it."""
    rule = KINDS[kind].status
    if _STATUS not in document:
        if rule == "required":
            raise VerificationError(f"member {_STATUS!r} is missing")
        return None
    if rule == "never" or isinstance(body, WithdrawnBody):
        raise VerificationError(f"unknown member {_STATUS!r}", Code.UNKNOWN_FIELD)
    return read_status(document[_STATUS], getattr(body, "grid", issuer))


def _check_proof(document: dict[str, Any], issuer: str, write: Callable[[Any], bytes]) -> None:
    proof = document["proof"]
    if not isinstance(proof, dict):
        raise VerificationError("proof is not one object", Code.UNSIGNED)
    expected = {
        "@context": CONTEXTS,
        "type": "DataIntegrityProof",
        "cryptosuite": "eddsa-jcs-2022",
        "created": document["validFrom"],
        "verificationMethod": verification_method(issuer),
        "proofPurpose": "assertionMethod",
    }
    value = proof.get("proofValue")
    if not isinstance(value, str):
        raise VerificationError("the proof has no proofValue", Code.UNSIGNED)
    config = {name: content for name, content in proof.items() if name != "proofValue"}
    if config.get("verificationMethod") != expected["verificationMethod"]:
        raise VerificationError("the proof is not made with the issuer's key", Code.ISSUER_NOT_KEY)
    if config != expected:
        raise VerificationError("the proof is not as SPEC.md prescribes", Code.UNKNOWN_FIELD)
    signature = multibase_decode(value, max_chars=_PROOF_CHARS_MAX)
    unsecured = {name: content for name, content in document.items() if name != "proof"}
    if signature is None or not verify_signature(
        public_key_of_did(issuer), jcs_hash(unsecured, config, write), signature
    ):
        raise VerificationError("the signature does not match", Code.BAD_SIGNATURE)
