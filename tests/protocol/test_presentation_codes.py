"""Presentations that are refused: each way to be wrong, and its code."""

import json
from typing import Any

import msgspec
import pytest
from scripts import policy_world as world
from scripts.policy_world import ANN, GATEWAY, NOW_MS, STRANGER, binding, present
from scripts.presentation_cases import CHECKED, INVALID, LATER, RAW, SHORT, changed, proof, put
from tests.protocol.test_presentation import code_of

from aigrid.protocol.canonical import canonical
from aigrid.protocol.errors import Code, PolicyDeniedError
from aigrid.protocol.identity import multibase
from aigrid.protocol.kinds import Kind, WithdrawnBody
from aigrid.protocol.presentation import verify
from aigrid.protocol.receipt import prefix_hash, request_hash
from aigrid.protocol.record import build, verification_method


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

    assert code_of(changed(slots, SHORT)) is Code.BAD_SIGNATURE
    assert code_of(changed(lambda d: d.update(verifiableCredential=[7]))) is Code.MALFORMED


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
    going_on = msgspec.structs.replace(world.REQUEST, continued_ids=(1, 2, 3), max_tokens=13)
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
