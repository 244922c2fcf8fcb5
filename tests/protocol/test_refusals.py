"""Each rule of a record, broken alone and signed again, is refused with its own code."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.protocol.credential_strategies import example_status
from tests.protocol.strategies import (
    ALICE,
    BOB,
    NEVER_WITHDRAWN,
    NOW_MS,
    document_of,
    example,
    example_bodies,
    forge,
)

from aigrid.protocol.canonical import canonical, content_id
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.identity import multibase
from aigrid.protocol.kinds import KINDS, Kind, WithdrawnBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import build, verification_method, verify
from aigrid.protocol.timestamp import format_ms

Document = dict[str, Any]
kinds = pytest.mark.parametrize("kind", list(Kind))
LIFE_MS = LIMITS.availability_ttl_seconds * 1000


def code_of(raw: bytes, now_ms: int = NOW_MS) -> Code:
    with pytest.raises(VerificationError) as caught:
        verify(raw, now_ms=now_ms)
    return caught.value.code


@kinds
def test_forging_without_a_change_is_the_record_itself(kind: Kind) -> None:
    assert forge(example(kind)) == example(kind).raw


@kinds
def test_expired_and_future_records(kind: Kind) -> None:
    record = example(kind)
    assert code_of(record.raw, record.valid_until_ms) is Code.EXPIRED
    assert code_of(record.raw, NOW_MS - 120_001) is Code.FROM_FUTURE


@kinds
def test_a_record_that_lives_too_long(kind: Kind) -> None:
    end = format_ms(NOW_MS + KINDS[kind].ttl_seconds * 1000 + 1)
    raw = forge(example(kind), lambda document: document.update(validUntil=end))
    assert code_of(raw) is Code.TTL_TOO_LONG


@kinds
def test_a_proof_by_another_key(kind: Kind) -> None:
    assert code_of(forge(example(kind), signer=BOB)) is Code.ISSUER_NOT_KEY
    named = {"verificationMethod": verification_method(ALICE.did)}
    assert code_of(forge(example(kind), signer=BOB, proof=named)) is Code.BAD_SIGNATURE


@kinds
def test_another_issuer_than_the_key(kind: Kind) -> None:
    def by_bob(document: Document) -> None:
        document["issuer"] = BOB.did
        status = example_status(kind, BOB.did)
        if status is not None:
            document["credentialStatus"] = status.document()

    assert code_of(forge(example(kind), by_bob)) is Code.ISSUER_NOT_KEY


@kinds
def test_a_field_that_the_kind_does_not_have(kind: Kind) -> None:
    def add(document: Document) -> None:
        document["credentialSubject"]["admin"] = True

    assert code_of(forge(example(kind), add)) is Code.UNKNOWN_FIELD


@kinds
def test_every_missing_field_of_a_body_without_a_default(kind: Kind) -> None:
    optional = {"region", "license", "languages", "memoryBytes", "contextTokens", "role"}
    optional |= {"inputSchema", "outputSchema", "parametersSchema", "branches", "delegable"}
    optional |= {"chunkLists", "seeds", "serves", "onBehalf"}
    optional |= {"type", "statusPurpose", "credentials"}
    for name in document_of(example(kind))["credentialSubject"]:

        def leave_out(document: Document, name: str = name) -> None:
            del document["credentialSubject"][name]

        raw = forge(example(kind), leave_out)
        if name in optional:
            assert verify(raw, now_ms=NOW_MS).kind is kind
        else:
            assert code_of(raw) is Code.MALFORMED


OFFER = example(Kind.AVAILABILITY)


def put(**members: Any) -> Callable[[Document], None]:
    return lambda document: document.update(members)


def drop(name: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        del document[name]

    return change


CONTEXTS = ["https://www.w3.org/ns/credentials/v2", "https://w3id.org/aigrid/v1"]

ENVELOPES: list[tuple[Callable[[Document], None], Code]] = [
    (put(**{"@context": CONTEXTS[:1]}), Code.UNKNOWN_CONTEXT),
    (put(**{"@context": CONTEXTS[::-1]}), Code.UNKNOWN_CONTEXT),
    (put(**{"@context": [*CONTEXTS, "https://example.org/"]}), Code.UNKNOWN_CONTEXT),
    (put(**{"@context": [*CONTEXTS, {"offers": "https://example.org/"}]}), Code.UNKNOWN_CONTEXT),
    (put(**{"@context": CONTEXTS[0]}), Code.UNKNOWN_CONTEXT),
    (put(id="urn:uuid:58172aac-d8ba-11ed-83dd-0b3aef56cc33"), Code.UNKNOWN_FIELD),
    (put(credentialStatus={}), Code.UNKNOWN_FIELD),  # this kind has none
    (put(name="An offer"), Code.UNKNOWN_FIELD),
    (put(type=["VerifiableCredential", "Ticket"]), Code.UNKNOWN_KIND),
    (put(type=["VerifiableCredential", ["NodeRecord"]]), Code.UNKNOWN_KIND),
    (put(type=["VerifiableCredential", {}]), Code.UNKNOWN_KIND),
    (put(type=["VerifiableCredential", None]), Code.UNKNOWN_KIND),
    (put(type=["VerifiableCredential"]), Code.MALFORMED),
    (put(type=["AvailabilityRecord", "VerifiableCredential"]), Code.MALFORMED),
    (put(type=["VerifiableCredential", "AvailabilityRecord", "X"]), Code.MALFORMED),
    (put(type="VerifiableCredential"), Code.MALFORMED),
    (put(type=[["VerifiableCredential"], "AvailabilityRecord"]), Code.MALFORMED),
    (put(issuer={"id": ALICE.did}), Code.MALFORMED),
    (put(issuer=None), Code.MALFORMED),
    (put(validFrom="2026-01-01T00:00:00Z"), Code.MALFORMED),
    (put(validFrom=0), Code.MALFORMED),
    (put(validUntil=None), Code.MALFORMED),
    (put(validUntil="9999-12-31T23:59:59.999Z"), Code.TTL_TOO_LONG),
    (put(validUntil="0001-01-01T00:00:00.000Z"), Code.MALFORMED),
    (put(validUntil=format_ms(NOW_MS)), Code.MALFORMED),
    (put(validFrom=format_ms(NOW_MS + LIFE_MS)), Code.MALFORMED),
    (put(credentialSubject=[]), Code.MALFORMED),
    (put(credentialSubject=[{"id": ALICE.did, "offers": []}]), Code.MALFORMED),
    (put(credentialSubject="x"), Code.MALFORMED),
    *((drop(name), Code.MALFORMED) for name in document_of(OFFER) if name != "proof"),
]


@pytest.mark.parametrize(("change", "code"), ENVELOPES)
def test_a_changed_envelope(change: Callable[[Document], None], code: Code) -> None:
    assert code_of(forge(OFFER, change)) is code


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"@context": CONTEXTS[:1]}, Code.UNKNOWN_FIELD),
        ({"type": "Ed25519Signature2020"}, Code.UNKNOWN_FIELD),
        ({"cryptosuite": "eddsa-rdfc-2022"}, Code.UNKNOWN_FIELD),
        ({"created": format_ms(NOW_MS - 1)}, Code.UNKNOWN_FIELD),
        ({"proofPurpose": "authentication"}, Code.UNKNOWN_FIELD),
        ({"expires": format_ms(NOW_MS)}, Code.UNKNOWN_FIELD),
        ({"verificationMethod": ALICE.did}, Code.ISSUER_NOT_KEY),
        ({"verificationMethod": [verification_method(ALICE.did)]}, Code.ISSUER_NOT_KEY),
        ({"verificationMethod": verification_method(BOB.did)}, Code.ISSUER_NOT_KEY),
    ],
)
def test_a_changed_proof_configuration(members: Document, code: Code) -> None:
    assert code_of(forge(OFFER, proof=members)) is code


def with_proof(proof: Any) -> bytes:
    return canonical({**document_of(OFFER), "proof": proof})


def test_unsigned_records() -> None:
    document, proof = document_of(OFFER), document_of(OFFER)["proof"]
    del document["proof"]
    assert code_of(canonical(document)) is Code.UNSIGNED
    without_value = {name: value for name, value in proof.items() if name != "proofValue"}
    for unsigned in (None, {}, [], [proof], "x", True, without_value, {**proof, "proofValue": 1}):
        assert code_of(with_proof(unsigned)) is Code.UNSIGNED


def test_other_spellings_of_a_signature() -> None:
    proof = document_of(OFFER)["proof"]
    value = proof["proofValue"]
    for other in (
        "",
        "z",
        value[1:],
        "m" + value[1:],
        value + "1",
        "z1" + value[1:],
        value + " ",
        value + "\n",
        value[:-1],
        value.replace("z", "Z", 1),
        "z" * 101,
        "z" + "0" * 80,
        multibase(bytes(64)),
        multibase(bytes(63)),
        multibase(bytes(65)),
        "z\U0001f600",
    ):
        assert code_of(with_proof({**proof, "proofValue": other})) is Code.BAD_SIGNATURE, other


def test_an_issuer_that_is_no_did_is_malformed() -> None:
    manifest = example(Kind.MODEL)
    raw = forge(
        manifest,
        put(issuer="https://example.org/"),
        proof={"verificationMethod": verification_method("https://example.org/")},
    )
    assert code_of(raw) is Code.MALFORMED


def test_json_that_is_not_canonical() -> None:
    raw = OFFER.raw
    for other in (
        raw.replace(b",", b", ", 1),
        raw + b"\n",
        raw.replace(b'"slots":4', b'"slots":4e0'),
        raw.replace(b"AvailabilityRecord", b"\\u0041vailabilityRecord"),
    ):
        assert other != raw
        assert code_of(other) in {Code.NOT_CANONICAL, Code.MALFORMED}
    assert code_of(raw + b"\n") is Code.NOT_CANONICAL


def test_duplicate_members_oversize_and_depth() -> None:
    raw = OFFER.raw
    assert code_of(raw.replace(b'"issuer":', b'"issuer":"x","issuer":', 1)) is Code.DUPLICATE_KEY
    assert code_of(raw + b" " * LIMITS.record_max_bytes) is Code.RECORD_TOO_LARGE
    deep: Any = "x"
    for _ in range(LIMITS.record_depth_max + 1):
        deep = [deep]
    assert code_of(canonical({**document_of(OFFER), "credentialSubject": deep})) is Code.MALFORMED


@pytest.mark.parametrize("kind", [Kind.NODE, Kind.AVAILABILITY])
def test_a_node_speaks_for_itself_alone(kind: Kind) -> None:
    def of_bob(document: Document) -> None:
        document["credentialSubject"]["id"] = BOB.did

    assert code_of(forge(example(kind), of_bob)) is Code.ISSUER_NOT_KEY


@pytest.mark.parametrize("kind", [Kind.MEMBERSHIP, Kind.INVITATION])
def test_a_grid_speaks_in_its_own_name_alone(kind: Kind) -> None:
    def of_bob(document: Document) -> None:
        document["credentialSubject"]["grid"] = BOB.did

    assert code_of(forge(example(kind), of_bob)) is Code.ISSUER_NOT_KEY


def withdrawn(kind: Kind, subject: Any) -> Callable[[Document], None]:
    return put(credentialSubject={"id": subject, "withdrawn": True})


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in NEVER_WITHDRAWN])
def test_withdrawals_hold_and_are_about_a_possible_key(kind: Kind) -> None:
    body = WithdrawnBody(id=example_bodies()[kind].id, withdrawn=True)
    record = build(
        kind, body, ALICE, valid_from_ms=NOW_MS + 1, valid_until_ms=example(kind).valid_until_ms
    )
    assert record.withdrawn
    assert record.key == example(kind).key
    itself = kind in {
        Kind.NODE,
        Kind.AVAILABILITY,
        Kind.DEMAND,
        Kind.CAPABILITY,
        Kind.ROTATION,
        Kind.STATUS_DELEGATION,
    }
    for stranger in ("x", "urn:aigrid:model:", "urn:aigrid:model:" + content_id(b"")[:-1]):
        expected = Code.ISSUER_NOT_KEY if itself else Code.MALFORMED
        assert code_of(forge(example(kind), withdrawn(kind, stranger))) is expected
    for empty in ("", None, 1, "x" * 129):
        assert code_of(forge(example(kind), withdrawn(kind, empty))) is Code.MALFORMED


@pytest.mark.parametrize("kind", sorted(NEVER_WITHDRAWN))
def test_what_is_only_replaced_or_revoked_is_not_withdrawn(kind: Kind) -> None:
    def taken_back(document: Document) -> None:
        document.pop("credentialStatus", None)
        subject = document["credentialSubject"]["id"]
        document["credentialSubject"] = {"id": subject, "withdrawn": True}

    assert code_of(forge(example(kind), taken_back)) is Code.MALFORMED


@kinds
@pytest.mark.parametrize("value", [False, 1, "true", None, [], {}])
def test_withdrawn_is_true_or_absent(kind: Kind, value: Any) -> None:
    subject = {"id": example_bodies()[kind].id, "withdrawn": value}
    assert code_of(forge(example(kind), put(credentialSubject=subject))) is Code.MALFORMED


@kinds
def test_a_withdrawal_says_nothing_else(kind: Kind) -> None:
    def also(document: Document) -> None:
        document["credentialSubject"]["withdrawn"] = True

    assert code_of(forge(example(kind), also)) is Code.UNKNOWN_FIELD
