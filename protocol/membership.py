"""Joining a grid: invitations, memberships and the short code that two people compare. Pure.

A grid is named by its authority's DID. A membership is a record of kind `Membership` that the
authority issued to a member's DID; an invitation, one of kind `Invitation` bound to the invited
DID, which the inviting node exchanges for a membership once.
"""

import base64
import binascii
import functools
import hashlib
from collections.abc import Collection

from msgspec import UNSET

from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.identity import Identity, peer_id_of_did
from aigrid.protocol.kinds import InvitationBody, Kind, MembershipBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record, build, check_time, verify_form_and_signature
from aigrid.protocol.record_status import StatusEntry
from aigrid.protocol.rotation import RotationBody
from aigrid.protocol.status import delegates_of
from aigrid.protocol.timestamp import format_ms

INVITATION_PREFIX = "aigrid-invitation-"
_CODE_DIGITS = 6


def issue_membership(
    authority: Identity,
    did: str,
    *,
    now_ms: int,
    valid_ms: int,
    role: str = "member",
    status: StatusEntry | None = None,
) -> Record:
    """Admit `did` to the grid of `authority`."""
    body = MembershipBody(
        id=did, grid=authority.did, role="authority" if role == "authority" else "member"
    )
    return build(
        Kind.MEMBERSHIP,
        body,
        authority,
        valid_from_ms=now_ms,
        valid_until_ms=now_ms + valid_ms,
        status=status,
    )


def renewal_body(original: Record) -> MembershipBody:
    """What a delegate of the authority says to renew a membership that the authority signed."""
    body = original.body
    if not isinstance(body, MembershipBody) or original.status is None:
        raise VerificationError("only a membership that can be revoked is renewed", Code.NOT_MEMBER)
    renews = base64.urlsafe_b64encode(original.raw).decode("ascii").rstrip("=")
    return MembershipBody(id=body.id, grid=body.grid, renews=renews)


def check_renewal(record: Record, delegates: Collection[str]) -> Record:
    """The membership that `record` renews, as the authority of its grid signed it.

    That one may have expired: what ends a membership is that it is revoked, or not renewed.

    Args:
        record: a membership whose own form and signature were checked.
        delegates: DIDs of who may renew memberships of its grid.

    Raises:
        VerificationError: `not_member` unless one of them renews, for the same member under the
            same status entry and for no longer than usual, what the authority signed; or what is
            wrong with that.
    """
    body = record.body
    if not isinstance(body, MembershipBody) or body.renews is UNSET:
        raise VerificationError("not a membership that renews one", Code.NOT_MEMBER)
    if record.issuer not in delegates:
        raise VerificationError("renewed by a node that may not do so", Code.NOT_MEMBER)
    original = _renewed(body.renews)
    signed = original.body
    if not isinstance(signed, MembershipBody) or original.issuer != body.grid:
        raise VerificationError("the authority did not sign what is renewed", Code.NOT_MEMBER)
    if signed.id != body.id or signed.role != body.role or record.status is None:
        raise VerificationError("the renewal is not of the same membership", Code.NOT_MEMBER)
    if record.status != original.status or record.valid_from_ms < original.valid_from_ms:
        raise VerificationError("the renewal is not of the same membership", Code.NOT_MEMBER)
    lifetime_ms = record.valid_until_ms - record.valid_from_ms
    if lifetime_ms > LIMITS.membership_default_seconds * 1000:
        raise VerificationError("renewed for longer than usual", Code.TTL_TOO_LONG)
    return original


@functools.lru_cache(maxsize=1024)  # what it says depends on the text alone
def _renewed(text: str) -> Record:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise VerificationError("what is renewed is not in base64url", Code.NOT_MEMBER) from None
    return verify_form_and_signature(raw)


def delegates_in(raw: bytes, *, grid: str, now_ms: int) -> tuple[str, ...]:
    """Who may renew memberships of `grid`, by a StatusDelegation that came with one; b"" for none.

    Raises:
        VerificationError: it does not hold now, or is not that of the grid's authority.
    """
    if not raw:
        return ()
    record = verify_form_and_signature(raw)
    check_time(record, now_ms)
    if record.kind is not Kind.STATUS_DELEGATION or record.issuer != grid:
        raise VerificationError("not the delegation of this grid", Code.NOT_MEMBER)
    return delegates_of(record, grid)


def check_membership(
    raw: bytes, *, grid: str, peer_id: str, now_ms: int, delegates: Collection[str] = ()
) -> Record:
    """The membership of the peer at the other end of a connection.

    `delegates` are DIDs of those who may renew it instead of the authority.

    Raises:
        VerificationError: `not_member`, when it is for another key, grid or kind, or withdrawn; or
            what `record.verify` or `check_renewal` raises.
    """
    record = verify_form_and_signature(raw)
    check_time(record, now_ms)
    if not isinstance(record.body, MembershipBody) or record.body.grid != grid:
        raise VerificationError("not a membership of this grid", Code.NOT_MEMBER)
    if record.issuer != grid:
        check_renewal(record, delegates)
    if peer_id_of_did(record.subject) != peer_id:
        raise VerificationError("a membership of another key", Code.NOT_MEMBER)
    return record


