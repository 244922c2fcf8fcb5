"""What a record may say: one schema per kind, and the rules that differ between kinds.

A body is the `credentialSubject` of the credential. Field names are camelCase on the wire. Every
kind may instead carry the withdrawal body `{"id": ..., "withdrawn": true}`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from aigrid.protocol import credential_kinds as credentials
from aigrid.protocol.body import (
    CAPABILITY_NAME,
    LABEL_LANGUAGE,
    NO_BRANCH,
    Addresses,
    Branches,
    Capability,
    CapabilityName,
    Count,
    JsonSchema,
    Label,
    Language,
    Multiaddr,
    Name,
    SubjectBody,
    SubjectId,
    about_itself,
    check_branches,
)
from aigrid.protocol.canonical import canonical, plain
from aigrid.protocol.credential_kinds import (
    DelegationBody,
    GrantBody,
    StatusDelegationBody,
    StatusListBody,
)
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.evidence import (
    AuditBody,
    EvaluationBody,
    check_audit,
    check_evaluation,
    id_is_another,
    id_is_evaluation,
)
from aigrid.protocol.identity import peer_id_of_did, public_key_of_did, public_key_of_peer_id
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.mesh_kinds import (
    AvailabilityBody,
    ChunkList,
    DemandBody,
    ModelBody,
    Offer,
    OfferState,
    Seed,
    Served,
    WantedModel,
    check_availability,
    check_demand,
    check_model,
    id_is_model,
)
from aigrid.protocol.receipt import ReceiptBody, check_receipt
from aigrid.protocol.rotation import RotationBody, check_own, check_rotation

__all__ = [
    "CAPABILITY_NAME",
    "KINDS",
    "LABEL_LANGUAGE",
    "NO_BRANCH",
    "Addresses",
    "AvailabilityBody",
    "Body",
    "Branches",
    "Capability",
    "CapabilityBody",
    "CapabilityName",
    "ChunkList",
    "Count",
    "DemandBody",
    "DeviceClaim",
    "EngineClaim",
    "InvitationBody",
    "JsonSchema",
    "Kind",
    "KindRule",
    "Label",
    "Language",
    "MembershipBody",
    "ModelBody",
    "Multiaddr",
    "Name",
    "NodeBody",
    "Offer",
    "OfferState",
    "Seed",
    "Served",
    "SubjectId",
    "WantedModel",
    "WithdrawnBody",
    "decode_body",
    "encode_body",
    "node_peer_id",
]

_NAME = re.compile(CAPABILITY_NAME)


class EngineClaim(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """An engine as its node reports it."""

    name: Name
    version: Label
    formats: Annotated[tuple[Label, ...], Meta(max_length=16)]


class DeviceClaim(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A device as its node reports it; memory in bytes, 0 where unknown."""

    kind: Name
    name: Label
    memory_bytes: Count


class NodeBody(SubjectBody, frozen=True):
    """What a node says of itself. `id` is its DID.

    `branches` are those that it takes part in; none named: all. `NO_BRANCH` alone: none of them.
    """

    protocol_version: Annotated[int, Meta(ge=1, le=1_000_000)]
    software: Label
    addresses: Addresses
    engines: Annotated[tuple[EngineClaim, ...], Meta(max_length=LIMITS.engines_max)]
    devices: Annotated[tuple[DeviceClaim, ...], Meta(max_length=LIMITS.devices_max)]
    region: Label = ""
    branches: Branches = ()


class CapabilityBody(SubjectBody, frozen=True):
    """A capability of the issuer's own. `id` is the issuer's DID, `#` and a name.

    Whatever offers it also offers everything named in `broader`. `labels` are by language;
    `inputSchema`, `outputSchema` and `parametersSchema` are JSON Schemas, `{}` where nothing is
    said.
    """

    broader: Annotated[tuple[Capability, ...], Meta(min_length=1, max_length=LIMITS.broader_max)]
    labels: Annotated[dict[Language, Name], Meta(min_length=1, max_length=LIMITS.labels_max)]
    input_schema: JsonSchema = msgspec.field(default_factory=dict)
    output_schema: JsonSchema = msgspec.field(default_factory=dict)
    parameters_schema: JsonSchema = msgspec.field(default_factory=dict)


