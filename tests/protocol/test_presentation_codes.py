"""Presentations that are refused: each way to be wrong, and its code."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from scripts import policy_world as world
from scripts.policy_world import ANN, GATEWAY, NODE, NOW_MS, STRANGER, binding, present
from tests.protocol.test_presentation import MEMBER, RAW, SHORT, changed, code_of

from aigrid.protocol.canonical import canonical, content_id
from aigrid.protocol.errors import Code, PolicyDeniedError
from aigrid.protocol.identity import multibase
from aigrid.protocol.kinds import Kind, WithdrawnBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.presentation import Binding, verify
from aigrid.protocol.receipt import prefix_hash, request_hash
from aigrid.protocol.record import build, verification_method


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
    "not JSON": RAW[:-1],
    "not UTF-8": RAW.replace(b"research", b"rese\xffrch"),
    "too deep": b'{"verifiableCredential":' + b"[" * 60_000,
    "an array": b"[]",
    "a credential": MEMBER.raw,
    "a blank": RAW.replace(b",", b", ", 1),
    "an escape": RAW.replace(b"research", b"rese\\u0061rch"),
    "a member twice": RAW.replace(b'"holder":', b'"holder":"x","holder":', 1),
    "members in another order": json.dumps(
        dict(reversed(json.loads(RAW).items())), separators=(",", ":")
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


@pytest.mark.parametrize("what", list(INVALID))
def test_what_is_no_presentation_is_invalid(what: str):
    with pytest.raises(PolicyDeniedError) as caught:
        verify(INVALID[what])
    assert caught.value.code is Code.PRESENTATION_INVALID


def test_who_has_not_signed_is_not_the_holder():
    document = json.loads(SHORT)
    value = document["proof"]["proofValue"]
    for other in ("z", value[:-1], value + "1", multibase(bytes(64)), value.replace("z", "Z", 1)):
        document["proof"]["proofValue"] = other
        assert code_of(canonical(document)) is Code.NOT_HOLDER
    assert code_of(changed(lambda _d: None, by=STRANGER)) is Code.NOT_HOLDER
    assert code_of(proof(verificationMethod=verification_method(STRANGER.did))) is Code.NOT_HOLDER
    assert code_of(changed(put("holder", to=STRANGER.did))) is Code.NOT_HOLDER


def test_only_memberships_grants_and_delegations_are_presented():
    gone = build(
        Kind.MEMBERSHIP,
        WithdrawnBody(id=GATEWAY.did, withdrawn=True),
        world.AUTHORITY,
        valid_from_ms=NOW_MS,
        valid_until_ms=NOW_MS + 1000,
    )
    for record in (world.MANIFEST, gone):
        assert code_of(present([record])) is Code.UNKNOWN_KIND


def test_a_credential_that_does_not_verify_says_why():
    def slots(document: dict[str, Any]) -> None:
        document["verifiableCredential"][0]["credentialSubject"]["role"] = "authority"

    assert code_of(changed(slots)) is Code.BAD_SIGNATURE
    assert code_of(changed(lambda d: d.update(verifiableCredential=[7]))) is Code.MALFORMED


BOUND = binding()
LATER = NOW_MS + 120_000
CHECKED: dict[str, tuple[bytes, Binding, dict[str, Any], Code]] = {
    "another node": (RAW, BOUND, {"node": ANN.did}, Code.WRONG_AUDIENCE),
    "another peer": (RAW, BOUND, {"peer": ANN.did}, Code.NOT_HOLDER),
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
    "at the instant it ends": (RAW, BOUND, {"now_ms": LATER}, Code.PRESENTATION_EXPIRED),
    "from the future": (RAW, BOUND, {"now_ms": NOW_MS - 120_001}, Code.PRESENTATION_EXPIRED),
    "another action": (RAW, binding(action="fetch"), {}, Code.BODY_MISMATCH),
    "another model": (RAW, binding(model=content_id(b"x")), {}, Code.BODY_MISMATCH),
    "another manifest": (RAW, binding(manifest=content_id(b"x")), {}, Code.WRONG_MANIFEST),
    "another request": (RAW, binding(request_hash="0" * 64), {}, Code.BODY_MISMATCH),
    "another continuation": (RAW, binding(prefix_hash="0" * 64), {}, Code.PREFIX_MISMATCH),
}


@pytest.mark.parametrize("what", list(CHECKED))
def test_what_does_not_fit_has_its_code(what: str):
    raw, expected, more, code = CHECKED[what]
    assert code_of(raw, expected, **more) is code


def test_it_holds_at_the_edges_of_its_time_and_passed_on_by_whom_it_names():
    assert code_of(RAW, now_ms=LATER - 1) is None
    assert code_of(RAW, now_ms=NOW_MS - 120_000) is None
    assert code_of(present([], valid_ms=300_000)) is None
    assert code_of(present([], binding(peer=ANN.did)), peer=ANN.did) is None
    said = {"purpose": "", "accepts": ()}  # these are for `decide`, from the presentation
    assert code_of(RAW, binding(**said)) is None


def test_a_presentation_for_a_request_is_none_for_its_continuation_or_another_salt():
    going_on = msgspec.structs.replace(world.REQUEST, continued_ids=(1, 2, 3))
    salt = world.SALT
    continued = binding(
        request_hash=request_hash(salt, going_on), prefix_hash=prefix_hash(salt, going_on)
    )
    assert continued.request_hash == binding().request_hash
    assert code_of(RAW, continued) is Code.PREFIX_MISMATCH
    assert code_of(present([], continued), continued) is None
    longer = msgspec.structs.replace(world.REQUEST, max_tokens=17)
    assert code_of(RAW, binding(request_hash=request_hash(salt, longer))) is Code.BODY_MISMATCH
    other = binding(request_hash=request_hash(bytes(16), world.REQUEST))
    assert code_of(RAW, other) is Code.BODY_MISMATCH