def issue_invitation(
    authority: Identity,
    did: str,
    *,
    peer_id: str,
    addresses: tuple[str, ...],
    nonce: str,
    now_ms: int,
    valid_ms: int,
) -> Record:
    """Invite `did`; redeemable at `peer_id`, reachable at `addresses`."""
    body = InvitationBody(
        id=did,
        grid=authority.did,
        peer_id=peer_id,
        addresses=addresses[: LIMITS.addresses_max],
        nonce=nonce,
    )
    return build(
        Kind.INVITATION, body, authority, valid_from_ms=now_ms, valid_until_ms=now_ms + valid_ms
    )


def invitation_text(invitation: Record) -> str:
    """What `aigrid invite` prints: a prefix and base64url of the record."""
    return INVITATION_PREFIX + base64.urlsafe_b64encode(invitation.raw).decode("ascii").rstrip("=")


def parse_invitation(text: str) -> tuple[Record, InvitationBody]:
    """Read an invitation as a person pasted it; time and recipient are not checked.

    Raises:
        VerificationError: `invitation_invalid`.
    """
    text = "".join(text.split())
    encoded = text.removeprefix(INVITATION_PREFIX)
    if encoded == text or len(encoded) > 2 * LIMITS.join_max_bytes:
        raise VerificationError("this is not an invitation", Code.INVITATION_INVALID)
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise VerificationError(
            "the invitation is damaged; copy it again", Code.INVITATION_INVALID
        ) from None
    return _as_invitation(raw)


def check_invitation(raw: bytes, *, did: str, now_ms: int) -> tuple[Record, InvitationBody]:
    """An invitation that `did` may redeem now, as far as one can tell from the record alone.

    Raises:
        VerificationError: `invitation_invalid`, `invitation_expired` or `invitation_not_yours`.
    """
    record, body = _as_invitation(raw)
    try:
        check_time(record, now_ms)
    except VerificationError as error:
        code = Code.INVITATION_EXPIRED if error.code is Code.EXPIRED else Code.INVITATION_INVALID
        raise VerificationError(f"the invitation is {error.message}", code) from None
    if record.subject != did:
        raise VerificationError("the invitation is bound to another key", Code.INVITATION_NOT_YOURS)
    return record, body


def check_presented_rotation(
    raw: bytes, *, peer_id: str, now_ms: int
) -> tuple[Record, RotationBody]:
    """A KeyRotation to the key of the peer that presents it, valid now.

    Raises:
        VerificationError: `rotation_refused`, when it is to another key, withdrawn, or its two
            times differ; or what `record.verify` raises.
    """
    record = verify_form_and_signature(raw)
    check_time(record, now_ms)
    body = record.body
    if not isinstance(body, RotationBody) or peer_id_of_did(body.successor) != peer_id:
        raise VerificationError("not a rotation to this key", Code.ROTATION_REFUSED)
    if body.rotated != format_ms(record.valid_from_ms):
        raise VerificationError("what the successor signed is not this", Code.ROTATION_REFUSED)
    return record, body


def short_code(*, grid: str, joiner: str, host: str, joiner_nonce: bytes, host_nonce: bytes) -> str:
    """Six digits that both ends show; equal only when both talk about the same two keys.

    `grid` is the grid's DID; `joiner` and `host` are the PeerIds that the connection proved.
    As in Bluetooth's numeric comparison, the joiner commits to its nonce before it sees the host's,
    so somebody in the middle has one guess in a million per attempt.
    """
    digest = hashlib.sha256()
    names = (b"aigrid-join-1", grid.encode(), joiner.encode(), host.encode())
    for part in (*names, joiner_nonce, host_nonce):
        digest.update(len(part).to_bytes(2, "big") + part)
    number = int.from_bytes(digest.digest()[:8], "big") % 10**_CODE_DIGITS
    text = f"{number:0{_CODE_DIGITS}d}"
    return f"{text[:3]} {text[3:]}"


def commitment(nonce: bytes) -> bytes:
    """What `AskToJoin` carries."""
    return hashlib.sha256(b"aigrid-join-1/" + nonce).digest()


def _as_invitation(raw: bytes) -> tuple[Record, InvitationBody]:
    try:
        record = verify_form_and_signature(raw)
    except VerificationError as error:
        raise VerificationError(
            f"the invitation does not verify: {error.message}", Code.INVITATION_INVALID
        ) from None
    if record.kind is not Kind.INVITATION or not isinstance(record.body, InvitationBody):
        raise VerificationError("this is not an invitation", Code.INVITATION_INVALID)
    return record, record.body
