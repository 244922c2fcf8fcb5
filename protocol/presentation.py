"""Presentations: a holder shows credentials to one node, for one request, for a short time. Pure.

A presentation is a W3C Verifiable Presentation 2.0 with an `eddsa-jcs-2022` proof for the purpose
`authentication`; `domain` is the DID of the node it is for, `challenge` a nonce that serves once.
The member `request` binds it to what is asked. Its bytes are in canonical form (RFC 8785), and hold
the credentials as these were signed.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from aigrid.protocol import plain_json
from aigrid.protocol.credential_kinds import PURPOSE, Action, CidText, License
from aigrid.protocol.errors import AigridError, Code, PolicyDeniedError, VerificationError
from aigrid.protocol.identity import (
    Identity,
    multibase,
    multibase_decode,
    public_key_of_did,
    verify_signature,
)
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.names import DID, Did
from aigrid.protocol.receipt import HashHex
from aigrid.protocol.record import (
    CONTEXTS,
    Record,
    verification_method,
    verify_form_and_signature,
)
from aigrid.protocol.timestamp import format_ms, parse_ms

TYPES = ["VerifiablePresentation", "RequestPresentation"]
PRESENTED = (Kind.MEMBERSHIP, Kind.GRANT, Kind.DELEGATION)
Nonce = Annotated[str, Meta(min_length=22, max_length=64, pattern=r"^[A-Za-z0-9_-]+\Z")]
_PurposeOrNone = Annotated[str, Meta(max_length=64, pattern=rf"^({PURPOSE})?\Z")]
_DidOrNone = Annotated[str, Meta(max_length=80, pattern=rf"^({DID})?\Z")]
_PROOF_CHARS_MAX = 100

Verify = Callable[[bytes], Record]


class Binding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What a presentation is for.

    Attributes:
        accepts: licences that the holder accepts, ascending.
        action: what is to be done.
        model, manifest: to which model, under which manifest.
        request_hash, prefix_hash: of what is asked, and of the output it goes on from; see
            `receipt`.
        purpose: what for; "" says nothing.
        peer: DID of the node that passes it on, if that is another than the holder.
    """

    action: Action
    model: CidText
    manifest: CidText
    request_hash: HashHex
    prefix_hash: HashHex
    accepts: Annotated[tuple[License, ...], Meta(max_length=LIMITS.presentation_licenses_max)] = ()
    purpose: _PurposeOrNone = ""
    peer: _DidOrNone = ""


class _Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    context: list[str] = msgspec.field(name="@context")
    type: Literal["DataIntegrityProof"]
    cryptosuite: Literal["eddsa-jcs-2022"]
    created: str
    expires: str
    verification_method: Annotated[str, Meta(max_length=160)]
    proof_purpose: Literal["authentication"]
    challenge: Nonce
    domain: Did
    proof_value: Annotated[str, Meta(max_length=_PROOF_CHARS_MAX)]


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    context: list[str] = msgspec.field(name="@context")
    type: list[str]
    holder: Did
    verifiable_credential: Annotated[
        list[msgspec.Raw], Meta(max_length=LIMITS.presentation_credentials_max)
    ]
    request: Binding
    proof: _Proof


@dataclass(frozen=True, slots=True)
class Presentation:
    """A presentation whose form and signatures were checked, and nothing else.

    Times are milliseconds since the epoch; `digest` is SHA-256 of its bytes, in hex.
    """

    holder: str
    audience: str
    nonce: str
    created_ms: int
    expires_ms: int
    binding: Binding
    credentials: tuple[Record, ...]
    digest: str


def present(
    holder: Identity,
    credentials: Sequence[Record],
    binding: Binding,
    *,
    audience: str,
    nonce: str,
    now_ms: int,
    valid_ms: int = LIMITS.presentation_default_seconds * 1000,
) -> bytes:
    """Sign a presentation of `credentials` to `audience` (a DID); its canonical bytes."""
    config = {
        "@context": CONTEXTS,
        "type": "DataIntegrityProof",
        "cryptosuite": "eddsa-jcs-2022",
        "created": format_ms(now_ms),
        "expires": format_ms(now_ms + valid_ms),
        "verificationMethod": verification_method(holder.did),
        "proofPurpose": "authentication",
        "challenge": nonce,
        "domain": audience,
    }
    raws = [credential.raw for credential in credentials]
    unsecured = _assemble(holder.did, binding, raws)
    value = multibase(holder.sign(_hash(config, unsecured)))
    return _assemble(holder.did, binding, raws, {**config, "proofValue": value})


