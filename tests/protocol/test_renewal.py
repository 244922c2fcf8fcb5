"""Memberships that others than the authority renewed, as a peer and a decision see them."""

import pytest

from aigrid.protocol.credential_kinds import StatusDelegationBody, status_list_of
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import Kind, MembershipBody, ModelBody
from aigrid.protocol.membership import (
    check_membership,
    check_renewal,
    delegates_in,
    issue_membership,
    renewal_body,
)
from aigrid.protocol.model import MODEL_URN, ModelDescription, model_id
from aigrid.protocol.policy import Asked, Decision, Policies, decide
from aigrid.protocol.record import Record, build
from aigrid.protocol.record_status import StatusEntry
from aigrid.protocol.status import IssuerStatus, no_bits, with_bit

GRID, NODE, MEMBER, DELEGATE, STRANGER = (Identity(bytes([n]) * 32) for n in range(60, 65))
NOW, DAY_MS = 1_790_000_000_000, 86_400_000
ENTRY = StatusEntry(GRID.did, 5, 86_400)
ORIGINAL = issue_membership(
    GRID, MEMBER.did, now_ms=NOW - 20 * DAY_MS, valid_ms=15 * DAY_MS, status=ENTRY
)
DELEGATION = build(
    Kind.STATUS_DELEGATION,
    StatusDelegationBody(status_list_of(GRID.did), (DELEGATE.did,), 1),
    GRID,
    valid_from_ms=NOW,
    valid_until_ms=NOW + DAY_MS,
)


def renewed(by: Identity = DELEGATE, body: MembershipBody | None = None) -> Record:
    return build(
        Kind.MEMBERSHIP,
        body or renewal_body(ORIGINAL),
        by,
        valid_from_ms=NOW,
        valid_until_ms=NOW + 30 * DAY_MS,
        status=ENTRY,
    )


def decision(
    membership: Record, known: IssuerStatus | None, holder: Identity = MEMBER, now: int = NOW
) -> Decision:
    description = ModelDescription("echo", "text-generation", ())
    model = model_id(description)
    manifest = build(
        Kind.MODEL,
        ModelBody(
            id=MODEL_URN + model, name="x", capabilities=("text-generation",), model=description
        ),
        NODE,
        valid_from_ms=NOW,
        valid_until_ms=NOW + 300 * DAY_MS,
    )
    statuses = {} if known is None else {GRID.did: known}
    asked = Asked(holder.did, NODE.did, model)
    return decide("invoke", asked, [membership], Policies(GRID.did, manifest), statuses, now)


GOOD = IssuerStatus(own_ms=NOW, delegates=(DELEGATE.did,))


def test_a_renewed_membership_serves_where_its_delegate_is_known() -> None:
    assert decision(renewed(), GOOD).allowed
    assert decision(renewed(), IssuerStatus(own_ms=NOW)).code is Code.NOT_MEMBER
    assert decision(renewed(), None).code is Code.NOT_MEMBER


def test_nobody_makes_itself_a_member_by_renewing_nothing() -> None:
    """The form alone would pass: of a record, the grid in its body need not be the issuer."""
    claim = MembershipBody(id=STRANGER.did, grid=GRID.did, renews="AAAA")
    own = renewed(STRANGER, claim)
    assert decision(own, GOOD, STRANGER).code is Code.NOT_MEMBER
    by_delegate = renewed(DELEGATE, claim)
    assert decision(by_delegate, GOOD, STRANGER).code is Code.NOT_MEMBER
    of_another = MembershipBody(
        id=STRANGER.did, grid=GRID.did, renews=renewal_body(ORIGINAL).renews
    )
    assert decision(renewed(body=of_another), GOOD, STRANGER).code is Code.NOT_MEMBER


def test_a_renewed_membership_is_revoked_and_stale_like_the_original() -> None:
    revoked = IssuerStatus(with_bit(no_bits(), 5), own_ms=NOW, delegates=(DELEGATE.did,))
    assert decision(renewed(), revoked).code is Code.REVOKED
    assert decision(renewed(), GOOD, now=NOW + DAY_MS + 1).code is Code.STATUS_STALE


def test_a_peer_shows_the_delegation_with_its_membership() -> None:
    raw, peer = renewed().raw, MEMBER.peer_id
    for others in ([], [STRANGER.did]):
        with pytest.raises(VerificationError) as caught:
            check_membership(raw, grid=GRID.did, peer_id=peer, now_ms=NOW, delegates=others)
        assert caught.value.code is Code.NOT_MEMBER
    delegates = delegates_in(DELEGATION.raw, grid=GRID.did, now_ms=NOW)
    found = check_membership(raw, grid=GRID.did, peer_id=peer, now_ms=NOW, delegates=delegates)
    assert check_renewal(found, delegates) == ORIGINAL
    with pytest.raises(VerificationError):
        check_membership(
            raw, grid=GRID.did, peer_id=STRANGER.peer_id, now_ms=NOW, delegates=delegates
        )


def test_a_delegation_counts_in_its_own_grid_and_time_alone() -> None:
    assert delegates_in(b"", grid=GRID.did, now_ms=NOW) == ()
    for raw, grid, now in (
        (DELEGATION.raw, NODE.did, NOW),
        (DELEGATION.raw, GRID.did, NOW + DAY_MS),
        (ORIGINAL.raw, GRID.did, NOW - 19 * DAY_MS),
        (b"{}", GRID.did, NOW),
    ):
        with pytest.raises(VerificationError):
            delegates_in(raw, grid=grid, now_ms=now)


def test_only_what_can_be_revoked_is_renewed() -> None:
    with pytest.raises(VerificationError):
        renewal_body(issue_membership(GRID, MEMBER.did, now_ms=NOW, valid_ms=DAY_MS))
