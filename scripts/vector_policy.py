"""Credentials in use, as test vectors: status lists, chains, presentations, decisions, hashes."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from scripts import policy_world as world
from scripts.policy_cases import BROKEN, CHAIN, G1, LICENSED, MEMBER, REFUSED, WIDER, situation
from scripts.presentation_cases import CHECKED, INVALID, SHORT
from scripts.vector_credentials import NONE_REVOKED, SOME_REVOKED

from aigrid.protocol import chain as chains
from aigrid.protocol import inference, presentation
from aigrid.protocol.credential_kinds import Rule
from aigrid.protocol.errors import Code
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.policy import Policies, decide
from aigrid.protocol.receipt import OutputHash, prefix_hash, request_hash
from aigrid.protocol.record import Record, jcs_hash
from aigrid.protocol.status import IssuerStatus, Statuses, decode_bits, has_bit, standing

ENTRIES = 131_072
HEAD, ZEROS = "H4sIAAAAAAACA-3B", "MQEAAADCoPVPbQwfoAAAAAAAAAAAAAAAAAAAAIC"
TWICE = "AQEAAACAkP6v7ggKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABim_B8BAIAAAA"
BROKEN_LISTS = {
    "one byte short": HEAD + ZEROS + "zAQmvhYr_PwAA",
    "one byte long": HEAD + ZEROS + "7AUqdctYBQAAA",
    "twice as long": HEAD + TWICE,
    "something behind the end": HEAD + ZEROS + "3AYbSVKsAQAAAAA",
    "without its checksum": HEAD + ZEROS + "3AQ",
    "no gzip": "A" * 40,
    "nothing": "",
}
LONGEST = 20_000  # bytes of a presentation in the vectors


class Records:
    """Records by content id, each written once."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def names(self, records: Iterable[Record]) -> list[str]:
        return [self.name(record) for record in records]

    def name(self, record: Record) -> str:
        self.found[record.content_id] = record.raw.decode()
        return record.content_id

    def as_vectors(self, cases: list[Any]) -> Any:
        return {"records": dict(sorted(self.found.items())), "cases": cases}


def lists_of(known: Statuses, credentials: Iterable[Record]) -> Any:
    """What is known of the revocations of those who issued the credentials, by DID."""
    issuers = {one.status.issuer for one in credentials if one.status is not None}
    return {
        did: {
            "revoked": [n for n in range(200) if has_bit(status.bits, n)],
            "own_ms": status.own_ms,
            "delegates": list(status.delegates),
            "delegates_ms": dict(status.delegates_ms),
            "quorum": status.quorum,
        }
        for did, status in known.items()
        if did in issuers
    }


def status_lists() -> Any:
    return {
        "lists": [
            {
                "encoded_list": text,
                "revoked": [n for n in range(ENTRIES) if has_bit(bits, n)],
            }
            for text in (NONE_REVOKED, SOME_REVOKED)
            for bits in [decode_bits(text)]
        ],
        "refused": [
            {"what": what, "encoded_list": "u" + text} for what, text in BROKEN_LISTS.items()
        ],
        "standing": standings(),
    }


def standings() -> Any:
    """Of a membership whose list may be 600 seconds old."""
    now_ms = world.NOW_MS
    a, b, c = (who.did for who in (world.ANN, world.BEN, world.CEM))

    def known(own: int, *recent: str, quorum: int = 2, revoked: bool = False) -> IssuerStatus:
        bits = world.statuses(revoked={world.AUTHORITY.did: [1] if revoked else []})
        return IssuerStatus(
            bits=bits[world.AUTHORITY.did].bits,
            own_ms=own,
            delegates_ms={who: now_ms if who in recent else now_ms - 600_001 for who in (a, b, c)},
            quorum=quorum,
            delegates=(a, b, c),
        )

    cases = {
        "its own list as old as it may be": known(now_ms - 600_000),
        "its own list a millisecond older": known(now_ms - 600_001),
        "one delegate of a quorum of two": known(0, a),
        "two delegates of a quorum of two": known(0, a, b),
        "two delegates of a quorum of three": known(0, a, b, quorum=3),
        "revoked, in lists too old": known(0, revoked=True),
        "revoked": known(now_ms, a, b, revoked=True),
    }
    return {
        "credential": MEMBER.raw.decode(),
        "now_ms": now_ms,
        "cases": [
            {
                "what": what,
                "lists": lists_of({world.AUTHORITY.did: status}, [MEMBER]),
                "standing": standing(MEMBER, {world.AUTHORITY.did: status}, now_ms).value,
            }
            for what, status in cases.items()
        ],
    }


def chain_cases() -> Any:
    records, cases = Records(), []

    def add(what: str, links: list[Record], holder: str, known: Statuses, now_ms: int) -> None:
        found = chains.check(links, holder, known, now_ms)
        cases.append(
            {
                "what": what,
                "credentials": records.names(links),
                "holder": holder,
                "now_ms": now_ms,
                "lists": lists_of(known, links),
                "code": found.code.value if isinstance(found, chains.Broken) else None,
            }
        )

    now_ms, known = world.NOW_MS, world.statuses()
    for count in range(1, 5):
        links = CHAIN[:count]
        add(f"{count} links", links, world.holder_of(links), known, now_ms)
    for what, (links, holder, _) in BROKEN.items():
        add(what, links, holder or world.holder_of(links), known, now_ms)
    for what, (parent, child, _) in WIDER.items():
        links = world.chain(parent, child)
        add(f"permits more: {what}", links, world.holder_of(links), known, now_ms)
    links, holder = CHAIN[:2], world.holder_of(CHAIN[:2])
    add("at the instant it ends", links, holder, known, now_ms + world.DAY_MS)
    add("120.001 s before it starts", links, holder, known, now_ms - 120_001)
    revoked = world.statuses(revoked={world.ANN.did: [2]})
    add("the second link revoked", links, holder, revoked, now_ms)
    stale = world.statuses(unknown=[world.ANN.did])
    add("no list of the second issuer", links, holder, stale, now_ms)
    return records.as_vectors(cases)