class MembershipBody(SubjectBody, frozen=True):
    """The authority admits `id` (a DID) to its grid; `grid` is the authority's DID.

    Who may sign the authority's status list may renew a membership, for the same `id` under the
    same status entry: `renews` is then the record that the authority itself signed, in base64url.
    """

    grid: str
    role: Literal["member", "authority"] = "member"
    renews: (
        Annotated[str, Meta(max_length=LIMITS.renewed_max_chars, pattern=r"^[A-Za-z0-9_-]+\Z")]
        | UnsetType
    ) = UNSET


class InvitationBody(SubjectBody, frozen=True):
    """The authority lets `id` (a DID) redeem one membership at `peerId`, once."""

    grid: str
    peer_id: str
    addresses: Addresses
    nonce: Annotated[str, Meta(min_length=16, max_length=64, pattern=r"^[!-~]+\Z")]


class WithdrawnBody(SubjectBody, frozen=True):
    """The issuer takes back what it said under this key."""

    withdrawn: Literal[True]


class Kind(StrEnum):
    """Names as they stand in a credential's `type`."""

    NODE = "NodeRecord"
    MODEL = "ModelManifest"
    AVAILABILITY = "AvailabilityRecord"
    DEMAND = "Demand"
    CAPABILITY = "CapabilityRecord"
    EVALUATION = "EvaluationRecord"
    AUDIT = "AuditRecord"
    MEMBERSHIP = "Membership"
    INVITATION = "Invitation"
    GRANT = "Grant"
    DELEGATION = "Delegation"
    STATUS_LIST = "BitstringStatusListCredential"
    STATUS_DELEGATION = "StatusDelegation"
    RECEIPT = "Receipt"
    ROTATION = "KeyRotation"


@dataclass(frozen=True, slots=True)
class KindRule:
    """How one kind is treated. `check(issuer, body)` raises VerificationError.

    Attributes:
        check_withdrawn: the same for a withdrawal, whose body has nothing but an `id`.
        shared: spread by gossip and sync; the others travel only where SPEC.md says.
        status: whether a `credentialStatus` is `never` there, `allowed` or `required`.
    """

    body: type[msgspec.Struct]
    ttl_seconds: int
    check: Callable[[str, Any], None]
    check_withdrawn: Callable[[str, Any], None]
    shared: bool = True
    status: Literal["never", "allowed", "required"] = "never"


def _check_node(issuer: str, body: NodeBody) -> None:
    about_itself(issuer, body)
    check_branches(body.branches)


def _id_is_did(_issuer: str, body: SubjectBody) -> None:
    public_key_of_did(body.id)


def _id_is_own_capability(issuer: str, body: SubjectBody) -> None:
    namespace, _, name = body.id.partition("#")
    if namespace != issuer:
        raise VerificationError("a capability of another's namespace", Code.ISSUER_NOT_KEY)
    if not _NAME.fullmatch(name) or len(body.id) > LIMITS.capability_max_chars:
        raise VerificationError("the id is not that of a capability")


def _check_capability(issuer: str, body: CapabilityBody) -> None:
    _id_is_own_capability(issuer, body)
    if body.id in body.broader:
        raise VerificationError("a capability is not broader than itself")
    for schema in (body.input_schema, body.output_schema, body.parameters_schema):
        if len(canonical(schema)) > LIMITS.capability_schema_max_bytes:
            raise VerificationError("a JSON Schema is too large")


def _check_membership(issuer: str, body: MembershipBody) -> None:
    public_key_of_did(body.id)
    if body.grid == issuer and body.renews is UNSET:
        return
    if body.grid == issuer or body.renews is UNSET or body.role != "member":
        raise VerificationError("a grid admits only in its own name", Code.ISSUER_NOT_KEY)
    public_key_of_did(body.grid)


def _check_invitation(issuer: str, body: InvitationBody) -> None:
    public_key_of_did(body.id)
    public_key_of_peer_id(body.peer_id)
    if body.grid != issuer:
        raise VerificationError("a grid invites only in its own name", Code.ISSUER_NOT_KEY)


