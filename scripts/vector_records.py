"""Signed records as test vectors: accepted ones step by step, refused ones with their code."""

import copy
import hashlib
import json
from collections.abc import Callable
from typing import Any

from scripts.vector_credentials import Signers, credentials

from aigrid.protocol.canonical import canonical, content_id
from aigrid.protocol.errors import VerificationError
from aigrid.protocol.evidence import AuditBody, EvaluationBody, Finding, evaluation_id
from aigrid.protocol.identity import Identity, multibase, multibase_decode
from aigrid.protocol.kinds import (
    KINDS,
    AvailabilityBody,
    Body,
    CapabilityBody,
    ChunkList,
    DemandBody,
    DeviceClaim,
    EngineClaim,
    Kind,
    ModelBody,
    NodeBody,
    Offer,
    Seed,
    Served,
    WantedModel,
    WithdrawnBody,
)
from aigrid.protocol.membership import issue_invitation, issue_membership
from aigrid.protocol.model import MODEL_URN, ModelDescription, ModelFile, model_id
from aigrid.protocol.record import Record, build, jcs_hash, sign_jcs, verify
from aigrid.protocol.rotation import agreed

NOW_MS = 1_790_000_000_000
DAY_MS = 86_400_000
AUTHORITY, NODE, NEWCOMER = (Identity(bytes([n]) * 32) for n in (1, 2, 3))
ADDRESSES = ("/ip4/192.0.2.1/tcp/4001", "/ip6/2001:db8::1/tcp/4001")
DESCRIPTION = ModelDescription(
    format="gguf",
    task="text-generation",
    files=(
        ModelFile("weights.gguf", "ab" * 32, 96_000_000),
        ModelFile("LICENSE", "cd" * 32, 11_357),
    ),
    precision="q4_1",
    options={"eos": "</s>", "scale": 0.5, "add_bos": True, "context": 8192},
)


def bodies() -> list[tuple[Kind, Body, Identity]]:
    manifest = Offer(model_id(DESCRIPTION), content_id(b"a manifest"), "warm", 4, 120)
    return [
        (
            Kind.NODE,
            NodeBody(
                id=NODE.did,
                protocol_version=1,
                software="aigrid/0.1.0",
                addresses=ADDRESSES,
                engines=(EngineClaim("onnx_text", "1", ("gguf",)),),
                devices=(DeviceClaim("cpu", "Eight cores \u00e0 3 GHz", 16 * 2**30),),
                region="eu",
                branches=("text", "vision"),
            ),
            NODE,
        ),
        (
            Kind.MODEL,
            ModelBody(
                id=MODEL_URN + model_id(DESCRIPTION),
                name="smollm2",
                capabilities=("text-generation",),
                model=DESCRIPTION,
                license="Apache-2.0",
                languages=("en",),
                memory_bytes=300_000_000,
                context_tokens=8192,
                chunk_lists=(ChunkList("LICENSE", "12" * 32), ChunkList("weights.gguf", "34" * 32)),
                serves=(Served("text-generation", {"language": ("de", "en")}),),
            ),
            NODE,
        ),
        (
            Kind.AVAILABILITY,
            AvailabilityBody(
                id=NODE.did,
                offers=(manifest,),
                branches=("text",),
                seeds=(Seed(manifest.model, manifest.manifest),),
            ),
            NODE,
        ),
        (
            Kind.DEMAND,
            DemandBody(
                id=NODE.did,
                wanted=(WantedModel(manifest.model, manifest.manifest, 3),),
                branches=("text",),
            ),
            NODE,
        ),
        (
            Kind.CAPABILITY,
            CapabilityBody(
                id=f"{NODE.did}#legal-summarization",
                broader=("summarization",),
                labels={"en": "Legal summarization", "de": "Juristische Zusammenfassung"},
                input_schema={"type": "string", "maxLength": 100_000},
            ),
            NODE,
        ),
        (Kind.EVALUATION, evaluation(), NODE),
        (
            Kind.AUDIT,
            AuditBody(
                id=NEWCOMER.did,
                findings=(
                    Finding(model_id(DESCRIPTION), "image-classification", 0, 2),
                    Finding(model_id(DESCRIPTION), "text-generation", 120, 3, 250, 12, 1),
                ),
            ),
            NODE,
        ),
        (Kind.ROTATION, agreed(NODE.did, NEWCOMER, rotated_ms=NOW_MS), NODE),
        (Kind.AVAILABILITY, WithdrawnBody(id=NODE.did, withdrawn=True), NODE),
        (
            Kind.MODEL,
            WithdrawnBody(id=MODEL_URN + model_id(DESCRIPTION), withdrawn=True),
            NODE,
        ),
        (
            Kind.CAPABILITY,
            WithdrawnBody(id=f"{NODE.did}#legal-summarization", withdrawn=True),
            NODE,
        ),
        (Kind.EVALUATION, WithdrawnBody(id=evaluation().id, withdrawn=True), NODE),
        (Kind.AUDIT, WithdrawnBody(id=NEWCOMER.did, withdrawn=True), NODE),
        (Kind.MEMBERSHIP, WithdrawnBody(id=NODE.did, withdrawn=True), AUTHORITY),
    ]


