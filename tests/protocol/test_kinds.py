"""Bounds of every field of every kind."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from tests.protocol.strategies import ALICE, BOB, example_bodies, labels

from aigrid.protocol.canonical import canonical, content_id
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.evidence import EVALUATION_URN
from aigrid.protocol.kinds import KINDS, Kind, ModelBody, decode_body, encode_body, node_peer_id
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN, ModelDescription, model_id
from aigrid.protocol.tensors import TensorSpec
from aigrid.protocol.upstream import Upstream

CID = content_id(b"x")
OFFER: dict[str, Any] = {"model": CID, "manifest": CID, "state": "warm"}
SERVED: dict[str, Any] = {"capability": "text", "parameters": {"source": ["en"]}}
FINDING: dict[str, Any] = {"model": CID, "capability": "text", "served": 1, "failed": 0}
FILE: dict[str, Any] = {"name": "a", "sha256": "0" * 64, "bytes": 1}
ADDRESS = "/ip4/192.0.2.1/tcp/1"
NOT_SHOWN = ["\x00", "a\n", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u202e", "\u2066"]
NOT_SERVED: list[dict[str, Any]] = [
    {},
    {"Source": ["en"]},
    {"source": []},
    {"source": "en"},
    {"source": ["en", "de"]},
    {"source": ["en", "en"]},
    {"source": [""]},
    {"source": ["a\n"]},
    {"source": [f"x{n}" for n in range(100, 165)]},
    {f"p{n}": ["x"] for n in range(9)},
]


def code_of(kind: Kind, subject: Any) -> Code | None:
    try:
        decode_body(kind, ALICE.did, subject)
    except VerificationError as error:
        return error.code
    return None


def changed(kind: Kind, path: str, value: Any) -> dict[str, Any]:
    """A body with one value replaced; the id of a model follows, so that it is not what is wrong."""
    body: dict[str, Any] = json.loads(canonical(encode_body(example_bodies()[kind])))
    inner: Any = body
    *parents, last = path.split(".")
    for name in parents:
        inner = inner[int(name)] if isinstance(inner, list) else inner[name]
    inner[last] = value
    if path.startswith("model."):
        model = body["model"]
        files = sorted(model["files"], key=lambda file: file["name"])
        with contextlib.suppress(VerificationError):
            body["id"] = MODEL_URN + content_id(canonical({**model, "files": files}))
        body.pop("chunkLists", None)  # of other files
    return body


@pytest.mark.parametrize("kind", list(Kind))
def test_a_body_is_read_as_it_was_written(kind: Kind) -> None:
    body = example_bodies()[kind]
    assert decode_body(kind, ALICE.did, encode_body(body)) == body


ALLOWED: list[tuple[Kind, str, Any]] = [
    (Kind.NODE, "region", ""),
    (Kind.NODE, "region", "\U0001f600" * LIMITS.name_max_chars),
    (Kind.NODE, "addresses", []),
    (Kind.NODE, "addresses", [ADDRESS] * LIMITS.addresses_max),
    (Kind.NODE, "protocolVersion", 1_000_000),
    (Kind.NODE, "engines", []),
    (Kind.NODE, "devices", [{"kind": "gpu", "name": "", "memoryBytes": 2**53 - 1}] * 64),
    (Kind.MODEL, "memoryBytes", 0),
    (Kind.MODEL, "capabilities", ["text-generation"] * LIMITS.capabilities_max),
    (Kind.MODEL, "model.files", []),
    (Kind.MODEL, "model.files", [{**FILE, "name": "A_b-1.X"}, FILE]),
    (Kind.MODEL, "model.files", [{**FILE, "name": f"f{n}"} for n in range(LIMITS.files_max)]),
    (Kind.MODEL, "model.options", {"": "", "x" * 64: 2**53 - 1, "b": True, "c": 1e-7}),
    (Kind.MODEL, "model.precision", "x" * 32),
    (Kind.MODEL, "capabilities", [f"{BOB.did}#legal-summarization"]),
    (Kind.CAPABILITY, "broader", [f"{BOB.did}#x", f"{ALICE.did}#y", "text"]),
    (Kind.CAPABILITY, "outputSchema", {}),
    (Kind.CAPABILITY, "id", f"{ALICE.did}#a-1"),
    (Kind.MODEL, "serves", []),
    (Kind.MODEL, "serves.0.parameters", {f"p{n}": ["x" * 96] for n in range(8)}),
    (Kind.EVALUATION, "high", "1"),
    (Kind.EVALUATION, "low", "0"),
    (Kind.EVALUATION, "high", "0.613"),
    (Kind.AUDIT, "findings", []),
    (Kind.AUDIT, "findings.0.wrong", 12),
    (Kind.AVAILABILITY, "offers", []),
    (Kind.AVAILABILITY, "offers", [{**OFFER, "slots": 0, "latencyMs": 0}]),
    (Kind.MEMBERSHIP, "role", "authority"),
    (Kind.INVITATION, "nonce", "!" * 64),
]

REFUSED: list[tuple[Kind, str, Any]] = [
    *((Kind.NODE, "region", text) for text in NOT_SHOWN),
    (Kind.NODE, "region", "x" * (LIMITS.name_max_chars + 1)),
    (Kind.NODE, "region", None),
    (Kind.NODE, "protocolVersion", 0),
    (Kind.NODE, "protocolVersion", 1_000_001),
    (Kind.NODE, "protocolVersion", True),
    (Kind.NODE, "protocolVersion", 1.0),
    (Kind.NODE, "protocolVersion", "1"),
    (Kind.NODE, "addresses", [ADDRESS] * (LIMITS.addresses_max + 1)),
    *(
        (Kind.NODE, "addresses", [text])
        for text in ("", "/", "ip4", "/ip4\n", "/ip 4", "/\u00e9", "/" + "x" * 256, 1)
    ),
    (Kind.NODE, "addresses", ADDRESS),
    (Kind.NODE, "engines", [{"name": "", "version": "", "formats": []}]),
    (Kind.NODE, "engines", [{"name": "e", "version": "", "formats": ["f"] * 17}]),
    (Kind.NODE, "engines", [{"name": "e", "version": "", "formats": []}] * 33),
    (Kind.NODE, "devices", [{"kind": "cpu", "name": "", "memoryBytes": -1}]),
    (Kind.NODE, "devices", [{"kind": "cpu", "name": "", "memoryBytes": 2**53}]),
    (Kind.NODE, "devices", [{"kind": "cpu", "name": "", "memoryBytes": 1}] * 65),
    *((Kind.MODEL, "name", text) for text in ("", *NOT_SHOWN)),
    (Kind.CAPABILITY, "broader", []),
    (Kind.CAPABILITY, "broader", ["text"] * (LIMITS.broader_max + 1)),
    (Kind.CAPABILITY, "broader", [f"{ALICE.did}#legal-summarization"]),
    (Kind.CAPABILITY, "broader", ["https://example.org/x"]),
    (Kind.CAPABILITY, "labels", {}),
    (Kind.CAPABILITY, "labels", {"EN": "x"}),
    (Kind.CAPABILITY, "labels", {"en": ""}),
    (Kind.CAPABILITY, "labels", {"en": "a\nb"}),
    (Kind.CAPABILITY, "inputSchema", []),
    (Kind.CAPABILITY, "inputSchema", {"x": "y" * LIMITS.capability_schema_max_bytes}),
    (Kind.CAPABILITY, "outputSchema", {"x": "y" * LIMITS.capability_schema_max_bytes}),
    (Kind.CAPABILITY, "id", f"{ALICE.did}#Legal"),
    (Kind.CAPABILITY, "id", f"{ALICE.did}#a b"),
    (Kind.CAPABILITY, "id", f"{ALICE.did}#"),
    (Kind.CAPABILITY, "id", ALICE.did),
    (Kind.CAPABILITY, "id", f"{ALICE.did}#" + "a" * 128),
    (Kind.MODEL, "capabilities", []),
    (Kind.MODEL, "capabilities", ["a"] * (LIMITS.capabilities_max + 1)),
    *(
        (Kind.MODEL, "capabilities", [text])
        for text in ("", "A", "a_b", "-a", "a-", "a--b", "a\n", "\u00e9", "a" * 129, "x:y", "x#y")
    ),
    (Kind.MODEL, "contextTokens", -1),
    (Kind.MODEL, "serves", [SERVED, SERVED]),
    (Kind.MODEL, "serves", [SERVED, {**SERVED, "capability": "a"}]),
    (Kind.MODEL, "serves", [{**SERVED, "capability": f"c{n}"} for n in range(100, 117)]),
    *((Kind.MODEL, "serves.0.parameters", value) for value in NOT_SERVED),
    *((Kind.EVALUATION, "id", text) for text in ("", CID, f"{EVALUATION_URN}{CID}")),
    *((Kind.EVALUATION, "model", text) for text in ("", MODEL_URN + CID, CID)),
    *((Kind.EVALUATION, "metric", text) for text in ("", "recall", "bleu")),
    *((Kind.EVALUATION, "dataset", text) for text in ("", "AB" * 32, "0" * 64)),
    *((Kind.EVALUATION, "items", value) for value in (0, -1, 1.5, True, 2**53)),
    *(
        (Kind.EVALUATION, "value", value)
        for value in ("", "0.0", "0.6130", "1.0", "1.1", "-0.1", ".6", "0.6000001", "6e-1", 0.613)
    ),
    (Kind.EVALUATION, "low", "0.613001"),
    (Kind.EVALUATION, "high", "0.612999"),
    (Kind.EVALUATION, "parameters", {"source": "en"}),
    (Kind.EVALUATION, "parameters", {f"p{n}": "x" for n in range(9)}),
    *((Kind.AUDIT, "id", value) for value in ("", "x", ALICE.did, CID)),
    *((Kind.AUDIT, f"findings.0.{name}", -1) for name in ("served", "failed", "latencyMs")),
    (Kind.AUDIT, "findings.0.wrong", 13),
    (Kind.AUDIT, "findings.0.model", "smollm2"),
    (Kind.AUDIT, "findings", [FINDING, FINDING]),
    (Kind.AUDIT, "findings", [FINDING, {**FINDING, "capability": "a"}]),
    (Kind.AUDIT, "findings", [{**FINDING, "capability": f"c{n}"} for n in range(100, 165)]),
    (Kind.MODEL, "languages", ["en"] * 65),
    (Kind.MODEL, "id", CID),
    (Kind.MODEL, "id", "urn:aigrid:model:" + CID),
    *(
        (Kind.MODEL, "model.files", [{**FILE, "name": text}])
        for text in ("", ".", "..", ".a", "a/b", "a\\b", "a\n", "a\x00", "-a", "\u00e9", "a" * 97)
    ),
    *(
        (Kind.MODEL, "model.files", [{**FILE, "sha256": text}])
        for text in ("", "0" * 63, "0" * 65, "0" * 64 + "\n", "A" * 64, "g" * 64)
    ),
    *((Kind.MODEL, "model.files", [{**FILE, "bytes": n}]) for n in (-1, 2**53, 1.0, True)),
    (Kind.MODEL, "model.files", [FILE, FILE]),
    (Kind.MODEL, "model.files", [FILE, {**FILE, "name": "A"}]),
    (Kind.MODEL, "model.files", [{**FILE, "name": f"f{n}"} for n in range(LIMITS.files_max + 1)]),
    *((Kind.MODEL, "model.format", text) for text in ("", "GGUF", "a-b", "a\n", "x" * 33)),
    (Kind.MODEL, "model.options", {"a": None}),
    (Kind.MODEL, "model.options", {"a": []}),
    (Kind.MODEL, "model.options", {"a": 2**53}),
    (Kind.MODEL, "model.options", {"a": 1e400}),
    (Kind.MODEL, "model.options", {"x" * 65: 1}),
    *((Kind.MODEL, "model.task", text) for text in ("", "x" * 97, *NOT_SHOWN)),
    *((Kind.MODEL, "model.precision", text) for text in ("x" * 33, *NOT_SHOWN)),
    (Kind.AVAILABILITY, "offers", [OFFER, {**OFFER, "state": "on_disk"}]),
    *((Kind.AVAILABILITY, "offers.0.model", text) for text in ("", "x", CID.upper(), CID + "=")),
    (Kind.AVAILABILITY, "offers.0.manifest", "smollm2"),
    *((Kind.AVAILABILITY, "offers.0.state", value) for value in ("WARM", "", None, 0)),
    *((Kind.AVAILABILITY, "offers.0.slots", value) for value in (-1, 65537, True, 1.5)),
    (Kind.AVAILABILITY, "offers.0.latencyMs", -1),
    (Kind.AVAILABILITY, "seeds.0.model", "smollm2"),
    (Kind.AVAILABILITY, "seeds", [{"model": CID, "manifest": CID}] * 2),
    *((Kind.DEMAND, "wanted.0.waiting", value) for value in (0, -1, 1_000_001, 1.5, True)),
    *((Kind.DEMAND, "wanted.0.manifest", text) for text in ("", CID.upper())),
    (Kind.DEMAND, "wanted", [{"model": CID, "manifest": CID, "waiting": 1}] * 2),
    (Kind.MODEL, "chunkLists", []),
    (Kind.MODEL, "chunkLists.0.name", "c.json"),
    (Kind.MODEL, "chunkLists.0.sha256", "AB" * 32),
    (
        Kind.AVAILABILITY,
        "offers",
        [{**OFFER, "model": content_id(bytes([n]))} for n in range(LIMITS.offers_max + 1)],
    ),
    *((Kind.MEMBERSHIP, "id", value) for value in ("", "x", ALICE.peer_id, BOB.did + "\n", 1)),
    *((Kind.MEMBERSHIP, "role", value) for value in ("", "admin", "Authority", None)),
    *((Kind.INVITATION, "id", value) for value in ("", "did:key:z", BOB.peer_id)),
    *((Kind.INVITATION, "peerId", value) for value in ("", BOB.did, BOB.peer_id + "1")),
    *(
        (Kind.INVITATION, "nonce", value)
        for value in ("", "!" * 15, "!" * 65, "a" * 16 + "\n", " " * 16, 1)
    ),
    *((Kind.ROTATION, "successor", value) for value in ("", "did:key:z", ALICE.did, BOB.peer_id)),
    *((Kind.ROTATION, "rotated", value) for value in ("", "2026-09-22", 1)),
    *((Kind.ROTATION, "successorProof", value) for value in ("x" * 101, None)),
]


@pytest.mark.parametrize(("kind", "path", "value"), ALLOWED)
def test_values_at_the_edge_are_allowed(kind: Kind, path: str, value: Any) -> None:
    assert code_of(kind, changed(kind, path, value)) is None


@pytest.mark.parametrize(("kind", "path", "value"), REFUSED)
def test_values_beyond_the_edge_are_malformed(kind: Kind, path: str, value: Any) -> None:
    assert code_of(kind, changed(kind, path, value)) is Code.MALFORMED


def test_a_field_is_unknown_at_any_depth_and_a_value_cannot_pose_as_one() -> None:
    for kind, path in (
        (Kind.NODE, "engines.0.speed"),
        (Kind.NODE, "devices.0.speed"),
        (Kind.MODEL, "model.speed"),
        (Kind.MODEL, "model.files.0.url"),
        (Kind.MODEL, "serves.0.price"),
        (Kind.EVALUATION, "price"),
        (Kind.AUDIT, "findings.0.price"),
        (Kind.AVAILABILITY, "offers.0.price"),
        (Kind.MODEL, "memory_bytes"),
    ):
        assert code_of(kind, changed(kind, path, 1)) is Code.UNKNOWN_FIELD
    posing = changed(Kind.AVAILABILITY, "offers.0.state", "Object contains unknown field")
    assert code_of(Kind.AVAILABILITY, posing) is Code.MALFORMED


@given(labels)
def test_ordinary_text_may_be_shown(text: str) -> None:
    assert code_of(Kind.NODE, changed(Kind.NODE, "region", text)) is None


def test_what_names_holders_is_not_shared() -> None:
    private = {Kind.INVITATION, Kind.ROTATION, Kind.GRANT, Kind.DELEGATION, Kind.RECEIPT}
    assert {kind for kind, rule in KINDS.items() if not rule.shared} == private
    assert set(KINDS) == set(Kind)


def test_the_subject_of_a_node_record_leads_to_its_peer() -> None:
    assert node_peer_id(ALICE.did) == ALICE.peer_id


def test_only_its_publisher_describes_a_model_behind_a_server():
    description = ModelDescription(
        "openai_api", "text-generation", (), upstream=Upstream(ALICE.did, "parrot")
    )
    body = ModelBody(
        id=MODEL_URN + model_id(description),
        name="parrot",
        capabilities=("text-generation",),
        model=description,
    )
    subject = encode_body(body)
    assert decode_body(Kind.MODEL, ALICE.did, subject) == body
    with pytest.raises(VerificationError) as refused:
        decode_body(Kind.MODEL, BOB.did, subject)
    assert refused.value.code is Code.ISSUER_NOT_KEY


def test_a_manifest_declares_each_tensor_once():
    description = ModelDescription("echo", "reinforcement-learning", ())
    spec = TensorSpec("x", "FP32", (-1, 2))
    body = ModelBody(
        id=MODEL_URN + model_id(description),
        name="adder",
        capabilities=("reinforcement-learning",),
        model=description,
        inputs=(spec,),
    )
    assert decode_body(Kind.MODEL, ALICE.did, encode_body(body)) == body
    twice = encode_body(msgspec.structs.replace(body, inputs=(spec, spec)))
    with pytest.raises(VerificationError, match="declared twice"):
        decode_body(Kind.MODEL, ALICE.did, twice)
