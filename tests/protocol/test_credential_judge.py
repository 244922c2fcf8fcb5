"""The reference verifier of W3C credentials as a judge: what we sign it verifies, and nothing else.

`@digitalbazaar/vc` under Node knows nothing of us but the JSON-LD context, which it is given.
"""

import base64
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocol import strategies, verifier
from tests.protocol.mutants import mutants
from tests.protocol.strategies import ALICE, BOB, NOW_MS, document_of

from aigrid.protocol.canonical import canonical
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.identity import multibase_decode
from aigrid.protocol.kinds import Kind, WithdrawnBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import (
    Record,
    verify,
    verify_form_and_signature,
)
from aigrid.protocol.status import decode_bits, has_bit
from aigrid.protocol.timestamp import format_ms

STATEMENTS = [
    (kind, withdrawn)
    for kind in Kind
    for withdrawn in (False, True)
    if not (withdrawn and kind in strategies.NEVER_WITHDRAWN)
]
AT_MS = NOW_MS + 60_000  # every example is valid then
DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def judge():
    with verifier.running() as verifies:
        yield verifies


def statement(kind: Kind, *, withdrawn: bool) -> Record:
    body = strategies.example_bodies()[kind]
    return strategies.example(
        kind, body=WithdrawnBody(id=body.id, withdrawn=True) if withdrawn else None
    )


def left_open(document: dict[str, Any]) -> set[bytes]:
    """Other spellings of `document` that say the same, and that the judge verifies.

    By the cryptosuite a document's contexts have only to begin with those of the proof (which then
    replace them), a proof may stand in a list, and a signature may be in base64url. That a space
    may follow it is the judge's own leniency.
    """
    contexts, proof = document["@context"], document["proof"]
    signature = multibase_decode(proof["proofValue"], max_chars=100)
    assert signature is not None
    in_base64 = "u" + base64.urlsafe_b64encode(signature).decode().rstrip("=")
    return {
        canonical({**document, "@context": [*contexts, contexts[-1]]}),
        canonical({**document, "proof": [proof]}),
        canonical({**document, "proof": {**proof, "proofValue": in_base64}}),
        canonical({**document, "proof": {**proof, "proofValue": proof["proofValue"] + " "}}),
    }


def ours_refuses(raw: bytes) -> bool:
    try:
        verify(raw, now_ms=AT_MS)
    except VerificationError:
        return True
    return False


@pytest.mark.parametrize(("kind", "withdrawn"), STATEMENTS)
def test_every_kind_of_record_verifies(judge, kind, withdrawn):
    record = statement(kind, withdrawn=withdrawn)
    assert judge.refusals([record.raw]) == [None]
    verify(record.raw, now_ms=AT_MS)


@pytest.mark.parametrize(("kind", "withdrawn"), STATEMENTS)
def test_no_record_verifies_after_a_change_of_one_field(judge, kind, withdrawn):
    document = document_of(statement(kind, withdrawn=withdrawn))
    changed = mutants(document, (ALICE.did, BOB.did))
    assert len(changed) > 100
    raws = list(changed)
    verified = {raw for raw, why in zip(raws, judge.refusals(raws), strict=True) if why is None}
    assert verified - left_open(document) == set()
    assert {raw for raw in raws if not ours_refuses(raw)} == set()


@pytest.mark.parametrize("kind", list(Kind))
@settings(max_examples=30)
@given(data=st.data())
def test_any_record_verifies_whatever_it_says(judge, kind, data):
    record = data.draw(strategies.records(kind))
    assert judge.refusals([record.raw], at_ms=record.valid_from_ms) == [None]
    # Each member means something in the contexts: JSON-LD in safe mode refuses any other.
    assert judge.judge.ask("quads", credential=record.raw.decode())


def test_it_agrees_on_the_dates(judge):
    record = strategies.example(Kind.NODE)
    long_before = record.valid_from_ms - DAY_MS
    assert judge.refusals([record.raw], at_ms=long_before) != [None]
    assert judge.refusals([record.raw], at_ms=record.valid_until_ms + DAY_MS) != [None]


def test_other_spellings_that_verify_there_are_refused_here(judge):
    """Nothing that was said is changed, but a record has one spelling, and so one content id."""
    raws = list(left_open(document_of(strategies.example(Kind.NODE))))
    assert judge.refusals(raws) == [None] * len(raws)
    assert all(map(ours_refuses, raws))


def issued_there(judge: verifier.Verifier, record: Record, *, created: str | None) -> bytes:
    unsigned = document_of(record)
    del unsigned["proof"]
    signed: str = judge.judge.ask(
        "issue",
        credential=unsigned,
        **verifier.keys_of(ALICE),
        created=created,
    )
    return signed.encode()


@pytest.mark.parametrize(("kind", "withdrawn"), STATEMENTS)
def test_what_it_issues_is_what_we_issue(judge, kind, withdrawn):
    record = statement(kind, withdrawn=withdrawn)
    raw = issued_there(judge, record, created=format_ms(record.valid_from_ms))
    assert raw == record.raw  # Ed25519 signs alike wherever it signs
    assert verify_form_and_signature(raw) == record


def test_what_it_dates_by_its_own_clock_is_refused(judge):
    raw = issued_there(judge, strategies.example(Kind.MEMBERSHIP), created=None)
    with pytest.raises(VerificationError) as caught:
        verify_form_and_signature(raw)
    assert caught.value.code is Code.UNKNOWN_FIELD


@pytest.mark.parametrize("kind", [Kind.GRANT, Kind.DELEGATION])
def test_a_revoked_credential_does_not_verify(judge, kind):
    """Read from our list by another's decoder, which insists that it is the issuer's."""
    record = strategies.example(kind)
    assert record.status is not None
    index = record.status.index
    for revoked, good in (([], True), ([index - 1, index + 1], True), ([index], False)):
        found = judge.refusals([record.raw], revoked={ALICE.did: revoked}, matching=True)
        assert (found == [None]) == good


def test_a_list_that_it_made_says_the_same_to_us(judge):
    """However it compresses."""
    revoked = [0, 1, 7, 8, 94_567, 131_071]
    encoded = judge.judge.ask("encodeList", length=LIMITS.status_entries, revoked=revoked)
    bits = decode_bits(encoded)
    assert [n for n in range(LIMITS.status_entries) if has_bit(bits, n)] == revoked
    with pytest.raises(VerificationError):
        decode_bits(judge.judge.ask("encodeList", length=LIMITS.status_entries * 2, revoked=[]))
