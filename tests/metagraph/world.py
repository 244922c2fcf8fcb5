"""A small grid to test with: an authority, this node, members and a stranger; and unsigned records."""

from collections.abc import Sequence
from typing import Any

import msgspec

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Candidate, Index
from aigrid.metagraph.store import Store
from aigrid.protocol.canonical import content_id
from aigrid.protocol.credential_kinds import (
    StatusDelegationBody,
    StatusListBody,
    status_list_of,
)
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import (
    AvailabilityBody,
    Body,
    Kind,
    MembershipBody,
    ModelBody,
    NodeBody,
    Offer,
    OfferState,
    WithdrawnBody,
)
from aigrid.protocol.limits import DAY
from aigrid.protocol.membership import issue_membership, renewal_body
from aigrid.protocol.model import MODEL_URN, ModelDescription, model_id
from aigrid.protocol.record import Record, build
from aigrid.protocol.record_status import StatusEntry
from aigrid.protocol.status import encode_bits, no_bits, with_bit

NOW = 1_790_000_000_000
MINUTE_MS = 60_000
DAY_MS = DAY * 1000
AUTHORITY, OWN, ANN, BEN, STRANGER = (Identity(bytes([n]) * 32) for n in range(10, 15))
DESCRIPTIONS = tuple(
    ModelDescription(format="echo", task="text-generation", files=(), options={"n": n})
    for n in range(3)
)
MODELS = tuple(model_id(description) for description in DESCRIPTIONS)


def graph(
    store: Store | None = None, *, open_to_strangers: bool = False, now: int = 0
) -> Metagraph:
    return Metagraph(
        Store() if store is None else store,
        Index(),
        grid=AUTHORITY.did,
        own_did=OWN.did,
        open_to_strangers=open_to_strangers,
        now_ms=now,
    )


def with_members(
    *members: Identity, store: Store | None = None, open_to_strangers: bool = False
) -> Metagraph:
    made = graph(store, open_to_strangers=open_to_strangers)
    for member in members:
        made.ingest(membership(member).raw, now_ms=NOW, received_from=None)
    return made


def signed(
    body: Body, kind: Kind, issuer: Identity, start: int = NOW, life: int = 5 * MINUTE_MS
) -> Record:
    return build(kind, body, issuer, valid_from_ms=start, valid_until_ms=start + life)


def membership(
    member: Identity, start: int = NOW, life: int = 30 * DAY_MS, by: Identity = AUTHORITY
) -> Record:
    return signed(MembershipBody(id=member.did, grid=by.did), Kind.MEMBERSHIP, by, start, life)


def revocable(
    member: Identity, index: int, start: int = NOW, life: int = 30 * DAY_MS, age_seconds: int = DAY
) -> Record:
    """A membership with an entry in the authority's status list."""
    entry = StatusEntry(AUTHORITY.did, index, age_seconds)
    return issue_membership(AUTHORITY, member.did, now_ms=start, valid_ms=life, status=entry)


def renewal(
    original: Record, by: Identity, start: int, life: int = 30 * DAY_MS, **changes: Any
) -> Record:
    fields: dict[str, Any] = {"status": original.status, **changes}
    body = fields.pop("body", None) or renewal_body(original)
    return build(
        Kind.MEMBERSHIP, body, by, valid_from_ms=start, valid_until_ms=start + life, **fields
    )


def status_list(
    owner: Identity, by: Identity, *indexes: int, start: int = NOW, life: int = 31 * DAY_MS
) -> Record:
    """The list of `owner`, signed by `by`, in which these entries are revoked."""
    bits = no_bits()
    for index in indexes:
        bits = with_bit(bits, index)
    body = StatusListBody(id=status_list_of(owner.did), encoded_list=encode_bits(bits))
    return signed(body, Kind.STATUS_LIST, by, start, life)


def status_delegation(
    owner: Identity,
    delegates: Sequence[Identity],
    quorum: int = 1,
    start: int = NOW,
    life: int = 300 * DAY_MS,
) -> Record:
    dids = tuple(sorted(one.did for one in delegates))
    body = StatusDelegationBody(id=status_list_of(owner.did), delegates=dids, quorum=quorum)
    return signed(body, Kind.STATUS_DELEGATION, owner, start, life)


def withdrawal(kind: Kind, subject: str, issuer: Identity, start: int, life: int) -> Record:
    return signed(WithdrawnBody(id=subject, withdrawn=True), kind, issuer, start, life)


def model_body(
    n: int = 0, name: str = "echo", capabilities: tuple[str, ...] = ("text-generation",)
) -> ModelBody:
    return ModelBody(
        id=MODEL_URN + MODELS[n], name=name, capabilities=capabilities, model=DESCRIPTIONS[n]
    )


def manifest(
    issuer: Identity, n: int = 0, name: str = "echo", start: int = NOW, life: int = 100 * DAY_MS
) -> Record:
    return signed(model_body(n, name), Kind.MODEL, issuer, start, life)


def availability(
    issuer: Identity, *offers: Offer, start: int = NOW, life: int = 5 * MINUTE_MS
) -> Record:
    body = AvailabilityBody(id=issuer.did, offers=offers)
    return signed(body, Kind.AVAILABILITY, issuer, start, life)


def offer(of: Record, state: OfferState = "warm", slots: int = 1, latency: int = 0) -> Offer:
    return Offer(
        model=of.subject.removeprefix(MODEL_URN),
        manifest=of.content_id,
        state=state,
        slots=slots,
        latency_ms=latency,
    )


def node_record(issuer: Identity, start: int = NOW, life: int = 10 * MINUTE_MS) -> Record:
    body = NodeBody(
        id=issuer.did, protocol_version=1, software="t", addresses=(), engines=(), devices=()
    )
    return signed(body, Kind.NODE, issuer, start, life)


def unsigned(
    kind: Kind, issuer: str, body: Body, serial: int, *, start: int = NOW, life: int = MINUTE_MS
) -> Record:
    """A record as the index sees it, without the cost of a signature."""
    raw = msgspec.json.encode([kind, issuer, serial, body])
    raw = b'{"credentialSubject":' + msgspec.json.encode(body) + b',"_":' + raw + b"}"
    return Record(kind, issuer, body.id, start, start + life, body, content_id(raw), raw)


def candidate(node: str, **other: Any) -> Candidate:
    fields: dict[str, Any] = {
        "model": MODELS[0],
        "name": "echo",
        "capabilities": ("text-generation",),
        "manifest": "m",
        "record": f"r-{node}",
        "node": node,
        "signer": f"did:{node}",
        "state": "warm",
        "slots": 4,
        "latency_ms": 0,
        "valid_until_ms": NOW + 1,
        "context_tokens": 0,
    }
    return Candidate(**{**fields, **other})


def visible(made: Metagraph, now: int) -> set[str]:
    return {record.content_id for record in made.live_records(now)}