KINDS: dict[Kind, KindRule] = {
    Kind.NODE: KindRule(NodeBody, LIMITS.node_ttl_seconds, _check_node, about_itself),
    Kind.MODEL: KindRule(ModelBody, LIMITS.manifest_ttl_seconds, check_model, id_is_model),
    Kind.AVAILABILITY: KindRule(
        AvailabilityBody, LIMITS.availability_ttl_seconds, check_availability, about_itself
    ),
    Kind.DEMAND: KindRule(DemandBody, LIMITS.demand_ttl_seconds, check_demand, about_itself),
    Kind.CAPABILITY: KindRule(
        CapabilityBody, LIMITS.capability_ttl_seconds, _check_capability, _id_is_own_capability
    ),
    Kind.EVALUATION: KindRule(
        EvaluationBody, LIMITS.evaluation_ttl_seconds, check_evaluation, id_is_evaluation
    ),
    Kind.AUDIT: KindRule(AuditBody, LIMITS.audit_ttl_seconds, check_audit, id_is_another),
    Kind.MEMBERSHIP: KindRule(
        MembershipBody,
        LIMITS.membership_ttl_seconds,
        _check_membership,
        _id_is_did,
        status="allowed",
    ),
    Kind.INVITATION: KindRule(
        InvitationBody, LIMITS.invitation_ttl_seconds, _check_invitation, _id_is_did, shared=False
    ),
    Kind.GRANT: KindRule(
        GrantBody,
        LIMITS.grant_ttl_seconds,
        credentials.check_grant,
        credentials.never_withdrawn,
        shared=False,
        status="required",
    ),
    Kind.DELEGATION: KindRule(
        DelegationBody,
        LIMITS.grant_ttl_seconds,
        credentials.check_delegation,
        credentials.never_withdrawn,
        shared=False,
        status="required",
    ),
    Kind.STATUS_LIST: KindRule(
        StatusListBody,
        LIMITS.status_list_ttl_seconds,
        credentials.check_status_list,
        credentials.never_withdrawn,
    ),
    Kind.STATUS_DELEGATION: KindRule(
        StatusDelegationBody,
        LIMITS.status_delegation_ttl_seconds,
        credentials.check_status_delegation,
        credentials.check_own_list,
    ),
    Kind.RECEIPT: KindRule(
        ReceiptBody,
        LIMITS.receipt_ttl_seconds,
        check_receipt,
        credentials.never_withdrawn,
        shared=False,
    ),
    Kind.ROTATION: KindRule(
        RotationBody, LIMITS.rotation_ttl_seconds, check_rotation, check_own, shared=False
    ),
}

Body = (
    NodeBody
    | ModelBody
    | AvailabilityBody
    | DemandBody
    | CapabilityBody
    | EvaluationBody
    | AuditBody
    | MembershipBody
    | InvitationBody
    | GrantBody
    | DelegationBody
    | StatusListBody
    | StatusDelegationBody
    | ReceiptBody
    | RotationBody
    | WithdrawnBody
)


def decode_body(kind: Kind, issuer: str, subject: Any) -> Body:
    """Validate a `credentialSubject` against its kind.

    Raises:
        VerificationError: `unknown_field`, `malformed` or `issuer_not_key`.
    """
    rule = KINDS[kind]
    withdrawn = isinstance(subject, dict) and "withdrawn" in subject
    try:
        body: Any = msgspec.convert(subject, WithdrawnBody if withdrawn else rule.body)
    except (msgspec.ValidationError, UnicodeError) as error:
        unknown = str(error).startswith("Object contains unknown field")
        code = Code.UNKNOWN_FIELD if unknown else Code.MALFORMED
        raise VerificationError(f"{kind}: {plain(error)}", code) from None
    check = rule.check_withdrawn if withdrawn else rule.check
    check(issuer, body)
    return body  # type: ignore[no-any-return]


def encode_body(body: Body) -> dict[str, Any]:
    """The JSON object of a body, defaults included, so that it has one spelling."""
    # By way of JSON, after which an array is a list, as in what is parsed: `plain_json` wants that.
    return msgspec.json.decode(msgspec.json.encode(body))  # type: ignore[no-any-return]


def node_peer_id(did: str) -> str:
    """The PeerId under which the subject of a NodeRecord or AvailabilityRecord is reached."""
    return peer_id_of_did(did)
