"""The W3C eddsa-jcs-2022 vector, byte for byte, through the functions that sign our records."""

import hashlib
import json
from pathlib import Path
from typing import Any

from aigrid.protocol.canonical import canonical
from aigrid.protocol.identity import (
    Identity,
    multibase,
    multibase_decode,
    public_key_of_did,
    verify_signature,
)
from aigrid.protocol.record import jcs_hash, sign_jcs, verification_method

FOLDER = Path(__file__).parents[1] / "vectors" / "eddsa-jcs-2022"
SECRET_KEY_MULTICODEC = b"\x80\x26"


def text(name: str) -> str:
    return (FOLDER / name).read_text().strip()


def document(name: str) -> Any:
    return json.loads(text(name))


def signer() -> Identity:
    secret = multibase_decode(document("keyPair.json")["privateKeyMultibase"], max_chars=80)
    assert secret is not None
    assert secret[:2] == SECRET_KEY_MULTICODEC
    return Identity(secret[2:])


def test_the_key_pair_is_the_did_of_the_vector() -> None:
    public = document("keyPair.json")["publicKeyMultibase"]
    assert signer().did == f"did:key:{public}"
    assert (
        verification_method(signer().did) == document("proofConfigJCS.json")["verificationMethod"]
    )


def test_the_canonical_document_is_the_vectors() -> None:
    assert canonical(document("unsigned.json")).decode() == text("canonDocJCS.txt")


def test_both_hashes_are_the_vectors() -> None:
    unsigned, config = document("unsigned.json"), document("proofConfigJCS.json")
    assert hashlib.sha256(canonical(unsigned)).hexdigest() == text("docHashJCS.txt")
    assert hashlib.sha256(canonical(config)).hexdigest() == text("proofHashJCS.txt")
    assert jcs_hash(unsigned, config).hex() == text("proofHashJCS.txt") + text("docHashJCS.txt")


def test_the_signature_is_the_vectors() -> None:
    value = sign_jcs(document("unsigned.json"), document("proofConfigJCS.json"), signer())
    assert value == text("sigBTC58JCS.txt")


def test_the_whole_signed_document_is_the_vectors() -> None:
    unsigned, config = document("unsigned.json"), document("proofConfigJCS.json")
    signed = {**unsigned, "proof": {**config, "proofValue": sign_jcs(unsigned, config, signer())}}
    assert signed == document("signedJCS.json")
    assert canonical(signed) == canonical(document("signedJCS.json"))


def test_the_vectors_signature_verifies_and_another_document_does_not() -> None:
    signed = document("signedJCS.json")
    proof = signed.pop("proof")
    value = proof.pop("proofValue")
    signature = multibase_decode(value, max_chars=100)
    assert signature is not None
    assert multibase(signature) == value
    key = public_key_of_did(proof["verificationMethod"].partition("#")[0])
    assert verify_signature(key, jcs_hash(signed, proof), signature)
    assert not verify_signature(key, jcs_hash({**signed, "name": "x"}, proof), signature)
    assert not verify_signature(
        key, jcs_hash(signed, {**proof, "proofPurpose": "authentication"}), signature
    )
