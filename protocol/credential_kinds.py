"""What credentials say: grants, delegations, lists of what was revoked, and a model's policy.

The words follow ODRL 2.2 (an action on a target, permitted under constraints), revocation follows
Bitstring Status List 1.0. What is not known here is refused, never overlooked: a constraint that a
node cannot enforce permits nothing there.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from aigrid.protocol.canonical import is_content_id
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.identity import public_key_of_did
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.names import CAPABILITY, DID, Did, Region

Action = Literal["invoke", "fetch", "host", "publish"]
ACTIONS: tuple[Action, ...] = ("fetch", "host", "invoke", "publish")
EVERYTHING = "*"
MEMBERS, ANYONE = "members", "anyone"
STATUS_URN = "urn:aigrid:status:"
# Everything, one model, or all that have a capability.
Target = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=LIMITS.capability_max_chars,
        pattern=rf"^(\*|{MODEL_URN}[a-z2-7]{{59,64}}|{CAPABILITY})\Z",
    ),
]
PURPOSE = r"[a-z0-9]+(-[a-z0-9]+)*"
PURPOSE_MAX_CHARS = 64
Purpose = Annotated[str, Meta(max_length=PURPOSE_MAX_CHARS, pattern=rf"^{PURPOSE}\Z")]
License = Annotated[str, Meta(max_length=LIMITS.name_max_chars, pattern=r"^[A-Za-z0-9][ -~]*\Z")]
Assignee = Annotated[str, Meta(max_length=80, pattern=rf"^({MEMBERS}|{ANYONE}|{DID})\Z")]
Amount = Annotated[int, Meta(ge=0, le=2**53 - 1)]
_MANY = LIMITS.permission_items_max
Actions = Annotated[tuple[Action, ...], Meta(min_length=1, max_length=len(ACTIONS))]
Purposes = Annotated[tuple[Purpose, ...], Meta(max_length=_MANY)]
Regions = Annotated[tuple[Region, ...], Meta(max_length=_MANY)]
CidText = Annotated[str, Meta(max_length=64)]


def accepts_license(accepted: Iterable[str], license_id: str) -> bool:
    """Whether a licence is among those accepted: SPDX takes its ids without case, ASCII's alone."""
    return license_id.encode().lower() in {one.encode().lower() for one in accepted}


class _Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    pass


class Permission(_Said, frozen=True):
    """Actions on targets, under constraints. Arrays are ascending, each item once.

    Attributes:
        actions: what may be done.
        targets: to what; see `Target`.
        purposes, regions: what for, and where the model may then be; none named: any.
        audience: the nodes (DIDs) at which this holds; none named: all.
        requests_per_day, tokens_per_day: for each node at which it is used, by UTC day; 0: any.
        concurrency: requests at once, for each such node; 0: any.
    """

    actions: Actions
    targets: Annotated[tuple[Target, ...], Meta(min_length=1, max_length=_MANY)]
    purposes: Purposes = ()
    regions: Regions = ()
    audience: Annotated[tuple[Did, ...], Meta(max_length=_MANY)] = ()
    requests_per_day: Amount = 0
    tokens_per_day: Amount = 0
    concurrency: Amount = 0


class Rule(_Said, frozen=True):
    """One permission of a model's owner to everybody it names. Arrays are ascending.

    Attributes:
        actions: what may be done with the model.
        assignees: `members` of the grid; `anyone`; and holders of a grant from a DID.
        purposes, regions: as in `Permission`.
        accept_license: whoever asks has to have accepted the manifest's licence.
    """

    actions: Actions
    assignees: Annotated[tuple[Assignee, ...], Meta(min_length=1, max_length=_MANY)]
    purposes: Purposes = ()
    regions: Regions = ()
    accept_license: bool = False


Rules = Annotated[tuple[Rule, ...], Meta(max_length=LIMITS.policy_rules_max)]


class GrantBody(_Said, frozen=True):
    """The issuer lets `id` (a DID) do something with what is the issuer's to permit.

    `delegable` says how many delegations may follow it.
    """

    id: Did
    permission: Permission
    delegable: Annotated[int, Meta(ge=0, le=LIMITS.chain_max - 1)] = 0


