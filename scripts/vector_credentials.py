"""Records of the kinds that permit, revoke and account for, as test vectors."""

import base64

from aigrid.protocol.canonical import content_id
from aigrid.protocol.credential_kinds import (
    DelegationBody,
    GrantBody,
    Permission,
    Rule,
    StatusDelegationBody,
    StatusListBody,
    status_list_of,
)
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import KINDS, Body, Kind, MembershipBody, ModelBody
from aigrid.protocol.model import MODEL_URN, ModelDescription, model_id
from aigrid.protocol.receipt import ReceiptBody
from aigrid.protocol.record import Record, build
from aigrid.protocol.record_status import StatusEntry
from aigrid.protocol.timestamp import format_ms

# Status lists as text, since not every gzip compresses alike: with none of the entries revoked, and
# with 0, 1, 94567 and 131071.
NONE_REVOKED = "uH4sIAAAAAAACA-3BMQEAAADCoPVPbQwfoAAAAAAAAAAAAAAAAAAAAIC3AYbSVKsAQAAA"
SOME_REVOKED = "uH4sIAAAAAAACA-3QAQ0AAAgDIN-_lNGeQwcR2AEAAAAAAAAAAAAA4JsoAAAAALgmBRULpb0AQAAA"
DAY_MS = 86_400_000
AGE_SECONDS = 600


class Signers:
    """Who signs: the authority of a grid, a node and somebody else."""

    def __init__(self, people: tuple[Identity, Identity, Identity], now_ms: int) -> None:
        self.authority, self.node, self.other = people
        self.now_ms = now_ms

    def sign(
        self,
        kind: Kind,
        body: Body,
        by: Identity,
        *,
        days: int | None = None,
        status: StatusEntry | None = None,
    ) -> Record:
        """Valid for these days, or as long as the kind may be."""
        life_ms = KINDS[kind].ttl_seconds * 1000 if days is None else days * DAY_MS
        return build(
            kind,
            body,
            by,
            valid_from_ms=self.now_ms,
            valid_until_ms=self.now_ms + life_ms,
            status=status,
        )


def credentials(signers: Signers, description: ModelDescription) -> list[Record]:
    """One of each kind, a membership that a delegate renewed, and a manifest with a policy."""
    authority, node, other = signers.authority, signers.node, signers.other
    model = model_id(description)
    rules = (
        Rule(("invoke",), tuple(sorted((node.did, "members"))), purposes=("research",)),
        Rule(("fetch", "host"), ("members",), regions=("eu",), accept_license=True),
    )
    manifest = ModelBody(
        id=MODEL_URN + model,
        name="smollm2-restricted",
        capabilities=("text-generation",),
        model=description,
        license="Apache-2.0",
        policy=rules,
    )
    permission = Permission(
        actions=("fetch", "invoke"),
        targets=tuple(sorted(("text-generation", MODEL_URN + model))),
        purposes=("research",),
        regions=("eu",),
        audience=(node.did,),
        requests_per_day=1000,
        tokens_per_day=1_000_000,
        concurrency=4,
    )
    grant = signers.sign(
        Kind.GRANT,
        GrantBody(other.did, permission, delegable=2),
        node,
        days=30,
        status=StatusEntry(node.did, 94_567, AGE_SECONDS),
    )
    passed_on = Permission(
        ("invoke",),
        ("text-generation",),
        purposes=("research",),
        regions=("eu",),
        audience=(node.did,),
        requests_per_day=100,
        tokens_per_day=10_000,
        concurrency=1,
    )
    delegation = signers.sign(
        Kind.DELEGATION,
        DelegationBody(authority.did, grant.content_id, passed_on, delegable=1, on_behalf=True),
        other,
        days=7,
        status=StatusEntry(other.did, 0, AGE_SECONDS),
    )
    return [
        signers.sign(Kind.MODEL, manifest, node),
        grant,
        delegation,
        *_revocation(signers),
        signers.sign(Kind.RECEIPT, _receipt(signers, model, grant), node),
    ]


def _revocation(signers: Signers) -> list[Record]:
    authority, node, other = signers.authority, signers.node, signers.other
    name = status_list_of(authority.did)
    entry = StatusEntry(authority.did, 131_071, 86_400)
    member = MembershipBody(id=other.did, grid=authority.did)
    original = signers.sign(Kind.MEMBERSHIP, member, authority, days=30, status=entry)
    text = base64.urlsafe_b64encode(original.raw).decode().rstrip("=")
    renewal = MembershipBody(id=other.did, grid=authority.did, renews=text)
    delegates = tuple(sorted((node.did, other.did)))
    return [
        original,
        signers.sign(Kind.MEMBERSHIP, renewal, node, days=30, status=entry),
        signers.sign(Kind.STATUS_LIST, StatusListBody(name, SOME_REVOKED), authority),
        signers.sign(Kind.STATUS_LIST, StatusListBody(name, NONE_REVOKED), node),
        signers.sign(
            Kind.STATUS_DELEGATION, StatusDelegationBody(name, delegates, quorum=2), authority
        ),
    ]


def _receipt(signers: Signers, model: str, grant: Record) -> ReceiptBody:
    return ReceiptBody(
        id=signers.other.did,
        request_id="req_00000001",
        model=model,
        manifest=content_id(b"a manifest"),
        request_hash="11" * 32,
        prefix_hash="22" * 32,
        output_hash="33" * 32,
        prompt_tokens=9,
        completion_tokens=17,
        began=format_ms(signers.now_ms - 1500),
        ended=format_ms(signers.now_ms),
        reason="stop",
        presentation="44" * 32,
        credentials=(grant.content_id,),
    )
