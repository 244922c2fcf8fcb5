"""Memberships that a delegate of the authority has renewed while the authority was away. Pure.

Such a record is signed by the delegate and holds, as `renews`, the membership that the authority
signed: it says nothing new but for how long.
"""

import base64
import binascii
import functools

from msgspec import UNSET

from aigrid.protocol.errors import VerificationError
from aigrid.protocol.kinds import MembershipBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record, verify_form_and_signature


def renewal_flaw(record: Record, delegates: frozenset[str]) -> str:
    """Why a membership is not one that its grid's authority, or a delegate for it, issued; or "".

    Args:
        record: a membership whose signature was verified; the authority's own has no flaw.
        delegates: DIDs to which the authority has given its status list, now.
    """
    body = record.body
    if not isinstance(body, MembershipBody):
        return "this is no membership"
    if body.renews is UNSET:
        return "" if record.issuer == body.grid else "a membership of another issuer"
    if record.issuer not in delegates:
        return "renewed by a key to which the authority has not given that"
    if record.valid_until_ms - record.valid_from_ms > LIMITS.membership_default_seconds * 1000:
        return "renewed for too long"
    original = renewed(body.renews)
    return _flaw_of_original(record, body, original)


@functools.lru_cache(maxsize=1024)  # what it says depends on the text alone
def renewed(text: str) -> Record | None:
    """The record within `renews`, its signature verified but not its time; None if it is none."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return verify_form_and_signature(raw)
    except (binascii.Error, ValueError, VerificationError):
        return None


def _flaw_of_original(record: Record, body: MembershipBody, original: Record | None) -> str:
    if original is None or not isinstance(original.body, MembershipBody):
        return "what it renews is no membership"
    if original.issuer != body.grid or original.body.renews is not UNSET:
        return "what it renews is not signed by the authority"
    if original.subject != record.subject:
        return "what it renews is the membership of another key"
    if original.status is None or original.status != record.status:
        return "what it renews has another status entry"
    if original.valid_from_ms > record.valid_from_ms:
        return "it renews what is later than itself"
    return ""
