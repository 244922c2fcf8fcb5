"""What a record may say: one schema per kind, and the rules that differ between kinds.

A body is the `credentialSubject` of the credential. Field names are camelCase on the wire. Every
kind may instead carry the withdrawal body `{"id": ..., "withdrawn": true}`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from aigrid.protocol import credential_kinds as credentials
from aigrid.protocol.canonical import canonical, is_content_id, plain
from aigrid.protocol.credential_kinds import (
    DelegationBody,
    GrantBody,
    Rules,
    StatusDelegationBody,
    StatusListBody,
)
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.identity import peer_id_of_did, public_key_of_did, public_key_of_peer_id
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN, ModelDescription, model_id
from aigrid.protocol.names import CAPABILITY, PRINTABLE
from aigrid.protocol.receipt import ReceiptBody, check_receipt
from aigrid.protocol.rotation import RotationBody, check_own, check_rotation

SubjectId = Annotated[str, Meta(min_length=1, max_length=128)]
Name = Annotated[str, Meta(min_length=1, max_length=LIMITS.name_max_chars, pattern=PRINTABLE)]
Label = Annotated[str, Meta(max_length=LIMITS.name_max_chars, pattern=PRINTABLE)]
Multiaddr = Annotated[str, Meta(min_length=2, max_length=256, pattern=r"^/[!-~]+\Z")]
Addresses = Annotated[tuple[Multiaddr, ...], Meta(max_length=LIMITS.addresses_max)]
CapabilityName = Annotated[
    str, Meta(max_length=LIMITS.name_max_chars, pattern=r"^[a-z0-9]+(-[a-z0-9]+)*\Z")
]
Capability = Annotated[
    str, Meta(max_length=LIMITS.capability_max_chars, pattern=rf"^({CAPABILITY})\Z")
]
# Roots of the shipped capabilities, each once, in order: so that a set of them has one spelling.
Branches = Annotated[tuple[CapabilityName, ...], Meta(max_length=LIMITS.branches_max)]
NO_BRANCH = "none"
LABEL_LANGUAGE = r"[a-z]{2,3}(-[a-z]{2})?"
Language = Annotated[str, Meta(pattern=rf"^{LABEL_LANGUAGE}\Z")]
JsonSchema = dict[str, Any]
Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
CAPABILITY_NAME = r"[a-z0-9]+(-[a-z0-9]+)*"
_NAME = re.compile(CAPABILITY_NAME)
OfferState = Literal["warm", "on_disk", "can_fetch"]


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    id: SubjectId


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


class NodeBody(_Body, frozen=True):
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


class ModelBody(_Body, frozen=True):
    """A manifest. `id` is `urn:aigrid:model:` and the model id, which `model` must hash to.

    `policy`: what may be done with the model, by whom. Unset: members may do everything. Empty:
    nobody but the issuer may do anything.
    """

    name: Name
    capabilities: Annotated[
        tuple[Capability, ...], Meta(min_length=1, max_length=LIMITS.capabilities_max)
    ]
    model: ModelDescription
    license: Label = ""
    languages: Annotated[tuple[Label, ...], Meta(max_length=LIMITS.languages_max)] = ()
    memory_bytes: Count = 0
    context_tokens: Count = 0
    policy: Rules | UnsetType = UNSET


class Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A model that a node can serve, under the manifest it obtained it by."""

    model: str
    manifest: str
    state: OfferState
    slots: Annotated[int, Meta(ge=0, le=LIMITS.slots_max)] = 1
    latency_ms: Count = 0


class AvailabilityBody(_Body, frozen=True):
    """All offers of a node. `id` is its DID. `branches` are theirs; none named: everybody's."""

    offers: Annotated[tuple[Offer, ...], Meta(max_length=LIMITS.offers_max)]
    branches: Branches = ()


class CapabilityBody(_Body, frozen=True):
    """A capability of the issuer's own. `id` is the issuer's DID, `#` and a name.

    Whatever offers it also offers everything named in `broader`. `labels` are by language;
    `inputSchema` and `outputSchema` are JSON Schemas, `{}` where nothing is said.
    """

    broader: Annotated[tuple[Capability, ...], Meta(min_length=1, max_length=LIMITS.broader_max)]
    labels: Annotated[dict[Language, Name], Meta(min_length=1, max_length=LIMITS.labels_max)]
    input_schema: JsonSchema = {}
    output_schema: JsonSchema = {}