def verify(
    raw: bytes,
    *,
    verify_credential: Verify = verify_form_and_signature,
    made_by: str | None = None,
) -> Presentation:
    """Check form and signatures; what it is good for, `check` says.

    `verify_credential` is `record.verify_form_and_signature`, which may be memoised. `made_by` is
    who is known to have made it, other than by its signature: that is then not looked at, if the
    holder is the same.

    Raises:
        PolicyDeniedError: `presentation_invalid`, or `not_holder` where it is not the holder's.
        VerificationError: what is wrong with a credential.
    """
    if len(raw) > LIMITS.presentation_max_bytes:
        raise _invalid("the presentation is too large")
    try:
        document = _DECODER.decode(raw)
        proof = document.proof
        created_ms, expires_ms = parse_ms(proof.created), parse_ms(proof.expires)
        public_key_of_did(document.holder)
        public_key_of_did(proof.domain)
    except (msgspec.DecodeError, RecursionError, UnicodeError, AigridError):
        raise _invalid("not a presentation as SPEC.md prescribes") from None
    if document.context != CONTEXTS or proof.context != CONTEXTS or document.type != TYPES:
        raise _invalid("not a presentation as SPEC.md prescribes")
    raws = [bytes(one) for one in document.verifiable_credential]
    said = msgspec.to_builtins(proof)
    if _assemble(document.holder, document.request, raws, said) != raw:
        raise _invalid("the presentation is not in canonical form (RFC 8785)")
    value = said.pop("proofValue")
    signature = multibase_decode(value, max_chars=_PROOF_CHARS_MAX)
    method_is_own = proof.verification_method == verification_method(document.holder)
    if (
        not method_is_own
        or signature is None
        or not (document.holder == made_by or _is_signed(document, raws, said, signature))
    ):
        raise PolicyDeniedError("the holder has not signed the presentation", Code.NOT_HOLDER)
    return Presentation(
        holder=document.holder,
        audience=proof.domain,
        nonce=proof.challenge,
        created_ms=created_ms,
        expires_ms=expires_ms,
        binding=document.request,
        credentials=tuple(_credential(one, verify_credential) for one in raws),
        digest=digest_of(raw),
    )


def _is_signed(
    document: _Document, raws: Sequence[bytes], config: dict[str, Any], signature: bytes
) -> bool:
    unsecured = _assemble(document.holder, document.request, raws)
    key = public_key_of_did(document.holder)
    return verify_signature(key, _hash(config, unsecured), signature)


def digest_of(raw: bytes) -> str:
    """What a presentation is called in a receipt: SHA-256 of its bytes, in hex."""
    return hashlib.sha256(raw).hexdigest()


def check(
    presentation: Presentation, expected: Binding, *, node: str, peer: str, now_ms: int
) -> None:
    """Whether a presentation is for what is asked; replay is for the caller to find.

    Args:
        presentation: as verified.
        expected: made from what really came; its purpose and licences do not matter.
        node: DID of the node that was asked.
        peer: DID of the node that asks.
        now_ms: wall time.

    Raises:
        PolicyDeniedError: with a code of its own for each thing that does not fit.
    """
    binding = presentation.binding
    passes_on = binding.peer or presentation.holder
    lifetime_ms = presentation.expires_ms - presentation.created_ms
    too_long = not 0 < lifetime_ms <= LIMITS.presentation_ttl_seconds * 1000
    rules = (
        (presentation.audience == node, "it was made for another node", Code.WRONG_AUDIENCE),
        (passes_on == peer, "it was made by or for another peer", Code.NOT_HOLDER),
        (not too_long, "it is valid for too long", Code.PRESENTATION_INVALID),
        (now_ms < presentation.expires_ms, "it has expired", Code.PRESENTATION_EXPIRED),
        (
            presentation.created_ms <= now_ms + LIMITS.clock_skew_seconds * 1000,
            "it is from the future",
            Code.PRESENTATION_EXPIRED,
        ),
        (binding.action == expected.action, "it is for another action", Code.BODY_MISMATCH),
        (binding.model == expected.model, "it is for another model", Code.BODY_MISMATCH),
        (binding.manifest == expected.manifest, "it is for another manifest", Code.WRONG_MANIFEST),
        (
            binding.request_hash == expected.request_hash,
            "it is for another request",
            Code.BODY_MISMATCH,
        ),
        (
            binding.prefix_hash == expected.prefix_hash,
            "it is for another continuation",
            Code.PREFIX_MISMATCH,
        ),
    )
    for holds, text, code in rules:
        if not holds:
            raise PolicyDeniedError(f"the presentation does not hold: {text}", code)


def _credential(raw: bytes, verify_credential: Verify) -> Record:
    record = verify_credential(raw)
    if record.kind not in PRESENTED or record.withdrawn:
        raise VerificationError(f"{record.kind} is not presented", Code.UNKNOWN_KIND)
    return record


def _assemble(
    holder: str,
    binding: Binding,
    credentials: Sequence[bytes],
    proof: dict[str, Any] | None = None,
) -> bytes:
    """The canonical form, around credentials that are in theirs already."""
    said = b"" if proof is None else b'"proof":' + plain_json.write_part(proof) + b","
    return b"".join(
        (
            b'{"@context":',
            plain_json.write_part(CONTEXTS),
            b',"holder":',
            plain_json.write_part(holder),
            b",",
            said,
            b'"request":',
            plain_json.write_part(binding),
            b',"type":',
            plain_json.write_part(TYPES),
            b',"verifiableCredential":[',
            b",".join(credentials),
            b"]}",
        )
    )


def _hash(config: dict[str, Any], unsecured: bytes) -> bytes:
    """See `record.jcs_hash`: every string here is ASCII, so that msgspec's order is that of JCS."""
    proof = plain_json.write_part(config)
    return hashlib.sha256(proof).digest() + hashlib.sha256(unsecured).digest()


def _invalid(text: str) -> PolicyDeniedError:
    return PolicyDeniedError(text, Code.PRESENTATION_INVALID)


_DECODER = msgspec.json.Decoder(_Document)