def evaluation() -> EvaluationBody:
    model, parameters, dataset = model_id(DESCRIPTION), {"source": "en", "target": "fr"}, "ef" * 32
    return EvaluationBody(
        id=evaluation_id(model, "translation", parameters, "chrf", dataset),
        model=model,
        capability="translation",
        parameters=parameters,
        metric="chrf",
        dataset=dataset,
        items=500,
        value="0.613",
        low="0.58",
        high="1",
    )


def signed() -> list[Record]:
    own = [
        build(
            kind,
            body,
            issuer,
            valid_from_ms=NOW_MS,
            valid_until_ms=NOW_MS + KINDS[kind].ttl_seconds * 1000,
        )
        for kind, body, issuer in bodies()
    ]
    membership = issue_membership(AUTHORITY, NODE.did, now_ms=NOW_MS, valid_ms=30 * DAY_MS)
    policy = credentials(Signers((AUTHORITY, NODE, NEWCOMER), NOW_MS), DESCRIPTION)
    return [*own, membership, an_invitation(), *policy]


def an_invitation() -> Record:
    return issue_invitation(
        AUTHORITY,
        NEWCOMER.did,
        peer_id=AUTHORITY.peer_id,
        addresses=ADDRESSES,
        nonce="0123456789abcdef",
        now_ms=NOW_MS,
        valid_ms=DAY_MS,
    )


def records() -> Any:
    """One signed record of each kind and of each form of withdrawal, step by step."""
    vectors = []
    for record in signed():
        document = json.loads(record.raw)
        proof = document.pop("proof")
        value = proof.pop("proofValue")
        signature = multibase_decode(value, max_chars=100)
        assert signature is not None
        vectors.append(
            {
                "kind": record.kind.value,
                "issuer_seed": issuer_of(record).seed.hex(),
                "unsecured_document": document,
                "canonical_document": canonical(document).decode(),
                "document_sha256": hashlib.sha256(canonical(document)).hexdigest(),
                "proof_configuration": proof,
                "canonical_proof_configuration": canonical(proof).decode(),
                "proof_configuration_sha256": hashlib.sha256(canonical(proof)).hexdigest(),
                "signed_bytes": jcs_hash(document, proof).hex(),
                "signature": signature.hex(),
                "proof_value": value,
                "record": record.raw.decode(),
                "content_id": record.content_id,
                "key": list(record.key),
                "valid_from_ms": record.valid_from_ms,
                "valid_until_ms": record.valid_until_ms,
            }
        )
    return vectors


def issuer_of(record: Record) -> Identity:
    return next(who for who in (AUTHORITY, NODE, NEWCOMER) if who.did == record.issuer)


