"""Whose word on the quality of models counts how much: `[trust]` in `config.toml`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aigrid.node.settings.setting import BadValueError
from aigrid.protocol.errors import VerificationError
from aigrid.protocol.limits import LIMITS

_MEMBERS = "members"


@dataclass(frozen=True, slots=True)
class TrustConfig:
    """Weights from 0 to 1; one's own word counts 1, and so does that of the authority's node.

    Attributes:
        named: by DID, whether or not a member.
        members: of the others that are members; that of strangers counts 0.
    """

    named: Mapping[str, float] = field(default_factory=dict)
    members: float = LIMITS.member_trust


def trust(value: Any) -> TrustConfig:
    """A table, or `members=0.1,did:key:z...=0.9`. Raises BadValueError."""
    if isinstance(value, str):
        parts = [part.rpartition("=") for part in value.split(",")]
        value = {key.strip(): said.strip() for key, _, said in parts}
    if not isinstance(value, Mapping) or len(value) > LIMITS.trusted_max + 1:
        raise BadValueError(f"is a table of at most {LIMITS.trusted_max} DIDs, and `members`")
    weights = {key: _weight(key, said) for key, said in value.items()}
    members = weights.pop(_MEMBERS, LIMITS.member_trust)
    _check_dids(weights)
    return TrustConfig(weights, members)


def _weight(key: str, said: Any) -> float:
    try:
        weight = -1.0 if isinstance(said, bool) else float(said)
    except (TypeError, ValueError):
        weight = -1.0
    if not 0 <= weight <= 1:
        raise BadValueError(f"gives {key[:80]!r} no number from 0 to 1")
    return weight


def _check_dids(dids: Mapping[str, float]) -> None:
    from aigrid.protocol.identity import public_key_of_did  # late: loads libsodium

    for did in dids:
        try:
            public_key_of_did(did)
        except VerificationError:
            raise BadValueError(
                f"names {did[:80]!r}, which is neither `members` nor a DID such as "
                "did:key:z6Mk... (`aigrid id`)"
            ) from None
