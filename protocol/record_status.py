"""The `credentialStatus` of a record: where its issuer says whether it is revoked. Pure.

A `BitstringStatusListEntry` (Bitstring Status List 1.0) with one term of ours: `maxStatusAge`, how
old a status list may be, in seconds, for the credential to count.
"""

from dataclasses import dataclass
from typing import Any

from aigrid.protocol.credential_kinds import status_list_of
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.limits import LIMITS

_MEMBERS = {"type", "statusPurpose", "statusListIndex", "statusListCredential", "maxStatusAge"}


@dataclass(frozen=True, slots=True)
class StatusEntry:
    """A place in the status list of `issuer`. The list may be `max_age_seconds` old."""

    issuer: str
    index: int
    max_age_seconds: int

    def document(self) -> dict[str, Any]:
        """As it stands in a record."""
        return {
            "type": "BitstringStatusListEntry",
            "statusPurpose": "revocation",
            "statusListIndex": str(self.index),
            "statusListCredential": status_list_of(self.issuer),
            "maxStatusAge": self.max_age_seconds,
        }


def read_status(found: Any, owner: str) -> StatusEntry:
    """The entry in a record whose revocations `owner` (a DID) decides.

    Raises:
        VerificationError: `unknown_field` or `malformed`.
    """
    if not isinstance(found, dict):
        raise VerificationError("credentialStatus is not one object")
    unknown = found.keys() - _MEMBERS
    if unknown:
        raise VerificationError(f"unknown member {min(unknown)[:64]!r}", Code.UNKNOWN_FIELD)
    index, seconds = found.get("statusListIndex"), found.get("maxStatusAge")
    if not isinstance(index, str) or not (index.isascii() and index.isdecimal()):
        raise VerificationError("statusListIndex is not a number in a string")
    if len(index) > 7 or int(index) >= LIMITS.status_entries or str(int(index)) != index:
        raise VerificationError("statusListIndex is not that of an entry")
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        raise VerificationError("maxStatusAge is not a number of seconds")
    if not 1 <= seconds <= LIMITS.status_age_max_seconds:
        raise VerificationError("maxStatusAge is not within its bounds")
    entry = StatusEntry(owner, int(index), seconds)
    if found != entry.document():
        raise VerificationError("credentialStatus is not as SPEC.md prescribes")
    return entry