def resigned(record: Record, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The record with a change that its issuer signed."""
    document = copy.deepcopy(json.loads(record.raw))
    change(document)
    proof = document.pop("proof")
    del proof["proofValue"]
    proof["created"] = document["validFrom"]
    value = sign_jcs(document, proof, issuer_of(record))
    return canonical({**document, "proof": {**proof, "proofValue": value}})


def unsigned(record: Record) -> bytes:
    document = json.loads(record.raw)
    del document["proof"]
    return canonical(document)


def refusals() -> Any:
    """Records that must be refused at `now_ms`, each with the code of the first broken rule."""
    record = next(r for r in signed() if r.kind is Kind.AVAILABILITY and not r.withdrawn)
    raw, end_ms = record.raw, record.valid_until_ms
    subject = "credentialSubject"
    late = "2026-09-22T00:00:00.000Z"
    cases: list[tuple[str, bytes, int]] = [
        ("not JSON", raw[:-1], NOW_MS),
        ("a byte order mark", b"\xef\xbb\xbf" + raw, NOW_MS),
        ("half a surrogate pair", raw.replace(b'"warm"', b'"\\ud800"'), NOW_MS),
        ("a member twice", raw.replace(b'"issuer":', b'"issuer":"x","issuer":', 1), NOW_MS),
        ("17 containers deep", b"[" * 17 + b"]" * 17, NOW_MS),
        ("a blank at the end", raw + b" ", NOW_MS),
        (
            "an escape that JCS does not use",
            raw.replace(b"VerifiableC", b"\\u0056erifiableC"),
            NOW_MS,
        ),
        ("no proof", unsigned(record), NOW_MS),
        ("one bit of the signature", swap_last(raw), NOW_MS),
        ("a changed body", raw.replace(b'"slots":4', b'"slots":5'), NOW_MS),
        ("another issuer", resigned(record, lambda d: d.update(issuer=AUTHORITY.did)), NOW_MS),
        ("another context", resigned(record, lambda d: d["@context"].pop()), NOW_MS),
        ("another kind", resigned(record, lambda d: d["type"].__setitem__(1, "Other")), NOW_MS),
        ("a member too many", resigned(record, lambda d: d.update(name="x")), NOW_MS),
        ("a field too many", resigned(record, lambda d: d[subject].update(price=1)), NOW_MS),
        ("a field too few", resigned(record, lambda d: d[subject].pop("offers")), NOW_MS),
        (
            "branches that do not ascend",
            resigned(record, lambda d: d[subject].update(branches=["vision", "text"])),
            NOW_MS,
        ),
        (
            "about another node",
            resigned(record, lambda d: d[subject].update(id=AUTHORITY.did)),
            NOW_MS,
        ),
        ("valid for too long", resigned(record, lambda d: d.update(validUntil=late)), NOW_MS),
        ("a successor that has not signed", stolen_successor(), NOW_MS),
        ("a proof of another purpose", purpose(record), NOW_MS),
        *permitting(),
        *vouching(),
        ("at the instant it ends", raw, end_ms),
        ("120.001 s before it starts", raw, NOW_MS - 120_001),
    ]
    return [
        {"what": what, "record": data.hex(), "now_ms": now_ms, "code": verdict(data, now_ms)}
        for what, data, now_ms in cases
    ]


def permitting() -> list[tuple[str, bytes, int]]:
    """Of what permits or revokes."""
    grant, manifest, delegation = (
        next(r for r in signed()[::-1] if r.kind is kind)
        for kind in (Kind.GRANT, Kind.MODEL, Kind.STATUS_DELEGATION)
    )
    subject, status = "credentialSubject", "credentialStatus"

    def permission(document: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = document[subject]["permission"]
        return found

    taken_back = {"id": grant.subject, "withdrawn": True}
    changes: list[tuple[str, Record, Callable[[dict[str, Any]], Any]]] = [
        ("a grant that cannot be revoked", grant, lambda d: d.pop(status)),
        ("an unknown constraint", grant, lambda d: permission(d).update(weekdays=["mon"])),
        ("an unknown action", grant, lambda d: permission(d).update(actions=["read"])),
        (
            "actions that do not ascend",
            grant,
            lambda d: permission(d).update(actions=["invoke", "fetch"]),
        ),
        ("a status list of another", grant, lambda d: d[status].update(statusListCredential="x")),
        ("more about its status", grant, lambda d: d[status].update(statusSize=2)),
        (
            "a withdrawn grant",
            grant,
            lambda d: (d.pop(status), d.update(credentialSubject=taken_back)),
        ),
        ("a rule for nobody", manifest, lambda d: d[subject]["policy"][0].update(assignees=[])),
        ("an unknown condition", manifest, lambda d: d[subject]["policy"][0].update(price=1)),
        ("a quorum of more", delegation, lambda d: d[subject].update(quorum=3)),
        (
            "delegates of another's list",
            delegation,
            lambda d: d[subject].update(id=f"urn:aigrid:status:{NODE.did}"),
        ),
    ]
    return [(what, resigned(record, change), NOW_MS) for what, record, change in changes]


def vouching() -> list[tuple[str, bytes, int]]:
    """Of what is said of models and nodes."""
    manifest, evaluation_, audit = (
        next(r for r in signed() if r.kind is kind)
        for kind in (Kind.MODEL, Kind.EVALUATION, Kind.AUDIT)
    )
    subject = "credentialSubject"
    unordered = [{"capability": "text", "parameters": {"language": ["en", "de"]}}]
    changes: list[tuple[str, Record, Callable[[dict[str, Any]], Any]]] = [
        ("an id of another evaluation", evaluation_, lambda d: d[subject].update(metric="recall")),
        ("a value with zeros at its end", evaluation_, lambda d: d[subject].update(low="0.580")),
        ("a value above its interval", evaluation_, lambda d: d[subject].update(high="0.612999")),
        ("an audit of oneself", audit, lambda d: d[subject].update(id=NODE.did)),
        ("findings that do not ascend", audit, lambda d: d[subject]["findings"].reverse()),
        ("more wrong than audited", audit, lambda d: d[subject]["findings"][1].update(wrong=13)),
        (
            "served values that do not ascend",
            manifest,
            lambda d: d[subject].update(serves=unordered),
        ),
    ]
    return [(what, resigned(record, change), NOW_MS) for what, record, change in changes]


def swap_last(raw: bytes) -> bytes:
    document = json.loads(raw)
    signature = bytearray(multibase_decode(document["proof"]["proofValue"], max_chars=100) or b"")
    signature[0] ^= 1
    document["proof"]["proofValue"] = multibase(bytes(signature))
    return canonical(document)


def stolen_successor() -> bytes:
    rotation = next(r for r in signed() if r.kind is Kind.ROTATION)
    return resigned(rotation, lambda d: d["credentialSubject"].update(successor=AUTHORITY.did))


def purpose(record: Record) -> bytes:
    return resigned(record, lambda d: d["proof"].update(proofPurpose="authentication"))


def verdict(raw: bytes, now_ms: int) -> str:
    try:
        verify(raw, now_ms=now_ms)
    except VerificationError as error:
        return error.code.value
    raise AssertionError(raw)
