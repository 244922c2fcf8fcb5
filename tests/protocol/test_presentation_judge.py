"""The reference verifier as a judge of presentations: what we present it verifies, nothing else."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import policy_world as world
from scripts.policy_cases import CHAIN, MEMBER
from scripts.policy_world import ANN, GATEWAY, NODE, NOW_MS, STRANGER, binding, present
from scripts.presentation_cases import BARE, RAW, SHORT, signed
from tests.protocol import verifier
from tests.protocol.mutants import mutants
from tests.protocol.test_credential_judge import left_open
from tests.protocol.test_presentation import bindings, code_of

from aigrid.protocol.canonical import canonical
from aigrid.protocol.errors import Code
from aigrid.protocol.presentation import Binding, verify
from aigrid.protocol.record import verification_method
from aigrid.protocol.timestamp import format_ms

FOR_NODE = {"challenge": world.NONCE, "domain": NODE.did}


@pytest.fixture(scope="module")
def judge():
    with verifier.running() as verifies:
        yield verifies


@pytest.mark.parametrize("raw", [BARE, SHORT, RAW], ids=["bare", "membership", "chain"])
def test_presentations_verify(judge, raw):
    assert judge.presented([raw], **FOR_NODE) == [None]
    # Each member means something in the contexts: JSON-LD in safe mode refuses any other.
    assert judge.judge.ask("quads", credential=raw.decode())


@settings(max_examples=20)
@given(bound=bindings, count=st.integers(0, 4))
def test_any_presentation_verifies_whatever_it_is_bound_to(judge, bound: Binding, count: int):
    raw = present([MEMBER, *CHAIN[:count]], bound)
    assert judge.presented([raw], **FOR_NODE) == [None]


def test_no_presentation_verifies_after_a_change_of_one_field(judge):
    """Holder, request, nonce, audience, times, proof, and everything in the credentials."""
    document = json.loads(SHORT)
    changed = mutants(document, (GATEWAY.did, STRANGER.did))
    assert len(changed) > 300
    raws = sorted(changed)
    verdicts = judge.presented(raws, **FOR_NODE)
    verified = {raw for raw, why in zip(raws, verdicts, strict=True) if why is None}
    assert verified - left_open(document) == set()
    assert {raw for raw in raws if code_of(raw) is None} == set()


def test_none_verifies_with_its_credentials_reordered_removed_repeated_or_swapped(judge):
    whole = json.loads(RAW)
    held = whole["verifiableCredential"]
    other = json.loads(world.membership(life_ms=1000).raw)
    lists = [held[::-1], held[1:], held[:-1], [], [other, *held[1:]], [*held, held[0]]]
    raws = [canonical({**whole, "verifiableCredential": listed}) for listed in lists]
    assert None not in judge.presented(raws, **FOR_NODE)
    assert {code_of(raw) for raw in raws} <= {Code.NOT_HOLDER, Code.PRESENTATION_INVALID}


def test_none_verifies_for_another_audience_or_nonce_or_by_another_key(judge):
    for other in ({"domain": ANN.did}, {"challenge": "x" * 22}):
        assert judge.presented([SHORT], **{**FOR_NODE, **other}) != [None]
    document = json.loads(SHORT)
    method = verification_method(STRANGER.did)
    by_another = signed(document, by=STRANGER, verificationMethod=method)
    assert judge.presented([by_another], **FOR_NODE) != [None]
    assert code_of(by_another) is Code.NOT_HOLDER


def test_none_verifies_with_a_revoked_credential(judge):
    gone = {world.BEN.did: [3]}
    assert judge.presented([RAW], **FOR_NODE, revoked=gone) != [None]
    assert judge.presented([SHORT], **FOR_NODE, revoked=gone) == [None]


def test_it_says_nothing_of_when_a_presentation_ends_and_we_do(judge):
    """`expires` is signed, but that library leaves it to whoever asks it."""
    late_ms = NOW_MS + 120_000
    assert code_of(SHORT, now_ms=late_ms) is Code.PRESENTATION_EXPIRED
    assert judge.presented([SHORT], **FOR_NODE, at_ms=late_ms) == [None]


def presented_there(judge: Any, raw: bytes) -> bytes:
    unsigned = json.loads(raw)
    del unsigned["proof"]
    made: str = judge.judge.ask(
        "present",
        presentation=unsigned,
        **verifier.keys_of(GATEWAY),
        **FOR_NODE,
        created=format_ms(NOW_MS),
        expires=format_ms(NOW_MS + 120_000),
    )
    return made.encode()


@pytest.mark.parametrize("raw", [BARE, SHORT, RAW], ids=["bare", "membership", "chain"])
def test_what_it_presents_is_what_we_present(judge, raw):
    made = presented_there(judge, raw)
    assert made == raw  # Ed25519 signs alike wherever it signs
    assert code_of(made) is None


def test_what_it_presents_for_another_request_is_for_that_one(judge):
    other = present([MEMBER], binding(purpose="teaching", action="fetch"))
    found = verify(presented_there(judge, other))
    assert (found.binding.purpose, found.binding.action) == ("teaching", "fetch")
    assert code_of(presented_there(judge, other)) is Code.BODY_MISMATCH
