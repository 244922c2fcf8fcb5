"""A rotation takes two signatures; nobody makes one for another's key, on either side."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.strategies import ALICE, BOB, CAROL, NOW_MS, example, forge, identities

from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.identity import multibase
from aigrid.protocol.kinds import Kind, WithdrawnBody
from aigrid.protocol.membership import check_presented_rotation
from aigrid.protocol.record import build
from aigrid.protocol.rotation import RotationBody, agreed, check_rotation

RECORD = example(Kind.ROTATION)  # ALICE to CAROL
LIFE_MS = RECORD.valid_until_ms - NOW_MS


def code_of(raw, *, peer_id=CAROL.peer_id, now_ms=NOW_MS):
    try:
        check_presented_rotation(raw, peer_id=peer_id, now_ms=now_ms)
    except VerificationError as error:
        return error.code
    return None


def body_code(body, issuer=ALICE.did):
    with pytest.raises(VerificationError) as caught:
        check_rotation(issuer, body)
    return caught.value.code


def signed(body, issuer=ALICE, start_ms=NOW_MS):
    return build(
        Kind.ROTATION, body, issuer, valid_from_ms=start_ms, valid_until_ms=start_ms + LIFE_MS
    )


@given(identities, identities, st.integers(0, NOW_MS))
def test_what_both_sign_holds_and_no_field_can_be_another(old, new, at_ms):
    if old is new:
        assert body_code(agreed(old.did, new, rotated_ms=at_ms), old.did) is Code.MALFORMED
        return
    body = agreed(old.did, new, rotated_ms=at_ms)
    check_rotation(old.did, body)
    third = next(who for who in (ALICE, BOB, CAROL) if who not in (old, new))
    other = agreed(old.did, new, rotated_ms=at_ms + 1)
    for changes in (
        {"successor": third.did},
        {"rotated": other.rotated},
        {"successor_proof": other.successor_proof},
        {"successor_proof": multibase(third.sign(b"x"))},
        {"successor_proof": "z"},
        {"successor_proof": ""},
    ):
        assert body_code(msgspec.structs.replace(body, **changes), old.did) is Code.BAD_SIGNATURE
    assert body_code(body, third.did) is Code.ISSUER_NOT_KEY
    stolen = msgspec.structs.replace(body, id=third.did)
    assert body_code(stolen, third.did) is Code.BAD_SIGNATURE


def test_it_counts_for_the_successor_alone_while_it_is_valid():
    assert code_of(RECORD.raw) is None
    assert code_of(RECORD.raw, peer_id=BOB.peer_id) is Code.ROTATION_REFUSED
    assert code_of(RECORD.raw, peer_id=ALICE.peer_id) is Code.ROTATION_REFUSED
    assert code_of(RECORD.raw, now_ms=RECORD.valid_until_ms) is Code.EXPIRED
    assert code_of(RECORD.raw, now_ms=NOW_MS - 120_001) is Code.FROM_FUTURE
    for other in (Kind.MEMBERSHIP, Kind.INVITATION, Kind.NODE):
        assert code_of(example(other).raw) is Code.ROTATION_REFUSED


def test_the_time_that_the_successor_signed_is_the_record_s():
    later = signed(agreed(ALICE.did, CAROL, rotated_ms=NOW_MS), start_ms=NOW_MS + 1)
    assert code_of(later.raw) is Code.ROTATION_REFUSED
    withdrawn = signed(WithdrawnBody(id=ALICE.did, withdrawn=True))
    assert code_of(withdrawn.raw) is Code.ROTATION_REFUSED


def test_the_old_key_has_to_sign_the_record():
    assert code_of(forge(RECORD, signer=CAROL)) is Code.ISSUER_NOT_KEY

    def by_carol(document):
        document["issuer"] = CAROL.did

    assert code_of(forge(RECORD, by_carol, signer=CAROL)) is Code.ISSUER_NOT_KEY


def test_every_byte_flip_is_refused():
    for position in range(len(RECORD.raw)):
        raw = bytearray(RECORD.raw)
        raw[position] ^= 1
        assert code_of(bytes(raw)) is not None


def test_a_key_does_not_agree_by_signing_anything_else():
    """What is signed elsewhere is 64 bytes long: no body can be made to stand for it."""
    body = agreed(ALICE.did, CAROL, rotated_ms=NOW_MS)
    said = f"aigrid-key-rotation-1\n{ALICE.did}\n{CAROL.did}\n{body.rotated}".encode()
    assert body == RotationBody(ALICE.did, CAROL.did, body.rotated, multibase(CAROL.sign(said)))
    assert len(said) != 64
