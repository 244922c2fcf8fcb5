"""The committed vectors are current, and hold when checked with other libraries than ours."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from aigrid.protocol import messages
from aigrid.protocol.errors import VerificationError
from aigrid.protocol.record import verify

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "vectors"


def load(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def test_the_vectors_are_what_this_version_computes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.vectors", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_identities_agree_with_another_library() -> None:
    for vector in load("identities"):
        private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vector["seed"]))
        assert private.public_key().public_bytes_raw().hex() == vector["public_key"]


def sorted_json(value: Any) -> str:
    """JCS, as far as the names of our records need it: they are ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def test_records_verify_step_by_step_without_our_code() -> None:
    keys = {vector["seed"]: vector["public_key"] for vector in load("identities")}
    for vector in load("records"):
        document, config = vector["unsecured_document"], vector["proof_configuration"]
        assert sorted_json(document) == vector["canonical_document"]
        assert sorted_json(config) == vector["canonical_proof_configuration"]
        document_hash = hashlib.sha256(vector["canonical_document"].encode()).hexdigest()
        config_hash = hashlib.sha256(vector["canonical_proof_configuration"].encode()).hexdigest()
        assert document_hash == vector["document_sha256"]
        assert config_hash + document_hash == vector["signed_bytes"]
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(keys[vector["issuer_seed"]]))
        key.verify(bytes.fromhex(vector["signature"]), bytes.fromhex(vector["signed_bytes"]))
        proof = {**config, "proofValue": vector["proof_value"]}
        assert sorted_json({**document, "proof": proof}) == vector["record"]


def test_records_are_accepted_and_refusals_refused() -> None:
    for vector in load("records"):
        record = verify(vector["record"].encode(), now_ms=vector["valid_from_ms"])
        assert record.content_id == vector["content_id"]
        assert list(record.key) == vector["key"]
    for vector in load("refusals"):
        with pytest.raises(VerificationError) as caught:
            verify(bytes.fromhex(vector["record"]), now_ms=vector["now_ms"])
        assert caught.value.code == vector["code"], vector["what"]


def test_branches_agree_with_the_taxonomy_as_published() -> None:
    """By the Turtle file, which another implementation has, too."""
    text = (ROOT / "metagraph" / "vocabulary" / "capabilities.ttl").read_text(encoding="utf-8")
    below: dict[str, str] = {}
    known = set()
    for concept in re.findall(r"^cap:\S+ a skos:Concept ;$.*?\.$", text, re.MULTILINE | re.DOTALL):
        name, *above = re.findall(r"^(?: +skos:broader )?cap:(\S+)", concept, re.MULTILINE)
        known.add(name)
        if above:
            (below[name],) = above
    for vector in load("branches"):
        body = vector["credential_subject"]
        one = [body["capability"]] if "capability" in body else []
        one += [finding["capability"] for finding in body.get("findings", [])]
        named = one or body.get("capabilities" if "capabilities" in body else "branches", [])
        if vector["kind"] == "NodeRecord" and named == ["none"]:
            assert (vector["branches"], vector["topics"]) == (["none"], [])
            continue
        roots = {root_of(name, below) for name in named}
        expected = sorted(roots) if set(named) <= known else []
        assert vector["branches"] == expected
        topics = {f"records/{branch}" for branch in expected} or {"records"}
        assert set(vector["topics"]) == topics


def root_of(name: str, below: dict[str, str]) -> str:
    while name in below:
        name = below[name]
    return name


def test_messages_are_read_back() -> None:
    for vector in load("messages"):
        decode = getattr(messages, f"decode_{vector['conversation']}")
        message = decode(bytes.fromhex(vector["bytes"]))
        assert type(message).__name__ == vector["message"]
        assert messages.encode(message).hex() == vector["bytes"]
