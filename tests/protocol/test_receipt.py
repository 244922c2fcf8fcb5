"""Receipts: hashes that commit to what was said, and nothing that is not as it should be."""

import hashlib
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.mutants import refusal_of
from tests.protocol.strategies import ALICE, BOB, NOW_MS, example, forge
from tests.protocol.test_messages import tensor_requests, text_requests

from aigrid.protocol.errors import Code
from aigrid.protocol.inference import (
    Finish,
    InferRequest,
    TaskChunk,
    TaskRequest,
    Tensor,
    TensorChunk,
    TextChunk,
    TextRequest,
)
from aigrid.protocol.kinds import Kind
from aigrid.protocol.messages import Infer, decode_rpc_request, encode
from aigrid.protocol.receipt import OutputHash, prefix_hash, request_hash, seeded
from aigrid.protocol.timestamp import format_ms

SALT, OTHER = bytes(range(16)), bytes(range(1, 17))
requests = text_requests | tensor_requests


@given(requests)
def test_both_ends_compute_the_same_though_it_was_sent(request: InferRequest):
    sent = decode_rpc_request(encode(Infer("12345678", "m", "m", request, SALT, b"")))
    assert isinstance(sent, Infer)
    assert request_hash(SALT, sent.request) == request_hash(SALT, request)
    assert prefix_hash(SALT, sent.request) == prefix_hash(SALT, request)


@given(text_requests, st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple))
def test_continuations_of_one_answer_have_one_hash_and_prefixes_of_their_own(request, ids):
    request = msgspec.structs.replace(request, continued_ids=())
    most = None if request.max_tokens is None else request.max_tokens - len(ids)
    going_on = msgspec.structs.replace(request, continued_ids=ids, max_tokens=most)
    assert request_hash(SALT, going_on) == request_hash(SALT, request)
    same = ids == request.continued_ids
    assert (prefix_hash(SALT, going_on) == prefix_hash(SALT, request)) == same


@given(requests, requests)
def test_other_requests_and_other_salts_have_other_hashes(one, other):
    def without_prefix(request: InferRequest) -> InferRequest:
        if not isinstance(request, TextRequest):
            return request
        most = request.max_tokens
        most = None if most is None else most + len(request.continued_ids)
        return msgspec.structs.replace(request, continued_ids=(), max_tokens=most)

    same = encode_of(without_prefix(one)) == encode_of(without_prefix(other))
    assert (request_hash(SALT, one) == request_hash(SALT, other)) == same
    assert request_hash(SALT, one) != request_hash(OTHER, one)


def encode_of(request: InferRequest) -> bytes:
    return msgspec.msgpack.encode(request, order="deterministic")


def test_the_order_of_names_does_not_matter():
    tensor = Tensor("float32", (1,), bytes(4))
    assert request_hash(SALT, TaskRequest("x", b"{}", {"a": 1, "b": 2})) == request_hash(
        SALT, TaskRequest("x", b"{}", {"b": 2, "a": 1})
    )
    outputs = ({"a": tensor, "b": tensor}, {"b": tensor, "a": tensor})
    assert output(TensorChunk(outputs[0])) == output(TensorChunk(outputs[1]))


def output(*chunks: Any, salt: bytes = SALT) -> str:
    whole = OutputHash(salt)
    whole.add(chunks)
    return whole.hexdigest()


tokens = st.lists(st.tuples(st.text(max_size=3), st.integers(0, 2**31 - 1)), max_size=8)


@given(tokens, st.data())
def test_how_output_is_cut_does_not_matter(found, data):
    by_token = [TextChunk(text, (number,)) for text, number in found]
    whole = TextChunk("".join(text for text, _ in found), tuple(number for _, number in found))
    assert output(*by_token, Finish("stop", 1, 2)) == output(whole)
    place = data.draw(st.integers(0, len(whole.text)))
    cut = (TextChunk(whole.text[:place]), TextChunk(whole.text[place:], whole.token_ids))
    assert output(*cut) == output(whole)
    parts = OutputHash(SALT)
    for chunk in by_token:
        parts.add([chunk])
        assert parts.hexdigest() == parts.hexdigest()  # asking changes nothing
    assert parts.hexdigest() == output(whole)


