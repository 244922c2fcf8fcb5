"""The quick way to canonical JSON gives what the slow one gives, or nothing."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.protocol import strategies
from tests.protocol.strategies import document_of, forge

from aigrid.protocol import plain_json
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.kinds import Kind
from aigrid.protocol.record import Record, verify_form_and_signature

EDGES = [2**53 - 1, 2**53, 10**15, 10**16, 2**63, 2**64, 10**30]
# Two of these are in another order by UTF-16 units than by code points.
NAMES = ["a", "B", "\x00", "\x1f", "\x7f", "\x80", "\ud7ff", "\ue000", "\uffff", "\U00010000"]
texts = st.text(max_size=5) | st.sampled_from([*NAMES, '"', "\\", "/", ":1234567890123456"])
numbers = (
    st.integers()
    | st.floats()
    | st.sampled_from(EDGES + [-edge for edge in EDGES] + [1e3, 1e15, 1e16, 1e21, 0.0, -0.0])
)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def by_the_book(value: Any) -> bytes | None:
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeError):
        return None


@settings(max_examples=1000)
@given(values)
@example({"\ue000": 1, "\U00010000": 2})
@example([2**53])
def test_what_is_written_is_canonical(value: Any) -> None:
    quick = plain_json.write(value)
    if quick is not None:
        assert quick == by_the_book(value)
        assert plain_json.write_part(plain_json.read(quick)) == quick


@settings(max_examples=1000)
@given(values, st.booleans(), st.booleans(), st.sampled_from([None, (",", ":")]))
@example({"\ue000": 1, "\U00010000": 2}, True, False, (",", ":"))
@example([1.0], True, False, (",", ":"))
@example([10**20], True, False, (",", ":"))
def test_what_is_read_was_canonical(
    value: Any, ordered: bool, ascii_only: bool, separators: tuple[str, str] | None
) -> None:
    text = json.dumps(value, sort_keys=ordered, ensure_ascii=ascii_only, separators=separators)
    raw = text.encode("utf-8", "surrogatepass")
    read = plain_json.read(raw)
    if read is not None:
        assert read == json.loads(raw)
        assert by_the_book(json.loads(raw)) == raw


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"a":1}', b'{"a":1,"\\u0061":1}', b"[-0]", b"[1e2]", b"[1.0]", b"[NaN]", b"1", b"",
        b"[9007199254740992]", b"[-9007199254740993]", b'["\\u00e4"]', b'["\\/"]', b'["\\u0008"]',
        b'["\\u001F"]', b'["\xed\xa0\x80"]', b'["\xff"]', b" []", b"[]\n", b"\xef\xbb\xbf[]",
        b'{"b":1,"a":1}', b"[" * 60_000,
    ],
)  # fmt: skip
def test_what_is_not_canonical_is_not_read(raw: bytes) -> None:
    assert plain_json.read(raw) is None


@pytest.mark.parametrize("value", [{1: 2}, b"x", [b"x"], {"x": {1, 2}}, ["\ud800"], [object()]])
def test_what_json_does_not_have_is_not_written(value: Any) -> None:
    assert plain_json.write(value) is None


@pytest.mark.parametrize("kind", list(Kind))
def test_ordinary_records_are_read_quickly(kind: Kind) -> None:
    raw = forge(strategies.example(kind), lambda document: document)
    document = json.loads(raw)
    document["credentialSubject"].pop("model", None)  # its options hold a fraction
    assert plain_json.read(rfc8785.dumps(document)) == document


@contextmanager
def slowly() -> Iterator[None]:
    with (
        patch.object(plain_json, "read", lambda _raw: None),
        patch.object(plain_json, "write", lambda _value: None),
    ):
        yield


def outcome(raw: bytes) -> Record | tuple[Code, str]:
    try:
        return verify_form_and_signature(raw)
    except VerificationError as error:
        return error.code, error.message


@pytest.mark.parametrize("kind", list(Kind))
@settings(max_examples=200)
@given(data=st.data())
def test_damaged_records_are_refused_alike(kind: Kind, data: st.DataObject) -> None:
    raw = bytearray(strategies.example(kind).raw)
    for _ in range(data.draw(st.integers(0, 2))):
        place = data.draw(st.integers(0, len(raw) - 1))
        cut = data.draw(st.integers(0, 3))
        raw[place : place + cut] = data.draw(st.binary(max_size=3) | st.just(b'{"a":1,"a":[]}'))
    ours = outcome(bytes(raw))
    with slowly():
        assert outcome(bytes(raw)) == ours


@pytest.mark.parametrize("kind", list(Kind))
@settings(max_examples=200)
@given(data=st.data())
def test_records_with_other_bodies_are_judged_alike(kind: Kind, data: st.DataObject) -> None:
    record = strategies.example(kind)
    subject = document_of(record)["credentialSubject"]
    subject[data.draw(st.sampled_from(sorted(subject)) | texts)] = data.draw(values)
    try:
        with slowly():
            raw = forge(record, lambda document: document.update(credentialSubject=subject))
            expected = outcome(raw)
    except VerificationError:
        return  # not expressible at all
    assert outcome(raw) == expected
