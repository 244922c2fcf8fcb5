"""Presentations that are refused, each with its code: for tests and vectors alike."""

import copy
import json
from collections.abc import Callable
from typing import Any

from scripts.policy_cases import CHAIN, MEMBER
from scripts.policy_world import ANN, GATEWAY, NODE, NOW_MS, binding, present

from aigrid.protocol.canonical import canonical, content_id
from aigrid.protocol.errors import Code
from aigrid.protocol.identity import Identity, multibase
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.presentation import Binding
from aigrid.protocol.record import jcs_hash

RAW = present([MEMBER, *CHAIN])
SHORT = present([MEMBER])
BARE = present([])


def signed(document: dict[str, Any], by: Identity = GATEWAY, **proof: Any) -> bytes:
    """The document with a proof that fits, made as any other implementation would."""
    unsecured = copy.deepcopy(document)
    config = unsecured.pop("proof")
    del config["proofValue"]
    config |= proof
    value = multibase(by.sign(jcs_hash(unsecured, config)))
    return canonical({**unsecured, "proof": {**config, "proofValue": value}})


def changed(change: Callable[[dict[str, Any]], Any], raw: bytes = BARE, **how: Any) -> bytes:
    document = json.loads(raw)
    change(document)
    return signed(document, **how)


def put(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        inner = document
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = to

    return change


def proof(**members: Any) -> bytes:
    return changed(lambda _document: None, **members)


CONTEXT = "https://example.org/"
INVALID: dict[str, bytes] = {
    "too large": b" " * (LIMITS.presentation_max_bytes + 1),
    "nothing": b"",
    "not JSON": BARE[:-1],
    "not UTF-8": BARE.replace(b"research", b"rese\xffrch"),
    "too deep": b'{"verifiableCredential":' + b"[" * 60_000,
    "an array": b"[]",
    "a credential": MEMBER.raw,
    "a blank": BARE.replace(b",", b", ", 1),
    "an escape": BARE.replace(b"research", b"rese\\u0061rch"),
    "a member twice": BARE.replace(b'"holder":', b'"holder":"x","holder":', 1),
    "members in another order": json.dumps(
        dict(reversed(json.loads(BARE).items())), separators=(",", ":")
    ).encode(),
    "another context": changed(put("@context", to=[CONTEXT])),
    "a context more": changed(lambda d: d["@context"].append(CONTEXT)),
    "another type": changed(put("type", to=["VerifiablePresentation"])),
    "a type more": changed(lambda d: d["type"].append("X")),
    "a holder with an id": changed(put("holder", to={"id": GATEWAY.did})),
    "a holder that is no key": changed(put("holder", to="did:key:z" + "1" * 48)),
    "an audience that is no key": proof(domain="did:key:z" + "1" * 48),
    "an audience that is a name": proof(domain="example.org"),
    "several audiences": proof(domain=[NODE.did]),
    "six credentials": changed(lambda d: d.update(verifiableCredential=[{}] * 6)),
    "an id": changed(put("id", to="urn:x")),
    "a default left out": changed(lambda d: d["request"].pop("purpose")),
    "no audience": changed(lambda d: d["proof"].pop("domain")),
    "no nonce": changed(lambda d: d["proof"].pop("challenge")),
    "no end": changed(lambda d: d["proof"].pop("expires")),
    "a short nonce": proof(challenge="x" * 21),
    "a long nonce": proof(challenge="x" * 65),
    "another purpose of the proof": proof(proofPurpose="assertionMethod"),
    "another suite": proof(cryptosuite="eddsa-rdfc-2022"),
    "a context of the proof": proof(**{"@context": [CONTEXT]}),
    "a time without milliseconds": proof(created="2026-09-21T14:13:20Z"),
    "another action": changed(put("request", "action", to="read")),
    "a purpose in capitals": changed(put("request", "purpose", to="Research")),
    "a hash in capitals": changed(put("request", "requestHash", to="AB" * 32)),
    "17 licences": changed(put("request", "accepts", to=["MIT"] * 17)),
}


BOUND = binding()
LATER = NOW_MS + 120_000
CHECKED: dict[str, tuple[bytes, Binding, dict[str, Any], Code]] = {
    "another node": (BARE, BOUND, {"node": ANN.did}, Code.WRONG_AUDIENCE),
    "another peer": (BARE, BOUND, {"peer": ANN.did}, Code.NOT_HOLDER),
    "passed on by another": (
        present([], binding(peer=ANN.did)),
        BOUND,
        {"peer": GATEWAY.did},
        Code.NOT_HOLDER,
    ),
    "valid for more than allowed": (
        present([], valid_ms=300_001),
        BOUND,
        {},
        Code.PRESENTATION_INVALID,
    ),
    "valid for no time": (present([], valid_ms=0), BOUND, {}, Code.PRESENTATION_INVALID),
    "ends before it begins": (present([], valid_ms=-1), BOUND, {}, Code.PRESENTATION_INVALID),
    "at the instant it ends": (BARE, BOUND, {"now_ms": LATER}, Code.PRESENTATION_EXPIRED),
    "from the future": (BARE, BOUND, {"now_ms": NOW_MS - 120_001}, Code.PRESENTATION_EXPIRED),
    "another action": (BARE, binding(action="fetch"), {}, Code.BODY_MISMATCH),
    "another model": (BARE, binding(model=content_id(b"x")), {}, Code.BODY_MISMATCH),
    "another manifest": (BARE, binding(manifest=content_id(b"x")), {}, Code.WRONG_MANIFEST),
    "another request": (BARE, binding(request_hash="0" * 64), {}, Code.BODY_MISMATCH),
    "another continuation": (BARE, binding(prefix_hash="0" * 64), {}, Code.PREFIX_MISMATCH),
}
