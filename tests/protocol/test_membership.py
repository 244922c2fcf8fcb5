"""Memberships, invitations as people paste them, and the short code."""

import base64
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.strategies import ALICE, BOB, CAROL, NOW_MS, example

from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import Kind, MembershipBody, WithdrawnBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.membership import (
    INVITATION_PREFIX,
    check_invitation,
    check_membership,
    commitment,
    invitation_text,
    issue_invitation,
    issue_membership,
    parse_invitation,
    short_code,
)
from aigrid.protocol.record import Record, build

DAY_MS = 86_400_000
MEMBERSHIP = issue_membership(ALICE, BOB.did, now_ms=NOW_MS, valid_ms=DAY_MS)


def invitation(addresses: tuple[str, ...] = ("/ip4/192.0.2.1/tcp/4001",)) -> Record:
    return issue_invitation(
        ALICE,
        BOB.did,
        peer_id=ALICE.peer_id,
        addresses=addresses,
        nonce="0123456789abcdef",
        now_ms=NOW_MS,
        valid_ms=DAY_MS,
    )


def membership_code(
    raw: bytes, *, grid: str = ALICE.did, peer: Identity = BOB, now_ms: int = NOW_MS
) -> Code | None:
    try:
        check_membership(raw, grid=grid, peer_id=peer.peer_id, now_ms=now_ms)
    except VerificationError as error:
        return error.code
    return None


def test_a_membership_holds_for_its_key_its_grid_and_its_time() -> None:
    raw = MEMBERSHIP.raw
    assert membership_code(raw) is None
    assert membership_code(raw, peer=CAROL) is Code.NOT_MEMBER
    assert membership_code(raw, peer=ALICE) is Code.NOT_MEMBER
    assert membership_code(raw, grid=CAROL.did) is Code.NOT_MEMBER
    assert membership_code(raw, now_ms=NOW_MS + DAY_MS) is Code.EXPIRED
    assert membership_code(raw, now_ms=NOW_MS - 120_001) is Code.FROM_FUTURE
    assert membership_code(raw[:-1]) is Code.MALFORMED
    assert membership_code(b"") is Code.MALFORMED


def test_a_membership_that_its_member_issued_is_none() -> None:
    own = issue_membership(BOB, BOB.did, now_ms=NOW_MS, valid_ms=DAY_MS)
    assert membership_code(own.raw) is Code.NOT_MEMBER


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.MEMBERSHIP])
def test_another_kind_is_no_membership(kind: Kind) -> None:
    assert membership_code(example(kind).raw) is Code.NOT_MEMBER


def test_a_withdrawn_membership_is_none() -> None:
    body = WithdrawnBody(id=BOB.did, withdrawn=True)
    record = build(
        Kind.MEMBERSHIP, body, ALICE, valid_from_ms=NOW_MS, valid_until_ms=NOW_MS + DAY_MS
    )
    assert record.key == MEMBERSHIP.key
    assert membership_code(record.raw) is Code.NOT_MEMBER


def test_the_role_is_what_was_asked_for() -> None:
    body = issue_membership(ALICE, ALICE.did, now_ms=NOW_MS, valid_ms=DAY_MS, role="authority").body
    assert isinstance(body, MembershipBody)
    assert body.role == "authority"
    assert isinstance(MEMBERSHIP.body, MembershipBody)
    assert MEMBERSHIP.body.role == "member"


def test_an_invitation_survives_being_pasted() -> None:
    text = invitation_text(invitation())
    assert re.fullmatch(INVITATION_PREFIX + r"[A-Za-z0-9_-]+", text)
    record, body = parse_invitation(text)
    assert record == invitation()
    assert (body.id, body.grid, body.peer_id) == (BOB.did, ALICE.did, ALICE.peer_id)
    wrapped = "\n  ".join(text[at : at + 60] for at in range(0, len(text), 60))
    for pasted in (f"  {text}\r\n", wrapped, text.replace("a", "a\t"), f"\u00a0{text}\u2003"):
        assert parse_invitation(pasted)[0] == record


@given(st.data())
def test_damaged_invitations_are_invalid(data: st.DataObject) -> None:
    text = invitation_text(invitation())
    place = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.characters(exclude_categories=("Zs", "Zl", "Zp", "Cc")))
    damaged = text[:place] + character + text[place + 1 :]
    try:
        record, _ = parse_invitation(damaged)
    except VerificationError as error:
        code = error.code
    else:
        assert record == invitation()  # the same bytes in another spelling of base64
        return
    assert code is Code.INVITATION_INVALID


@given(st.text(max_size=80).map(INVITATION_PREFIX.__add__) | st.text(max_size=80))
def test_arbitrary_text_is_no_invitation(text: str) -> None:
    with pytest.raises(VerificationError) as caught:
        parse_invitation(text)
    assert caught.value.code is Code.INVITATION_INVALID


