"""Chains of credentials: a grant, and delegations that each pass on part of it. Pure.

A request has to be permitted by every link, so that nothing a delegation says can widen what was
granted. A delegation that nevertheless claims more than its parent is refused as such.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from aigrid.protocol.credential_kinds import (
    EVERYTHING,
    DelegationBody,
    GrantBody,
    Permission,
)
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.record import Record, check_time
from aigrid.protocol.status import Standing, Statuses, standing


@dataclass(frozen=True, slots=True)
class Chain:
    """Links from the grant to what the holder was given; `owner` issued the grant."""

    owner: str
    links: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Broken:
    """Why credentials are no chain that counts, and which of them is to blame."""

    code: Code
    text: str
    record: str = ""


def check(links: Sequence[Record], holder: str, statuses: Statuses, now_ms: int) -> Chain | Broken:
    """The chain that credentials form for `holder`, or why they form none.

    Their signatures have been verified. Length, order, subjects, narrowing, validity and revocation
    are checked here.
    """
    form = check_form(links, holder)
    if form is not None:
        return form
    for link in links:
        problem = time_and_status(link, statuses, now_ms)
        if problem is not None:
            return Broken(problem[0], f"the credential {problem[1]}", link.content_id)
    return Chain(links[0].issuer, tuple(links))


def check_form(links: Sequence[Record], holder: str) -> Broken | None:
    """What is wrong with a chain for ever, whatever the time is."""
    if len(links) > LIMITS.chain_max:
        return Broken(Code.CHAIN_TOO_LONG, f"more than {LIMITS.chain_max} credentials in a chain")
    if not isinstance(links[0].body, GrantBody):
        text = "a chain begins with a grant"
        return Broken(Code.CHAIN_BROKEN, text, links[0].content_id)
    for parent, child in pairwise(links):
        problem = check_link(parent, child)
        if problem is not None:
            return problem
    if links[-1].subject != holder:
        text = "the credential was issued to another key"
        return Broken(Code.NOT_HOLDER, text, links[-1].content_id)
    return None


def check_link(parent: Record, child: Record) -> Broken | None:
    """Why `child` is no delegation of `parent`, or None."""
    body, name = child.body, child.content_id
    if not isinstance(body, DelegationBody):
        return Broken(Code.CHAIN_BROKEN, "a chain goes on with delegations", name)
    if body.parent != parent.content_id or child.issuer != parent.subject:
        return Broken(Code.CHAIN_BROKEN, "a delegation of something else", name)
    left = _delegable(parent)
    if left < 1 or _is_on_behalf(parent):
        return Broken(Code.NOT_DELEGABLE, "what was delegated may not be", name)
    if body.delegable >= left:
        return Broken(Code.DELEGATION_WIDENS, "more may follow than its parent allows", name)
    wider = widened(permission_of(parent), body.permission)
    if wider:
        return Broken(Code.DELEGATION_WIDENS, f"{wider} go beyond those of the parent", name)
    if child.valid_until_ms > parent.valid_until_ms:
        return Broken(Code.DELEGATION_WIDENS, "it is valid for longer than its parent", name)
    return None


def widened(parent: Permission, child: Permission) -> str:
    """In what the second permission allows more than the first, or "".

    A model below a capability, or a capability below another, may or may not be covered: that shows
    when the request comes, which both have to cover.
    """
    if not set(child.actions) <= set(parent.actions):
        return "actions"
    if not all(_may_be_below(target, parent.targets) for target in child.targets):
        return "targets"
    for name in ("purposes", "regions", "audience"):
        allowed, claimed = set(getattr(parent, name)), set(getattr(child, name))
        if allowed and not (claimed and claimed <= allowed):
            return name
    for name in ("requests_per_day", "tokens_per_day", "concurrency"):
        most, more = getattr(parent, name), getattr(child, name)
        if most and not 0 < more <= most:
            return name.replace("_", " ")
    return ""


def permission_of(credential: Record) -> Permission:
    """What a grant or delegation permits. Raises VerificationError for any other record."""
    body = credential.body
    if isinstance(body, GrantBody | DelegationBody):
        return body.permission
    raise VerificationError("this is no grant or delegation")


def time_and_status(credential: Record, statuses: Statuses, now_ms: int) -> tuple[Code, str] | None:
    """Why a credential does not count now, or None."""
    try:
        check_time(credential, now_ms)
    except VerificationError as error:
        return error.code, f"is {error.message}"
    found = standing(credential, statuses, now_ms)
    if found is Standing.REVOKED:
        return Code.REVOKED, "was revoked"
    if found is Standing.STALE:
        return Code.STATUS_STALE, "cannot be shown not to be revoked: its status list is too old"
    return None


def _delegable(credential: Record) -> int:
    body = credential.body
    return body.delegable if isinstance(body, GrantBody | DelegationBody) else 0


def _is_on_behalf(credential: Record) -> bool:
    """Whether it is only for what its issuer asks at its holder, which no further link can keep."""
    body = credential.body
    return isinstance(body, DelegationBody) and body.on_behalf


def _may_be_below(target: str, allowed: Sequence[str]) -> bool:
    if EVERYTHING in allowed or target in allowed:
        return True
    if target == EVERYTHING:
        return False
    return any(not (one.startswith(MODEL_URN) or one == EVERYTHING) for one in allowed)