class MembershipBody(_Body, frozen=True):
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


class InvitationBody(_Body, frozen=True):
    """The authority lets `id` (a DID) redeem one membership at `peerId`, once."""

    grid: str
    peer_id: str
    addresses: Addresses
    nonce: Annotated[str, Meta(min_length=16, max_length=64, pattern=r"^[!-~]+\Z")]


class WithdrawnBody(_Body, frozen=True):
    """The issuer takes back what it said under this key."""

    withdrawn: Literal[True]


class Kind(StrEnum):
    """Names as they stand in a credential's `type`."""

    NODE = "NodeRecord"
    MODEL = "ModelManifest"
    AVAILABILITY = "AvailabilityRecord"
    CAPABILITY = "CapabilityRecord"
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


def _about_itself(issuer: str, body: _Body) -> None:
    if body.id != issuer:
        raise VerificationError("only a node itself may say this", Code.ISSUER_NOT_KEY)


def _check_node(issuer: str, body: NodeBody) -> None:
    _about_itself(issuer, body)
    _check_branches(body.branches)


def _check_branches(branches: tuple[str, ...]) -> None:
    if any(a >= b for a, b in pairwise(branches)):
        raise VerificationError("branches are named once, in ascending order")


def _id_is_did(_issuer: str, body: _Body) -> None:
    public_key_of_did(body.id)


def _id_is_model(_issuer: str, body: _Body) -> None:
    if not (body.id.startswith(MODEL_URN) and is_content_id(body.id.removeprefix(MODEL_URN))):
        raise VerificationError("the id is not that of a model")


def _check_availability(issuer: str, body: AvailabilityBody) -> None:
    _about_itself(issuer, body)
    for offer in body.offers:
        if not (is_content_id(offer.model) and is_content_id(offer.manifest)):
            raise VerificationError("an offer names a model and a manifest by content id")
    if len({offer.model for offer in body.offers}) != len(body.offers):
        raise VerificationError("a model is offered twice")
    _check_branches(body.branches)


def _check_model(issuer: str, body: ModelBody) -> None:
    if body.id != MODEL_URN + model_id(body.model):
        raise VerificationError("the id is not the content id of the model's description")
    upstream = body.model.upstream
    if body.policy is not UNSET:
        credentials.check_rules(body.policy)
    if upstream is not UNSET and upstream.publisher != issuer:
        raise VerificationError(
            "only its publisher describes a model behind a server", Code.ISSUER_NOT_KEY
        )


def _id_is_own_capability(issuer: str, body: _Body) -> None:
    namespace, _, name = body.id.partition("#")
    if namespace != issuer:
        raise VerificationError("a capability of another's namespace", Code.ISSUER_NOT_KEY)
    if not _NAME.fullmatch(name) or len(body.id) > LIMITS.capability_max_chars:
        raise VerificationError("the id is not that of a capability")


def _check_capability(issuer: str, body: CapabilityBody) -> None:
    _id_is_own_capability(issuer, body)
    if body.id in body.broader:
        raise VerificationError("a capability is not broader than itself")
    for schema in (body.input_schema, body.output_schema):
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
    Kind.NODE: KindRule(NodeBody, LIMITS.node_ttl_seconds, _check_node, _about_itself),
    Kind.MODEL: KindRule(ModelBody, LIMITS.manifest_ttl_seconds, _check_model, _id_is_model),
    Kind.AVAILABILITY: KindRule(
        AvailabilityBody, LIMITS.availability_ttl_seconds, _check_availability, _about_itself
    ),
    Kind.CAPABILITY: KindRule(
        CapabilityBody, LIMITS.capability_ttl_seconds, _check_capability, _id_is_own_capability
    ),
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
    | CapabilityBody
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
    return msgspec.to_builtins(body)  # type: ignore[no-any-return]


def node_peer_id(did: str) -> str:
    """The PeerId under which the subject of a NodeRecord or AvailabilityRecord is reached."""
    return peer_id_of_did(did)
