"""Every kind: what is built verifies, and no damage of a single byte goes unnoticed."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocol.strategies import ALICE, BOB, NOW_MS, example, example_bodies, records

from aigrid.protocol.canonical import canonical, content_id
from aigrid.protocol.errors import VerificationError
from aigrid.protocol.kinds import KINDS, Kind, WithdrawnBody, encode_body
from aigrid.protocol.record import Record, sign, verify, verify_form_and_signature

kinds = pytest.mark.parametrize("kind", list(Kind))


def refused(raw: bytes) -> bool:
    try:
        verify(raw, now_ms=NOW_MS)
    except VerificationError:
        return True
    return False


@kinds
@settings(max_examples=60)
@given(data=st.data())
def test_what_is_built_verifies_to_the_same(kind: Kind, data: st.DataObject) -> None:
    record = data.draw(records(kind))
    read = verify(record.raw, now_ms=NOW_MS)
    assert read == record
    assert hash(read) == hash(record)
    assert read.kind is kind
    assert read.content_id == content_id(record.raw)
    assert read.subject == read.body.id
    assert read.withdrawn == isinstance(read.body, WithdrawnBody)
    assert canonical(json.loads(record.raw)) == record.raw
    assert canonical(encode_body(read.body)) in record.raw


@kinds
def test_signing_twice_gives_the_same_bytes(kind: Kind) -> None:
    assert example(kind).raw == example(kind).raw


@kinds
def test_every_flipped_bit_is_refused(kind: Kind) -> None:
    raw = example(kind).raw
    flipped = (
        raw[:place] + bytes((raw[place] ^ 1 << bit,)) + raw[place + 1 :]
        for place in range(len(raw))
        for bit in range(8)
    )
    assert all(map(refused, flipped))


def other_bytes(raw: bytes) -> Iterator[bytes]:
    for place in range(len(raw)):
        yield raw[:place]
        yield raw[:place] + raw[place + 1 :]
        yield raw[:place] + b" " + raw[place:]
        yield raw[:place] + raw[place : place + 1] + raw[place:]


@kinds
def test_cut_shortened_and_lengthened_records_are_refused(kind: Kind) -> None:
    raw = example(kind).raw
    assert all(refused(other) for other in other_bytes(raw) if other != raw)
    assert all(refused(raw + bytes([n])) for n in range(256))
    assert refused(raw + raw)
    assert refused(b"\xef\xbb\xbf" + raw)


@kinds
def test_a_record_holds_from_the_skew_before_its_start_until_its_end(kind: Kind) -> None:
    record = example(kind)
    end_ms = NOW_MS + KINDS[kind].ttl_seconds * 1000
    assert record.valid_until_ms == end_ms
    for now_ms in (NOW_MS - 120_000, NOW_MS, end_ms - 1):
        assert verify(record.raw, now_ms=now_ms) == record


@kinds
def test_the_same_words_by_another_key_are_another_record(kind: Kind) -> None:
    mine, theirs = example(kind), example(kind, issuer=BOB)
    assert mine.issuer != theirs.issuer
    assert mine.key != theirs.key


def test_a_body_is_written_with_its_defaults() -> None:
    body = json.loads(example(Kind.MODEL).raw)["credentialSubject"]
    assert list(body["model"]) == ["files", "format", "options", "precision", "task"]
    smallest = encode_body(example_bodies(ALICE)[Kind.MEMBERSHIP])
    assert smallest["role"] == "member"


def test_records_can_be_kept_in_sets() -> None:
    kept: set[Record] = {example(kind) for kind in Kind}
    assert verify_form_and_signature(example(Kind.MODEL).raw) in kept


@kinds
def test_signing_alone_gives_what_a_receiver_reads(kind: Kind) -> None:
    built = example(kind)
    signed = sign(
        kind,
        built.body,
        ALICE,
        valid_from_ms=built.valid_from_ms,
        valid_until_ms=built.valid_until_ms,
        status=built.status,
    )
    assert signed == built