def as_text(raw: bytes) -> str:
    return INVITATION_PREFIX + base64.urlsafe_b64encode(raw).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        INVITATION_PREFIX,
        INVITATION_PREFIX + "A",
        INVITATION_PREFIX + "=" * 8,
        invitation_text(invitation())[len(INVITATION_PREFIX) :],
        invitation_text(invitation())[:-1],
        invitation_text(invitation()).upper(),
        invitation_text(invitation()) + invitation_text(invitation()),
        INVITATION_PREFIX + "A" * 2_000_000,
        as_text(b"{}"),
        as_text(b"\xff" * 300),
        as_text(MEMBERSHIP.raw),
        as_text(example(Kind.NODE).raw),
    ],
)
def test_what_is_no_invitation_is_invalid(text: str) -> None:
    with pytest.raises(VerificationError) as caught:
        parse_invitation(text)
    assert caught.value.code is Code.INVITATION_INVALID


def invitation_code(raw: bytes, *, did: str = BOB.did, now_ms: int = NOW_MS) -> Code | None:
    try:
        check_invitation(raw, did=did, now_ms=now_ms)
    except VerificationError as error:
        return error.code
    return None


def test_an_invitation_is_redeemable_by_its_key_in_its_time() -> None:
    raw = invitation().raw
    assert invitation_code(raw) is None
    assert invitation_code(raw, did=CAROL.did) is Code.INVITATION_NOT_YOURS
    assert invitation_code(raw, did=ALICE.did) is Code.INVITATION_NOT_YOURS
    assert invitation_code(raw, now_ms=NOW_MS + DAY_MS) is Code.INVITATION_EXPIRED
    assert invitation_code(raw, now_ms=NOW_MS - 120_001) is Code.INVITATION_INVALID
    assert invitation_code(MEMBERSHIP.raw) is Code.INVITATION_INVALID
    assert invitation_code(raw[:-1]) is Code.INVITATION_INVALID


def test_a_withdrawn_invitation_is_invalid() -> None:
    record = build(
        Kind.INVITATION,
        WithdrawnBody(id=BOB.did, withdrawn=True),
        ALICE,
        valid_from_ms=NOW_MS,
        valid_until_ms=NOW_MS + DAY_MS,
    )
    assert invitation_code(record.raw) is Code.INVITATION_INVALID


def test_only_as_many_addresses_as_allowed_are_put_in_and_the_whole_fits_the_join_protocol() -> (
    None
):
    longest = tuple(f"/dns4/{'x' * 245}/{n:03}" for n in range(100))
    record, body = parse_invitation(invitation_text(invitation(longest)))
    assert body.addresses == longest[: LIMITS.addresses_max]
    assert len(record.raw) < LIMITS.join_max_bytes - 64


nonces = st.binary(min_size=16, max_size=32)


def code(
    grid: Identity = ALICE,
    joiner: Identity = BOB,
    host: Identity = CAROL,
    nonces: tuple[bytes, bytes] = (b"j" * 16, b"h" * 16),
) -> str:
    return short_code(
        grid=grid.did,
        joiner=joiner.peer_id,
        host=host.peer_id,
        joiner_nonce=nonces[0],
        host_nonce=nonces[1],
    )


@given(nonces, nonces)
def test_a_code_is_six_digits_and_the_same_at_both_ends(joins: bytes, hosts: bytes) -> None:
    """Each end holds the nonces as its own and the other's: roles, not ends, decide their places."""
    seen_by_joiner = code(nonces=(joins, hosts))
    seen_by_host = code(nonces=(joins, hosts))
    assert seen_by_joiner == seen_by_host
    assert re.fullmatch(r"[0-9]{3} [0-9]{3}", seen_by_joiner)


def test_the_code_depends_on_every_part_and_on_who_is_who() -> None:
    others = [
        code(grid=BOB),
        code(joiner=ALICE),
        code(host=ALICE),
        code(joiner=CAROL, host=BOB),
        code(nonces=(b"h" * 16, b"j" * 16)),
        code(nonces=(b"j" * 16, b"h" * 17)),
    ]
    assert len({code(), *others}) == 1 + len(others)


def test_bytes_cannot_be_moved_from_one_nonce_to_the_other() -> None:
    a, b, c = b"a" * 16, b"b" * 15, b"c" * 16
    assert code(nonces=(a + b"/" + b, c)) != code(nonces=(a, b + b"/" + c))
    assert code(nonces=(a + b, c)) != code(nonces=(a, b + c))


@given(nonces, nonces)
def test_a_commitment_holds_one_to_its_nonce(nonce: bytes, other: bytes) -> None:
    assert (commitment(nonce) == commitment(other)) == (nonce == other)
    assert len(commitment(nonce)) == 32


def test_a_commitment_is_no_bare_hash() -> None:
    nonce = bytes(16)
    assert commitment(nonce) == hashlib.sha256(b"aigrid-join-1/" + nonce).digest()


def test_the_code_is_computed_as_in_the_specification() -> None:
    parts = (
        b"aigrid-join-1",
        ALICE.did.encode(),
        BOB.peer_id.encode(),
        CAROL.peer_id.encode(),
        b"j" * 16,
        b"h" * 16,
    )
    joined = b"".join(len(part).to_bytes(2, "big") + part for part in parts)
    number = int.from_bytes(hashlib.sha256(joined).digest()[:8], "big") % 1_000_000
    assert code().replace(" ", "") == f"{number:06d}"
