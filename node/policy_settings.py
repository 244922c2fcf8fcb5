"""What an operator configures of policy: whom the node serves, what it hosts, within what limits.

The words are those of `protocol/policy.py`, which is imported late: it loads libsodium.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aigrid.node.setting import BadValueError, texts
from aigrid.protocol.errors import VerificationError
from aigrid.protocol.limits import LIMITS

if TYPE_CHECKING:
    from aigrid.protocol.policy import OperatorPolicy

_NOBODY, _NOTHING = "nobody", "nothing"
_AMOUNT_MAX = 2**53 - 1


def operator_policy(
    *,
    serve: frozenset[str] | None,
    host: frozenset[str],
    open_to_strangers: bool,
    limits: Mapping[str, int],
) -> "OperatorPolicy":
    """The operator's policy; where nothing is said of whom to serve, that is as open as the grid.

    `limits` are the last three attributes of `OperatorPolicy`.
    """
    from aigrid.protocol.credential_kinds import ANYONE, MEMBERS
    from aigrid.protocol.policy import OperatorPolicy

    usual = frozenset({ANYONE if open_to_strangers else MEMBERS})
    return OperatorPolicy(usual if serve is None else serve, host, **limits)


def served(value: Any) -> frozenset[str]:
    """Whom to serve: `members`, `anyone`, or DIDs whose grants count; `nobody` alone: no one."""
    from aigrid.protocol.credential_kinds import ANYONE, MEMBERS
    from aigrid.protocol.identity import public_key_of_did

    found = _some(value, "members, anyone or DIDs, or nobody")
    if found == {_NOBODY}:
        return frozenset()
    if _NOBODY in found:
        raise BadValueError(f"names {_NOBODY} beside others")
    for one in found - {ANYONE, MEMBERS}:
        try:
            public_key_of_did(one)
        except VerificationError:
            raise BadValueError(
                f"lists {one[:80]!r}, which is neither members, nor anyone, nor a DID such as "
                "did:key:z6Mk... (`aigrid id`)"
            ) from None
    return found


def hosted(value: Any) -> frozenset[str]:
    """What to host: model ids and capabilities, or `*` for everything; `nothing` alone: nothing."""
    import msgspec

    from aigrid.protocol.canonical import is_content_id
    from aigrid.protocol.credential_kinds import Target
    from aigrid.protocol.model import MODEL_URN

    found = _some(value, "capabilities, model ids or *, or nothing")
    if found == {_NOTHING}:
        return frozenset()
    if _NOTHING in found:
        raise BadValueError(f"names {_NOTHING} beside others")
    targets = frozenset(MODEL_URN + one if is_content_id(one) else one for one in found)
    for one in targets:
        try:
            msgspec.convert(one, Target)
        except msgspec.ValidationError:
            raise BadValueError(
                f"lists {one[:80]!r}, which is neither a capability, nor a model's id, nor *"
            ) from None
    return targets


def amount(value: Any) -> int:
    """A limit; 0 is none."""
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        value = int(value[:20])
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _AMOUNT_MAX:
        raise BadValueError("must be a number, or 0 for no limit")
    return value


def licenses(value: Any) -> tuple[str, ...]:
    """Licences that requests of this node accept, by their SPDX ids."""
    import msgspec

    from aigrid.protocol.credential_kinds import License

    found = texts(value, "a list of SPDX ids such as Apache-2.0")
    if len(found) > LIMITS.presentation_licenses_max:
        raise BadValueError(f"lists more than {LIMITS.presentation_licenses_max} licences")
    try:
        return tuple(sorted(msgspec.convert(found, set[License])))
    except msgspec.ValidationError:
        raise BadValueError("must be a list of SPDX ids such as Apache-2.0") from None


def _some(value: Any, what: str) -> frozenset[str]:
    found = frozenset(texts(value, f"a list of {what}"))
    if not found:
        raise BadValueError(f"must name {what}")
    if len(found) > LIMITS.permission_items_max:
        raise BadValueError(f"lists more than {LIMITS.permission_items_max}")
    return found
