"""Records that must never be seen: each hostile in one way, of every kind that is spread."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from tests.metagraph.world import (
    ANN,
    AUTHORITY,
    BEN,
    DAY_MS,
    MINUTE_MS,
    STRANGER,
    availability,
    manifest,
    membership,
    node_record,
    offer,
    signed,
    status_delegation,
    status_list,
    withdrawal,
)
from tests.protocol.strategies import example_evaluation, forge

from aigrid.protocol.canonical import content_id
from aigrid.protocol.evidence import AuditBody, Finding
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import KINDS, CapabilityBody, DemandBody, Kind, WantedModel
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record

SHARED = [kind for kind in Kind if KINDS[kind].shared]
SKEW_MS = LIMITS.clock_skew_seconds * 1000


def record_of(kind: Kind, start: int, life: int = 4 * MINUTE_MS, by: Identity = ANN) -> Record:
    """A record that its issuer may sign. A Membership is for BEN, whoever signs it."""
    if kind is Kind.NODE:
        return node_record(by, start, life)
    if kind is Kind.MODEL:
        return manifest(by, 1, "never", start, life)
    if kind is Kind.AVAILABILITY:
        return availability(
            by, offer(manifest(by, 1, "never", start, life)), start=start, life=life
        )
    if kind is Kind.DEMAND:
        wanted = offer(manifest(by, 1, "never", start, life))
        demand = DemandBody(by.did, (WantedModel(wanted.model, wanted.manifest, 1),))
        return signed(demand, kind, by, start, life)
    if kind is Kind.CAPABILITY:
        body = CapabilityBody(id=f"{by.did}#never", broader=("text",), labels={"en": "never"})
        return signed(body, kind, by, start, life)
    if kind is Kind.EVALUATION:
        return signed(example_evaluation(content_id(b"never")), kind, by, start, life)
    if kind is Kind.AUDIT:
        found = Finding(content_id(b"never"), "text", 1, 0)
        return signed(AuditBody(BEN.did, (found,)), kind, by, start, life)
    if kind is Kind.STATUS_LIST:
        return status_list(by, by, 7, start=start, life=life)
    if kind is Kind.STATUS_DELEGATION:
        return status_delegation(by, (BEN,), start=start, life=life)
    assert kind is Kind.MEMBERSHIP
    return membership(BEN, start, life, by)


def issuer_of(kind: Kind, member: Identity = ANN, authority: Identity = AUTHORITY) -> Identity:
    """Who signs a record of `kind` that is believed."""
    return authority if kind is Kind.MEMBERSHIP else member


def flipped(raw: bytes, mask: int = 1) -> list[bytes]:
    """Every byte changed once."""
    return [raw[:i] + bytes([raw[i] ^ mask]) + raw[i + 1 :] for i in range(len(raw))]


def misspelt(record: Record) -> list[bytes]:
    """The same in other bytes."""
    document = json.loads(record.raw)
    turned = dict(reversed(document.items()))
    return [
        record.raw + b" ",
        b"\n" + record.raw,
        json.dumps(document, indent=1).encode(),
        json.dumps(turned, separators=(",", ":")).encode(),
        record.raw.replace(b'"issuer"', b'"\\u0069ssuer"'),
        record.raw[:-1] + b',"issuer":"x"}',
    ]


def with_unknown_fields(record: Record, by: Identity) -> list[bytes]:
    """With a member too many, in every object there is, each correctly signed."""

    def objects(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        if isinstance(value, dict):
            yield path
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(item, dict | list):
                yield from objects(item, (*path, key))

    def adding(path: tuple[Any, ...]) -> Callable[[dict[str, Any]], None]:
        def change(document: dict[str, Any]) -> None:
            place: Any = document
            for key in path:
                place = place[key]
            place["unknown"] = "x"

        return change

    document = json.loads(record.raw)
    open_maps = {
        "labels",
        "options",
        "inputSchema",
        "outputSchema",
        "parametersSchema",
    }  # whose names are their content
    paths = [path for path in objects(document) if path[:1] != ("proof",)]
    made = [
        forge(record, adding(path), signer=by)
        for path in paths
        if path[-1:] not in {(name,) for name in open_maps}
    ]
    return [*made, forge(record, proof={"unknown": "x"}, signer=by)]


def hostile(
    kind: Kind, now: int, *, member: Identity = ANN, authority: Identity = AUTHORITY
) -> dict[str, list[bytes]]:
    """By their crime, records that no state of a grid without strangers lets in at `now`."""
    by = issuer_of(kind, member, authority)
    good = record_of(kind, now, by=by)
    elsewhere = issuer_of(kind, STRANGER, member)
    return {
        "tampered": [raw for mask in (1, 0x20) for raw in flipped(good.raw, mask)],
        "expired": [record_of(kind, now - MINUTE_MS, MINUTE_MS, by).raw],
        "future": [record_of(kind, now + SKEW_MS + DAY_MS, by=by).raw],
        "foreign": [record_of(kind, now, by=elsewhere).raw],
        "unknown field": with_unknown_fields(good, by),
        "misspelt": misspelt(good),
    }


def replayed(kind: Kind, now: int, *, by: Identity) -> tuple[Record, Record, Record]:
    """(an old record, what replaced it, its withdrawal), all valid at `now`."""
    old, new = record_of(kind, now - 2, by=by), record_of(kind, now - 1, by=by)
    return old, new, withdrawal(kind, old.subject, by, now, min(DAY_MS, 4 * MINUTE_MS))
