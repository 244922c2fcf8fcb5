"""What an operator configures of policy: whom the node serves, what it hosts, within what limits.

The words are those of `protocol/policy.py`, which is imported late: it loads libsodium.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aigrid.node.settings.setting import BadValueError, is_region, number_of, texts
from aigrid.protocol.errors import VerificationError
from aigrid.protocol.limits import LIMITS

if TYPE_CHECKING:
    from aigrid.protocol.policy import OperatorPolicy

_NOBODY, _NOTHING = "nobody", "nothing"
# Ids and expressions of SPDX, and names of licences that it does not know.
_LICENSE = re.compile(r"[A-Za-z0-9(][A-Za-z0-9.+:()/ -]*")
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
    """Whom to serve: `members`, `anyone`, holders of a grant from a DID; `nobody` alone: no one."""
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

    from aigrid.metagraph.capabilities import known
    from aigrid.protocol.canonical import is_content_id
    from aigrid.protocol.credential_kinds import EVERYTHING, Target
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
            raise BadValueError(_not_hosted(one)) from None
        # Other names than those that are shipped are in somebody's namespace, or a model's.
        if not (one == EVERYTHING or one.startswith(MODEL_URN) or "#" in one or known(one)):
            raise BadValueError(_not_hosted(one))
    return targets


def _not_hosted(named: str) -> str:
    return (
        f"lists {named[:80]!r}, which is neither a capability that is known, nor a model's id"
        " (`aigrid models`), nor *"
    )


def region(value: Any) -> str:
    """Where the node is, as policies name it."""
    if not isinstance(value, str) or not is_region(value) or len(value) > LIMITS.name_max_chars:
        raise BadValueError("must be letters, digits and hyphens, such as eu or us-west")
    return str(value)


def amount(value: Any) -> int:
    """A limit; 0 is none."""
    return number_of(value, _AMOUNT_MAX, f"up to {_AMOUNT_MAX}, 0 for no limit")


def licenses(value: Any) -> tuple[str, ...]:
    """Licences that requests of this node accept, by their SPDX ids."""
    import msgspec

    from aigrid.protocol.credential_kinds import License

    found = texts(value, "a list of SPDX ids such as Apache-2.0")
    if len(found) > LIMITS.presentation_licenses_max:
        raise BadValueError(f"lists more than {LIMITS.presentation_licenses_max} licences")
    try:
        for one in found:
            if not _LICENSE.fullmatch(one):
                raise BadValueError(f"lists {one[:80]!r}, which is no SPDX id such as Apache-2.0")
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
