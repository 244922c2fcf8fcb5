"""Memberships that a delegate renewed, in the decision: nobody admits itself."""

import base64
import dataclasses
from typing import Any

from scripts import policy_world as world
from scripts.policy_cases import FOR_MEMBERS, MEMBER, decision
from scripts.policy_world import (
    ANN,
    AUTHORITY,
    BEN,
    DAY_MS,
    GATEWAY,
    NOW_MS,
    STRANGER,
    statuses,
)

from aigrid.protocol.errors import Code
from aigrid.protocol.membership import renewal_body
from aigrid.protocol.record import Record
from aigrid.protocol.status import IssuerStatus


def renewed(by: Any = BEN, original: Record = MEMBER, **more: Any) -> Record:
    said = {"renews": renewal_body(original).renews, "status": original.status, **more}
    return world.membership(by=by, **said)


def with_delegates(*dids: str) -> Any:
    own = dataclasses.replace(statuses()[AUTHORITY.did], delegates=dids)
    return {**statuses(), AUTHORITY.did: own}


DELEGATED = with_delegates(BEN.did)


def test_a_membership_that_a_delegate_renewed_counts():
    assert decision([renewed()], FOR_MEMBERS, known=DELEGATED).allowed
    long_ago = world.membership(start_ms=NOW_MS - 40 * DAY_MS, life_ms=DAY_MS)
    assert decision([renewed(original=long_ago)], FOR_MEMBERS, known=DELEGATED).allowed


def test_nobody_admits_itself_by_renewing():
    forged = {
        "by nobody's leave": (renewed(), statuses()),
        "by another": (renewed(by=STRANGER), DELEGATED),
        "of nothing": (renewed(renews="AAAA"), DELEGATED),
        "of no text": (renewed(renews="A"), DELEGATED),
        "of another's": (renewed(original=world.membership(ANN)), DELEGATED),
        "of a manifest": (renewed(renews=_encoded(world.MANIFEST)), DELEGATED),
        "of one by another": (
            renewed(
                renews=_encoded(world.membership(by=BEN, grid=BEN.did, status=world.entry(BEN, 1)))
            ),
            DELEGATED,
        ),
        "of a renewal": (renewed(renews=_encoded(renewed())), DELEGATED),
        "under another entry": (renewed(status=world.entry(AUTHORITY, 2)), DELEGATED),
        "under a laxer entry": (renewed(status=world.entry(AUTHORITY, 1, 601)), DELEGATED),
        "for ever": (renewed(life_ms=31 * DAY_MS), DELEGATED),
        "by the holder": (renewed(by=GATEWAY), DELEGATED),
    }
    codes = {
        what: decision([record], FOR_MEMBERS, known=known).code
        for what, (record, known) in forged.items()
    }
    assert set(codes.values()) == {Code.NOT_MEMBER}, codes


def _encoded(record: Record) -> str:
    return base64.urlsafe_b64encode(record.raw).decode().rstrip("=")


def test_a_renewal_is_revoked_with_what_it_renews():
    gone = {**DELEGATED, AUTHORITY.did: _revoked(DELEGATED[AUTHORITY.did])}
    assert decision([renewed()], FOR_MEMBERS, known=gone).code is Code.REVOKED


def _revoked(known: IssuerStatus) -> IssuerStatus:
    bits = statuses(revoked={AUTHORITY.did: [1]})[AUTHORITY.did].bits
    return dataclasses.replace(known, bits=bits)