def test_what_is_said_beside_text_counts_and_cannot_pass_for_text():
    more = TextChunk("a", (1,), more=b'{"b":1}')
    assert output(more) == output(TextChunk("a", more=b'{"b":1}'), TextChunk("", (1,)))
    assert output(more) != output(TextChunk("a", (1,)))
    assert output(more) != output(TextChunk('a\x07{"b":1}', (1,)))
    assert output(more) != output(TextChunk("", more=b'{"b":1}'), TextChunk("a", (1,)))
    split = (TextChunk("a", more=b'{"b"'), TextChunk("", (1,), more=b":1}"))
    assert output(more) != output(*split)


@given(tokens, tokens)
def test_other_output_has_another_hash(one, other):
    def said(found: Any) -> tuple[str, tuple[int, ...]]:
        return "".join(text for text, _ in found), tuple(number for _, number in found)

    same = said(one) == said(other)
    assert (output(TextChunk(*said(one))) == output(TextChunk(*said(other)))) == same


def test_text_does_not_pass_for_token_ids():
    ids = (0x61626364, 0x65666768)
    as_text = struct.pack("<2I", *ids).decode()
    assert output(TextChunk("x", ids)) != output(TextChunk("x" + as_text))
    assert output(TextChunk("x", ids[1:])) != output(TextChunk("x" + as_text[:4], ids[1:]))


def test_hashes_are_made_as_specified():
    text = "caf\u00e9".encode()
    ids, count = struct.pack("<2I", 1, 2), struct.pack("<Q", 2)
    expected = hashlib.sha256(SALT + text + ids + count).hexdigest()
    assert output(TextChunk("caf", (1,)), TextChunk("\u00e9", (2,))) == expected
    none = struct.pack("<Q", 0)
    assert output() == hashlib.sha256(SALT + none).hexdigest()
    assert output(TaskChunk(b'{"a":1}')) == hashlib.sha256(SALT + b'{"a":1}' + none).hexdigest()
    request = TextRequest(prompt="x", continued_ids=(1, 2))
    assert prefix_hash(SALT, request) == hashlib.sha256(SALT + ids).hexdigest()
    packed = msgspec.msgpack.encode(TextRequest(prompt="x"))
    assert request_hash(SALT, request) == hashlib.sha256(SALT + packed).hexdigest()


def test_a_seed_follows_from_the_salt_where_one_is_needed():
    draws = TextRequest(prompt="x", temperature=0.5)
    seed = int.from_bytes(hashlib.sha256(SALT).digest()[:8], "big") >> 1
    assert seeded(draws, SALT) == msgspec.structs.replace(draws, seed=seed)
    assert seeded(draws, OTHER) != seeded(draws, SALT)
    for request in (
        TextRequest(prompt="x", seed=0),
        TextRequest(prompt="x", temperature=0.0),
        TaskRequest("x", b"{}"),
    ):
        assert seeded(request, SALT) is request


RECEIPT = example(Kind.RECEIPT)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("id", "x", Code.MALFORMED),
        ("id", "did:key:z" + "1" * 48, Code.MALFORMED),
        ("model", "parrot", Code.MALFORMED),
        ("manifest", "", Code.MALFORMED),
        ("credentials", ["x"], Code.MALFORMED),
        ("credentials", [RECEIPT.content_id] * 6, Code.MALFORMED),
        ("requestHash", "A" * 64, Code.MALFORMED),
        ("outputHash", "0" * 63, Code.MALFORMED),
        ("presentation", "", Code.MALFORMED),
        ("promptTokens", -1, Code.MALFORMED),
        ("completionTokens", 1.5, Code.MALFORMED),
        ("began", "2026-09-21T14:13:20Z", Code.MALFORMED),
        ("began", format_ms(NOW_MS + 10**6), Code.MALFORMED),  # after it ended
        ("ended", "x" * 24, Code.MALFORMED),
        ("reason", "crashed", Code.MALFORMED),
        ("requestId", "a b c d e", Code.MALFORMED),
        ("price", 1, Code.UNKNOWN_FIELD),
    ],
)
def test_a_receipt_that_is_not_as_prescribed_is_refused(name: str, value: Any, code: Code):
    raw = forge(RECEIPT, lambda d: d["credentialSubject"].update({name: value}))
    assert refusal_of(raw) is code


def test_a_receipt_is_its_issuers_word_alone():
    raw = forge(RECEIPT, lambda d: d["credentialSubject"].update(completionTokens=16))
    assert refusal_of(raw) is None
    assert refusal_of(RECEIPT.raw.replace(b'"completionTokens":17', b'"completionTokens":16')) is (
        Code.BAD_SIGNATURE
    )
    assert RECEIPT.issuer == ALICE.did
    assert RECEIPT.subject == BOB.did or RECEIPT.subject != ALICE.did
