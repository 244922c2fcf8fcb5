"""From what a person says of a new credential to its permission and terms, and back."""

import re
from typing import Any

import msgspec

from aigrid.node.app import Node
from aigrid.node.commands.finding import check_capability
from aigrid.node.commands.misfit import misfit
from aigrid.node.policy.wallet import Terms
from aigrid.node.settings.setting import is_region
from aigrid.protocol.canonical import is_content_id, plain
from aigrid.protocol.credential_kinds import (
    ACTIONS,
    EVERYTHING,
    PURPOSE,
    PURPOSE_MAX_CHARS,
    DelegationBody,
    GrantBody,
    Permission,
    check_permission,
)
from aigrid.protocol.errors import InvalidRequestError, UsageError, VerificationError
from aigrid.protocol.identity import public_key_of_did
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.record import Record


class Worded(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a person says of a credential; empty or None: nothing.

    Attributes:
        actions, purposes, regions, audience: as in `Permission`.
        models: names or ids.
        capabilities: names or IRIs.
        everything: instead of these two.
        requests_per_day, tokens_per_day, concurrency: limits.
        delegable: how many delegations may follow.
        valid_seconds: how long it is valid.
        status_age_seconds: how old a status list may be for it to count.
    """

    actions: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    everything: bool = False
    purposes: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    audience: tuple[str, ...] = ()
    requests_per_day: int | None = None
    tokens_per_day: int | None = None
    concurrency: int | None = None
    delegable: int = 0
    valid_seconds: int | None = None
    status_age_seconds: int | None = None


def permission_of(node: Node, given: Worded) -> Permission:
    """Of a new grant; to invoke, where no action is named. Raises UsageError."""
    targets = _targets(node, given)
    if not targets:
        raise UsageError("say for what: `--model`, `--capability` or `--everything`")
    return _permission({"actions": given.actions or ("invoke",), "targets": targets}, given)


def narrowed(node: Node, parent: Permission, given: Worded) -> Permission:
    """What is passed on of a permission; what is not said stays as it is. Raises UsageError."""
    whole = {name: getattr(parent, name) for name in parent.__struct_fields__}
    targets = _targets(node, given)
    actions = given.actions or parent.actions
    return _permission({**whole, "actions": actions, "targets": targets or parent.targets}, given)


def terms_of(given: Worded) -> Terms:
    """Raises UsageError."""
    for name, value, least in (
        ("--valid", given.valid_seconds, 1),
        ("--max-status-age", given.status_age_seconds, 1),
        ("--delegable", given.delegable, 0),
    ):
        if value is not None and value < least:
            raise UsageError(f"{name} is at least {least}")
    valid_seconds = given.valid_seconds or LIMITS.grant_default_seconds
    if valid_seconds > LIMITS.grant_ttl_seconds:
        days = LIMITS.grant_ttl_seconds // 86400
        raise UsageError(f"a credential is valid for at most {days} days: lower `--valid`")
    age_seconds = given.status_age_seconds or LIMITS.status_age_grant_seconds
    if age_seconds > LIMITS.status_age_max_seconds:
        days = LIMITS.status_age_max_seconds // 86400
        raise UsageError(f"a status list is at most {days} days old: lower `--max-status-age`")
    if given.delegable > LIMITS.chain_max - 1:
        raise UsageError(f"at most {LIMITS.chain_max - 1} delegations follow: lower `--delegable`")
    return Terms(valid_seconds * 1000, age_seconds, given.delegable)


def check_did(did: str) -> None:
    """Raises UsageError."""
    try:
        public_key_of_did(did)
    except VerificationError:
        raise UsageError(
            f"{did[:80]!r} is no DID such as did:key:z6Mk...: `aigrid id` over there prints one"
        ) from None


def check_purpose(text: str) -> None:
    """Raises UsageError."""
    if len(text) > PURPOSE_MAX_CHARS or not re.fullmatch(PURPOSE, text):
        raise UsageError(
            f"{text[:64]!r} is no purpose such as `research` or `medical-care`: lower-case letters,"
            f" digits, and hyphens between them, at most {PURPOSE_MAX_CHARS}"
        )


def permission_said(credential: Record) -> dict[str, Any]:
    """What a grant or delegation permits, as JSON without what says nothing."""
    body = credential.body
    if not isinstance(body, GrantBody | DelegationBody):
        return {}
    said = {name: value for name, value in msgspec.structs.asdict(body.permission).items() if value}
    return {"permission": said, "delegable": body.delegable}


def _targets(node: Node, given: Worded) -> tuple[str, ...]:
    if given.everything:
        if given.models or given.capabilities:
            raise UsageError("`--everything` leaves nothing for `--model` and `--capability`")
        return (EVERYTHING,)
    for name in given.capabilities:
        check_capability(node.graph.index.concepts, name, node.now_ms())
    return (*(MODEL_URN + _model(node, name) for name in given.models), *given.capabilities)


def _model(node: Node, name: str) -> str:
    """Its id: one that is known nowhere yet may be meant, a name may not."""
    found = name.removeprefix(MODEL_URN)
    try:
        return node.router.resolve(found)
    except InvalidRequestError:
        if not is_content_id(found):
            raise
    return found


def _permission(whole: dict[str, Any], given: Worded) -> Permission:
    for action in whole["actions"]:
        if action not in ACTIONS:
            raise UsageError(f"there is no action {action[:64]!r}: {', '.join(ACTIONS)}")
    for region in given.regions:
        if not is_region(region):
            raise UsageError(f"{region[:64]!r} is no region such as `eu` or `us-west`")
    for purpose in given.purposes:
        check_purpose(purpose)
    for did in given.audience:
        check_did(did)
    for name in ("purposes", "regions", "audience"):
        whole[name] = getattr(given, name) or whole.get(name, ())
    for name in ("actions", "targets", "purposes", "regions", "audience"):
        whole[name] = tuple(sorted(set(whole[name])))
    for name in ("requests_per_day", "tokens_per_day", "concurrency"):
        limit = getattr(given, name)
        whole[name] = whole.get(name, 0) if limit is None else limit
    said = {_camel(name): value for name, value in whole.items()}
    try:
        permission = msgspec.convert(said, Permission)
        check_permission(permission)
    except (msgspec.ValidationError, VerificationError) as error:
        raise UsageError(f"this is no permission: {misfit(plain(error))}") from None
    return permission


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.title, others))
