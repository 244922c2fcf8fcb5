"""Whatever arrives as a record, nothing but a VerificationError comes out."""

import copy
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.protocol import strategies
from tests.protocol.strategies import ALICE, NOW_MS, document_of, forge

from aigrid.protocol.canonical import canonical
from aigrid.protocol.errors import VerificationError
from aigrid.protocol.kinds import Kind, decode_body
from aigrid.protocol.record import verify, verify_form_and_signature

SURROGATE = "\ud800"
odd_values: st.SearchStrategy[Any] = st.sampled_from(
    [
        None, True, False, 0, -1, 1, 2**53 - 1, 2**53, 2**64, 10**400, -(10**400),
        0.0, -0.0, 0.5, 1.0, 1e20, 1e308, float("inf"), float("nan"),
        "", " ", "\x00", "\n", "\x1b[2J", SURROGATE, "a" + SURROGATE, "\U0001f600", "x" * 5000,
        "unknown field", "withdrawn", "0000-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z",
        "0001-01-01T00:00:00.000Z", ALICE.did, ALICE.peer_id, [], [[]], [[], []], {}, {"": ""},
        {"id": 1}, {SURROGATE: 1}, {"withdrawn": True}, {"withdrawn": [True]}, {"@id": {}},
        ["VerifiableCredential", ["x"]], ["VerifiableCredential", {}], [True], [None] * 100,
    ]
)  # fmt: skip
json_values = st.recursive(
    odd_values | st.text(max_size=5) | st.integers() | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.just(SURROGATE), inner, max_size=3)
    ),
    max_leaves=8,
)


def survive(raw: bytes) -> None:
    for check in (verify_form_and_signature, lambda given: verify(given, now_ms=NOW_MS)):
        with pytest.raises(VerificationError) as caught:
            check(raw)
        message = caught.value.message
        assert len(message) < 400
        assert message.isprintable()
        message.encode()


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything within a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for name, child in items:
        found.append((*path, name))
        if isinstance(child, dict | list):
            found += places(child, (*path, name))
    return found


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    value = copy.deepcopy(value)
    inner = value
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = new
    return value


@given(st.binary(max_size=300))
@example(b"[" * 60_000)
@example(b'{"a":' * 10_000)
@example(b"1" * 65_536)
@example(b"-" + b"9" * 4_299)
@example(b"1e999999999")
@example(b'"' + b"\\ud800" * 1_000 + b'"')
@example(b"")
def test_arbitrary_bytes(raw: bytes) -> None:
    survive(raw)


@given(json_values)
def test_arbitrary_json(value: Any) -> None:
    survive(json.dumps(value).encode())


@pytest.mark.parametrize("kind", list(Kind))
@settings(max_examples=150)
@given(data=st.data())
def test_a_record_with_something_odd_anywhere_in_it(kind: Kind, data: st.DataObject) -> None:
    record = strategies.example(kind)
    document = document_of(record)
    path = data.draw(st.sampled_from(places(document)))
    changed = replaced(document, path, data.draw(json_values))
    if changed == document:
        return
    survive(json.dumps(changed, separators=(",", ":"), sort_keys=True).encode())
    try:
        survive(canonical(changed))
    except VerificationError:
        pass  # not expressible at all


@pytest.mark.parametrize("kind", list(Kind))
@settings(max_examples=150)
@given(data=st.data())
def test_a_signed_record_with_something_odd_in_its_body(kind: Kind, data: st.DataObject) -> None:
    record = strategies.example(kind)
    subject = document_of(record)["credentialSubject"]
    path = data.draw(st.sampled_from(places(subject)))
    changed = replaced(subject, path, data.draw(json_values))
    try:
        raw = forge(record, lambda document: document.update(credentialSubject=changed))
        read = verify(raw, now_ms=NOW_MS)
    except VerificationError:
        return
    assert read.raw == raw
    # As it reads after signing: the canonical form of 0.0 is 0.
    said = json.loads(raw)["credentialSubject"]
    assert read.body == decode_body(kind, read.issuer, said)


@pytest.mark.parametrize("kind", list(Kind))
@given(json_values)
def test_arbitrary_bodies(kind: Kind, subject: Any) -> None:
    with pytest.raises(VerificationError):
        decode_body(kind, ALICE.did, subject)


@pytest.mark.parametrize("kind", list(Kind))
def test_half_a_surrogate_pair_anywhere_is_refused(kind: Kind) -> None:
    document = document_of(strategies.example(kind))
    for path in places(document):
        changed = replaced(document, path, "\ud800")
        survive(json.dumps(changed, separators=(",", ":"), sort_keys=True).encode())
        if isinstance(path[-1], str):
            parent = copy.deepcopy(document)
            inner = parent
            for name in path[:-1]:
                inner = inner[name]
            inner[path[-1] + "\udc00"] = 1
            survive(json.dumps(parent).encode())
            if path[0] == "credentialSubject" and len(path) > 1:
                with pytest.raises(VerificationError):
                    decode_body(kind, ALICE.did, parent["credentialSubject"])
