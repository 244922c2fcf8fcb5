"""Which credentials are revoked: lists, and what may be concluded from those one has. Pure.

Source: Bitstring Status List 1.0 (W3C): a bit per credential, compressed with gzip, in multibase
base64url. Revocation is for good: a bit that any list of the issuer or its delegates has set is
set, so lists need no order. How old they may be each credential states, as `maxStatusAge`.
"""

import base64
import binascii
import gzip
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from aigrid.protocol.credential_kinds import (
    StatusDelegationBody,
    status_list_of,
)
from aigrid.protocol.errors import VerificationError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record

_BYTES = LIMITS.status_entries // 8
_NONE = bytes(_BYTES)


class Standing(Enum):
    """What is known of a credential's revocation."""

    GOOD = "good"
    REVOKED = "revoked"
    STALE = "stale"


def encode_bits(bits: bytes) -> str:
    """`encodedList` of a bitstring; bit 0 is the most significant of the first byte."""
    packed = gzip.compress(bits, mtime=0)
    return "u" + base64.urlsafe_b64encode(packed).decode("ascii").rstrip("=")


def decode_bits(encoded: str) -> bytes:
    """The bitstring of an `encodedList`, never more than this many bytes of it.

    Raises:
        VerificationError: when it is not one of exactly `status_entries` bits.
    """
    try:
        packed = base64.urlsafe_b64decode(encoded[1:] + "=" * (-(len(encoded) - 1) % 4))
        inflate = zlib.decompressobj(wbits=31)
        bits = inflate.decompress(packed, _BYTES + 1)
    except (binascii.Error, zlib.error, ValueError):
        raise VerificationError("the status list cannot be unpacked") from None
    if len(bits) != _BYTES or not inflate.eof or inflate.unused_data:
        raise VerificationError(f"a status list has {LIMITS.status_entries} entries")
    return bits


def no_bits() -> bytes:
    """A list in which nothing is revoked."""
    return _NONE


def with_bit(bits: bytes, index: int) -> bytes:
    """The same list with one more credential revoked."""
    changed = bytearray(bits)
    changed[index // 8] |= 0x80 >> index % 8
    return bytes(changed)


def has_bit(bits: bytes, index: int) -> bool:
    return bool(bits[index // 8] & (0x80 >> index % 8))


def union(lists: Iterable[bytes]) -> bytes:
    """What is revoked in any of them."""
    whole = 0
    for bits in lists:
        whole |= int.from_bytes(bits)
    return whole.to_bytes(_BYTES)


@dataclass(frozen=True, slots=True)
class IssuerStatus:
    """What is known of the revocations of one issuer.

    Attributes:
        bits: the union of all lists known, of the issuer and its delegates.
        own_ms: `validFrom` of its own newest list; 0: none.
        delegates_ms: of those of its delegates, by DID.
        quorum: how many delegates' lists must be recent where its own is not; 0: none suffices.
        delegates: who may sign such lists and renew memberships of a grid, whether or not they did.
    """

    bits: bytes = field(default_factory=no_bits, repr=False)
    own_ms: int = 0
    delegates_ms: Mapping[str, int] = field(default_factory=dict)
    quorum: int = 0
    delegates: tuple[str, ...] = ()

    @property
    def as_of_ms(self) -> int:
        """The time up to which revocations are known here."""
        times = sorted(self.delegates_ms.values(), reverse=True)
        quorum_ms = times[self.quorum - 1] if 0 < self.quorum <= len(times) else 0
        return max(self.own_ms, quorum_ms)


Statuses = Mapping[str, IssuerStatus]
"""By the DID of the credentials' issuer."""


def standing(credential: Record, statuses: Statuses, now_ms: int) -> Standing:
    """Whether a credential is revoked, as far as the lists tell that are recent enough for it.

    One that has no status entry, or whose issuer's list is unknown, is `STALE`: never good.
    """
    entry = credential.status
    if entry is None:
        return Standing.STALE
    known = statuses.get(entry.issuer)
    if known is None:
        return Standing.STALE
    if has_bit(known.bits, entry.index):
        return Standing.REVOKED
    if known.as_of_ms < now_ms - entry.max_age_seconds * 1000:
        return Standing.STALE
    return Standing.GOOD


def delegates_of(delegation: Record | None, owner: str) -> tuple[str, ...]:
    """Who may sign the status list of `owner` beside it."""
    if delegation is None or delegation.issuer != owner:
        return ()
    body = delegation.body
    return body.delegates if isinstance(body, StatusDelegationBody) else ()


def status_of(
    owner: str, times: Mapping[str, int], bits: bytes, delegation: Record | None
) -> IssuerStatus:
    """Put together what is known of an issuer's revocations.

    Args:
        owner: the issuer's DID.
        times: of each DID that signed one: `validFrom` (ms) of its newest list.
        bits: the union of those that count.
        delegation: the StatusDelegation of `owner` in force, if there is one.
    """
    allowed = delegates_of(delegation, owner)
    body = delegation.body if delegation is not None else None
    return IssuerStatus(
        bits=bits,
        own_ms=times.get(owner, 0),
        delegates_ms={did: times[did] for did in allowed if did in times},
        quorum=body.quorum if isinstance(body, StatusDelegationBody) else 0,
        delegates=allowed,
    )


def list_body(owner: str, bits: bytes) -> dict[str, Any]:
    """Arguments of a `StatusListBody`."""
    return {"id": status_list_of(owner), "encoded_list": encode_bits(bits)}
