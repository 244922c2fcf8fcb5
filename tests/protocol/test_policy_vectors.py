"""The vectors of credentials in use are enough to judge by: everything is read from them alone."""

import base64
import gzip
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from scripts.vector_policy import BROKEN_LISTS

from aigrid.protocol import chain, presentation
from aigrid.protocol.credential_kinds import Permission
from aigrid.protocol.errors import AigridError, Code, VerificationError
from aigrid.protocol.kinds import Kind
from aigrid.protocol.policy import Asked, OperatorPolicy, Policies, decide
from aigrid.protocol.record import Record, verify_form_and_signature
from aigrid.protocol.status import (
    IssuerStatus,
    Statuses,
    decode_bits,
    no_bits,
    standing,
    with_bit,
)

FOLDER = Path(__file__).parents[1] / "vectors"


def load(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def records_of(vectors: Any) -> dict[str, Record]:
    found = {cid: verify_form_and_signature(t.encode()) for cid, t in vectors["records"].items()}
    assert all(record.content_id == cid for cid, record in found.items())
    return found


def statuses_of(lists: Any) -> Statuses:
    found = {}
    for did, said in lists.items():
        bits = no_bits()
        for index in said.pop("revoked"):
            bits = with_bit(bits, index)
        said["delegates"] = tuple(said["delegates"])
        found[did] = IssuerStatus(bits=bits, **said)
    return found


def test_status_lists_unpack_with_other_tools_than_ours():
    vectors = load("status_lists")
    for vector in vectors["lists"]:
        text = vector["encoded_list"]
        bits = gzip.decompress(base64.urlsafe_b64decode(text[1:] + "=" * (-len(text[1:]) % 4)))
        assert len(bits) == 131_072 // 8
        number = int.from_bytes(bits)
        assert vector["revoked"] == [n for n in range(131_072) if number >> (131_071 - n) & 1]
        assert decode_bits(text) == bits
    for vector in vectors["refused"]:
        with pytest.raises(VerificationError):
            decode_bits(vector["encoded_list"])
    lengths = {"one byte short": 16_383, "one byte long": 16_385, "twice as long": 32_768}
    for what, length in lengths.items():
        text = BROKEN_LISTS[what]
        packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        assert len(gzip.decompress(packed)) == length


def test_standings():
    vectors = load("status_lists")["standing"]
    credential = verify_form_and_signature(vectors["credential"].encode())
    for case in vectors["cases"]:
        found = standing(credential, statuses_of(case["lists"]), vectors["now_ms"])
        assert found.value == case["standing"], case["what"]
    assert {case["standing"] for case in vectors["cases"]} == {"good", "stale", "revoked"}


def test_chains():
    vectors = load("chains")
    records = records_of(vectors)
    for case in vectors["cases"]:
        links = [records[cid] for cid in case["credentials"]]
        known = statuses_of(case["lists"])
        found = chain.check(links, case["holder"], known, case["now_ms"])
        code = found.code if isinstance(found, chain.Broken) else None
        assert code == case["code"], case["what"]
    assert {case["code"] for case in vectors["cases"]} == {
        None,
        Code.CHAIN_TOO_LONG,
        Code.CHAIN_BROKEN,
        Code.NOT_DELEGABLE,
        Code.DELEGATION_WIDENS,
        Code.NOT_HOLDER,
        Code.EXPIRED,
        Code.FROM_FUTURE,
        Code.REVOKED,
        Code.STATUS_STALE,
    }


def test_presentations():
    vectors = load("presentations")

    def verdict(raw: bytes, case: Any) -> str | None:
        expected = msgspec.convert(case["expected"], presentation.Binding)
        try:
            presentation.check(
                presentation.verify(raw),
                expected,
                node=case["node"],
                peer=case["peer"],
                now_ms=case["now_ms"],
            )
        except AigridError as error:
            return error.code
        return None

    raw = vectors["presentation"].encode()
    assert verdict(raw, vectors) is None
    assert presentation.verify(raw).digest == vectors["sha256"]
    document, config = vectors["unsecured_document"], vectors["proof_configuration"]
    assert vectors["signed_bytes"] == sha256(sorted_json(config)) + sha256(sorted_json(document))
    for case in vectors["refused"]:
        assert verdict(bytes.fromhex(case["presentation"]), case) == case["code"], case["what"]
    assert len({case["code"] for case in vectors["refused"]}) == 7


def sorted_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_decisions():
    vectors = load("decisions")
    records = records_of(vectors)
    for case in vectors["cases"]:
        asked: dict[str, Any] = {
            name: frozenset(value) if isinstance(value, list) else value
            for name, value in case["asked"].items()
        }
        policies = case["policies"]
        operator: dict[str, Any] = {n: frozenset(v) for n, v in policies["operator"].items()}
        found = decide(
            case["action"],
            Asked(**asked),
            [records[cid] for cid in case["credentials"]],
            Policies(
                policies["grid"],
                records[policies["manifest"]] if policies["manifest"] else None,
                OperatorPolicy(**operator),
                msgspec.convert(policies["narrowed"], dict[str, Permission]),
            ),
            statuses_of(case["lists"]),
            case["now_ms"],
        )
        assert found.code == case["code"], case["what"]
    codes = {case["code"] for case in vectors["cases"]}
    assert None in codes
    assert len(codes) > 15


def test_hashes_follow_from_bytes_alone():
    vectors = load("hashes")
    salt = bytes.fromhex(vectors["salt"])
    first, second = vectors["requests"][:2]
    for vector in vectors["requests"]:
        packed = bytes.fromhex(vector["request"])
        ids = msgspec.msgpack.decode(packed).get("continued_ids", [])
        if not ids:
            assert vector["request_hash"] == sha256(salt + packed)
        prefix = b"".join(struct.pack("<I", number) for number in ids)
        assert vector["prefix_hash"] == sha256(salt + prefix)
    assert first["request_hash"] == second["request_hash"]
    for vector in vectors["outputs"]:
        text, numbers = b"", []
        for chunk in map(bytes.fromhex, vector["chunks"]):
            said = msgspec.msgpack.decode(chunk)
            text += {
                "text": lambda c=said: c["text"].encode(),
                "task": lambda c=said: c["output"],
                "tensor": lambda c=chunk: c,
            }[said["type"]]()
            numbers += said.get("token_ids", [])
        end = struct.pack(f"<{len(numbers)}IQ", *numbers, len(numbers))
        assert vector["output_hash"] == sha256(salt + text + end)


def test_every_new_kind_is_among_the_records():
    kinds = {vector["kind"] for vector in load("records")}
    assert kinds == {kind.value for kind in Kind}