class DelegationBody(_Said, frozen=True):
    """The issuer passes on to `id` (a DID) part of what the credential `parent` permits it.

    With `on_behalf`, only for requests which the issuer itself has authenticated at `id`: a gateway
    that is honest uses it for nobody else.
    """

    id: Did
    parent: CidText
    permission: Permission
    delegable: Annotated[int, Meta(ge=0, le=LIMITS.chain_max - 2)] = 0
    on_behalf: bool = False


class StatusListBody(_Said, frozen=True):
    """Which credentials of an issuer are revoked, as a Bitstring Status List 1.0.

    `id` is `urn:aigrid:status:` and the DID of the credentials' issuer. Who signs the list is that
    issuer, or one of those to which it delegates this.
    """

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    encoded_list: Annotated[
        str, Meta(max_length=LIMITS.status_list_max_chars, pattern=r"^u[A-Za-z0-9_-]*\Z")
    ]
    type: Literal["BitstringStatusList"] = "BitstringStatusList"
    status_purpose: Literal["revocation"] = "revocation"


class StatusDelegationBody(_Said, frozen=True):
    """The issuer (`id` is its status list) lets others sign its status list and revoke in it.

    Lists of at least `quorum` of the `delegates` have to be recent where the issuer's own is not. A
    grid's authority thereby also lets them renew memberships that it issued.
    """

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    delegates: Annotated[
        tuple[Did, ...], Meta(min_length=1, max_length=LIMITS.status_delegates_max)
    ]
    quorum: Annotated[int, Meta(ge=1, le=LIMITS.status_delegates_max)]


def status_list_of(did: str) -> str:
    """What the status list of an issuer is called."""
    return STATUS_URN + did


def check_permission(permission: Permission) -> None:
    """Raise VerificationError unless the arrays are ascending and name what there can be."""
    _check_ascending(
        permission.actions,
        permission.targets,
        permission.purposes,
        permission.regions,
        permission.audience,
    )
    for target in permission.targets:
        if target.startswith(MODEL_URN) and not is_content_id(target.removeprefix(MODEL_URN)):
            raise VerificationError("a target is not a model id")


def check_rules(rules: tuple[Rule, ...]) -> None:
    """Raise VerificationError unless the arrays of each are ascending."""
    for rule in rules:
        _check_ascending(rule.actions, rule.assignees, rule.purposes, rule.regions)


def check_grant(_issuer: str, body: GrantBody) -> None:
    public_key_of_did(body.id)
    check_permission(body.permission)


def check_delegation(_issuer: str, body: DelegationBody) -> None:
    public_key_of_did(body.id)
    check_permission(body.permission)
    if not is_content_id(body.parent):
        raise VerificationError("the parent is not named by its content id")


def check_status_list(_issuer: str, body: StatusListBody) -> None:
    _check_list_name(body.id)


def check_status_delegation(issuer: str, body: StatusDelegationBody) -> None:
    if body.id != status_list_of(issuer):
        raise VerificationError("only for one's own status list", Code.ISSUER_NOT_KEY)
    _check_ascending(body.delegates)
    for did in body.delegates:
        public_key_of_did(did)
    if body.quorum > len(body.delegates) or issuer in body.delegates:
        raise VerificationError("the quorum is of others, and no more than they are")


def never_withdrawn(_issuer: str, _body: object) -> None:
    """For what is only ever replaced: taking it back would bring revoked credentials back."""
    raise VerificationError("this is replaced or revoked, and not withdrawn")


def check_own_list(issuer: str, body: msgspec.Struct) -> None:
    """For withdrawals, whose body has nothing but an id."""
    if getattr(body, "id", "") != status_list_of(issuer):
        raise VerificationError("only for one's own status list", Code.ISSUER_NOT_KEY)


def _check_list_name(name: str) -> None:
    if not name.startswith(STATUS_URN):
        raise VerificationError("the id is not that of a status list")
    public_key_of_did(name.removeprefix(STATUS_URN))


def _check_ascending(*arrays: tuple[str, ...]) -> None:
    for array in arrays:
        if any(a >= b for a, b in pairwise(array)):
            raise VerificationError("items are named once, in ascending order")
