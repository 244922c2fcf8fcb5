"""Whose word on the quality of models counts how much: `[trust]` in `config.toml`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aigrid.node.settings.setting import BadValueError, Spelled, kind_of, table
from aigrid.protocol.errors import VerificationError
from aigrid.protocol.limits import LIMITS

_MEMBERS = "members"
_AUDIT = "audit"


@dataclass(frozen=True, slots=True)
class TrustConfig:
    """Weights from 0 to 1; one's own word counts 1, and so does that of the authority's node.

    Attributes:
        named: by DID, whether or not a member.
        members: of the others that are members; that of strangers counts 0.
        audit: share of the answers of nodes of full standing that are checked at another holder;
            None: `LIMITS.audit_share` where strangers are served, else none.
    """

    named: Mapping[str, float] = field(default_factory=dict)
    members: float = LIMITS.member_trust
    audit: float | None = None


def trust(value: Any) -> TrustConfig:
    """A table, or `members=0.1,audit=0.02,did:key:z...=0.9`. Raises BadValueError."""
    value = table(value, "[trust] with members = 0.1")
    if len(value) > LIMITS.trusted_max + 2:
        raise BadValueError(
            f"is a table of at most {LIMITS.trusted_max} DIDs, `members` and `audit`"
        )
    weights = {key: _weight(key, said) for key, said in value.items()}
    members, audit = weights.pop(_MEMBERS, LIMITS.member_trust), weights.pop(_AUDIT, None)
    _check_dids(weights)
    return TrustConfig(weights, members, audit)


def _weight(key: str, said: Any) -> float:
    if isinstance(said, bool) or not isinstance(said, int | float | Spelled):
        raise BadValueError(f"{key[:80]!r} must be a number from 0 to 1, and is {kind_of(said)}")
    try:
        weight = float(said)
    except (OverflowError, ValueError):
        weight = -1.0
    if not 0 <= weight <= 1:
        raise BadValueError(f"{key[:80]!r} must be a number from 0 to 1")
    return weight


def _check_dids(dids: Mapping[str, float]) -> None:
    from aigrid.protocol.identity import public_key_of_did  # late: loads libsodium

    for did in dids:
        try:
            public_key_of_did(did)
        except VerificationError:
            raise BadValueError(
                f"names {did[:80]!r}, which is neither `members`, `audit` nor a DID such as "
                "did:key:z6Mk... (`aigrid id`)"
            ) from None