def presentations() -> Any:
    document = json.loads(SHORT)
    proof = document.pop("proof")
    proof.pop("proofValue")
    cases = [
        {
            "what": what,
            "presentation": raw.hex(),
            **asked_by(world.binding(), {}),
            "code": Code.PRESENTATION_INVALID.value,
        }
        for what, raw in INVALID.items()
        if len(raw) < LONGEST
    ]
    cases += [
        {"what": what, "presentation": raw.hex(), **asked_by(expected, more), "code": code.value}
        for what, (raw, expected, more, code) in CHECKED.items()
    ]
    return {
        "holder_seed": world.GATEWAY.seed.hex(),
        "unsecured_document": document,
        "proof_configuration": proof,
        "signed_bytes": jcs_hash(document, proof).hex(),
        "presentation": SHORT.decode(),
        "sha256": hashlib.sha256(SHORT).hexdigest(),
        **asked_by(world.binding(), {}),
        "refused": cases,
    }


def asked_by(expected: presentation.Binding, more: Mapping[str, Any]) -> dict[str, Any]:
    said = {
        "node": world.NODE.did,
        "peer": world.GATEWAY.did,
        "now_ms": world.NOW_MS,
        **more,
    }
    return {"expected": msgspec.to_builtins(expected), **said}


def decisions() -> Any:
    records, cases = Records(), []
    allowed: dict[str, tuple[list[Record], dict[str, Any]]] = {
        "a chain of four and a membership": ([MEMBER, *CHAIN], {}),
        "a grant": ([G1], {}),
        "the owner": ([], {"holder": world.OWNER.did, "found": world.manifest()}),
        "anyone": ([], {"found": world.manifest(Rule(("invoke",), ("anyone",)))}),
        "a licence that is accepted in other letters": (
            [MEMBER],
            {"found": LICENSED, "accepts": frozenset({"mit"})},
        ),
        "no policy": ([MEMBER], {"found": world.manifest(policy=msgspec.UNSET)}),
    }
    refused = {what: (shown, more) for what, (shown, more, _) in REFUSED.items()}
    for what, (credentials, more) in {**allowed, **refused}.items():
        action, asked, shown, policies, known, now_ms = situation(credentials, **more)
        found = decide(action, asked, shown, policies, known, now_ms)
        cases.append(
            {
                "what": what,
                "action": action,
                "asked": {
                    name: sorted(value) if isinstance(value, frozenset) else value
                    for name in asked.__slots__
                    for value in [getattr(asked, name)]
                },
                "credentials": records.names(shown),
                "policies": policies_of(policies, records),
                "lists": lists_of(known, shown),
                "now_ms": now_ms,
                "code": None if found.code is None else found.code.value,
            }
        )
    return records.as_vectors(cases)


def policies_of(policies: Policies, records: Records) -> Any:
    operator = policies.operator
    return {
        "grid": policies.grid,
        "manifest": None if policies.manifest is None else records.name(policies.manifest),
        "operator": {"serves": sorted(operator.serves), "hosts": sorted(operator.hosts)},
        "narrowed": {n: msgspec.to_builtins(p) for n, p in policies.narrowed.items()},
    }


def hashes() -> Any:
    salt = world.SALT
    tensor = inference.Tensor("float32", (1,), bytes(4))
    requests: list[inference.InferRequest] = [
        world.REQUEST,
        msgspec.structs.replace(world.REQUEST, continued_ids=(1, 2, 65_536), max_tokens=13),
        TextRequest(messages=(inference.ChatMessage("user", "caf\u00e9"),), stop=("\n",)),
        inference.TensorRequest({"b": tensor, "a": tensor}),
        inference.TaskRequest("text-classification", b'{"text":"good"}', {"top_k": 2, "a": 1.5}),
    ]
    outputs: list[list[inference.InferChunk]] = [
        [],
        [inference.TextChunk("caf", (1,)), inference.TextChunk("\u00e9", (2, 65_536))],
        [inference.TextChunk("caf\u00e9")],
        [inference.TaskChunk(b'{"label":"good"}')],
        [inference.TensorChunk({"b": tensor, "a": tensor})],
    ]
    encode = msgspec.msgpack.Encoder(order="deterministic").encode
    return {
        "salt": salt.hex(),
        "requests": [
            {
                "request": encode(request).hex(),
                "request_hash": request_hash(salt, request),
                "prefix_hash": prefix_hash(salt, request),
            }
            for request in requests
        ],
        "outputs": [
            {"chunks": [encode(chunk).hex() for chunk in chunks], "output_hash": hashed(chunks)}
            for chunks in outputs
        ],
    }


def hashed(chunks: list[inference.InferChunk]) -> str:
    whole = OutputHash(world.SALT)
    whole.add(chunks)
    return whole.hexdigest()
